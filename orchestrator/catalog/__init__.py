"""The catalog: records as rows that can be asked questions of, through an index that is never the truth.

``Row`` is loaded when it is first named: a question that the index answers reads no record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.catalog.fields import local_time
from orchestrator.catalog.runs import Catalog

if TYPE_CHECKING:
    from orchestrator.catalog.row import Row

__all__ = ["Catalog", "Row", "local_time"]


def __getattr__(name: str) -> Any:
    if name == "Row":
        from orchestrator.catalog.row import Row

        return Row
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
