"""Reading a Dockerfile as far as a base needs: what it starts from, what it copies from the project, which line is what.

Grammar: Docker's Dockerfile reference, as its classic builder reads it. Everything else in the file is the engine's
business; nothing is executed here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NoReturn

from orchestrator.errors import ConfigError, at_line

_DIRECTIVE = re.compile(r"#\s*([a-z]+)\s*=\s*(\S+)\s*", re.I)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:[-+])([^}]*))?\})")
_HERE_DOCUMENT = re.compile(r"(?:^|\s)\d*<<-?(['\"]?)[A-Za-z_]\w*\1(?:\s|$)")
_ADDRESS = re.compile(r"(?:https?|ftp|ssh)://|git@")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word in capitals, the rest of it, and its lines (counted from 1)."""

    word: str
    rest: str
    line: int
    last_line: int


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile by the name that messages use."""

    path: str
    lines: tuple[str, ...]
    instructions: tuple[Instruction, ...]

    def refuse(self, line: int, message: str, hint: str) -> NoReturn:
        """Raise ConfigError at a line of this file."""
        raise ConfigError(f"{at_line(self.path, line)}: {message}", hint=hint)


@dataclass(frozen=True)
class From:
    """A FROM that names an image: ``image`` with all variables filled in, and what stands around it."""

    line: int
    flags: str
    image: str
    stage: str


@dataclass(frozen=True)
class Source:
    """A path that COPY or ADD takes from the project, relative to it, perhaps with wildcards; "" is all of it."""

    line: int
    path: str


def parse(path: str, data: bytes) -> Dockerfile:
    """Split a Dockerfile into instructions. Raises ConfigError with file and line."""
    try:
        lines = tuple(data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from error
    found = Dockerfile(path, lines, tuple(_instructions(lines)))
    if not any(each.word == "FROM" for each in found.instructions):
        raise ConfigError(f"{path} has no FROM", hint="begin with: ARG BASE_IMAGE, then FROM ${BASE_IMAGE}")
    for each in found.instructions:
        if each.word in ("RUN", "COPY", "ADD") and _HERE_DOCUMENT.search(each.rest):
            found.refuse(
                each.line,
                "here-documents (<<) are not for the engine's own builder",
                "join the commands with && and a \\ at the end of each line, or COPY a script",
            )
    return found


def _instructions(lines: tuple[str, ...]) -> Iterator[Instruction]:
    escape, at = _directives(lines)
    while at < len(lines):
        start, text = at, ""
        while at < len(lines):
            line = lines[at].rstrip()
            at += 1
            if line.lstrip().startswith("#") or not line:  # also between the lines of one instruction
                if not text:
                    break
                continue
            if not line.endswith(escape):
                text += line
                break
            text += line[:-1]
        if text.strip():
            word, *rest = text.split(None, 1)
            yield Instruction(word.upper(), rest[0].strip() if rest else "", start + 1, at)


def _directives(lines: tuple[str, ...]) -> tuple[str, int]:
    """Parser directives stand before everything else; gives the escape character and where they end."""
    escape = "\\"
    for at, line in enumerate(lines):
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None:
            return escape, at
        if match[1].lower() == "escape":
            escape = match[2]
    return escape, len(lines)


def froms(file: Dockerfile, arguments: Mapping[str, str]) -> Iterator[From]:
    """The images that the file starts from, `scratch` and its own stages left out.

    ``arguments`` are build arguments; the defaults of the ARGs before the first FROM stand behind them.
    """
    values: dict[str, str] = {}
    stages: set[str] = set()
    begun = False
    for each in file.instructions:
        if each.word == "ARG" and not begun:
            for name, _, default in (part.partition("=") for part in each.rest.split()):
                value = arguments.get(name, _fill(file, each.line, default.strip("'\""), values))
                values[name] = value
        if each.word != "FROM":
            continue
        begun = True
        match = re.fullmatch(r"((?:--\S+\s+)*)(\S+)(?:\s+AS\s+(\S+))?", each.rest, re.I)
        if match is None:
            file.refuse(each.line, f"cannot read FROM {each.rest}", "expected FROM IMAGE [AS NAME]")
        image = _fill(file, each.line, match[2], values)
        if not image:
            file.refuse(
                each.line, f"FROM {match[2]} names no image", "give its ARG a default, or name an image"
            )
        if image != "scratch" and image.lower() not in stages:
            yield From(each.line, match[1], image, f" AS {match[3]}" if match[3] else "")
        if match[3]:
            stages.add(match[3].lower())


def _fill(file: Dockerfile, line: int, text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, choice, word = match[1] or match[2], match[3], match[4] or ""
        known = values.get(name, "")
        if choice == ":-":
            return known or word
        if choice == ":+":
            return word if known else ""
        if name not in values:
            file.refuse(
                line, f"${name} has no value here", f"declare it before the first FROM: ARG {name}=..."
            )
        return known

    return _VARIABLE.sub(value, text)


def sources(file: Dockerfile) -> Iterator[Source]:
    """What COPY and ADD take from the project. Raises ConfigError for what cannot be told from the file alone."""
    for each in file.instructions:
        if each.word not in ("COPY", "ADD"):
            continue
        flags = re.match(r"(?:--\S+\s+)*", each.rest)
        rest = each.rest[flags.end() :] if flags else each.rest
        if flags and "--from=" in flags[0]:
            continue
        for word in _words(file, each.line, rest)[:-1]:
            if _ADDRESS.match(word):
                continue
            if "$" in word:
                file.refuse(
                    each.line,
                    f"{each.word} {word}: which files that means is known only during the build",
                    "write the path without a variable: what is copied is part of the base's key",
                )
            parts = [part for part in word.split("/") if part not in ("", ".")]
            if ".." in parts:
                file.refuse(
                    each.line, f"{each.word} {word} lies outside of the project", "copy it into the project"
                )
            yield Source(each.line, "/".join(parts))


def _words(file: Dockerfile, line: int, rest: str) -> list[str]:
    if rest.startswith("["):
        try:
            words = json.loads(rest)
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            file.refuse(line, f"cannot read {rest}", 'expected a JSON list such as ["from", "to"]')
        return words
    return rest.split()


def takes(source: Source, path: str) -> bool:
    """Whether a source means this file: by its name, by a folder above it, or by a wildcard for either."""
    wanted = source.path.split("/") if source.path else []
    parts = path.split("/")
    if len(parts) < len(wanted):
        return False
    return all(
        fnmatchcase(part, want) if _WILD.search(want) else part == want
        for part, want in zip(parts, wanted, strict=False)
    )


def rewritten(
    file: Dockerfile, exact: Mapping[int, str], inserted: tuple[str, ...]
) -> tuple[bytes, tuple[int, ...]]:
    """The file with the FROMs at the lines of ``exact`` replaced, and ``inserted`` after every FROM.

    Also gives, for each instruction of the result in order, the line of the original that it belongs to.
    """
    starts = {each.line: each for each in file.instructions}
    text: list[str] = []
    steps: list[int] = []
    at = 1
    while at <= len(file.lines):
        each = starts.get(at)
        if each is None:
            text.append(file.lines[at - 1])
            at += 1
            continue
        steps.append(each.line)
        if each.line in exact:
            text.append(exact[each.line])
        else:
            text += file.lines[at - 1 : each.last_line]
        if each.word == "FROM":
            text += inserted
            steps += [each.line] * len(inserted)
        at = each.last_line + 1
    return "\n".join(text).encode() + b"\n", tuple(steps)
