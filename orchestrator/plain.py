"""Plain mode: a workflow started by hand, outside a container, with the project's own store.

Its artifacts say so (`run` is `plain`), and no record claims an image. The SDK reaches this module, and nothing
else of the host side, where it runs without a container.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.artifacts import outbox as outboxes
from orchestrator.artifacts.guard import Guard
from orchestrator.artifacts.inputs import InputCache
from orchestrator.artifacts.outbox import Outbox
from orchestrator.artifacts.version import resolve
from orchestrator.canonical import Json, decode
from orchestrator.config import find_project, load_config, load_project
from orchestrator.errors import ArtifactError, ConfigError
from orchestrator.redaction import Redactor
from orchestrator.secret_sources import gather
from orchestrator.store.opening import open_store


class PlainReporter:
    """Warnings go to stderr; everything else is the workflow's own business."""

    def stage(self, name: str, detail: str = "") -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """A line, since it says under which id something was saved."""
        print(f"mirage: {text}", file=sys.stderr)

    def warn(self, text: str) -> None:
        """A line."""
        print(f"mirage: {text}", file=sys.stderr)

    def detail(self, text: str) -> None:
        """Nothing."""

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None:
        """Nothing."""

    def event(self, name: str, fields: Mapping[str, Json]) -> None:
        """Nothing."""

    def log(self, stream: str, data: bytes) -> None:
        """Nothing: the workflow writes to the terminal itself."""


class PlainSession:
    """What the SDK speaks to in place of a run's outbox."""

    def __init__(self, config_file: Path) -> None:
        project = load_project(find_project(config_file.resolve().parent))
        self._config = load_config(project, config_file, ())
        self._store = open_store(
            self._config.settings.store, project.folder, self._config.settings.s3, PlainReporter().warn
        )
        self._inputs = InputCache(
            self._store, project.folder / ".mirage" / "cache" / "trees", PlainReporter()
        )
        self._folder = (
            project.folder / ".mirage" / "cache" / "plain" / f"{os.getpid()}-{secrets.token_hex(4)}"
        )
        outboxes.prepare(self._folder)
        atexit.register(self._forget, os.getpid())
        self._outbox = Outbox(self._folder, self._store, "plain", PlainReporter())
        self._given: dict[str, bytes] = {}
        self.config_path = self._config.path

    def _forget(self, owner: int) -> None:
        if os.getpid() == owner:
            shutil.rmtree(self._folder, ignore_errors=True)

    def config_values(self) -> dict[str, Any]:
        """The resolved config."""
        return self._config.values()

    def input_ids(self) -> tuple[str, ...]:
        """The artifact ids that the config names."""
        return self._config.inputs

    def resolve(self, id: str) -> dict[str, Any]:
        """An input, laid out and verified. Raises ArtifactError for an id that the config does not name."""
        if id not in self._config.inputs:
            raise ArtifactError(
                f"{id} is not in {self._config.path}",
                hint=f"write it there, for example under `data:`; its inputs are: {', '.join(self._config.inputs) or 'none'}",
            )
        found = resolve(self._store, id)
        return {
            "id": str(found.ref),
            "path": str(self._inputs.lay_out(found.manifest.tree)),
            "entry": found.manifest.entry,
            "digest": found.digest,
            "format": found.manifest.format,
            "size": found.manifest.size,
            "files": found.manifest.files,
            "metadata": decode(found.manifest.metadata),
        }

    def new_payload(self) -> tuple[int, str]:
        """A number and an empty directory of that number."""
        n = 0
        while True:
            folder = self._folder / "artifacts" / str(n)
            try:
                folder.mkdir()
            except FileExistsError:
                n += 1
                continue
            return n, str(folder)

    def publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Take and publish one payload; gives the answer that a run's host would give."""
        n = int(ready["n"])
        (self._folder / "artifacts" / f"{n}.ready.json").write_text(json.dumps(ready))
        self._outbox.poll(give_up=True)
        answer = json.loads((self._folder / "artifacts" / f"{n}.done.json").read_text())
        return dict(answer)

    def secret(self, name: str) -> bytes:
        """The value of a secret that the config names. Raises ConfigError where it has none."""
        names = self._config.settings.run.secrets
        if name not in names:
            raise ConfigError(
                f"{name} is not among this run's secrets ({', '.join(names) or 'none'})",
                hint=f"name it in .mirage/project.yaml, or in the config's mirage: block: run: {{secrets: [{name}]}}",
            )
        value = dict(gather((name,), os.environ).values)[name]
        self._given[name] = value
        self._outbox.guard = Guard(Redactor(tuple(self._given.items())), self._config.settings.run.outputs)
        return value

    def log_metrics(self, line: dict[str, Any]) -> None:
        """Keep a line of metrics beside the session, and show it."""
        self._append("metrics.jsonl", line)
        values = ", ".join(f"{name}={value}" for name, value in line["values"].items())
        step = "" if line.get("step") is None else f" (step {line['step']})"
        print(f"mirage: {values}{step}", file=sys.stderr)

    def log_event(self, line: dict[str, Any]) -> None:
        """Keep a line of events beside the session."""
        self._append("events.jsonl", line)

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with (self._folder / name).open("a") as sink:
            sink.write(json.dumps(line) + "\n")


def open_session(argv: list[str]) -> PlainSession:
    """The session of a workflow started as `python -m workflow --config FILE`. Raises ConfigError without one."""
    for at, word in enumerate(argv):
        if word == "--config" and at + 1 < len(argv):
            return PlainSession(Path(argv[at + 1]))
        if word.startswith("--config="):
            return PlainSession(Path(word.partition("=")[2]))
    raise ConfigError(
        "no config: a workflow outside a container takes it from its command line",
        hint="python -m workflows.training_pipeline --config configs/experiment_001.yaml",
    )
