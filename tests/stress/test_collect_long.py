"""Garbage collection for a minute: 8 writers that re-use the same contents, a collector that never rests."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.upkeep.collect import collect, look
from tests.gc_tools import check_sealed, check_whole, open_store
from tests.store_tools import Heard
from tests.test_collect import publish_while_collecting

pytestmark = pytest.mark.stress


def test_nothing_live_goes_in_a_minute(tmp_path: Path) -> None:
    published, broken, told = publish_while_collecting(tmp_path, 60.0)
    print(f"published {published}, broken {broken}; rounds, removed, rescued: {told}")
    assert published > 1000
    assert broken == 0
    store = open_store(tmp_path / "store")
    collect(store, 0.0, Heard())
    assert look(store, 0.0).garbage == []
    assert check_whole(tmp_path / "store") == 24
    assert check_sealed(tmp_path / "store") > 200
