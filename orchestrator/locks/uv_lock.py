"""`uv.lock`, read by uv's own exporter, offline, from a copy of the commit's files."""

from __future__ import annotations

import os
import posixpath
import tempfile
from dataclasses import replace
from pathlib import Path

from orchestrator.errors import LockError
from orchestrator.locks import pylock, uv_fresh
from orchestrator.locks.pinned import MAIN, Lock, normal_name, own_groups
from orchestrator.locks.source import LockSource, Table, toml
from orchestrator.process import ProgramMissing, run

REFRESH = "uv lock"
# nothing of the host decides: no settings, no cache, no network, no interpreter
_EXPORT = (
    *("export", "--quiet", "--frozen", "--offline", "--no-config", "--no-cache", "--no-python-downloads"),
    *("--no-header", "--no-default-groups", "--no-emit-project", "--format", "pylock.toml"),
)


def read(source: LockSource) -> Lock:
    """Read a uv.lock. Raises LockError where it is not one, is not up to date, or lacks a group that is named."""
    table = source.toml()
    manifest = source.manifest("pyproject.toml", REFRESH)
    members = _members(source, table)
    uv_fresh.check(source, table, members)
    exported = _export(source, _of_member(source, members))
    indexes = manifest.get("tool", {}).get("uv", {}).get("index", [])
    names = {str(each["url"]).rstrip("/"): str(each.get("name", "")) for each in indexes if "url" in each}
    plain = replace(source, groups=(MAIN,))  # the exporter has chosen already
    lock = pylock.of_table(plain, toml(f"uv's export of {source.path}", exported), "uv", [], names)
    built = {package.name for package in lock.packages}
    own = sorted(name for each, _ in members.values() if normal_name(name := str(each["name"])) not in built)
    note = f"{source.path}: {', '.join(own)} left out: the project's own code is in the image"
    return replace(lock, notes=(*lock.notes, *([note] if own else [])))


def _members(source: LockSource, table: Table) -> dict[str, tuple[Table, Table]]:
    """The packages of the commit itself, by their folder: what the lock says, and what their manifest says."""
    found: dict[str, tuple[Table, Table]] = {}
    listed = {str(name) for name in table.get("manifest", {}).get("members", [])}
    for package in table.get("package", []):
        place = package.get("source", {})
        folder = place.get("editable") or place.get("virtual") or place.get("directory")
        if folder is not None and (folder == "." or package.get("name") in listed):
            path = posixpath.join(folder, "pyproject.toml")
            found[folder] = (package, source.manifest(path, REFRESH))
    return found


def _of_member(source: LockSource, members: dict[str, tuple[Table, Table]]) -> list[str]:
    """What to tell the exporter where the project is a member of the lock's workspace. Raises LockError where it is none."""
    if source.own == ".":
        return []
    if source.own not in members:
        raise LockError(
            f"{source.path} is the lock of a workspace, and {source.own} is no member of it",
            hint=f"members of it are {', '.join(sorted(members)) or 'none'}",
        )
    return ["--package", str(members[source.own][0]["name"])]


def _export(source: LockSource, member: list[str]) -> bytes:
    """What uv says it would install, for every platform at once. Raises LockError with its words."""
    import uv

    groups, extras = own_groups(source.groups)
    choice = [word for name in extras for word in ("--extra", name)]
    flag = "--group" if MAIN in source.groups else "--only-group"
    choice += [word for name in groups for word in (flag, name)]
    if not source.groups or (MAIN not in source.groups and not groups):
        raise LockError(
            f"environment.groups is {list(source.groups)}, which chooses nothing in {source.path}",
            hint="add main: extras belong to it",
        )
    with tempfile.TemporaryDirectory(prefix="mirage-lock-") as folder:
        top = Path(folder)
        for path in source.paths:
            inside = posixpath.relpath(path, source.folder or ".")
            if posixpath.basename(path) == "pyproject.toml" and not inside.startswith("../"):
                target = top / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read(path) or b"")
        (top / "uv.lock").write_bytes(source.content)
        hidden = [name for name in os.environ if name.startswith("UV_") or name == "VIRTUAL_ENV"]
        try:
            done = run(
                [uv.find_uv_bin(), *_EXPORT, *member, *choice],
                cwd=folder,
                env={"HOME": folder, "NO_COLOR": "1", "LC_ALL": "C.UTF-8"},
                without=hidden,
                timeout=60,
            )
        except (ProgramMissing, FileNotFoundError) as error:
            raise LockError(
                f"uv, which reads {source.path}, is not on this machine", hint="pip install uv"
            ) from error
        complaint = done.complaint.replace(folder, "").strip()
    if done.code != 0:
        raise LockError(
            f"uv cannot read {source.path}:\n  " + "\n  ".join(complaint.splitlines()),
            hint="name a group of pyproject.toml's `dependency-groups`, or `extra.NAME`, under `environment: "
            "{groups: [...]}`"
            if "is not defined in" in complaint
            else f"is it from a newer uv than {uv.__name__}'s here, or damaged? `{REFRESH}` writes it anew",
        )
    return done.stdout
