"""Parquet, where pyarrow is installed beside Mirage; it is no dependency of ours."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

from orchestrator.compare.difference import Difference, Tolerance, Unreadable
from orchestrator.compare.text import values


def compare_parquet(original: bytes, again: bytes, tolerance: Tolerance) -> Difference | None:
    """Two tables, column by column. Raises Unreadable where they cannot be read here."""
    old, new = _table(original), _table(again)
    if old.schema.equals(new.schema) and old.equals(new):
        return None
    if old.schema != new.schema:
        return Difference("", f"columns {_columns(old)}", f"columns {_columns(new)}")
    return values(old.to_pydict(), new.to_pydict(), tolerance)


def _table(data: bytes) -> Any:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise Unreadable("pyarrow is not installed here") from error
    try:
        return parquet.read_table(io.BytesIO(data))
    except Exception as error:  # pyarrow's errors are of many kinds, and its types are not known here
        raise Unreadable(f"not a Parquet file: {error}") from error


def _columns(table: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in table.schema)
