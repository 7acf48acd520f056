"""What sealing does to a base that an engine built: noise goes, and byte code stays valid."""

from __future__ import annotations

import importlib.util
import io
import py_compile
import tarfile
from pathlib import Path

import pytest

from orchestrator.errors import ImageError
from orchestrator.image import dpkg
from orchestrator.image.base_noise import unwanted
from orchestrator.image.layer import MTIME
from orchestrator.image.sealing import seal


def tar_of(path: Path, files: dict[str, bytes], stamps: dict[str, int] | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), (stamps or {}).get(name, 7)
            archive.addfile(info, io.BytesIO(data))
    return path


def sealed(path: Path) -> dict[str, bytes]:
    pieces: list[bytes] = []
    seal(path, pieces.append, leave_out=unwanted)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        bodies = {member.name: archive.extractfile(member) for member in archive}
        return {name: body.read() for name, body in bodies.items() if body is not None}


@pytest.mark.parametrize(
    ("path", "is_folder", "gone"),
    [
        (".dockerenv", False, True),
        ("etc/hosts", False, True),
        ("etc/hosts.allow", False, False),
        ("etc/passwd", False, False),
        ("etc/passwd-", False, True),
        ("etc/ld.so.cache", False, False),
        ("var/log", True, False),
        ("var/log/apt", True, False),
        ("var/log/apt/history.log", False, True),
        ("var/cache/apt/pkgcache.bin", False, True),
        ("var/cache/apt/archives/partial", True, False),
        ("var/cache/ldconfig/aux-cache", False, True),
        ("var/lib/apt/lists/mirror_dists_Packages", False, True),
        ("var/lib/dpkg/status", False, False),
        ("var/lib/dpkg/status-old", False, True),
        ("tmp", True, False),
        ("tmp/tmp1x2y", True, True),
        ("run/lock", True, False),
        ("dev/null", False, True),
        (".mirage-build/ca.crt", False, True),
        ("opt/copied/.mirage-build/ca.crt", False, True),
        ("root/.cache/pip/http/a", False, True),
        ("opt/root/.cache/a", False, False),
    ],
)
def test_what_is_noise_and_what_is_not(path: str, is_folder: bool, gone: bool) -> None:
    assert unwanted(path, is_folder) is gone


def test_a_hard_link_to_something_left_out_is_refused_rather_than_broken(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {".mirage-build/ca.crt": b"x"})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("etc/ca.crt")
        info.type, info.linkname = tarfile.LNKTYPE, ".mirage-build/ca.crt"
        archive.addfile(info)
    with pytest.raises(ImageError, match=r"etc/ca\.crt"):
        sealed(path)


def compiled(folder: Path, mode: py_compile.PycInvalidationMode) -> tuple[bytes, bytes, int]:
    source = folder / "m.py"
    source.write_text("x = 1\n")
    made = py_compile.compile(str(source), cfile=str(folder / "m.pyc"), invalidation_mode=mode)
    return source.read_bytes(), Path(str(made)).read_bytes(), int(source.stat().st_mtime)


def test_byte_code_that_was_valid_by_time_stamp_is_valid_after_sealing_and_always_the_same(
    tmp_path: Path,
) -> None:
    text, code, stamp = compiled(tmp_path, py_compile.PycInvalidationMode.TIMESTAMP)
    name = "lib/__pycache__/m.cpython-311.pyc"
    path = tar_of(tmp_path / "a.tar", {"lib/m.py": text, name: code}, {"lib/m.py": stamp})
    found = sealed(path)[name]
    assert found[8:16] == MTIME.to_bytes(4, "little") + len(text).to_bytes(4, "little")
    assert found[:8] + found[16:] == code[:8] + code[16:]
    assert found[:4] == importlib.util.MAGIC_NUMBER


def test_byte_code_that_was_stale_stays_stale(tmp_path: Path) -> None:
    text, code, stamp = compiled(tmp_path, py_compile.PycInvalidationMode.TIMESTAMP)
    name = "lib/__pycache__/m.cpython-311.pyc"
    path = tar_of(tmp_path / "a.tar", {"lib/m.py": text, name: code}, {"lib/m.py": stamp + 1})
    assert sealed(path)[name] == code


def test_byte_code_by_hash_and_files_that_are_none_are_left_alone(tmp_path: Path) -> None:
    text, code, stamp = compiled(tmp_path, py_compile.PycInvalidationMode.UNCHECKED_HASH)
    files = {"lib/m.py": text, "lib/m.pyc": code, "lib/n.py": b"", "lib/n.pyc": b"short"}
    assert sealed(tar_of(tmp_path / "a.tar", files, {"lib/m.py": stamp})) == files


def test_the_debian_packages_of_a_system_are_read_from_its_own_list(tmp_path: Path) -> None:
    status = (
        "Package: zlib1g\nStatus: install ok installed\nVersion: 1:1.2.13\nDescription: x\n more: text\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        "Package: apt\nStatus: install ok installed\nVersion: 2.6.1\n"
    )
    path = tar_of(tmp_path / "a.tar", {"var/lib/dpkg/status": status.encode()})
    assert dpkg.installed(path) == (("apt", "2.6.1"), ("zlib1g", "1:1.2.13"))
    assert dpkg.installed(tar_of(tmp_path / "b.tar", {"etc/alpine-release": b"3"})) == ()
