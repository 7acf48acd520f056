"""Secrets as values, and taking them out of everything that is written: by value, in the forms that they take.

Owns what a secret may look like in text (raw, base64, hexadecimal, URL-encoded, JSON-escaped). Knows no source of
secrets and no channel. Without secrets nothing is looked at and nothing is copied.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, quote_plus

from orchestrator.canonical import Json

# A shorter value cannot be told from other text: taking it out would spoil every log.
LEAST = 8
# Of a value of several lines, a line of this many bytes or more counts by itself: programs print line by line.
_LINE = 16
_SMALL = 4096  # below it, one search for all forms at once is the faster one
_HEAD = 4


@dataclass(frozen=True)
class Secrets:
    """The secrets of one run, by name; the values never show in a representation of it."""

    values: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name, _ in self.values)

    @cached_property
    def redactor(self) -> Redactor:
        """What takes them out."""
        return Redactor(self.values)


def forms(value: bytes) -> set[bytes]:
    """The ways in which a value may be written down.

    Base64 (RFC 4648, both alphabets) at each of the three places that a value can have in a longer text, without the
    characters that also depend on its neighbours.
    """
    found = {value, value.hex().encode(), value.hex().upper().encode()}
    for before, skip in ((0, 0), (1, 2), (2, 3)):
        whole = (before + len(value)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(before) + value)[skip:whole])
    for safe in ("", "/"):
        escaped = quote(value, safe=safe)
        found |= {escaped.encode(), re.sub("%..", lambda code: code[0].lower(), escaped).encode()}
    found.add(quote_plus(value).encode())
    text = value.decode("utf-8", "surrogateescape")
    for ascii_only in (True, False):
        escaped = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        for written in (escaped, escaped.replace("/", "\\/")):
            found.add(written.encode("utf-8", "surrogateescape"))
            # twice, as where JSON is a string of a line of metrics or of a log
            found.add(json.dumps(written, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogateescape"))
    found |= {repr(text)[1:-1].encode("utf-8", "backslashreplace"), repr(value)[2:-1].encode()}
    return {form for form in found if len(form) >= LEAST}


class Redactor:
    """Finds the values of secrets in any of their forms, and puts `[secret NAME]` in their place."""

    def __init__(self, values: tuple[tuple[str, bytes], ...] = ()) -> None:
        needles: dict[bytes, str] = {}
        for name, value in values:
            lines = [line.strip() for line in value.splitlines()]
            parts = [line for line in lines if len(line) >= _LINE and not line.startswith(b"-----")]
            for part in (value, *(parts if len(lines) > 1 else ())):
                for form in forms(part):
                    needles.setdefault(form, name)
        self.active = bool(needles)
        if not needles:
            return
        self._names = needles
        # longest first: at one place the longest form is the one that is taken out
        self._needles = sorted(needles, key=len, reverse=True)
        self._any = re.compile(b"|".join(map(re.escape, self._needles)))
        self._longest = len(self._needles[0])
        heads = sorted({needle[:_HEAD] for needle in needles})
        # a look-ahead, since heads may overlap
        self._heads = re.compile(b"(?=" + b"|".join(map(re.escape, heads)) + b")")
        self._starting = {head: [n for n in needles if n.startswith(head)] for head in heads}
        self._beginnings = {head[:count] for head in heads for count in range(1, _HEAD)}

    def __repr__(self) -> str:
        return f"Redactor(active={self.active})"

    def clean(self, data: bytes) -> bytes:
        """The data without secrets; the very same object where there are none in it."""
        return self._any.sub(self._word, data) if self.active and self._has(data) else data

    def text(self, text: str) -> str:
        """A text without secrets."""
        if not self.active:
            return text
        return self.clean(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")

    def json(self, value: Json) -> Json:
        """A JSON value whose strings and keys hold no secrets."""
        if not self.active:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.json(item) for key, item in value.items()}
        return [self.json(item) for item in value] if isinstance(value, list) else value

    def found_in(self, data: bytes) -> str | None:
        """The name of a secret whose value is in the data."""
        match = self._any.search(data) if self.active and self._has(data) else None
        return None if match is None else self._names[match[0]]

    @property
    def overlap(self) -> int:
        """How many bytes of one piece have to be looked at again with the next one."""
        return self._longest - 1 if self.active else 0

    def stream(self) -> Stream:
        """A filter for data that comes in pieces."""
        return Stream(self)

    def output(self, pieces: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """The output of a program by streams, each without secrets however it was cut into pieces."""
        return self._output(pieces) if self.active else pieces

    def _output(self, pieces: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        streams: dict[str, Stream] = {}
        broken: Exception | None = None
        try:
            for name, piece in pieces:
                clean = streams.setdefault(name, Stream(self)).feed(piece)
                if clean:
                    yield name, clean
        except Exception as error:  # what was held back is part of the log, also where the engine broke off
            broken = error
        for name, stream in streams.items():
            rest = stream.end()
            if rest:
                yield name, rest
        if broken is not None:
            raise broken

    def _has(self, data: bytes) -> bool:
        if len(data) < _SMALL:
            return self._any.search(data) is not None
        return any(needle in data for needle in self._needles)

    def _word(self, match: re.Match[bytes]) -> bytes:
        return f"[secret {self._names[match[0]]}]".encode()

    def _unfinished(self, data: bytes) -> int:
        """Where the earliest end of ``data`` begins that may become a secret with what follows."""
        for match in self._heads.finditer(data, max(0, len(data) - self._longest + 1)):
            at = match.start()
            end = data[at:]
            if any(len(each) > len(end) and each.startswith(end) for each in self._starting[end[:_HEAD]]):
                return at
        for count in range(min(_HEAD - 1, len(data)), 0, -1):
            if data[-count:] in self._beginnings:
                return len(data) - count
        return len(data)


class Stream:
    """Takes secrets out of pieces: holds back only an end that is the beginning of one."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What is safe to pass on, now that ``piece`` is there."""
        redactor = self._redactor
        if not redactor.active:
            return piece
        data, made = self._held + piece, b""
        while True:
            end = redactor._unfinished(data)
            if not redactor._has(data):
                self._held = data[end:]
                return made + data[:end]
            at = 0
            for match in redactor._any.finditer(data):
                if match.start() >= end:
                    break
                made += data[at : match.start()] + redactor._word(match)
                at = match.end()
            if at <= end:
                self._held = data[end:]
                return made + data[at:end]
            data = data[at:]  # a secret was found across the end: what is left may begin another one

    def end(self) -> bytes:
        """What was held back, when nothing follows."""
        rest, self._held = self._redactor.clean(self._held), b""
        return rest


NONE = Secrets()
