"""A store's log walked from its first entry to its last, beside the records: what is removed, reordered, changed, forked.

Looks at every entry and every record once; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator import canonical
from orchestrator.digest import Digest, of_bytes
from orchestrator.ports import Store
from orchestrator.trust import dsse
from orchestrator.trust.chain import FOLDER, Entry, Head, entry_key, log_id, origin_of, parse
from orchestrator.trust.checkpoint import Checkpoint
from orchestrator.trust.trusted import BAD, GOOD, UNKNOWN, Trust


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with the log: which kind, at which entry, of which run where that is known."""

    kind: str  # removed | altered | reordered | truncated | forked | doubled | foreign | unsealed | signature
    seq: int | None
    run_id: str | None
    text: str
    missing: bool = False  # something is not there, and nothing there is false


@dataclass
class Walk:
    """What was seen: how many entries and records, what is wrong, and whose signatures there are."""

    size: int = 0
    head: Digest | None = None
    records: int = 0
    unchained: int = 0  # records from before there was a log
    signed: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class _Object:
    """A record or verdict in the store, with the place in a log that it says it has."""

    digest: Digest
    chain: dict[str, Any] | None


class _Walker:
    def __init__(self, store: Store, trust: Trust) -> None:
        self._store = store
        self._trust = trust
        self._log = log_id(store)
        self.found = Walk()
        self._objects: dict[str, _Object] = {}
        self._claims: dict[int, list[str]] = {}
        self._digests: list[Digest | None] = []
        self._entries: dict[str, list[int]] = {}

    def fault(self, kind: str, seq: int | None, run: str | None, text: str, *, missing: bool = False) -> None:
        self.found.faults.append(Fault(kind, seq, run, text, missing))

    def records(self) -> None:
        """All records and verdicts, with what they say of themselves."""
        for key in self._store.keys("runs/"):
            parts = key.split("/")
            if len(parts) < 4 or not (parts[3:] == ["record.json"] or parts[3] == "verdicts"):
                continue
            data = self._store.read(key)
            if data is None:
                continue
            self.found.records += 1
            self._objects[key] = seen = self._object(key, parts[2], data)
            if seen.chain is None:
                self.found.unchained += 1
            elif type(seen.chain.get("seq")) is int:
                self._claims.setdefault(seen.chain["seq"], []).append(key)

    def _object(self, key: str, run: str, data: bytes) -> _Object:
        chain: dict[str, Any] | None = None
        try:
            envelope = dsse.unseal(data)
            self._signature(run, envelope)
            statement: Any = canonical.decode(envelope.payload)
            place = statement["predicate"]
            place = place.get("runDetails", place)
            chain = place.get("mirage_chain")
            if not isinstance(chain, dict):
                chain = None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self.fault("altered", None, run, f"{key} cannot be read: {error!r}")
        return _Object(of_bytes(data), chain)

    def _signature(self, run: str, envelope: dsse.Envelope) -> None:
        signed = self._trust.check(envelope)
        name = {GOOD: signed.by.name if signed.by else "", UNKNOWN: "(keys that are not trusted here)"}.get(
            signed.state, signed.state
        )
        self.found.signed[name] = self.found.signed.get(name, 0) + 1
        if signed.state == BAD:
            self.fault("signature", None, run, f"its signature is not that of {signed.keyid}, as it says")

    def entries(self) -> None:
        """All entries in their order, each against the one before and against its record."""
        numbers = sorted(self._numbers())
        self.found.size = numbers[-1] + 1 if numbers else 0
        present = set(numbers)
        before: Digest | None = None
        known = True  # whether the entry before is there, or there is none
        for seq in range(self.found.size):
            data = self._store.read(entry_key(seq)) if seq in present else None
            if data is None:
                self._removed(seq)
                self._digests.append(None)
                known = False
                continue
            digest = of_bytes(data)
            self._digests.append(digest)
            try:
                entry = parse(data)
            except (ValueError, RecursionError) as error:
                self.fault("altered", seq, self._run_of(seq), f"it cannot be read: {error}")
            else:
                self._entry(seq, entry, before, known)
            before, known = digest, True
        self.found.head = before

    def _numbers(self) -> Iterator[int]:
        for key in self._store.keys(FOLDER):
            name = key.removeprefix(FOLDER).removesuffix(".json")
            if name.isdigit() and entry_key(int(name)) == key:
                yield int(name)
            else:
                self.fault("foreign", None, None, f"{key} is no entry of a log")

    def _run_of(self, seq: int) -> str | None:
        """The run that says it has this place."""
        keys = self._claims.get(seq)
        return keys[0].split("/")[2] if keys else None

    def _removed(self, seq: int) -> None:
        run = self._run_of(seq)
        of = f", that of {run}," if run else ""
        self.fault("removed", seq, run, f"entry {seq}{of} is not there, and later ones are")

    def _entry(self, seq: int, entry: Entry, before: Digest | None, known: bool) -> None:
        run, link = entry.run_id, entry.link
        self._entries.setdefault(entry.key, []).append(seq)
        if link.log != self._log:
            self.fault("foreign", seq, run, "it is of the log of another store")
        if link.seq != seq:
            self.fault("reordered", seq, run, f"it says that it is entry {link.seq}")
        elif known and link.prev != before:
            what = "the entry before it was changed, or it was written beside another one"
            self.fault("forked", seq, run, f"it follows {link.prev}, and entry {seq - 1} is {before}: {what}")
        made = self._objects.get(entry.key)
        if made is None:
            self._unsealed(seq, entry)
        elif made.digest != entry.digest:
            if len(self._entries[entry.key]) == 1:
                self.fault(
                    "altered", seq, run, f"{entry.key} is {made.digest} now, the log has {entry.digest}"
                )
        elif made.chain != link.to_json():
            self.fault("altered", seq, run, f"the record says that its place is {made.chain}")

    def _unsealed(self, seq: int, entry: Entry) -> None:
        run = entry.run_id
        if self._store.has(entry.digest) and seq == self.found.size - 1:
            text = (
                f"{entry.key} is not there yet, its bytes are: the next run or `mirage recover` completes it"
            )
            self.fault("unsealed", seq, run, text, missing=True)
        else:
            self.fault("removed", seq, run, f"{entry.key} is not there")

    def places(self) -> None:
        """What records say of their places, and what is told of one record twice."""
        for key, seqs in self._entries.items():
            if len(seqs) > 1:
                text = f"{key} has {len(seqs)} entries: {', '.join(map(str, seqs))}"
                self.fault("doubled", seqs[-1], key.split("/")[2], text)
        for seq, keys in sorted(self._claims.items()):
            runs = [key.split("/")[2] for key in keys]
            if len(keys) > 1:
                text = f"{' and '.join(sorted(keys))} all say that they are entry {seq}"
                self.fault("forked", seq, runs[-1], text)
            for key, run in zip(keys, runs, strict=True):
                if key in self._entries:
                    continue
                chain = self._objects[key].chain or {}
                if chain.get("log") != self._log:
                    self.fault("foreign", seq, run, f"{key} is of the log of another store")
                elif seq >= self.found.size:
                    text = f"{key} says that it is entry {seq}, and the log ends before it"
                    self.fault("truncated", seq, run, text)
                elif len(keys) == 1 and self._digests[seq] is not None:
                    self.fault(
                        "forked", seq, run, f"{key} says that it is entry {seq}, and the log has another"
                    )
        for key, made in self._objects.items():
            if made.chain is None and key in self._entries:
                seq = self._entries[key][0]
                self.fault("altered", seq, key.split("/")[2], f"{key} says nothing of its place in the log")

    def against(self, what: str, seen: Head, origin: str | None = None) -> None:
        """The log against an earlier look at it."""
        own = origin_of(self._store)
        if origin is not None and origin != own:
            self.fault("foreign", None, None, f"{what} is of the log {origin}, this one is {own}")
            return
        if seen.seq < 0:
            return
        if seen.seq >= self.found.size:
            gone = f"{seen.seq + 1 - self.found.size} at its end are gone"
            text = f"{what} saw {seen.seq + 1} entries, there are {self.found.size}: {gone}"
            self.fault("truncated", seen.seq, self._run_of(seen.seq), text)
            return
        got = self._digests[seen.seq]
        if got != seen.digest:
            text = f"{what} saw entry {seen.seq} as {seen.digest}, it is {got} now: it was written anew from there or before"
            self.fault("forked", seen.seq, self._run_of(seen.seq), text)


def walk(
    store: Store, trust: Trust, checkpoint: Checkpoint | None = None, remembered: Head | None = None
) -> Walk:
    """Walk a store's log; against an earlier checkpoint, and what this project remembers of it. Raises StoreError."""
    walker = _Walker(store, trust)
    walker.records()
    walker.entries()
    walker.places()
    if checkpoint is not None:
        walker.against(
            "the checkpoint",
            Head(checkpoint.size - 1, checkpoint.digest if checkpoint.size else None),
            checkpoint.origin,
        )
    if remembered is not None:
        walker.against("this project", remembered)
    return walker.found
