"""A stranger's repository, cloned: state of this machine that came with it, links in the place of folders, bad trees."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orchestrator.errors import CannotVerify
from orchestrator.judging.checkout import checked_out
from orchestrator.source import state
from orchestrator.trust.claims import of_project
from tests.run_tools import GIT, Project, git

STORE = '{"format":"mirage-store/1","id":"00112233445566778899aabbccddeeff"}'


def object_of(root: Path, kind: str, data: bytes) -> str:
    """An object as its bytes are, whatever git thinks of it."""
    words = ["git", "-C", str(root), "hash-object", "-w", "--literally", "-t", kind, "--stdin"]
    return subprocess.run(words, input=data, capture_output=True, check=True).stdout.decode().strip()


def tree_entry(mode: bytes, name: bytes, oid: str) -> bytes:
    return mode + b" " + name + b"\0" + bytes.fromhex(oid)


@pytest.mark.parametrize("link_first", [True, False])
def test_a_submodule_behind_a_link_is_not_written_to_where_it_leads(tmp_path: Path, link_first: bool) -> None:
    """A tree with one path twice: as a link, and as a folder with a submodule. Git itself takes it."""
    home = tmp_path / "home"
    home.mkdir()
    project = Project(tmp_path / "project", "print(1)")
    root = project.root
    inside = git(root, "rev-parse", "HEAD")
    git(tmp_path, "clone", "-q", "--bare", str(root), str(root / ".git" / "modules" / "sub"))
    modules = object_of(root, "blob", b'[submodule "sub"]\n\tpath = a/sub\n\turl = ../sub\n')
    link = tree_entry(b"120000", b"a", object_of(root, "blob", str(home).encode()))
    folder = tree_entry(b"40000", b"a", object_of(root, "tree", tree_entry(b"160000", b"sub", inside)))
    tree = tree_entry(b"100644", b".gitmodules", modules) + (link + folder if link_first else folder + link)
    words = ["git", "-C", str(root), "commit-tree", object_of(root, "tree", tree), "-m", "x"]
    done = subprocess.run(words, env={**os.environ, **GIT}, capture_output=True, text=True, check=True)
    commit = done.stdout.strip()
    try:
        with checked_out(root, commit, ""):
            pass
    except CannotVerify as refused:
        assert "behind the link" in refused.message
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["cache/trees/x", "runs/20260102-030405-abcdef/journal", "open/20260102-030405-abcdef"]
)
def test_state_that_came_with_the_repository_is_not_taken_for_this_machines(
    tmp_path: Path, name: str
) -> None:
    files = {".gitignore": "", f".mirage/{name}": "somebody's"}
    project = Project(tmp_path / "project", "print(1)", files=files)
    for words in (("--config", "configs/a.yaml"),):
        assert "part of the repository" in project.refused(*words, code=3)
    assert "part of the repository" in project.refused("recover", program="mirage", code=3)
    assert "part of the repository" in project.refused("reproduce", "latest", program="mirage", code=3)


def test_a_link_in_the_place_of_a_folder_of_state_is_told_too(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", "print(1)", files={".gitignore": ""})
    (project.folder / ".mirage" / "cache").symlink_to("/tmp")
    project.commit()
    assert state.tracked(project.folder, ".mirage/cache") == [".mirage/cache"]
    assert "part of the repository" in project.refused("verify", "latest", program="mirage", code=3)


def test_a_committed_store_deletes_nothing_and_is_nobodys_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "1-00112233445566aa").write_text("old")
    files = {".gitignore": "", ".mirage/artifacts/store.json": STORE}
    project = Project(tmp_path / "project", "print(1)", files=files)
    store = project.folder / ".mirage" / "artifacts"
    folder = project.folder.resolve()
    assert of_project("auto", folder, {}, store.resolve(), lambda: None, "none").policy == "signed"
    (store / "staging").symlink_to(home)
    project.commit()
    assert "is a link" in project.refused("ls", program="mirage", code=7)
    assert len(list(home.iterdir())) == 1
