"""YAML as Mirage reads and writes it: the YAML 1.2 core schema, with bounds and with lines; JSON data out.

The only module that imports PyYAML, and only for its event stream: PyYAML's own schema is YAML 1.1, where `1e-3`
is a string, `no` a boolean, and a duplicate key silently wins. Does not know what any key means.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import yaml

from orchestrator.canonical import Json
from orchestrator.errors import ConfigError, at_line
from orchestrator.yamlschema import dump, resolve

__all__ = ["Document", "dump", "parse"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_NODES = 100_000  # with every alias expanded
MAX_CHARACTERS = 8 << 20  # of all strings, with every alias expanded

# What is not c-printable (YAML 1.2.2 section 5.1), the three that YAML 1.1 parsers take for line breaks, and BOMs.
# In UTF-8, since a class of these characters takes `re` 7 ms to compile and this one none.
_UNPRINTABLE = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf|\xef\xbf[\xbe\xbf]"
)
_BARE_TAG = re.compile(r"(?:&\S+\s+)?!(?=\s|$)")  # libyaml drops the tag `!` before we could see it
_TAG = "tag:yaml.org,2002:"

_HINTS = (
    ("mapping values are not allowed", "quote a value that contains ': ', and check the indentation"),
    ("found unknown escape", "in double quotes \\ starts an escape: write \\\\, or use single quotes"),
    ("did not find expected", "check the indentation, and that every bracket and quote is closed"),
)


class _Place(NamedTuple):
    """Where a node stands: its line (that of its key, in a mapping), and its children."""

    line: int
    children: tuple[tuple[str | int, _Place], ...] = ()


@dataclass(frozen=True)
class Document:
    """A parsed document: plain JSON data, sharing nothing, and the line of each of its parts."""

    value: Json
    where: str
    _place: _Place

    def line(self, path: tuple[str | int, ...] = ()) -> int | None:
        """The line, from 1, of the key or list item at ``path``; None where there is no such thing."""
        place = self._place
        for part in path:
            found = next((child for key, child in place.children if key == part), None)
            if found is None:
                return None
            place = found
        return place.line

    def at(self, path: tuple[str | int, ...] = ()) -> str:
        """``file:line`` of ``path``, or of the nearest thing around it."""
        while path and self.line(path) is None:
            path = path[:-1]
        return at_line(self.where, self.line(path))


class _Node(NamedTuple):
    """A finished node: its data, its place, and how large it is with every alias in it expanded."""

    value: Json
    place: _Place
    nodes: int
    characters: int
    height: int


class _Open:
    """A mapping or list whose end was not seen yet."""

    def __init__(self, line: int, anchor: str | None, value: dict[str, Json] | list[Json]) -> None:
        self.line = line
        self.anchor = anchor
        self.value = value
        self.key: str | None = None
        self.key_line = 0
        self.children: list[tuple[str | int, _Place]] = []
        self.key_lines: dict[str, int] = {}
        self.nodes, self.characters, self.height = 1, 0, 0

    def finish(self) -> _Node:
        place = _Place(self.line, tuple(self.children))
        return _Node(self.value, place, self.nodes, self.characters, self.height + 1)


def parse(text: bytes, where: str) -> Document:
    """Read one YAML document; an empty one is null.

    ``where`` is the file as messages name it. Raises ConfigError with ``file:line`` for what YAML 1.2 does not
    allow, for what JSON cannot hold exactly (other keys than strings, `.nan`, `.inf`, integers beyond 2^53), and for
    duplicate keys, merge keys, tags outside the core schema, more than one document, or a limit of this module.
    """
    source = _decode(text, where)
    builder = _Builder(source, where)
    try:
        for event in yaml.parse(source, Loader=getattr(yaml, "CLoader", yaml.Loader)):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source, where) from error
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as error:  # the last two: chr() of an escape, in pure Python
        raise ConfigError(f"{where}: not valid YAML: {error}") from error
    root = builder.root or _Node(None, _Place(1), 1, 0, 0)
    return Document(root.value, where, root.place)


def _decode(text: bytes, where: str) -> str:
    if len(text) > MAX_BYTES:
        raise ConfigError(
            f"{where}: larger than {MAX_BYTES >> 20} MiB", hint="keep data in artifacts, not in YAML"
        )
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        source = text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{where}:{line}: not UTF-8", hint="save the file as UTF-8") from error
    if found := _UNPRINTABLE.search(text):
        line = len(re.findall(rb"\r\n|\r|\n", text[: found.start()])) + 1
        number = ord(found[0].decode("utf-8"))
        raise ConfigError(
            f"{where}:{line}: the character U+{number:04X} cannot stand in YAML as it is",
            hint=f'write it as an escape in double quotes, "\\u{number:04x}", or remove it',
        )
    return source


def _syntax_error(error: yaml.MarkedYAMLError, source: str, where: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem or error.context or "not valid YAML")
    if error.problem and error.context and error.context_mark:
        problem += f" ({error.context} that begins at line {error.context_mark.line + 1})"
    hint = next((hint for words, hint in _HINTS if words in problem), None)
    if mark and source[mark.index : mark.index + 1] == "\t":
        hint = "indent with spaces: YAML does not allow tabs there"
    return ConfigError(f"{at_line(where, mark.line + 1 if mark else None)}: {problem}", hint=hint)


class _Builder:
    """Takes the events of a document one by one and keeps the open collections on a stack of its own."""

    def __init__(self, source: str, where: str) -> None:
        self.root: _Node | None = None
        self._source = source
        self._where = where
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Node | None] = {}  # None: not finished yet
        self._aliases = 0
        self._nodes = 0
        self._characters = 0

    def take(self, event: Any) -> None:
        """One event of PyYAML's stream (untyped there)."""
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._check_tag(event, line)
            self._characters += len(event.value)
            self._add(self._scalar(event, line), event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            finished = self._stack.pop()
            node = finished.finish()
            if finished.anchor is not None:
                self._anchors[finished.anchor] = node
            self._place(node, node.place.line)
        elif isinstance(event, yaml.DocumentStartEvent):
            if self.root is not None:
                self._fail(
                    line, "a second document begins here", "one file holds one document: remove the `---`"
                )
            if event.version is not None and event.version < (1, 2):
                self._fail(
                    line, "the file says that it is YAML 1.1", "Mirage reads YAML 1.2: remove the %YAML line"
                )

    def _fail(self, line: int, problem: str, hint: str | None = None) -> NoReturn:
        raise ConfigError(f"{self._where}:{line}: {problem}", hint=hint)

    def _check_tag(self, event: Any, line: int) -> None:
        if event.tag in (None, "!"):
            if event.tag == "!" or _BARE_TAG.match(self._source, event.start_mark.index):
                self._fail(line, "the tag ! is not supported", "quote a value to make it a string")
            return
        kind = {yaml.MappingStartEvent: ("map",), yaml.SequenceStartEvent: ("seq",)}.get(
            type(event), ("str", "int", "float", "bool", "null")
        )
        if event.tag not in [_TAG + name for name in kind]:
            shown = event.tag.replace(_TAG, "!!")[:80]
            self._fail(
                line,
                f"the tag {shown} is not supported here",
                "write plain values; no objects are built from YAML",
            )

    def _begin(self, event: Any, line: int) -> None:
        self._check_tag(event, line)
        if len(self._stack) >= MAX_DEPTH:
            self._fail(line, f"nested more than {MAX_DEPTH} levels deep")
        if self._expects_key():
            self._fail(line, "a mapping or list cannot be a key", "keys are strings")
        self._count(1, line)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        value: dict[str, Json] | list[Json] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Open(line, event.anchor, value))

    def _alias(self, event: Any, line: int) -> None:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._fail(line, f"more than {MAX_ALIASES} aliases")
        if event.anchor not in self._anchors:
            self._fail(line, f"the alias *{event.anchor} has no anchor &{event.anchor} before it")
        node = self._anchors[event.anchor]
        if node is None:
            self._fail(line, f"the alias *{event.anchor} stands inside of what it refers to")
        if len(self._stack) + node.height > MAX_DEPTH:
            self._fail(line, f"nested more than {MAX_DEPTH} levels deep by the alias *{event.anchor}")
        self._count(node.nodes, line)
        self._characters += node.characters
        if self._characters > MAX_CHARACTERS:
            self._fail(line, f"aliases expand the text beyond {MAX_CHARACTERS >> 20} MiB")
        if self._expects_key():
            self._key(node.value, line)
        else:
            self._place(node._replace(value=_copy(node.value)), line)

    def _add(self, value: Json, event: Any, line: int) -> None:
        self._count(1, line)
        node = _Node(value, _Place(line), 1, len(event.value), 0)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if self._expects_key():
            if event.value == "<<" and event.implicit[0]:
                self._fail(
                    line,
                    "YAML 1.2 has no merge key <<",
                    "write the keys out, or quote it if the name is meant",
                )
            self._key(value, line)
        else:
            self._place(node, line)

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            self._fail(line, f"more than {MAX_NODES} values with aliases expanded")

    def _expects_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None

    def _key(self, value: Json, line: int) -> None:
        parent = self._stack[-1]
        if not isinstance(value, str):
            kind = "a mapping or list" if isinstance(value, dict | list) else json.dumps(value)
            self._fail(line, f"the key {kind} is not a string", "keys are strings: put it in quotes")
        if value in parent.key_lines:
            self._fail(
                line,
                f"duplicate key {value[:80]!r} (first at line {parent.key_lines[value]})",
                "remove one of them",
            )
        parent.key, parent.key_line = value, line
        parent.key_lines[value] = line

    def _place(self, node: _Node, line: int) -> None:
        """Put a finished node where it belongs."""
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        if isinstance(parent.value, dict):
            assert parent.key is not None
            parent.value[parent.key] = node.value
            parent.children.append((parent.key, _Place(parent.key_line, node.place.children)))
            parent.characters += len(parent.key)
            parent.nodes += 1
            parent.key = None
        else:
            parent.children.append((len(parent.value), _Place(line, node.place.children)))
            parent.value.append(node.value)
        parent.nodes += node.nodes
        parent.characters += node.characters
        parent.height = max(parent.height, node.height)

    def _scalar(self, event: Any, line: int) -> Json:
        """A scalar's value by its tag, or by the core schema where it is plain."""
        text: str = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            self._fail(
                line, "half a surrogate pair is no character", "write it as one \\U escape with eight digits"
            )
        if event.tag is None:
            return self._resolve(text, line) if event.implicit[0] else text
        name = event.tag.removeprefix(_TAG)
        if name == "str":
            return text
        value = self._resolve(text, line)
        if name == "float" and type(value) is int:
            return float(value)
        if type(value) is not {"int": int, "float": float, "bool": bool, "null": type(None)}[name]:
            self._fail(line, f"{text[:80]!r} is not a value of !!{name}")
        return value

    def _resolve(self, text: str, line: int) -> Json:
        try:
            return resolve(text)
        except ConfigError as error:
            self._fail(line, error.message, error.hint)


def _copy(value: Json) -> Json:
    """A copy that shares no list or mapping; at most MAX_DEPTH calls deep."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
