"""Sealing keeps what matters to a system and makes everything else the same on every machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from orchestrator.errors import ImageError
from orchestrator.image.layer import MTIME
from orchestrator.image.sealing import seal


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    info.pax_headers = dict(info.pax_headers)
    return info


def write(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def sealed(path: Path) -> bytes:
    pieces: list[bytes] = []
    seal(path, pieces.append)
    return b"".join(pieces)


def members_of(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive}


def test_order_time_stamps_owner_names_spelling_and_tar_format_leave_no_trace(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.tar",
        [
            (member("./", tarfile.DIRTYPE, mode=0o755), b""),
            (member("./usr", tarfile.DIRTYPE, mode=0o755, mtime=5), b""),
            (member("./usr/b", data=b"two", mtime=1700000000, uname="root", gname="wheel"), b"two"),
            (member("./usr/a", data=b"one", mtime=3.25), b"one"),
        ],
    )
    second = write(
        tmp_path / "b.tar",
        [
            (member("usr/a", data=b"one", mtime=99, uname="somebody"), b"one"),
            (member("usr/b", data=b"two", mtime=98), b"two"),
            (member("usr/", tarfile.DIRTYPE, mode=0o755), b""),
        ],
        tarfile.GNU_FORMAT,
    )
    assert sealed(first) == sealed(second)
    found = members_of(sealed(first))
    assert list(found) == ["dev", "proc", "sys", "usr", "usr/a", "usr/b"]
    assert {info.mtime for info in found.values()} == {MTIME}
    assert {(info.uname, info.gname) for info in found.values()} == {("", "")}


def test_owners_setuid_bits_and_extended_attributes_are_kept(tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00 \x00\x00\xff\xfe".decode("utf-8", "surrogateescape")
    ping = member("bin/ping", data=b"x", mode=0o4755, uid=42, gid=7)
    ping.pax_headers = {"SCHILY.xattr.security.capability": capability, "atime": "1.5", "comment": "host"}
    source = write(tmp_path / "a.tar", [(member("bin", tarfile.DIRTYPE, mode=0o2775), b""), (ping, b"x")])
    found = members_of(sealed(source))
    assert (found["bin"].mode, found["bin/ping"].mode) == (0o2775, 0o4755)
    assert (found["bin/ping"].uid, found["bin/ping"].gid) == (42, 7)
    assert found["bin/ping"].pax_headers == {"SCHILY.xattr.security.capability": capability}


@pytest.mark.parametrize("holder", ["etc/a", "etc/m", "etc/z"])
def test_hard_links_are_the_same_whichever_name_held_the_bytes(tmp_path: Path, holder: str) -> None:
    names = ["etc/a", "etc/m", "etc/z"]
    entries = [(member("etc", tarfile.DIRTYPE, mode=0o755), b""), (member(holder, data=b"same"), b"same")]
    entries += [(member(n, tarfile.LNKTYPE, linkname=f"./{holder}"), b"") for n in names if n != holder]
    data = sealed(write(tmp_path / "a.tar", entries))
    found = members_of(data)
    assert found["etc/a"].isreg()
    assert [found[n].linkname for n in names[1:]] == ["etc/a", "etc/a"]
    plain = write(
        tmp_path / "b.tar",
        [(member("etc", tarfile.DIRTYPE, mode=0o755), b""), (member("etc/a", data=b"same"), b"same")]
        + [(member(n, tarfile.LNKTYPE, linkname="etc/a"), b"") for n in names[1:]],
    )
    assert hashlib.sha256(data).digest() == hashlib.sha256(sealed(plain)).digest()


def test_device_nodes_are_left_to_the_engine_and_dev_stays_as_a_mount_point(tmp_path: Path) -> None:
    null = member("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
    found = members_of(sealed(write(tmp_path / "a.tar", [(null, b"")])))
    assert list(found) == ["dev", "proc", "sys"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../etc/passwd", tarfile.REGTYPE, "")], "outside of itself"),
        ([("etc/a", tarfile.REGTYPE, ""), ("./etc/a", tarfile.REGTYPE, "")], "twice"),
        ([("etc/a", tarfile.LNKTYPE, "etc/nothing")], "links 'etc/a' to 'etc/nothing'"),
    ],
)
def test_an_archive_that_is_no_root_file_system_is_refused(
    tmp_path: Path, entries: list[tuple[str, bytes, str]], message: str
) -> None:
    listed = [(member(name, kind, linkname=link), b"") for name, kind, link in entries]
    with pytest.raises(ImageError, match=message):
        sealed(write(tmp_path / "a.tar", listed))


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.tar", [(member("big", data=b"x" * 5000), b"x" * 5000)])
    with source.open("r+b") as handle:
        handle.truncate(3000)
    with pytest.raises(ImageError, match=r"cut off|cannot be read"):
        sealed(source)
