"""What dead processes left: runs, containers, half-written files, sessions and uploads; and who clears it away."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.checks.finding import OK, WARN, Finding
from orchestrator.errors import MirageError
from orchestrator.sizes import readable_size
from orchestrator.store import turns
from orchestrator.store.folder import FolderStore

if TYPE_CHECKING:
    from orchestrator.image.library import Library
    from orchestrator.ports import Engine, Store

_STALE = 24 * 3600.0  # seconds after which what is half written was left, and not only slow
_SHOWN = 5
_TEMPORARY = "mirage-"  # how the names of our folders in the system's temporary folder begin


def of_runs(opened: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    """Open runs of this project: each ``(run id, "running" or "unfinished")``."""
    states = list(opened)
    left = [run_id for run_id, state in states if state == "unfinished"]
    if left:
        yield Finding("runs", WARN, f"left by a dead process: {_few(left)}", "mirage recover")
    alive = len(states) - len(left)
    yield Finding("runs", OK, f"{alive} going on" if alive else "none going on")


def of_engine(engine: Engine, library: Library, runs: Path, opened: frozenset[str]) -> Iterator[Finding]:
    """Containers that nobody comes back for: of this project's runs that are not open, of projects that are gone, of
    builds that died. Raises EngineError.
    """
    from orchestrator.executors.local_docker import RUN_LABEL
    from orchestrator.image.abandoned import BUILDER_LABEL, is_abandoned

    lost, strange = [], []
    for found in engine.find(RUN_LABEL):
        labels = dict(found.labels)
        run_id, journal = labels.get(RUN_LABEL, ""), labels.get("flow.mirage.journal", "/")
        if Path(journal).parent.parent == runs:
            lost += [found.id[:12]] if run_id not in opened else []
        elif not os.path.lexists(journal):
            strange.append(found.id[:12])
    if lost:
        yield Finding(
            "containers",
            WARN,
            f"of runs of this project that are not open: {_few(lost)}",
            f"docker rm -f {' '.join(lost)}",
        )
    if strange:
        yield Finding(
            "containers",
            WARN,
            f"of runs whose project is not here: {_few(strange)}",
            f"where it was removed, and is not on another machine: docker rm -f {' '.join(strange)}",
        )
    builds = [
        found.id[:12]
        for found in engine.find(BUILDER_LABEL)
        if found.status == "exited" or is_abandoned(library, dict(found.labels))
    ]
    if builds:
        yield Finding(
            "containers",
            WARN,
            f"of builds that died: {_few(builds)}",
            f"the next build of an environment removes them; or: docker rm -f {' '.join(builds)}",
        )
    if not lost and not strange and not builds:
        yield Finding("containers", OK, "none left behind")


def of_store(store: Store) -> Iterator[Finding]:
    """Files under `staging/`, sessions whose writer died, a collection that did not end, uploads, what waits for a bucket."""
    from orchestrator.store.s3 import S3Store

    if isinstance(store, S3Store):
        yield from _of_bucket(store)
    here = store.local if isinstance(store, S3Store) else store
    if isinstance(here, FolderStore):
        count, size = here.sweep(_STALE, pretend=True)
        if count:
            yield Finding(
                "staging",
                WARN,
                f"{count} file(s), {readable_size(size)}, were left by writers that died more than a day ago",
                f"they go by themselves after a week; sooner: rm {Path(here.location) / 'staging'}/*, while nothing runs",
            )
    dead = [
        key.rpartition("/")[2][:12]
        for key, age in store.ages("gc/session/")
        if turns.is_dead(_object(store, key)) or age > turns.DEAD
    ]
    if dead:
        yield Finding(
            "sessions",
            WARN,
            f"of writers that died: {_few(dead)}",
            "they keep nobody waiting; the next `mirage gc` that removes something takes them along",
        )
    state = turns.read_state(store)
    number, _ = turns.newest_lock(store)
    holder = _object(store, f"gc/lock/{number:016}.json") if number else {}
    if state.phase != turns.IDLE and turns.is_dead(holder):
        yield Finding("sessions", WARN, "a collection of garbage died before its end", "mirage gc")


def _of_bucket(store: object) -> Iterator[Finding]:
    from orchestrator.store.s3 import S3Store

    assert isinstance(store, S3Store)
    waiting = store.waiting()
    if waiting:
        yield Finding(
            "uploads",
            WARN,
            f"{waiting} thing(s) wait on this machine for the bucket",
            "mirage artifact push --pending",
        )
    count, size = store.sweep(_STALE, pretend=True)
    if count:
        yield Finding(
            "uploads",
            WARN,
            f"{count} thing(s), {readable_size(size)}, were left in the bucket by uploads that died more than a day ago",
            "mirage gc removes them",
        )


def of_folders() -> Iterator[Finding]:
    """Our folders in the system's temporary folder that are a day old."""
    old: list[str] = []
    top = tempfile.gettempdir()
    with suppress(OSError), os.scandir(top) as items:
        for item in items:
            with suppress(OSError):
                status = item.stat(follow_symlinks=False)
                mine = item.name.startswith(_TEMPORARY) and status.st_uid == os.geteuid()
                if mine and item.is_dir(follow_symlinks=False) and time.time() - status.st_ctime > _STALE:
                    old.append(item.path)
    if old:
        yield Finding(
            "temporary",
            WARN,
            f"left for more than a day: {_few(sorted(old))}",
            "remove them, where nothing runs",
        )


def _object(store: Store, key: str) -> object:
    try:
        return json.loads(store.read(key) or b"{}")
    except (ValueError, MirageError):
        return {}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
