"""The YAML 1.2 core schema, both ways: from a scalar's text to its value, and from a value to YAML text.

Knows nothing of YAML's syntax beyond what it writes itself; reading files is yamlcore's part.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

from orchestrator.canonical import Json
from orchestrator.errors import ConfigError

MAX_INTEGER = 2**53 - 1  # RFC 7493 section 2.2

# YAML 1.2.2 section 10.3.2, "Tag Resolution".
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

# What stays a plain string for every reader: begins like a word, and is none of YAML 1.1's or 1.2's constants.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*(?: [A-Za-z0-9_./-]+)*")
_CONSTANTS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)}
_LONG_KEY = 400  # an implicit key must fit into 1024 characters (YAML 1.2.2 section 8.2.2), escapes included


def resolve(text: str) -> Json:
    """The value of a plain scalar. Raises ConfigError for a number that JSON cannot hold exactly."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if _FLOAT.fullmatch(text):
        return _float(text)
    if _SPECIAL.fullmatch(text):
        raise ConfigError(f"{text} has no JSON form", hint="write it as a quoted string")
    return text


def _integer(text: str) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    digits = text[2:] if base != 10 else text
    # A bound on the length first: int() takes quadratic time, and refuses beyond 4300 digits.
    number = int(digits, base) if len(digits.lstrip("+-0")) <= 20 and len(digits) < 4000 else MAX_INTEGER + 1
    if abs(number) > MAX_INTEGER:
        raise ConfigError(
            f"the integer {text[:40]} is beyond 2^53 and has no exact JSON form",
            hint="write it as a quoted string",
        )
    return number


def _float(text: str) -> float:
    number = float(text)
    vanished = number == 0 and re.search("[1-9]", re.split("[eE]", text)[0]) is not None
    if math.isinf(number) or vanished:
        raise ConfigError(
            f"the number {text[:40]} does not fit into a double", hint="write it as a quoted string"
        )
    return number


def dump(value: Json) -> bytes:
    """YAML text that readers of YAML 1.1 and of YAML 1.2 both read back as ``value``; keys keep their order.

    Raises ConfigError for NaN, infinities and half surrogate pairs.
    """
    try:
        return ("\n".join(_lines(value)) + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError("a string holds half a surrogate pair and cannot be written as YAML") from error


def _lines(value: Json) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            name = _text(key)
            if len(name) > _LONG_KEY:
                yield f"? {name}"
                name = ""
            if _is_block(item):
                yield f"{name}:"
                yield from ("  " + line for line in _lines(item))
            else:
                yield f"{name}: {_inline(item)}"
    elif isinstance(value, list) and value:
        for item in value:
            for number, line in enumerate(_lines(item)):
                yield ("  " if number else "- ") + line
    else:
        yield _inline(value)


def _is_block(value: Json) -> bool:
    return isinstance(value, dict | list) and bool(value)


def _inline(value: Json) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{value} has no JSON form and cannot be written as YAML")
        shown = repr(value)  # YAML 1.1 wants a point before the exponent: 1e-07 is a string there
        return shown if "." in shown else shown.replace("e", ".0e")
    return json.dumps(value)  # null, true, false, integers, {} and []


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _CONSTANTS:
        return text
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPES)
