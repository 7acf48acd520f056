"""Garbage collection for a minute: 8 writers that re-use the same contents, a collector that never rests."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from orchestrator.upkeep.collect import collect, look
from tests.gc_tools import Shared, check_sealed, check_whole, open_store
from tests.s3_tools import Server, credentials, environment, shared_bucket
from tests.store_tools import Heard
from tests.test_collect import publish_while_collecting

pytestmark = pytest.mark.stress


def test_nothing_live_goes_in_a_minute(tmp_path: Path) -> None:
    published, broken, told = publish_while_collecting(tmp_path / "store", 60.0)
    print(f"published {published}, broken {broken}; rounds, removed, rescued: {told}")
    assert published > 1000
    assert broken == 0
    store = open_store(tmp_path / "store")
    collect(store, 0.0, Heard())
    assert look(store, 0.0).garbage == []
    assert check_whole(tmp_path / "store") == 24
    assert check_sealed(tmp_path / "store") > 200


def _shared(server: Server, tmp_path: Path) -> Shared:
    return Shared(
        server, server.place(shared_bucket(server, tmp_path / "first"), secrets.token_hex(6)), tmp_path
    )


def test_nothing_live_goes_in_three_minutes_on_a_server(seaweedfs: Server, tmp_path: Path) -> None:
    with environment(credentials(seaweedfs.endpoint)):
        shared = _shared(seaweedfs, tmp_path)
        published, broken, told = publish_while_collecting(shared, 180.0)
        print(f"published {published}, broken {broken}; rounds, removed, rescued: {told}")
        assert published > 200
        assert broken == 0
        store = open_store(shared)
        collect(store, 0.0, Heard())
        assert look(store, 0.0).garbage == []
        assert check_whole(shared) == 24
        assert check_sealed(shared) > 20


def test_without_sessions_what_is_live_goes(seaweedfs: Server, tmp_path: Path) -> None:
    """The control: the same writers, telling nobody that they write."""
    with environment(credentials(seaweedfs.endpoint)):
        _, broken, told = publish_while_collecting(_shared(seaweedfs, tmp_path), 60.0, sessions=False)
    print(f"broken {broken}; rounds, removed, rescued: {told}")
    assert broken > 0
