"""The container's side of the contract: `/mirage/config.json`, `/mirage/in` and the outbox `/mirage/out`.

Owns the order of writing: a payload is on disk before its `ready.json` has a name, so a process that is
killed at any moment leaves either nothing that the host would take, or a whole artifact.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from mirage.errors import ArtifactError, ConfigError, MirageError, nearest

FIRST_WAIT = 0.002  # seconds between two looks for the host's answer, at first ...
LONGEST_WAIT = 0.05  # ... and at most
NOTICE_EVERY = 60.0  # seconds of waiting between two lines on stderr
MANY_FILES = 256  # from here on one sync of the file system is cheaper than one per file


class OutboxSession:
    """A run's container. All state is in the file system, so forked and spawned workers may share it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._artifacts = os.path.join(root, "out", "artifacts")
        self._next = 0
        self._listed: dict[str, Any] | None = None
        self.config_path = os.environ.get("MIRAGE_CONFIG", "config.json")

    def config_values(self) -> dict[str, Any]:
        """The resolved config, as it is baked into the image; raises MirageError where it is not there."""
        values: dict[str, Any] = self._read(os.path.join(self._root, "config.json"))
        return values

    def input_ids(self) -> tuple[str, ...]:
        """The ids of the run's inputs, as the config writes them."""
        return tuple(self._entries())

    def resolve(self, id: str) -> dict[str, Any]:
        """The input's entry with an absolute path; raises ArtifactError for an id that is not in the config."""
        entries = self._entries()
        entry = entries.get(id) or next((e for e in entries.values() if e["id"] == id), None)
        if entry is None:
            raise not_an_input(id, tuple(entries), self.config_path)
        return self._taken(entry)

    def resumed(self, beginning: str = "") -> tuple[dict[str, Any], ...]:
        """What the run had saved that this one resumes, where its id begins so; oldest first."""
        listed = self._list().get("resumed", ())
        return tuple(self._taken(entry) for entry in listed if entry["id"].startswith(beginning))

    def _taken(self, entry: dict[str, Any]) -> dict[str, Any]:
        path = os.path.join(self._root, "in", entry["path"])
        sys.audit("mirage.input", path)  # whoever reads it, this workflow asked for it: see startup.py
        return {**entry, "path": path}

    def new_payload(self) -> tuple[int, str]:
        """Claim the next free number by mkdir, which only one process can win."""
        while True:
            number, self._next = self._next, self._next + 1
            path = os.path.join(self._artifacts, str(number))
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
            except OSError as error:
                raise ArtifactError(f"the run's outbox cannot be written: {error}") from error
            return number, path

    def publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Make the payload durable, announce it, and wait for the answer without a time limit.

        There is no limit because a host that died is replaced by `mirage recover`, which answers.
        """
        number = int(ready["n"])
        base = os.path.join(self._artifacts, str(number))
        settle(base)
        announce = {"schema": "mirage-ready/1", **ready}
        temporary = f"{base}.ready.json.tmp"
        with open(temporary, "w", encoding="ascii") as stream:
            json.dump(announce, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, f"{base}.ready.json")
        _sync_directory(self._artifacts)
        return self._answer(f"{base}.done.json", f"{ready['kind']}:{ready['name']}")

    def secret(self, name: str) -> bytes:
        """The value of a secret, from its file in memory; raises ConfigError where the run has none of that name."""
        path = os.environ.get(f"{name}_FILE")
        if path is None:
            raise ConfigError(
                f"this run has no secret {name}",
                hint=f"name it in .mirage/project.yaml, or in the config's mirage: block: run: {{secrets: [{name}]}}",
            )
        with open(path, "rb") as stream:
            return stream.read()

    def log_metrics(self, line: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self._append("metrics.jsonl", line)

    def log_event(self, line: dict[str, Any]) -> None:
        """Append one line to events.jsonl."""
        self._append("events.jsonl", line)

    def _answer(self, path: str, what: str) -> dict[str, Any]:
        started = time.monotonic()
        notice, wait = NOTICE_EVERY, FIRST_WAIT
        while True:
            try:
                with open(path, encoding="utf-8") as stream:
                    answer: dict[str, Any] = json.load(stream)
                return answer
            except (FileNotFoundError, ValueError):  # not there yet, or not whole yet
                time.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT)
            waited = time.monotonic() - started
            if waited >= notice:
                notice += NOTICE_EVERY
                print(
                    f"mirage: {what} is written; waiting for the host to publish it ({waited:.0f} s). "
                    "If the host's process died, run: mirage recover",
                    file=sys.stderr,
                    flush=True,
                )

    def _append(self, name: str, line: dict[str, Any]) -> None:
        data = json.dumps(line, allow_nan=False).encode("ascii") + b"\n"
        # One write on O_APPEND: lines of several processes never mix.
        descriptor = os.open(
            os.path.join(self._root, "out", name),
            os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
            0o644,
        )
        try:
            written = os.write(descriptor, data)
        finally:
            os.close(descriptor)
        if written != len(data):
            raise MirageError(
                f"only {written} of {len(data)} bytes of a line went into {name}: is the disk full?"
            )

    def _entries(self) -> dict[str, dict[str, Any]]:
        return dict(self._list()["inputs"])

    def _list(self) -> dict[str, Any]:
        if self._listed is None:
            self._listed = dict(self._read(os.path.join(self._root, "in", "inputs.json")))
        return self._listed

    def _read(self, path: str) -> Any:
        try:
            with open(path, encoding="utf-8") as stream:
                return json.load(stream)
        except (OSError, ValueError) as error:
            raise MirageError(
                f"{path} cannot be read: {error}",
                hint="MIRAGE_RUN_ID is set, so a run's container was expected; unset it to run outside of one",
            ) from error


def not_an_input(id: str, known: tuple[str, ...], config_path: str) -> ArtifactError:
    """The error for an id that the config does not name: what the run can know only through its config."""
    close = nearest(id, known)
    if close:
        hint = f"did you mean {' or '.join(repr(c) for c in close)}?"
    else:
        hint = (
            f'write it into {config_path}, under any key, for example\n     data: {{train_dataset: "{id}"}}'
        )
    return ArtifactError(f"{id!r} is not an input of this run: {config_path} does not name it", hint=hint)


def settle(path: str) -> None:
    """Put a payload's bytes and names on disk, so that a power cut cannot tear what is announced next."""
    files: list[str] = []
    directories: list[str] = []
    for folder, _, names in os.walk(path):
        directories.append(folder)
        files += (os.path.join(folder, name) for name in names)
        if len(files) > MANY_FILES:
            os.sync()
            return
    for file in files:
        if not os.path.islink(file):
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for folder in directories:
        _sync_directory(folder)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
