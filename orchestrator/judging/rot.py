"""What each past run would still need from outside of the store to be made again: image, base, wheels, commit, inputs.

Looks and hashes nothing twice; asks no registry and no index. What it cannot know: whether those would still answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.canonical import Json
from orchestrator.digest import parse_digest
from orchestrator.errors import MirageError
from orchestrator.image import exporting, restoring, wheel_bank
from orchestrator.image.base_image import from_json
from orchestrator.image.library import Library
from orchestrator.judging.blobs import OK, Blobs
from orchestrator.judging.record import Record, sha256_of, wanted_image
from orchestrator.ports import Engine, Store
from orchestrator.source import git

WHOLE, OUTSIDE, LOST = "whole", "outside", "lost"


@dataclass(frozen=True)
class Rot:
    """A run: `whole` (the store has everything), `outside` (with what ``needs`` names), or `lost`; where its image
    would come from: `store`, `engine`, `registry`, `build`, or `nowhere`.
    """

    run_id: str
    state: str
    image: str
    needs: tuple[str, ...]

    def to_json(self) -> Json:
        """For `mirage doctor --rot --json`."""
        return {"run_id": self.run_id, "state": self.state, "image": self.image, "needs": list(self.needs)}


def examine(
    records: Iterable[Record], store: Store, library: Library, project: Path, engine: Engine | None
) -> Iterator[Rot]:
    """Each run, in the order of ``records``. ``library`` must be the store's alone, without this machine's cache."""
    look = _Look(store, library, project, engine)
    for record in records:
        try:
            yield look.at(record)
        except (MirageError, KeyError, ValueError, StopIteration) as error:
            yield Rot(record.run_id, LOST, "nowhere", (f"a record that can be read: {error}",))


class _Look:
    def __init__(self, store: Store, library: Library, project: Path, engine: Engine | None) -> None:
        self._store, self._library, self._project, self._engine = store, library, project, engine
        self._blobs = Blobs(store)
        self._commits: dict[str, bool] = {}

    def at(self, record: Record) -> Rot:
        image, needs = self._image(record)
        lost = image == "nowhere"
        for item in record.inputs:
            state, text = self._blobs.artifact(sha256_of(item))
            if state != OK:
                lost = True
                needs.append(f"the input {item['annotations']['id']}: {text}, {state}")
        state = LOST if lost else OUTSIDE if needs else WHOLE
        return Rot(record.run_id, state, image, tuple(needs))

    def _image(self, record: Record) -> tuple[str, list[str]]:
        """Where the image would come from, and what that needs from outside."""
        wanted = wanted_image(record)
        kept = restoring.kept(self._store, wanted)
        if kept is not None and all(self._blobs.state(digest) == OK for digest in kept.diff_ids):
            return "store", []
        if self._engine is not None and restoring.in_engine(self._engine, wanted) is not None:
            return "engine", [f"this engine's copy of the image {wanted.digest[:19]}"]
        places = exporting.places(self._store, wanted.key, wanted.digest)
        if places:
            return "registry", [f"the registry that has {places[0]}"]
        commit = str(record.dependency("source")["digest"]["gitCommit"])
        if not self._has(commit):
            return "nowhere", [f"the commit {commit}, which is not in this repository"]
        return "build", [f"the commit {commit[:12]}, which is in this repository", *self._to_build(record)]

    def _to_build(self, record: Record) -> Iterator[str]:
        base = record.dependency("base-image")
        found = self._library.find("base", sha256_of(base))
        layers = from_json(found).image.diff_ids if found is not None else ()
        if not layers or any(self._blobs.state(digest) != OK for digest in layers):
            yield f"the base {base['annotations']['name']} ({base['uri']})"
        key = parse_digest(record.internal["envKey"])
        known = self._library.find("env", key)
        if known is not None and self._blobs.state(parse_digest(known["digest"])) == OK:
            return
        wheels = wheel_bank.find(self._library, key)
        if wheels is None or any(self._blobs.state(each.digest) != OK for each in wheels):
            lock = record.dependency("lock")["uri"].rpartition("#")[2]
            yield f"a package index, for what {lock} names"
        yield "an engine that installs it"

    def _has(self, commit: str) -> bool:
        if commit not in self._commits:
            asked = git.run(self._project, "cat-file", "-e", f"{commit}^{{commit}}")
            self._commits[commit] = asked.code == 0
        return self._commits[commit]
