"""Canonical JSON (RFC 8785): the one byte form of a value, used for every key, manifest and record."""

from __future__ import annotations

import json
from typing import TypeAlias

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ConfigError

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"


def encode(value: Json) -> bytes:
    """The canonical bytes of a JSON value.

    Raises ConfigError for what JSON cannot hold exactly: NaN, infinities, integers beyond 2^53, half a
    surrogate pair (RFC 8785 sections 3.2.2.2 and 3.2.2.3, RFC 7493 sections 2.1 and 2.2).
    """
    import rfc8785  # what only reads does without it

    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise ConfigError(
            f"a value has no exact JSON form: {error}",
            hint="write large integers and special floats as strings",
        ) from error


def digest(value: Json) -> Digest:
    """The digest of the canonical bytes."""
    return of_bytes(encode(value))


def decode(data: bytes | str) -> Json:
    """Parse JSON; raises ValueError as json.loads does, also for what is nested too deep for it.

    A number beyond the exact integers is a float, since only a float was ever written that way (`1e17` becomes
    `100000000000000000`); so what was read can be written again.
    """
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
        result: Json = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return result


def _number(text: str) -> int | float:
    value = int(text)
    return value if abs(value) < 2**53 else float(text)


_DECODER = json.JSONDecoder(parse_int=_number)  # json.loads would make one for each text
