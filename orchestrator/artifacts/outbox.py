"""The host's side of a run's outbox: sees what the workflow saved, takes it, publishes it, answers.

The directory belongs to the workflow, which is not trusted: everything is opened by descriptor below one
directory that was opened once, links are never followed, sizes are bounded. Format: docs/contract.md.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts import tree
from orchestrator.artifacts.version import Manifest, Version, publish
from orchestrator.canonical import Json
from orchestrator.digest import Digest
from orchestrator.errors import ArtifactError, MirageError, StoreError
from orchestrator.ports import Reporter, Store
from orchestrator.reference import KINDS, check_name

_READY = re.compile(r"(0|[1-9][0-9]{0,8})\.ready\.json")
_READY_LIMIT = 1 << 20
_LINES_LIMIT = 64 << 20


@dataclass(frozen=True)
class Output:
    """One artifact of a run: published under an id, or kept by digest with the reason why it has none."""

    n: int
    version: Version | None
    problem: str | None


def prepare(folder: Path) -> None:
    """Make an empty outbox."""
    (folder / "artifacts").mkdir(parents=True)


class Outbox:
    """One run's outbox; ``poll`` may be called any number of times, by one process at a time.

    ``published`` is told of each version before the workflow is; ``before`` is what an earlier process,
    now dead, had been told: it is answered again and not taken again.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        run_id: str | None,
        reporter: Reporter,
        *,
        published: Callable[[int, Version], None] | None = None,
        before: Iterable[tuple[int, Version]] = (),
    ) -> None:
        self._folder = folder
        self._store = store
        self._run_id = run_id
        self._reporter = reporter
        self._published = published
        self._before = dict(before)
        self._seen: set[int] = set()
        self.outputs: list[Output] = []

    def poll(self, *, give_up: bool = False) -> int:
        """Take and answer everything that is ready; gives how many there were.

        StoreError where the store cannot take it (no space); it stays ready, and a later poll takes it,
        unless ``give_up`` says to tell the workflow that its save failed.
        """
        try:
            names = os.listdir(self._folder / "artifacts")
        except FileNotFoundError:
            return 0
        ready = sorted(int(match[1]) for match in map(_READY.fullmatch, names) if match)
        fresh = [n for n in ready if n not in self._seen]
        if not fresh:
            return 0
        top = os.open(self._folder / "artifacts", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for n in fresh:
                self._take(top, n, give_up)
                self._seen.add(n)
        finally:
            os.close(top)
        return len(fresh)

    def _take(self, top: int, n: int, give_up: bool) -> None:
        answer: dict[str, Json] = {"schema": "mirage-done/1", "n": n}
        try:
            version = self._before.get(n) or self._publish(top, n)
            if self._published is not None and n not in self._before:
                self._published(n, version)
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and not give_up:
                raise  # no space, or an I/O error of the store: not the workflow's fault, and may pass
            self._refuse(answer, n, error)
        except ArtifactError as error:
            self._refuse(answer, n, error)
        else:
            self.outputs.append(Output(n, version, None))
            answer.update(id=str(version.ref), digest=version.digest, size=version.manifest.size)
            self._reporter.note(f"saved {version.ref} ({_size(version.manifest.size)})")
        _answer(top, f"{n}.done.json", canonical.encode(answer))

    def _refuse(self, answer: dict[str, Json], n: int, error: MirageError) -> None:
        code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
        answer["error"] = {"code": code, "message": error.message, "hint": error.hint}
        self.outputs.append(Output(n, None, error.message))
        self._reporter.warn(f"an artifact was not published: {error.message}")

    def _publish(self, top: int, n: int) -> Version:
        ready = _read_json(top, f"{n}.ready.json")
        manifest_of = _parse_ready(ready)
        try:
            payload = os.open(str(n), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
        except OSError as error:
            raise ArtifactError(f"the files of artifact {n} are not there: {error.strerror}") from error
        try:
            entries = tree.collect(self._store, payload)
        finally:
            os.close(payload)
        files = [entry for entry in entries if entry.kind == "f"]
        if manifest_of.entry is not None and manifest_of.entry not in {entry.path for entry in files}:
            raise ArtifactError(f"artifact {n} names the file {manifest_of.entry!r}, which it does not have")
        manifest = Manifest(
            kind=manifest_of.kind,
            name=manifest_of.name,
            format=manifest_of.format,
            entry=manifest_of.entry,
            tree=self._store.put(tree.encode(entries)),
            size=sum(entry.size for entry in files),
            files=len(files),
            metadata=manifest_of.metadata,
        )
        return publish(self._store, manifest, manifest_of.version, self._run_id)

    def metrics(self) -> tuple[dict[str, float | None], Digest | None, int]:
        """The last value of each metric, the blob of all lines, and how many lines could not be read."""
        data = self._lines("metrics.jsonl")
        if not data:
            return {}, None, 0
        last: dict[str, float | None] = {}
        bad = 0
        for line in data.splitlines():
            try:
                values = json.loads(line)["values"]
                for name, value in values.items():
                    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                        raise ValueError(name)
                    canonical.encode(value)
                    last[str(name)[:200]] = value
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MirageError):
                bad += 1
        return last, self._store.put(data), bad

    def events(self) -> Digest | None:
        """The blob of the run's events (flows and steps), where there are any."""
        data = self._lines("events.jsonl")
        return self._store.put(data) if data else None

    def _lines(self, name: str) -> bytes:
        """A file of lines, at most 64 MiB of it, up to the last whole line."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return b""
        with open(descriptor, "rb") as source:
            try:
                data = source.read(_LINES_LIMIT)
            except OSError:
                return b""
        return data[: data.rfind(b"\n") + 1]

    def unfinished(self) -> int:
        """How many payloads were begun and never declared ready."""
        with suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(self._folder / "artifacts")
            return sum(1 for name in names if name.isdigit() and int(name) not in self._seen)
        return 0


@dataclass(frozen=True)
class _Ready:
    kind: str
    name: str
    version: str | None
    format: str
    entry: str | None
    metadata: str


def _parse_ready(item: Any) -> _Ready:
    if not isinstance(item, dict) or item.get("schema") != "mirage-ready/1":
        raise ArtifactError("a save could not be understood: it has no schema mirage-ready/1")
    kind, version, entry = item.get("kind"), item.get("version"), item.get("entry")
    if kind not in KINDS:
        raise ArtifactError(f"a save names an unknown kind: {str(kind)[:100]!r}")
    if version is not None:
        check_name(str(version), "version")
    metadata = item.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ArtifactError("a save's metadata is not a mapping")
    try:
        encoded = canonical.encode(metadata).decode()
    except (MirageError, RecursionError) as error:
        raise ArtifactError(f"a save's metadata has no exact JSON form: {error}") from error
    return _Ready(
        kind=str(kind),
        name=check_name(str(item.get("name")), "name"),
        version=None if version is None else str(version),
        format=check_name(str(item.get("format")), "format"),
        entry=None if entry is None else tree.check_path(entry),
        metadata=encoded,
    )


def _read_json(folder: int, name: str) -> Any:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with open(descriptor, "rb") as source:
            data = source.read(_READY_LIMIT + 1)
        if len(data) > _READY_LIMIT:
            raise ArtifactError(f"{name} is larger than {_READY_LIMIT >> 20} MiB", hint="keep metadata small")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} cannot be read: {error}") from error


def _answer(folder: int, name: str, data: bytes) -> None:
    temporary = f".{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        descriptor = os.open(temporary, flags, 0o644, dir_fd=folder)
        with open(descriptor, "wb") as sink:
            sink.write(data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        raise StoreError(f"cannot answer the workflow: {error.strerror}") from error


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{count} B"
