"""Real git repositories for tests, away from the config of whoever runs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.source.content import read_blobs
from orchestrator.source.snapshot import Snapshot

WHEN = "1700000000 +0000"
_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", WHEN))
}
# Only for the tests' own git: a submodule's source is a folder beside it.
_ALLOW_FILE = ("-c", "protocol.file.allow=always")


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a global config of the test's own; gives the folder for its repositories."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (home / "gitconfig").write_text("")
    work = tmp_path / "work"
    work.mkdir()
    return work


@dataclass(frozen=True)
class Repository:
    """A repository on disk and the few verbs that tests need."""

    path: Path

    def git(
        self,
        *words: str | bytes,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        codes: Sequence[int] = (0,),
    ) -> str:
        """Run git there; its output without the last newline."""
        done = subprocess.run(
            ["git", *_ALLOW_FILE, "-C", self.path, *words],
            input=stdin,
            env={**os.environ, **_IDENTITY, **(env or {})},
            capture_output=True,
            check=False,
        )
        assert done.returncode in codes, (words, done.returncode, done.stderr)
        return os.fsdecode(done.stdout).removesuffix("\n")

    def write(self, name: str | bytes, data: bytes | str, *, mode: int | None = None) -> Path:
        """Write a file, its folders too."""
        path = self.path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        if mode is not None:
            path.chmod(mode)
        return path

    def commit(self, message: str = "Work") -> str:
        """Commit all that is there; the commit's id."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    @property
    def git_dir(self) -> Path:
        """Its `.git` folder."""
        return self.path / self.git("rev-parse", "--git-dir")

    def state(self) -> tuple[bytes, int, str, str]:
        """What a snapshot may not change: the index, its time, the status and the user's refs."""
        index = self.git_dir / "index"
        refs = self.git("show-ref", codes=(0, 1))
        kept = "\n".join(line for line in refs.splitlines() if "refs/mirage/" not in line)
        before = index.read_bytes(), index.stat().st_mtime_ns
        status = self.git(
            "--no-optional-locks", "status", "--porcelain=v2", "-z", "--branch", "--untracked-files=all"
        )
        return (*before, status, kept)


def new(path: Path, *words: str) -> Repository:
    """An empty repository on the branch `main`."""
    path.mkdir(parents=True)
    repository = Repository(path)
    repository.git("init", "-q", "-b", "main", *words)
    return repository


def project(path: Path, *words: str) -> Repository:
    """A repository with a small project and one commit."""
    repository = new(path, *words)
    repository.write("main.py", "print(1)\n")
    repository.write("pkg/a.py", "a = 1\n")
    repository.commit()
    return repository


def clone(source: Repository, path: Path, *words: str) -> Repository:
    """A clone by git's own protocol (no hard links, so that `--depth` and `--filter` count)."""
    source.git("clone", "-q", *words, f"file://{source.path}", str(path))
    return Repository(path)


def add_submodule(parent: Repository, source: Repository, path: str) -> Repository:
    """A submodule, committed in its parent."""
    parent.git("submodule", "--quiet", "add", f"file://{source.path}", path)
    parent.commit("Submodule")
    return Repository(parent.path / path)


def contents(snapshot: Snapshot) -> dict[bytes, bytes]:
    """Every file with its bytes."""
    return {file.path: data for file, data in read_blobs(snapshot.files)}


def modes(snapshot: Snapshot) -> dict[bytes, str]:
    """Every file with git's mode."""
    return {file.path: file.mode for file in snapshot.files}


def program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def git_wrapper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a `git` before the real one that runs a line of shell, then the real one."""
    real = shutil.which("git")
    assert real is not None
    program(folder / "git", f'{script}\nexec "{real}" "$@"')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
