"""The catalog: records as rows that can be asked questions of; reads the store, keeps nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import ConfigError, MirageError, StoreError
from orchestrator.journal import RunFolders, is_held
from orchestrator.ports import Reporter, Store
from orchestrator.reference import RunId, parse_run_id


@dataclass(frozen=True)
class Row:
    """One sealed run: its record, parsed when asked."""

    run_id: RunId
    record: bytes
    store: Store

    @property
    def digest(self) -> Digest:
        """The record's digest."""
        return of_bytes(self.record)

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The record's Statement. Raises StoreError where it is damaged."""
        try:
            found = json.loads(self.record)
            found["predicate"]["runDetails"]["mirage_result"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the record of {self.run_id} is damaged: {error!r}") from error
        return dict(found)

    @property
    def definition(self) -> dict[str, Any]:
        """SLSA's buildDefinition."""
        return dict(self.statement["predicate"]["buildDefinition"])

    @property
    def details(self) -> dict[str, Any]:
        """SLSA's runDetails."""
        return dict(self.statement["predicate"]["runDetails"])

    @cached_property
    def result(self) -> dict[str, Any]:
        """run.json, the record's first subject, verified."""
        digest = parse_digest("sha256:" + str(self.statement["subject"][0]["digest"]["sha256"]))
        return dict(json.loads(read_verified(self.store, digest)))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config, verified."""
        digest = parse_digest(self.definition["internalParameters"]["configHash"])
        return dict(json.loads(read_verified(self.store, digest)))

    def dependency(self, name: str) -> dict[str, Any]:
        """One of resolvedDependencies by name; empty where there is none."""
        for item in self.definition["resolvedDependencies"]:
            if item["name"] == name:
                return dict(item)
        return {}

    def byproduct(self, name: str) -> Digest | None:
        """The digest of something kept beside the outputs."""
        for item in self.details.get("byproducts", []):
            if item["name"] == name:
                return parse_digest("sha256:" + str(item["digest"]["sha256"]))
        return None

    def lookup(self, path: str) -> Json:
        """The value of a `--where` path: a field of ``summary``, `metrics.NAME` or `config.A.B`."""
        first, _, rest = path.partition(".")
        if first == "config" and rest:
            return _walk(self.config, rest)
        if first == "metrics" and rest:
            found: Json = self.result["metrics"].get(rest)
            return found
        summary = self.summary()
        if path in summary:
            return summary[path]
        return _walk(summary, path)

    def summary(self) -> dict[str, Json]:
        """The run in one flat object: what `mirage ls --json` prints of it."""
        external = self.definition["externalParameters"]
        internal = self.definition["internalParameters"]
        source = self.dependency("source")
        result = self.details["mirage_result"]
        annotations = source.get("annotations", {})
        return {
            "run_id": self.run_id,
            "status": result["status"],
            "exit_code": result["exitCode"],
            "reason": result["reason"],
            "project": external["project"],
            "workflow": external["workflow"],
            "config": external["configPath"],
            "config_digest": internal["configHash"],
            "overrides": external["overrides"],
            "branch": str(external.get("ref") or "").removeprefix("refs/heads/") or None,
            "commit": source["digest"]["gitCommit"],
            "tree": source["digest"]["gitTree"],
            "dirty": annotations.get("dirty", False),
            "image": _sha256(self.dependency("image")),
            "base": _sha256(self.dependency("base-image")),
            "lock": _sha256(self.dependency("lock")),
            "run_key": internal["runKey"],
            "started": self.details["metadata"]["startedOn"],
            "seconds": result["durationS"],
            "inputs": [
                item.get("annotations", {}).get("id")
                for item in self.definition["resolvedDependencies"]
                if item["name"].startswith("input:")
            ],
            "outputs": [item["id"] for item in self.result["outputs"]],
            "metrics": self.result["metrics"],
            "record": self.digest,
        }


def _sha256(item: dict[str, Any]) -> str | None:
    found = item.get("digest", {}).get("sha256")
    return None if found is None else f"sha256:{found}"


def _walk(value: Any, path: str) -> Json:
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    found: Json = value
    return found


class Catalog:
    """All runs of a store, and the open ones of this project."""

    def __init__(self, store: Store, folders: RunFolders, reporter: Reporter) -> None:
        self._store = store
        self._folders = folders
        self._reporter = reporter

    def rows(self) -> Iterator[Row]:
        """The sealed runs, newest first; a damaged record is warned of and passed over."""
        keys = [key for key in self._store.keys("runs/") if key.endswith("/record.json")]
        for key in sorted(keys, key=lambda k: k.split("/")[2], reverse=True):
            try:
                row = Row(parse_run_id(key.split("/")[2]), self._store.read(key) or b"", self._store)
                row.summary()
            except MirageError as error:
                self._reporter.warn(f"{key}: {error.message}")
                continue
            yield row

    def open_runs(self) -> Iterator[tuple[RunId, str]]:
        """The runs without a record: `running` while a process holds them, else `unfinished`."""
        for run_id in reversed(self._folders.unfinished()):
            yield run_id, "running" if is_held(self._folders, run_id) else "unfinished"

    def find(self, text: str) -> Row:
        """The run that an id, a unique prefix of one, or `latest` names. Raises ConfigError."""
        keys = [key for key in self._store.keys("runs/") if key.endswith("/record.json")]
        ids = sorted(key.split("/")[2] for key in keys)
        matching = ids[-1:] if text == "latest" else [known for known in ids if known.startswith(text)]
        if not matching:
            hint = "`mirage ls` lists the runs" if ids else "the store has no runs yet"
            if any(open_id.startswith(text) for open_id in self._folders.unfinished()):
                hint = "it is not finished: `mirage logs` shows its output, `mirage recover` seals it if its process died"
            raise ConfigError(f"there is no run {text!r}", hint=hint)
        if len(matching) > 1:
            raise ConfigError(
                f"{text!r} means more than one run: {', '.join(matching[-5:])}", hint="give more of the id"
            )
        key = next(key for key in keys if key.split("/")[2] == matching[0])
        return Row(parse_run_id(matching[0]), self._store.read(key) or b"", self._store)


def local_time(stamp: str) -> str:
    """A record's time stamp on this machine's clock, for people."""
    moment = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
