"""Packages from a git repository at a full commit: read in each format, built from a real server, the same again."""

from __future__ import annotations

import io
import json
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import LockError
from orchestrator.image import builder, environment
from orchestrator.image.environment import Environment
from orchestrator.image.library import Library
from orchestrator.locks import lock, pipfile
from orchestrator.locks.pinned import Lock
from orchestrator.locks.selection import select
from orchestrator.store.folder import FolderStore
from tests.git_server_tools import GitServer
from tests.image_tools import Index, Notes, engine, library, python_base, read_all
from tests.lock_tools import LINUX, read, sdist

COMMIT = "0123456789abcdef0123456789abcdef01234567"
AT = f"git+https://example.com/x/thing.git@{COMMIT}"
LOGIN = "me:pass-word-7"


def requirements(text: str) -> Lock:
    return lock.parse("requirements.txt", text.encode())


@pytest.mark.parametrize(
    ("line", "spelled"),
    [
        (f"thing @ {AT}", AT),
        (f"Thing[more] @ {AT} ; python_version > '3'", AT),
        (f"{AT}#egg=thing", AT),
        (f"-e {AT}#egg=thing", AT),
        (f"-e {AT}#egg=thing&subdirectory=a/b", f"{AT}#subdirectory=a/b"),
        (f"thing @ {AT}#subdirectory=a", f"{AT}#subdirectory=a"),
        (
            f"thing @ git+ssh://git@example.com/x/thing.git@{COMMIT}",
            f"git+ssh://git@example.com/x/thing.git@{COMMIT}",
        ),
    ],
)
def test_a_full_commit_pins_a_package_in_each_of_pips_forms(line: str, spelled: str) -> None:
    (package,) = select(requirements(line + "\n"), LINUX).packages
    assert (package.name, package.vcs, package.build, package.hashes) == ("thing", spelled, True, ())
    assert json.loads(json.dumps(package.to_json()))["vcs"] == spelled


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("thing @ git+https://example.com/thing@main", "the revision 'main', which may move"),
        ("thing @ git+https://example.com/thing@0123456", "only a full commit always means the same"),
        ("thing @ git+https://example.com/thing", "no revision"),
        ("thing @ git+ssh://git@example.com/thing", "no revision"),
        (f"thing @ git+file:///srv/thing@{COMMIT}", "which other machines may not have"),
        (f"thing @ git+https://me:hunter2@example.com/thing@{COMMIT}", "holds a login"),
        (f"thing @ git+https://hunter2@example.com/thing@{COMMIT}", "holds a login"),
        (f"thing @ git+https://example.com/thing@{COMMIT}#subdirectory=../up", "no folder of its repository"),
        (f"thing @ hg+https://example.com/thing@{COMMIT}", "another kind than git"),
        (f"thing @ {AT} --hash=sha256:{'a' * 64}", "no hash of a file"),
        (f"thing @ {AT}\nthing==1.0", "pinned twice"),
    ],
)
def test_what_other_machines_could_not_have_or_what_may_move_is_refused(line: str, message: str) -> None:
    with pytest.raises(LockError, match=message) as caught:
        requirements(line + "\n")
    assert "hunter2" not in caught.value.message + (caught.value.hint or "")
    assert caught.value.hint


def test_the_other_formats_name_a_commit_too() -> None:
    pylock = (
        f'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "thing"\nversion = "2.0"\n'
        f'[packages.vcs]\ntype = "git"\nurl = "https://example.com/x/thing.git"\ncommit-id = "{COMMIT}"\n'
    )
    meta: dict[str, object] = {"sources": []}
    manifest = b'[packages]\nthing = {git = "https://example.com/x/thing.git", ref = "main"}\n'
    table = {"packages": {"thing": {"git": "https://example.com/x/thing.git", "ref": "main"}}}
    digest = pipfile.content_hash(table, meta)
    piplock = {
        "_meta": {"hash": {"sha256": digest}, "sources": []},
        "default": {"thing": {"git": "https://example.com/x/thing.git", "ref": COMMIT}},
        "develop": {},
    }
    from orchestrator.locks.poetry import content_hash

    poetry = (
        '[[package]]\nname = "thing"\nversion = "2.0"\noptional = false\npython-versions = "*"\ngroups = ["main"]\n'
        f'files = []\ndevelop = false\n[package.source]\ntype = "git"\nurl = "git@example.com:x/thing.git"\n'
        f'reference = "main"\nresolved_reference = "{COMMIT}"\n[metadata]\nlock-version = "2.1"\n'
        'python-versions = "*"\ncontent-hash = "'
        + content_hash({"project": {"name": "demo", "version": "1"}}, with_groups=True)
        + '"\n'
    )
    project = b'[project]\nname = "demo"\nversion = "1"\n'
    for files, name, spelled in (
        ({"pylock.toml": pylock.encode()}, "pylock.toml", AT),
        ({"Pipfile.lock": json.dumps(piplock).encode(), "Pipfile": manifest}, "Pipfile.lock", AT),
        (
            {"poetry.lock": poetry.encode(), "pyproject.toml": project},
            "poetry.lock",
            f"git+ssh://git@example.com/x/thing.git@{COMMIT}",
        ),
    ):
        (package,) = select(read(files, name), LINUX).packages
        assert (package.vcs, package.build) == (spelled, True), name


@dataclass
class Origin:
    """A repository with a package in it, and the commit that has it."""

    bare: Path
    commit: str


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """Two commits; the package is that of the first, one folder down, with a link and an executable."""
    work, bare = tmp_path / "source", tmp_path / "served" / "thing.git"
    _, packed = sdist("thing", "    extra = open('note').read() + str(os.access('run.sh', os.X_OK))\n")
    work.mkdir()
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(work)
    (work / "thing-1.0").rename(work / "package")
    (work / "package" / "text").write_text("from the first commit ")
    (work / "package" / "note").symlink_to("text")
    (work / "package" / "run.sh").write_text("#!/bin/sh\n")
    (work / "package" / "run.sh").chmod(0o755)
    git = ("git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(work))
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (work / "package" / "text").write_text("from the second commit ")
    subprocess.run([*git, "commit", "-q", "-a", "-m", "two"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    return Origin(bare, commit)


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache volume of the test's own."""
    python_base()
    name = f"mirage-test-{secrets.token_hex(6)}"
    monkeypatch.setattr(builder, "CACHE_VOLUME", name)
    yield name
    engine().remove_volume(name)


def build(found: Lock, place: Library, home: Path, notes: Notes, *, fresh: bool = False) -> Environment:
    with Index() as index:
        return environment.provide(
            found,
            python_base(),
            ("main",),
            engine=engine(),
            library=place,
            handover=index.handover(home),
            network="host",
            reporter=notes,
            fresh=fresh,
        )


def test_a_commit_is_fetched_with_gits_own_login_built_and_the_same_on_another_machine(
    origin: Origin, tmp_path: Path, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, notes, place = tmp_path / "home", Notes(), library(tmp_path / "here")
    home.mkdir()
    user, _, password = LOGIN.partition(":")
    (home / ".netrc").write_text(f"machine 127.0.0.1 login {user} password {password}\n")
    monkeypatch.setenv("HOME", str(home))
    with GitServer(origin.bare.parent, LOGIN) as server:
        spelled = f"git+{server.url}/thing.git@{origin.commit}#subdirectory=package"
        found = requirements(f"thing @ {spelled}\n")
        first = build(found, place, tmp_path, notes)
        assert server.asked
        elsewhere = build(found, library(tmp_path / "there"), tmp_path, Notes())
    assert elsewhere.layer == first.layer
    assert elsewhere.key == first.key
    (package,) = json.loads(read_all(place, first.installed))
    assert package["built"] == {"from": [spelled], "file": "thing-1.0-py3-none-any.whl", "compiled": False}
    with tarfile.open(fileobj=io.BytesIO(read_all(place, first.layer.digest))) as archive:
        code = archive.extractfile("opt/venv/lib/python3.11/site-packages/thing.py")
        assert code is not None
        assert b"# from the first commit True" in code.read()
    assert f"environment: building thing from {spelled}" in notes.stages
    for path in (path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".netrc"):
        assert password.encode() not in path.read_bytes(), path
    # the server is gone: the wheel that was made of the commit is in the store
    store = Library(FolderStore.open_at(tmp_path / "empty"), FolderStore.open_at(tmp_path / "here" / "bank"))
    assert build(found, store, tmp_path, Notes(), fresh=True).layer == first.layer


def test_a_commit_or_folder_that_is_not_there_is_told_with_its_line(
    origin: Origin, tmp_path: Path, volume: str
) -> None:
    place = library(tmp_path)
    with GitServer(origin.bare.parent) as server:
        for at, message in (
            (f"{server.url}/thing.git@{COMMIT}", f"has no commit {COMMIT}|cannot fetch"),
            (f"{server.url}/thing.git@{origin.commit}#subdirectory=nowhere", "has no folder nowhere"),
            (f"http://127.0.0.1:9/thing.git@{origin.commit}", r"git cannot fetch http://127\.0\.0\.1:9"),
        ):
            with pytest.raises(LockError, match=rf"requirements\.txt:2: thing: .*{message}") as caught:
                build(requirements(f"\nthing @ git+{at}\n"), place, tmp_path, Notes())
            assert caught.value.hint
