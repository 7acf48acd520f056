"""Buckets at length: a second make of server, 20,000 operations on a network that fails, 200 races for a name."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from orchestrator.errors import StoreError
from orchestrator.store.bucket.probe import probe
from tests.chaos import FAULTS
from tests.figures import Counted, how_many
from tests.s3_tools import Server, bucket_backend, credentials, environment, shared_bucket, store_at
from tests.s3_work import BUCKETS, NAMES, one_winner, survive
from tests.store_tools import Backend

suite = import_module("tests.test_store_conformance")
globals().update({name: each for name, each in vars(suite).items() if name.startswith("test_")})
store = suite.store  # the same suite, on the backend below

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]


@pytest.fixture
def backend(ceph: Server, tmp_path: Path) -> Iterator[Backend]:
    with bucket_backend(ceph, tmp_path) as backend:
        yield backend


def test_the_probe_tells_what_ceph_promises(ceph: Server, tmp_path: Path) -> None:
    with environment(credentials(ceph.endpoint)):
        bucket = shared_bucket(ceph, tmp_path / "cache")
        found = probe(store_at(ceph.place(bucket, secrets.token_hex(6)), tmp_path / "cache").bucket)
    assert found.problem is None
    assert (found.condition, found.race, found.multipart_condition) == ("if-none-match", True, False)
    assert found.integrity == "payload", "Ceph looks at the signed hash of a body"


def test_a_versioned_bucket_of_ceph_is_refused(ceph: Server, tmp_path: Path) -> None:
    """Ceph 16.2 ignores the condition in a bucket with versioning."""
    with environment(credentials(ceph.endpoint)):
        bucket = ceph.new_bucket()
        ceph.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        with pytest.raises(StoreError, match="ignores If-None-Match"):
            store_at(ceph.place(bucket), tmp_path / "cache").promises()


@pytest.mark.parametrize("make", ["seaweedfs", "ceph"])
def test_nothing_is_lost_in_20000_operations(
    make: str, request: pytest.FixtureRequest, tmp_path: Path, counted: Counted
) -> None:
    server, operations = request.getfixturevalue(make), how_many("operations", 20_000)
    if make == "ceph":
        operations //= 5
    with environment(credentials(server.endpoint)):
        met = survive(server, tmp_path, operations, counted(BUCKETS), large=4)
    print(make, dict(sorted(met.items())), sum(met.values()))
    assert set(met) == set(FAULTS)


@pytest.mark.parametrize("make", ["seaweedfs", "ceph"])
def test_a_name_has_one_winner_in_200_rounds(
    make: str, request: pytest.FixtureRequest, tmp_path: Path, counted: Counted
) -> None:
    server = request.getfixturevalue(make)
    with environment(credentials(server.endpoint)):
        one_winner(server, tmp_path, 16, how_many("races", 200), counted(NAMES))
