"""One commit of somebody else's repository, fetched by git with the user's own logins, and its files.

The network is used only here; nothing of the repository is run or checked out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SourceError
from orchestrator.process import Completed
from orchestrator.source import git, objects

# what the user's environment says of how other machines are reached
_REACHING = (
    "GIT_ASKPASS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
)
_LINK, _SUBMODULE, _EXECUTABLE = "120000", "160000", "100755"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the commit; a link's content is its target."""

    path: bytes
    content: bytes
    link: bool
    executable: bool


def files(url: str, commit: str, folder: str = "") -> tuple[RemoteFile, ...]:
    """The files below a folder of a commit. Raises SourceError where they cannot be had whole."""
    with tempfile.TemporaryDirectory(prefix="mirage-git-") as name:
        repository = Path(name)
        git.ask(repository, "init", "-q", "--bare")
        _fetch(repository, url, commit)
        return tuple(_files(repository, url, commit, folder))


def _fetch(repository: Path, url: str, commit: str) -> None:
    """The commit alone where the server gives it so, else all branches and tags."""
    done = _git(repository, "fetch", "-q", "--no-tags", "--depth", "1", url, commit)
    if done.code != 0:
        every = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        done = _git(repository, "fetch", "-q", "--no-tags", url, *every)
    # ssh's user name is part of the address; passwords were refused (locks/vcs.py)
    shown = url if url.startswith("ssh://") else git.public_url(url)
    if done.code != 0:
        raise SourceError(
            f"git cannot fetch {shown}: {done.complaint.replace(url, shown)}",
            hint=f"does `git ls-remote {shown}` work here? Logins are git's own (credential helper, netrc, ssh keys)",
        )
    if git.run(repository, "cat-file", "-e", f"{commit}^{{commit}}").code != 0:
        raise SourceError(
            f"{shown} has no commit {commit} on any branch or tag",
            hint="it was removed there, or never pushed: pin another commit",
        )


def _git(repository: Path, *words: str) -> Completed:
    env = {name: value for name in _REACHING if (value := os.environ.get(name)) is not None}
    return git.run(repository, *words, env={**env, "GIT_ALLOW_PROTOCOL": "https:http:ssh"})


def _files(repository: Path, url: str, commit: str, folder: str) -> Iterator[RemoteFile]:
    tree = f"{commit}:{folder}" if folder else f"{commit}^{{tree}}"
    done = git.run(repository, "ls-tree", "-r", "-z", "--full-tree", tree)
    if done.code != 0:
        raise SourceError(
            f"{git.public_url(url)} has no folder {folder} at {commit}", hint="which `subdirectory` is it?"
        )
    listed = []
    for line in filter(None, done.stdout.split(b"\0")):
        head, _, path = line.partition(b"\t")
        mode, _, oid = (os.fsdecode(word) for word in head.split(b" "))
        if mode == _SUBMODULE:
            raise SourceError(
                f"{git.public_url(url)} has a submodule at {git.printable(path)}, which is not fetched",
                hint="publish a wheel of the package and lock that",
            )
        listed.append((mode, oid, path))
    contents = objects.contents(repository, [oid for _, oid, _ in listed])
    for (mode, oid, path), data in zip(listed, contents, strict=True):
        if data is None:
            raise objects.absent(path, oid)
        yield RemoteFile(path, data, mode == _LINK, mode == _EXECUTABLE)
