"""Locks of each format really installed, by the real engine: the same layer twice, from where the lock says."""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import uv

from orchestrator.digest import parse_digest
from orchestrator.errors import ImageError, LockError
from orchestrator.image import builder, environment
from orchestrator.image.environment import Environment
from orchestrator.image.library import Library
from orchestrator.locks import pipfile
from orchestrator.locks.pinned import Lock
from orchestrator.store.folder import FolderStore
from tests.image_tools import Index, Notes, engine, host, library, python_base, read_all, wheel
from tests.lock_tools import files_of, read, sdist

SITE = "opt/venv/lib/python3.11/site-packages"


@pytest.fixture(scope="module", autouse=True)
def base() -> None:
    """Built before any test is timed."""
    python_base()


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache volume of the test's own."""
    name = f"mirage-test-{secrets.token_hex(6)}"
    monkeypatch.setattr(builder, "CACHE_VOLUME", name)
    yield name
    engine().remove_volume(name)


@pytest.fixture
def place(tmp_path: Path) -> Library:
    return library(tmp_path)


def build(
    lock: Lock,
    place: Library,
    notes: Notes,
    index: Index | None,
    home: Path,
    fresh: bool = False,
    **environ: str,
) -> Environment:
    """An environment on the host's network, with a loopback index or what this machine has."""
    return environment.provide(
        lock,
        python_base(),
        ("main",),
        engine=engine(),
        library=place,
        handover=host if index is None else index.handover(home, **environ),
        network="host",
        reporter=notes,
        fresh=fresh,
    )


def installed(place: Library, made: Environment) -> dict[str, dict[str, object]]:
    return {package["name"]: package for package in json.loads(read_all(place, made.installed))}


def names(place: Library, made: Environment) -> list[str]:
    return [f"{name}=={found['version']}" for name, found in sorted(installed(place, made).items())]


def files_in(place: Library, made: Environment) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(read_all(place, made.layer.digest))) as archive:
        return {
            member.name: body.read()
            for member in archive
            if member.isreg() and (body := archive.extractfile(member)) is not None
        }


def poetry_lock(index: Index, *packages: str, files: str = "", source: str = "") -> dict[str, bytes]:
    """A poetry.lock 2.1 of packages of an index, with the manifest that it was made from."""
    from orchestrator.locks.poetry import content_hash

    manifest = b'[project]\nname = "demo"\nversion = "1"\n'
    entries = ""
    for name in packages:
        listed = ", ".join(
            f'{{file = "{file}", hash = "sha256:{hashlib.sha256(data).hexdigest()}"}}'
            for file, data in index.files.items()
            if file.startswith(f"{name}-")
        )
        entries += (
            f'[[package]]\nname = "{name}"\nversion = "1.0"\noptional = false\npython-versions = "*"\n'
            f'groups = ["main"]\nfiles = [{files or listed}]\n{source}\n'
        )
    digest = content_hash({"project": {"name": "demo", "version": "1"}}, with_groups=True)
    text = f'{entries}[metadata]\nlock-version = "2.1"\npython-versions = "*"\ncontent-hash = "{digest}"\n'
    return {"pyproject.toml": manifest, "poetry.lock": text.encode()}


def test_a_lock_that_poetry_wrote_gives_the_same_layer_twice(
    place: Library, tmp_path: Path, volume: str
) -> None:
    lock, notes = read(files_of("poetry21"), "poetry.lock"), Notes()
    first = build(lock, place, notes, None, tmp_path)
    second = build(lock, place, notes, None, tmp_path, fresh=True)
    assert first.layer == second.layer
    assert names(place, first) == ["click==8.1.8", "markupsafe==2.1.5", "pysocks==1.7.1", "urllib3==2.8.0"]
    assert notes.warnings == []


def test_a_lock_that_uv_wrote_gives_the_same_layer_twice_and_so_does_its_pylock(
    place: Library, tmp_path: Path, volume: str
) -> None:
    files = {
        "pyproject.toml": b'[project]\nname = "demo"\nversion = "1"\nrequires-python = ">=3.10"\n'
        b'dependencies = ["six==1.17.0", "colorama; sys_platform == \'win32\'"]\n'
    }
    (tmp_path / "pyproject.toml").write_bytes(files["pyproject.toml"])
    subprocess.run([uv.find_uv_bin(), "lock", "-q"], cwd=tmp_path, check=True)
    files["uv.lock"] = (tmp_path / "uv.lock").read_bytes()
    export = [uv.find_uv_bin(), "export", "-q", "--frozen", "--format", "pylock.toml", "-o", "pylock.toml"]
    subprocess.run(export, cwd=tmp_path, check=True)
    files["pylock.toml"] = (tmp_path / "pylock.toml").read_bytes()
    notes = Notes()
    first = build(read(files, "uv.lock"), place, notes, None, tmp_path)
    second = build(read(files, "uv.lock"), place, notes, None, tmp_path, fresh=True)
    third = build(read(files, "pylock.toml"), place, notes, None, tmp_path)
    assert first.layer == second.layer == third.layer
    assert names(place, first) == ["six==1.17.0"]
    assert notes.notes[0] == "uv.lock: demo left out: the project's own code is in the image"


def test_a_pipfile_lock_is_installed_from_the_indexes_that_it_names(
    place: Library, tmp_path: Path, volume: str
) -> None:
    password = secrets.token_hex(8)
    public, private = (
        wheel("open_one", {"open_one.py": b""}),
        wheel("own_one", {"own_one.py": b"x = 'own'\n"}),
    )
    impostor = wheel("own_one", {"own_one.py": b"x = 'impostor'\n"})
    with Index(public, impostor) as first, Index(private, login=f"me:{password}") as second:
        sources = [{"name": "a", "url": first.url}, {"name": "corp-b", "url": second.url}]
        manifest = "".join(
            f'[[source]]\nname = "{each["name"]}"\nurl = "{each["url"]}"\n' for each in sources
        )
        digest = pipfile.content_hash({"source": sources}, {})
        default = {
            "open-one": {"version": "==1.0", "hashes": [first.hash("open_one")]},
            "own-one": {"version": "==1.0", "hashes": [second.hash("own_one")], "index": "corp-b"},
        }
        meta = {"hash": {"sha256": digest}, "sources": sources, "requires": {}}
        table = {"_meta": meta, "default": default, "develop": {}}
        lock = read(
            {"Pipfile": manifest.encode(), "Pipfile.lock": json.dumps(table).encode()}, "Pipfile.lock"
        )
        login = {"UV_INDEX_CORP_B_USERNAME": "me", "UV_INDEX_CORP_B_PASSWORD": password}
        made = [
            build(
                lock,
                place,
                Notes(),
                first,
                tmp_path,
                fresh,
                **login,
                UV_DEFAULT_INDEX="http://127.0.0.1:1/simple",
            )
            for fresh in (False, True)
        ]
        assert (first.served, second.served) == ([public[0]], [private[0]])
    assert made[0].layer == made[1].layer
    assert files_in(place, made[0])[f"{SITE}/own_one.py"] == b"x = 'own'\n"


def test_a_package_is_not_taken_from_another_index_than_the_locks(
    place: Library, tmp_path: Path, volume: str
) -> None:
    package = wheel("mine", {"mine.py": b""})
    with Index() as named, Index(package) as other:
        source = f'[package.source]\ntype = "legacy"\nurl = "{named.url}"\nreference = "own"\n'
        lock = read(poetry_lock(other, "mine", source=source), "poetry.lock")
        with pytest.raises(LockError, match="mine was not found"):
            build(lock, place, Notes(), other, tmp_path, UV_EXTRA_INDEX_URL=other.url)
    assert other.served == []


def test_the_file_of_the_lock_is_installed_where_the_index_has_a_better_one_since(
    place: Library, tmp_path: Path, volume: str
) -> None:
    plain = wheel("two", {"two.py": b"which = 'plain'\n"})
    better = wheel("two", {"two.py": b"which = 'better'\n"}, "cp311-cp311-manylinux_2_17_x86_64")
    with Index(plain) as index:
        lock = read(poetry_lock(index, "two"), "poetry.lock")
        index.files = dict([better, plain])
        made = build(lock, place, Notes(), index, tmp_path)
    assert files_in(place, made)[f"{SITE}/two.py"] == b"which = 'plain'\n"


def test_a_wheel_whose_bytes_differ_from_the_lock_is_named(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(wheel("swapped", {"swapped.py": b"x = 1\n"})) as index:
        lock = read(poetry_lock(index, "swapped"), "poetry.lock")
        index.files = dict([wheel("swapped", {"swapped.py": b"x = 2\n"})])
        with pytest.raises(LockError, match=r"poetry\.lock names other files") as caught:
            build(lock, place, Notes(), index, tmp_path)
    assert "swapped" in caught.value.message
    assert "poetry lock" in (caught.value.hint or "")


class AnsweringIndex(Index):
    """An index that also answers what is asked before a file is fetched from its URL."""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index, given = self, super()._handler()

        class Handler(given):  # type: ignore[misc, valid-type]  # a class that is made anew for each index
            def do_HEAD(self) -> None:
                data = index.files.get(self.path.rpartition("/")[2])
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()

        return Handler


def test_a_file_at_a_url_is_installed_by_its_hash(place: Library, tmp_path: Path, volume: str) -> None:
    with AnsweringIndex(wheel("direct", {"direct.py": b""})) as index:
        url = f"{index.url.removesuffix('/simple')}/files/direct-1.0-py3-none-any.whl"
        good = read(
            {"requirements.txt": f"{url} --hash={index.hash('direct')}\n".encode()}, "requirements.txt"
        )
        made = [build(good, place, Notes(), index, tmp_path, fresh) for fresh in (False, True)]
        bad = read({"requirements.txt": f"{url} --hash=sha256:{'0' * 64}\n".encode()}, "requirements.txt")
        with pytest.raises(LockError, match="names other files"):
            build(bad, place, Notes(), index, tmp_path)
    assert made[0].layer == made[1].layer
    assert f"{SITE}/direct.py" in files_in(place, made[0])


def test_indexes_of_a_requirements_file_come_beside_each_other(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(wheel("here", {"here.py": b""})) as one, Index(wheel("there", {"there.py": b""})) as two:
        text = (
            f"--index-url {one.url}\n--extra-index-url {two.url}\n".encode()
            + one.lock("here")
            + two.lock("there")
        )
        with Index() as hosts:
            made = build(
                read({"requirements.txt": text}, "requirements.txt"), place, Notes(), hosts, tmp_path
            )
    assert names(place, made) == ["here==1.0", "there==1.0"]


TIME = "    import time; extra = time.time_ns()\n"  # another wheel each time
CODE = "    tag = 'cp311-cp311-linux_x86_64'\n"


def test_a_source_distribution_is_built_once_and_its_wheel_kept_so_that_the_layer_stays(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(sdist("rough", TIME)) as index:
        lock, notes = read(poetry_lock(index, "rough"), "poetry.lock"), Notes()
        first = build(lock, place, notes, index, tmp_path)
        second = build(lock, place, notes, index, tmp_path, fresh=True)
        elsewhere = build(lock, library(tmp_path / "another machine"), Notes(), index, tmp_path)
        same_store = Library(FolderStore.open_at(tmp_path / "empty"), FolderStore.open_at(tmp_path / "bank"))
        restored = build(lock, same_store, Notes(), index, tmp_path, fresh=True)
    assert first.layer == second.layer
    assert elsewhere.layer != first.layer
    assert elsewhere.key == first.key
    assert restored.layer == first.layer
    (found,) = installed(place, first).values()
    wheel_digest = parse_digest(str(found["hashes"]).strip("[]'"))
    source = "sha256:" + hashlib.sha256(next(iter(index.files.values()))).hexdigest()
    assert found["built"] == {"from": [source], "file": "rough-1.0-py3-none-any.whl", "compiled": False}
    with zipfile.ZipFile(io.BytesIO(read_all(place, wheel_digest))) as archive:
        assert archive.read("rough.py") == files_in(place, first)[f"{SITE}/rough.py"]
    assert not any(name.endswith("direct_url.json") for name in files_in(place, first))
    assert [stage for stage in notes.stages if "source distribution" in stage] == [
        "environment: building rough 1.0 from its source distribution"
    ]
    assert notes.warnings == []


def test_a_compiled_source_distribution_is_told_as_possibly_not_reproducible(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(sdist("hard", CODE), wheel("soft", {"soft.py": b""})) as index:
        notes = Notes()
        text = index.lock("hard", "soft")
        made = build(read({"requirements.txt": text}, "requirements.txt"), place, notes, index, tmp_path)
    assert installed(place, made)["hard"]["built"] == {
        "from": [index.hash("hard")],
        "file": "hard-1.0-cp311-cp311-linux_x86_64.whl",
        "compiled": True,
    }
    assert "built" not in installed(place, made)["soft"]
    (warning,) = notes.warnings
    assert re.search(r"hard==1\.0 has no wheel .* was compiled here", warning)


def test_without_hashes_what_the_index_has_only_as_source_is_built_too(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(sdist("bare", TIME), wheel("soft", {"soft.py": b""})) as index:
        lock = read({"requirements.txt": b"bare==1.0\nsoft==1.0\n"}, "requirements.txt")
        made = [build(lock, place, Notes(), index, tmp_path, fresh) for fresh in (False, True)]
    assert made[0].layer == made[1].layer
    assert names(place, made[0]) == ["bare==1.0", "soft==1.0"]


def test_a_source_distribution_that_cannot_be_built_is_told_with_its_own_words(
    place: Library, tmp_path: Path, volume: str
) -> None:
    broken = sdist("broken", "    raise SystemExit('no compiler: gcc not found')\n")
    with Index(broken) as index, pytest.raises(LockError, match="cannot be built") as caught:
        build(read(poetry_lock(index, "broken"), "poetry.lock"), place, Notes(), index, tmp_path)
    assert "broken==1.0" in caught.value.message
    assert "no compiler: gcc not found" in caught.value.message
    assert "base" in (caught.value.hint or "")


def test_a_source_distribution_with_other_bytes_than_the_lock_is_not_built(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(sdist("swapped")) as index:
        lock = read(poetry_lock(index, "swapped"), "poetry.lock")
        index.files = dict([sdist("swapped", "    raise SystemExit('was run')\n")])
        with pytest.raises(LockError, match="names other files") as caught:
            build(lock, place, Notes(), index, tmp_path)
    assert "was run" not in caught.value.message


def test_a_wheel_that_holds_a_credential_of_the_host_is_not_kept(
    place: Library, tmp_path: Path, volume: str
) -> None:
    password = secrets.token_hex(12)
    leak = f"    extra = {password!r}\n"  # that of its own index, which it knows from elsewhere
    with Index(sdist("leaky", leak), login=f"me:{password}") as index:
        url = index.url.replace("//", f"//me:{password}@")
        lock = read(poetry_lock(index, "leaky"), "poetry.lock")
        with pytest.raises(ImageError, match="a credential of this host was found in the wheel"):
            build(lock, place, Notes(), index, tmp_path, UV_DEFAULT_INDEX=url)
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert kept == []


def test_a_lock_without_a_file_for_the_base_starts_no_container(place: Library, tmp_path: Path) -> None:
    with Index(wheel("odd", {"odd.py": b""}, "cp39-cp39-win_amd64")) as index:
        lock = read(poetry_lock(index, "odd"), "poetry.lock")

        def never() -> None:
            raise AssertionError("asked")

        with pytest.raises(LockError, match=r"poetry\.lock:1: odd==1\.0 has no file for CPython 3\.11"):
            environment.provide(
                lock,
                python_base(),
                ("main",),
                engine=engine(),
                library=place,
                handover=never,  # type: ignore[arg-type]  # it is not to be called
                network="host",
                reporter=Notes(),
            )
    assert list((tmp_path / "cache").glob("keys/env/*")) == []
