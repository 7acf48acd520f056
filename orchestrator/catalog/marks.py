"""Marks: what people say of a run after it was sealed, tags and notes, each an object of its own in the store.

`marks/<YYYY-MM>/<run id>.<stamp>-<hex>.json`, created once and never changed, so that the history stays and two people
who tag at once both count. They lie in a folder of their own, flat: one listing of a month finds what is new, which
a folder beside each of 100,000 records would not allow. What a run's marks amount to is ``fold``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.catalog.number import month_of
from orchestrator.errors import ConfigError, StoreError
from orchestrator.reference import RunId

if TYPE_CHECKING:
    from orchestrator.ports import Store

_SCHEMA = "mirage-mark/1"
_NAME = re.compile(r"(?P<run>[0-9]{8}-[0-9]{6}-[0-9a-f]{6})\.(?P<stamp>[0-9]{19})-[0-9a-f]{8}\.json")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LONGEST = 16 << 10  # of a note, in bytes
KINDS = ("tag", "untag", "note", "verdict")  # verdict: of `mirage reproduce`, one word


class Mark(NamedTuple):
    """One thing that was said of a run; ``stamp`` is in nanoseconds since the epoch, and marks sort by it."""

    stamp: int
    name: str
    run_id: RunId
    kind: str
    text: str
    writer: str

    @property
    def at(self) -> str:
        """When it was said, as records write times."""
        from orchestrator.image.oci import timestamp

        return timestamp(self.stamp // 10**9)


def run_of(name: str) -> RunId | None:
    """The run that a mark's name speaks of, or None where it is no mark's name."""
    found = _NAME.fullmatch(name)
    return None if found is None else RunId(found["run"])


def parse(name: str, data: bytes) -> Mark:
    """Read a mark. Raises StoreError where it is damaged."""
    found = _NAME.fullmatch(name)
    try:
        item = json.loads(data)
        if found is None or item["schema"] != _SCHEMA or item["run"] != found["run"]:
            raise ValueError("another schema, or the mark of another run")
        kind, text, writer = item["kind"], item["text"], item["writer"]
        if kind not in KINDS or not isinstance(text, str) or not isinstance(writer, str):
            raise ValueError("kind, text or writer")
        text.encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"the mark {name} is damaged: {error!r}") from error
    return Mark(int(found["stamp"]), name, RunId(found["run"]), kind, text, writer)


def of_run(store: Store, run_id: RunId) -> list[Mark]:
    """A run's marks, oldest first. Raises StoreError where one is damaged."""
    return sorted(_of_run(store, run_id))


def _of_run(store: Store, run_id: RunId) -> Iterator[Mark]:
    for key in store.keys(f"marks/{month_of(run_id)}/"):
        name = key.rpartition("/")[2]
        if run_of(name) == run_id:
            yield parse(name, store.read(key) or b"")


def add(store: Store, run_id: RunId, kind: str, texts: Iterable[str]) -> list[Mark]:
    """Say something of a run; gives all of its marks. Raises ConfigError for what cannot be said.

    A mark comes after those that are there, whatever this machine's clock says.
    """
    texts = [check(kind, text) for text in texts]
    known = of_run(store, run_id)
    stamp = max([time.time_ns(), *(mark.stamp + 1 for mark in known)])
    for number, text in enumerate(texts):
        mark: Json = {
            "schema": _SCHEMA,
            "run": run_id,
            "kind": kind,
            "text": text,
            "writer": f"uid-{os.getuid()}",
        }
        name = f"{run_id}.{stamp + number:019}-{os.urandom(4).hex()}.json"
        data = canonical.encode(mark)
        store.create(f"marks/{month_of(run_id)}/{name}", data)
        known.append(parse(name, data))
    return known


def check(kind: str, text: str) -> str:
    """What a tag or note may be. Raises ConfigError."""
    if kind == "note":
        text = text.strip()
        if not text:
            raise ConfigError("the note is empty", hint='for example: mirage note latest "first run on GPU"')
        if len(text.encode("utf-8", "replace")) > _LONGEST:
            raise ConfigError(
                f"the note is longer than {_LONGEST >> 10} KiB", hint="save it as an artifact instead"
            )
    elif not _TAG.fullmatch(text):
        raise ConfigError(
            f"a tag cannot be {text[:80]!r}",
            hint="start with a letter or digit, then letters, digits, . _ -; at most 64",
        )
    return text


def fold(found: Iterable[Mark]) -> dict[str, Json]:
    """What a run's marks, oldest first, amount to: fields of its flat object."""
    tags: dict[str, None] = {}
    notes: list[Json] = []
    verdict: str | None = None
    for mark in found:
        if mark.kind == "tag":
            tags[mark.text] = None
        elif mark.kind == "untag":
            tags.pop(mark.text, None)
        elif mark.kind == "verdict":
            verdict = mark.text
        else:
            notes.append(mark.text)
    return {"tags": [*sorted(tags)], "notes": notes, "verdict": verdict}
