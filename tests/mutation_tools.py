"""Mutations of records and of the log: every field, random bits, whole exchanges; counted by kind, none to be accepted.

In process and without an engine: `verify` for the record, `walk` for the log, over a view of one real store in which single
objects are others.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.digest import of_bytes
from orchestrator.judging.blobs import Blobs
from orchestrator.judging.record import Record
from orchestrator.judging.verify import exit_code, verify
from orchestrator.reference import RunId, record_key
from orchestrator.store.folder import FolderStore
from orchestrator.trust import checkpoint, keys
from orchestrator.trust.chain import Log, entry_key, origin_of
from orchestrator.trust.dsse import Envelope, Signature, pae, unseal
from orchestrator.trust.notary import Notary
from orchestrator.trust.trusted import Trust, TrustedKey
from orchestrator.trust.walk import walk
from tests.record_tools import run_id
from tests.run_tools import Project

WORKFLOW = """
from mirage import artifact, config, flow, metrics

@flow
def main() -> None:
    print("a log")
    metrics.log(step=1, loss=0.5)
    artifact.Dataset.save({"rows": [1, 2, 3]}, name="rows")
    if config.second:
        artifact.File.save("x", name="other", version="exp001", metadata={"a": 1})

if __name__ == "__main__":
    main()
"""
Path_ = tuple[str | int, ...]


class View(FolderStore):
    """A store in which some objects are others, or are not there (None); nothing of it is written."""

    def __init__(self, root: Path, objects: Mapping[str, bytes | None]) -> None:
        super().__init__(root)
        self._objects = objects

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or those that stand in for them."""
        return self._objects[key] if key in self._objects else super().read(key)

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys, with those that were put in and without those that were taken out."""
        added = {key for key, data in self._objects.items() if data is not None and key.startswith(prefix)}
        gone = {key for key, data in self._objects.items() if data is None}
        yield from sorted(({*super().keys(prefix)} | added) - gone)


def leaves(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths to all values that hold no others."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for at, item in enumerate(value):
            yield from leaves(item, (*path, at))
    else:
        yield path


def at(value: Any, path: Path_) -> Any:
    """The value there."""
    for part in path:
        value = value[part]
    return value


def changed(record: Any, path: Path_, change: str) -> Any:
    """The record with one value changed, taken away, or with a companion that nobody knows."""
    made = copy.deepcopy(record)
    place, last = at(made, path[:-1]), path[-1]
    if change == "remove":
        del place[last]
    elif change == "add":
        place.update({"another": 1}) if isinstance(place, dict) else place.append("another")
    else:
        place[last] = other(place[last])
    return made


def other(value: Any) -> Any:
    """A value of the same type, as near as can be, so that a look at types alone does not find it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str) and value:
        swapped = {"0": "1", "1": "0", "a": "b", "e": "f"}.get(value[-1], "a" if value[-1] != "a" else "b")
        return value[:-1] + swapped
    return {"": "x", None: "x"}.get(value, 5) if not isinstance(value, dict | list) else [value]


class Mutations:
    """A project with two signed runs, six more records in its log, a checkpoint of it; and all that can be done to them."""

    def __init__(self, top: Path) -> None:
        project = Project(
            top / "repository",
            WORKFLOW,
            files={
                "configs/a.yaml": "second: false\n",
                "configs/b.yaml": 'second: true\nrows: "dataset:rows:latest"\n',
                ".mirage/project.yaml": "project: probe\nworkflow: workflows.main\nrun: {env: {MODE: slow}, timeout: 60}\n",
            },
        )
        pem, public = keys.new()
        (top / "key").write_bytes(pem)
        env = {"MIRAGE_SIGN_KEY": str(top / "key")}
        self.runs = [
            RunId(project.run(env=env)["run_id"]),
            RunId(project.run("--set", "+more=1", config="configs/b.yaml", env=env)["run_id"]),
        ]
        self.unsigned = RunId(project.run(config="configs/b.yaml")["run_id"])
        self.project, self.root = project.folder, project.store
        self.store = FolderStore.open_at(project.store)
        self.signer = keys.load_signer(top / "key", lambda _: b"")
        (top / "stranger").write_bytes(keys.new()[0])
        self.stranger = keys.load_signer(top / "stranger", lambda _: b"")
        self.trust = Trust((TrustedKey("me", public), TrustedKey("other", keys.new()[1])))
        notary = Notary(self.store, lambda: self.signer)
        for number in range(6):
            run = run_id(number)
            notary.seal(record_key(run), self._made_up(run))
        self.head = Log(self.store, None).head()
        self.seen = checkpoint.make(origin_of(self.store), self.head, self.signer)
        self.blobs = Blobs(self.store)
        self.data = {run: self.store.read(record_key(run)) or b"" for run in (*self.runs, self.unsigned)}
        self.entries = [self.store.read(entry_key(seq)) or b"" for seq in range(self.head.seq + 1)]
        self.statement = json.loads(unseal(self.data[self.runs[1]]).payload)
        self.paths = list(leaves(self.statement))
        self.counts: Counter[str] = Counter()

    @staticmethod
    def _made_up(run: str) -> Callable[[Any], bytes]:
        return lambda link: canonical.encode(
            {"_type": "x", "predicate": {"runDetails": {"run": run, "mirage_chain": link.to_json()}}}
        )

    # What is done to one record

    def check(self, run: RunId, data: bytes, objects: Mapping[str, bytes | None] | None = None) -> int:
        """The exit code of `verify` on these bytes under a run's name."""
        store = View(self.root, objects or {})
        return exit_code(verify(Record(run, data), store, self.project, None, self.blobs, trust=self.trust))

    def record(self, kind: str, dice: random.Random) -> tuple[RunId, bytes]:
        """One mutation of a record; the bytes are always others than those that were sealed."""
        run = dice.choice(self.runs)
        data, plain = self.data[run], self.data[self.unsigned]
        item, envelope = json.loads(data), unseal(data)
        if kind == "bit of an envelope":
            return run, _flipped(data, dice)
        if kind == "bit of a statement":
            return self.unsigned, _flipped(plain, dice)
        if kind == "bit of what is signed":
            return run, Envelope(_flipped(envelope.payload, dice), envelope.signatures).encode()
        if kind == "bit of a signature":
            sig = Signature(envelope.signatures[0].keyid, _flipped(envelope.signatures[0].sig, dice))
            return run, Envelope(envelope.payload, (sig,)).encode()
        if kind == "another keyid":
            sig = Signature(self.trust.keys[1].key.keyid, envelope.signatures[0].sig)
            changed_ = _field(json.loads(envelope.payload), dice)
            return run, Envelope(canonical.encode(changed_), (sig,)).encode()
        if kind == "truncated":
            return run, data[: dice.randrange(len(data))]
        if kind == "bytes put in":
            where = dice.randrange(len(data) + 1)
            return run, data[:where] + dice.randbytes(dice.randrange(1, 9)) + data[where:]
        if kind == "bytes taken out":
            where, size = dice.randrange(len(data) - 1), dice.randrange(1, 9)
            return run, data[:where] + data[where + size :]
        if kind == "field, not signed again":
            return run, Envelope(
                canonical.encode(_field(json.loads(envelope.payload), dice)), envelope.signatures
            ).encode()
        if kind == "field, signed by a stranger":
            return run, self._signed_by(self.stranger, _field(json.loads(envelope.payload), dice))
        if kind == "signed by a stranger":
            return run, self._signed_by(self.stranger, json.loads(envelope.payload))
        if kind == "signature of another record":
            theirs = unseal(self.data[self.runs[1 - self.runs.index(run)]]).signatures
            return run, Envelope(envelope.payload, theirs).encode()
        if kind == "record of another run":
            return run, self.data[dice.choice([each for each in self.data if each != run])]
        if kind == "signature taken off":
            return run, envelope.payload
        if kind == "another spelling":
            text = json.dumps(item, indent=dice.choice([None, 1, 2]), sort_keys=dice.random() < 0.5)
            return run, text.encode()
        if kind == "field, signed by the holder of the key":
            return run, self._signed_by(self.signer, _field(json.loads(envelope.payload), dice))
        assert kind == "field of a statement", kind
        return self.unsigned, canonical.encode(_field(json.loads(plain), dice))

    @staticmethod
    def _signed_by(signer: keys.Signer, statement: Any) -> bytes:
        payload = canonical.encode(statement)
        return Envelope(payload, (Signature(signer.public.keyid, signer.sign(pae(payload))),)).encode()

    def every_field(self) -> None:
        """Each field of a signed record changed, taken away, accompanied: with the old signature."""
        signatures = unseal(self.data[self.runs[1]]).signatures
        for path in self.paths:
            for change in ("change", "remove", "add"):
                made = canonical.encode(changed(self.statement, path, change))
                self._refused(f"every field: {change}", self.runs[1], Envelope(made, signatures).encode())

    def records(self, count: int, seed: int, kinds: Mapping[str, int]) -> None:
        """Random mutations of records; ``kinds`` are their shares."""
        dice = random.Random(seed)
        for kind in dice.choices([*kinds], [*kinds.values()], k=count):
            self._refused(kind, *self.record(kind, dice))

    def _refused(self, kind: str, run: RunId, data: bytes) -> None:
        if data == self.data[run]:
            return
        assert self.check(run, data) in (9, 10), (kind, data)
        self.counts[kind] += 1

    # What is done to the log

    def log(self, count: int, seed: int) -> None:
        """Random mutations of the log, and of records with it; found by walking it."""
        dice = random.Random(seed)
        for _ in range(count):
            kind, objects = self._of_log(dice)
            store = View(self.root, objects)
            found = walk(store, self.trust, self.seen)
            assert found.faults, (kind, objects)
            self.counts[f"log: {kind}"] += 1

    def _of_log(self, dice: random.Random) -> tuple[str, dict[str, bytes | None]]:
        size = len(self.entries)
        seq = dice.randrange(size)
        entry = self.entries[seq]
        kind = dice.choice(
            [
                "bit",
                "removed",
                "truncated",
                "reordered",
                "shifted",
                "forged",
                "chained anew",
                "record removed",
                "record forged",
            ]
        )
        if kind == "bit":
            return kind, {entry_key(seq): _flipped(entry, dice)}
        if kind == "removed":
            return kind, {entry_key(seq): None}
        if kind == "truncated":  # the records with their entries, so that only the checkpoint can tell
            objects: dict[str, bytes | None] = {}
            for number in range(seq, size):
                objects[entry_key(number)] = None
                objects[json.loads(self.entries[number])["key"]] = None
            return kind, objects
        if kind == "reordered":
            order = [*range(size)]
            while order == [*range(size)]:
                dice.shuffle(order)
            return kind, {entry_key(to): self.entries[of] for to, of in enumerate(order) if to != of}
        if kind == "shifted":  # one taken out, and all later ones moved up
            objects = {entry_key(number): self.entries[number + 1] for number in range(seq, size - 1)}
            return kind, {**objects, entry_key(size - 1): None}
        item = json.loads(entry)
        if kind == "forged":
            name = dice.choice(["digest", "prev", "key", "seq", "log"])
            item[name] = other(item[name])
            return kind, {entry_key(seq): canonical.encode(item)}
        if kind == "chained anew":  # from here on with links that fit, by whoever does not hold the key
            objects = {}
            item["digest"] = of_bytes(dice.randbytes(8))
            for number in range(seq, size):
                objects[entry_key(number)] = made = canonical.encode(item)
                if number + 1 < size:
                    item = {**json.loads(self.entries[number + 1]), "prev": of_bytes(made)}
            return kind, objects
        if kind == "record removed":
            return kind, {item["key"]: None}
        data = self.store.read(item["key"]) or b""
        assert kind == "record forged", kind
        return kind, {item["key"]: _flipped(data, dice)}


def _flipped(data: bytes, dice: random.Random) -> bytes:
    where, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
    return data[:where] + bytes([data[where] ^ bit]) + data[where + 1 :]


def _field(statement: Any, dice: random.Random) -> Any:
    """The Statement with one of its fields changed, taken away, accompanied, or exchanged with another."""
    paths = list(leaves(statement))
    path, change = dice.choice(paths), dice.choice(["change", "change", "remove", "add", "swap"])
    if change != "swap":
        return changed(statement, path, change)
    value = at(statement, path)
    same = [
        each for each in paths if type(at(statement, each)) is type(value) and at(statement, each) != value
    ]
    if not same:
        return changed(statement, path, "change")
    made = copy.deepcopy(statement)
    with_ = dice.choice(same)
    at(made, path[:-1])[path[-1]], at(made, with_[:-1])[with_[-1]] = at(statement, with_), value
    return made


# Shares of each kind. The last two are followed to their end, which asks git: forty times as slow as the others.
KINDS = {
    "bit of an envelope": 20,
    "bit of a statement": 10,
    "bit of what is signed": 20,
    "bit of a signature": 10,
    "another keyid": 5,
    "truncated": 8,
    "bytes put in": 8,
    "bytes taken out": 8,
    "field, not signed again": 40,
    "field, signed by a stranger": 2,
    "signed by a stranger": 1,
    "signature of another record": 2,
    "record of another run": 2,
    "signature taken off": 1,
    "another spelling": 4,
    "field, signed by the holder of the key": 4,
    "field of a statement": 6,
}
