"""`mirage doctor`: whether this machine and project are ready, each finding with what to do. Repairs nothing."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError, EngineError, MirageError, SourceError, StoreError
from orchestrator.process import ProgramMissing, run

if TYPE_CHECKING:
    from orchestrator.cli.wiring import Workplace

_LEAST_FREE = 5 << 30  # bytes; an environment with a deep learning library needs about this much
_OLDEST_GIT = (2, 26)
_STALE_HOURS = 24.0
# runc before these lets a container out (CVE-2025-31133, -52565, -52881; release notes of 1.2.8 and 1.3.3).
_MENDED_RUNC = ((1, 2, 8), (1, 3, 3), (1, 4, 0))


@dataclass(frozen=True)
class Finding:
    """One check: `ok`, `warn` or `fail`, with the exit code that a failure means."""

    check: str
    state: str
    text: str
    hint: str | None = None
    exit_code: int = 0


def examine(open_project: Callable[[], Workplace]) -> list[Finding]:
    """All findings. ``open_project`` opens the project of the current folder; without one, its part is left out."""
    found = [*_git(), _python()]
    try:
        place = open_project()
    except ConfigError as error:
        found.append(Finding("project", "warn", error.message, error.hint))
        return found
    found.append(Finding("project", "ok", f"{place.settings.project} in {place.project.folder}"))
    for check, error_type, look in (
        ("engine", EngineError, _engine),
        ("base", MirageError, _base),
        ("store", StoreError, _store),
        ("runs", MirageError, _runs),
    ):
        try:
            found += look(place)
        except error_type as error:
            found.append(Finding(check, "fail", error.message, error.hint, error.exit_code))
        except MirageError as error:
            found.append(Finding(check, "fail", error.message, error.hint, error.exit_code))
    return found


def _git() -> Iterator[Finding]:
    try:
        text = run(["git", "--version"]).stdout.decode().strip()
    except ProgramMissing:
        yield Finding("git", "fail", "git is not installed", "apt-get install git", SourceError.exit_code)
        return
    version = tuple(int(part) for part in re.findall(r"[0-9]+", text)[:2])
    if version < _OLDEST_GIT:
        yield Finding("git", "fail", f"{text} is too old", "install git 2.26 or newer", SourceError.exit_code)
    else:
        yield Finding("git", "ok", text)


def _python() -> Finding:
    """Whether this Python's tarfile filter can be walked around (CVE-2025-4517): we never rely on it, users may."""
    mended = {(3, 9): 23, (3, 10): 18, (3, 11): 13, (3, 12): 11, (3, 13): 4}
    here, micro = sys.version_info[:2], sys.version_info[2]
    text = ".".join(str(part) for part in sys.version_info[:3])
    if here in mended and micro < mended[here]:
        hint = "Mirage never extracts archives with it; your own code on this Python should not either"
        return Finding("python", "warn", f"{text}: its tarfile extraction filter has known holes", hint)
    return Finding("python", "ok", text)


def _engine(place: Workplace) -> Iterator[Finding]:
    info = place.engine.info()
    kind = "rootless, " if info.rootless else ""
    yield Finding(
        "engine",
        "ok",
        f"{info.name} {info.version} ({kind}{info.image_store} image store, {info.storage_driver}, "
        f"cgroup v{info.cgroup_version}, {info.cpus} CPUs, {info.memory >> 20} MiB)",
    )
    if info.userns:
        yield Finding(
            "engine",
            "fail",
            "this engine maps users (userns-remap): a run could not own its outputs",
            "use an engine without userns-remap, or a rootless one",
            EngineError.exit_code,
        )
    if not info.limits_enforced:
        yield Finding(
            "engine",
            "warn",
            "this engine cannot enforce memory and CPU limits",
            "set up cgroup v2 delegation",
        )
    runc = tuple(int(part) for part in re.findall(r"[0-9]+", info.runc)[:3])
    if (
        runc
        and len(runc) == 3
        and not any((runc[:2] == m[:2] and runc >= m) or runc[:2] > (1, 4) for m in _MENDED_RUNC)
    ):
        yield Finding(
            "engine",
            "warn",
            f"runc {info.runc} has known ways out of a container (CVE-2025-31133 and others) unless your "
            "distribution has mended it",
            "update the engine's packages; run only code whose authors you trust",
        )


def _base(place: Workplace) -> Iterator[Finding]:
    from orchestrator.image.mmdebstrap import find_recipe

    name = place.settings.base
    if any(mark in name for mark in ":/@"):
        yield Finding("base", "ok", f"{name}, from a registry")
        return
    if name.startswith("Dockerfile"):
        there = (place.project.folder / name).is_file()
        state, text = ("ok", f"{name} of the project") if there else ("fail", f"{name} is not in the project")
        yield Finding(
            "base", state, text, None if there else "commit it, or name another base", 0 if there else 5
        )
        return
    find_recipe(name, place.project.folder)
    if shutil.which("mmdebstrap") is None:
        yield Finding(
            "base",
            "warn",
            f"{name} is made with mmdebstrap, which is not installed",
            "apt-get install mmdebstrap debian-archive-keyring, or pin a registry's image: mirage base pin IMAGE",
        )
    else:
        yield Finding("base", "ok", f"{name}, a recipe for mmdebstrap")


def _store(place: Workplace) -> Iterator[Finding]:
    from orchestrator.store.folder import FolderStore

    store = place.store
    yield Finding("store", "ok", store.location)
    if isinstance(store, FolderStore):
        home, kept = Path(store.location), "store"
    else:
        from orchestrator.store.s3 import S3Store

        assert isinstance(store, S3Store)
        home, kept = store.folder, "what is fetched from and pushed to the bucket"
        yield Finding("store", "ok", f"its server {store.promises().summary()}")
    for what, folder in ((kept, home), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        state = "ok" if free >= _LEAST_FREE else "warn"
        yield Finding(
            "disk",
            state,
            f"{free / (1 << 30):.1f} GiB free for {what} ({folder})",
            None if state == "ok" else "free some space",
        )
    stale = list(_stale(home / "staging"))
    if stale:
        size = sum(each.stat().st_size for each in stale)
        yield Finding(
            "store",
            "warn",
            f"{len(stale)} file(s), {size >> 20} MiB, were left by writers that died more than a day ago",
            f"remove the old files in {home / 'staging'}",
        )


def _stale(folder: Path) -> Iterator[Path]:
    import time

    oldest = time.time() - 3600 * _STALE_HOURS
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        path = folder / name
        if path.is_file() and path.stat().st_mtime < oldest:
            yield path


def _runs(place: Workplace) -> Iterator[Finding]:
    opened = list(place.catalog.open_runs())
    left = [run_id for run_id, status in opened if status == "unfinished"]
    alive = len(opened) - len(left)
    if left:
        yield Finding("runs", "warn", f"left by a dead process: {', '.join(left)}", "mirage recover")
    yield Finding("runs", "ok", f"{alive} going on" if alive else "none going on")
