"""The store's log: one entry for each record and verdict, each with the digest of the one before; created once each.

`log/<ten digits>.json`, made by create-if-absent, which is all that a store promises: who loses takes the next number.
Nothing here signs; a signed record holds the digest of the entry before it, and so everything before that.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes, parse_digest
from orchestrator.errors import StoreError
from orchestrator.ports import Reporter, Store

SCHEMA = "mirage-log/1"
FOLDER = "log/"
_RUN = r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}"
# What an entry may be of: nothing else in the store is ever written because a log says so.
_KEY = rf"runs/[0-9]{{4}}-[0-9]{{2}}/({_RUN})/(?:record|verdicts/{_RUN})\.json"
_LONGEST_WAIT = 0.05  # seconds after a lost number
_PATIENCE = 2_000  # lost numbers after which something else is wrong


# Tuples and no dataclasses: every run loads this module, and they take half the time.
class Link(NamedTuple):
    """A place in a log: ``log`` is the sha256 of its origin, ``prev`` the digest of the entry before; None for the first."""

    log: str
    seq: int
    prev: Digest | None

    def to_json(self) -> dict[str, Json]:
        """`mirage_chain` of a record."""
        return {"log": self.log, "seq": self.seq, "prev": self.prev}


class Entry(NamedTuple):
    """One entry: ``key`` is where the record or verdict lies in the store, ``digest`` that of its bytes."""

    link: Link
    key: str
    digest: Digest

    @property
    def run_id(self) -> str:
        """The run that it is about."""
        return self.key.split("/")[2]

    def encode(self) -> bytes:
        """Its bytes in the store."""
        return canonical.encode(
            {"schema": SCHEMA, **self.link.to_json(), "key": self.key, "digest": self.digest}
        )


def parse(data: bytes) -> Entry:
    """Read an entry. Raises ValueError where it is none, or is spelt otherwise than ``Entry.encode`` spells it."""
    found = canonical.decode(data)
    try:
        if not isinstance(found, dict) or found["schema"] != SCHEMA:
            raise ValueError("it is no entry of a log")
        log, seq, prev, key = found["log"], found["seq"], found["prev"], found["key"]
        if type(seq) is not int or not isinstance(log, str) or not re.fullmatch(_KEY, str(key)):
            raise ValueError("a field of it is of another form")
        link = Link(log, seq, None if prev is None else parse_digest(str(prev)))
        entry = Entry(link, str(key), parse_digest(str(found["digest"])))
    except (KeyError, StoreError) as error:
        raise ValueError(f"it is no entry of a log: {error!r}") from error
    if entry.encode() != data:
        raise ValueError("its bytes are not canonical")
    return entry


def entry_key(seq: int) -> str:
    """Where an entry lies in the store."""
    return f"{FOLDER}{seq:010}.json"


def origin_of(store: Store) -> str:
    """The log's name: that of its store, wherever it is mounted."""
    try:
        return f"mirage.flow/log/{json.loads(store.read('store.json') or b'')['id']}"
    except (ValueError, KeyError, TypeError):
        return f"mirage.flow/log/{hashlib.sha256(store.location.encode()).hexdigest()[:32]}"


def log_id(store: Store) -> str:
    """The sha256 of the log's origin."""
    return hashlib.sha256(origin_of(store).encode()).hexdigest()


class Head(NamedTuple):
    """The newest entry: its number and digest. ``Head(-1, None)`` is an empty log."""

    seq: int
    digest: Digest | None


class Log:
    """The log of a store; any number of processes may append at once.

    ``memory`` is a file in which this project keeps the head that it saw last: it saves searching, and tells where the
    store's log is not the one that was seen before.
    """

    def __init__(self, store: Store, memory: Path | None, reporter: Reporter | None = None) -> None:
        self._store = store
        self._memory = memory
        self._reporter = reporter
        self.id = log_id(store)

    def head(self) -> Head:
        """The newest entry. A log has no holes, so that numbers are halved and not listed. Raises StoreError."""
        low = self._remembered()
        step = 1
        while (data := self._read(low.seq + step)) is not None:
            low = Head(low.seq + step, of_bytes(data))
            step *= 2
        high = low.seq + step
        while high - low.seq > 1:
            middle = (low.seq + high) // 2
            data = self._read(middle)
            if data is None:
                high = middle
            else:
                low = Head(middle, of_bytes(data))
        return low

    def append(
        self, key: str, make: Callable[[Link], bytes], before: Callable[[Link, Digest], None]
    ) -> bytes:
        """Seal what ``make`` gives for a place in the log, under ``key``; gives the bytes as they were sealed.

        Order: the bytes as a blob, then ``before`` (a line of the run's journal), then the entry, then the object.
        From the entry on it is sealed: whoever appends next makes an object that a dead process did not come to.
        Raises StoreError.
        """
        for lost in range(_PATIENCE):
            head = self.head()
            self._help(head)
            link = Link(self.id, head.seq + 1, head.digest)
            data = make(link)
            entry = Entry(link, key, self._store.put(data))
            before(link, entry.digest)
            written = entry.encode()
            # A reply that was lost on the way looks like a number that was: then it holds our own bytes.
            if self._store.create(entry_key(link.seq), written) or self._read(link.seq) == written:
                self._remember(Head(link.seq, of_bytes(written)))
                return self._object(key, data)
            time.sleep(random.random() * min(_LONGEST_WAIT, 0.002 * (lost + 1)))  # noqa: S311
        raise StoreError(
            f"the log of the store {self._store.location} cannot be appended to: every number that is free is taken",
            hint="`mirage log verify`",
        )

    def finish(self, key: str, tried: Iterable[tuple[int, Digest]]) -> bytes | None:
        """What a dead process sealed under ``key``, by the places that its journal names; None where it did not."""
        for seq, digest in tried:
            entry = self.entry(seq)
            if entry is not None and (entry.key, entry.digest) == (key, digest):
                return self._object(key, read_verified(self._store, digest))
        return None

    def entry(self, seq: int) -> Entry | None:
        """An entry; None where there is none that can be read."""
        data = self._read(seq)
        with suppress(ValueError, RecursionError):
            return None if data is None else parse(data)
        return None

    def _object(self, key: str, data: bytes) -> bytes:
        """Make the object of an entry; gives what lies there, which another sealer may have made."""
        return data if self._store.create(key, data) else self._store.read(key) or b""

    def _help(self, head: Head) -> None:
        """Make the object of the newest entry, where whoever appended it died before it did."""
        entry = self.entry(head.seq) if head.seq >= 0 else None
        if entry is None or self._store.read(entry.key) is not None:
            return
        with suppress(StoreError):  # its bytes are gone: `mirage log verify` names it, and we go on
            self._object(entry.key, read_verified(self._store, entry.digest))

    def _read(self, seq: int) -> bytes | None:
        return self._store.read(entry_key(seq)) if seq >= 0 else None

    def remembered(self) -> Head | None:
        """The head that this project saw last."""
        if self._memory is None:
            return None
        try:
            found = json.loads(self._memory.read_bytes())
            if found["log"] == self.id and type(found["seq"]) is int:
                return Head(found["seq"], parse_digest(found["digest"]))
        except (OSError, ValueError, KeyError, TypeError, StoreError):
            pass  # it only saves searching
        return None

    def _remembered(self) -> Head:
        seen = self.remembered()
        if seen is None or seen.seq < 0:
            return self._first()
        data = self._read(seen.seq)
        if data is not None and of_bytes(data) == seen.digest:
            return seen
        if self._reporter is not None:
            what = "is gone" if data is None else "is another one now"
            self._reporter.warn(
                f"entry {seen.seq} of the store's log, which this project saw before, {what}: "
                "records were removed or changed; `mirage log verify` tells which"
            )
        return self._first()

    def _first(self) -> Head:
        data = self._read(0)
        return Head(-1, None) if data is None else Head(0, of_bytes(data))

    def _remember(self, head: Head) -> None:
        if self._memory is None:
            return
        text = json.dumps({"log": self.id, "seq": head.seq, "digest": head.digest})
        with suppress(OSError):
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            made = self._memory.with_name(f".{self._memory.name}.{os.getpid()}")
            made.write_text(text)
            made.replace(self._memory)
