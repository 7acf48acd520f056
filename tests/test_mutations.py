"""Two thousand mutations of records and of the log, none of which is accepted; twenty thousand in tests/stress."""

from __future__ import annotations

import pytest

from orchestrator.trust.walk import walk
from tests.mutation_tools import KINDS, Mutations


@pytest.fixture(scope="module")
def mutations(tmp_path_factory: pytest.TempPathFactory) -> Mutations:
    return Mutations(tmp_path_factory.mktemp("mutations"))


def test_what_was_not_mutated_is_accepted(mutations: Mutations) -> None:
    """Without this, a `verify` that refuses everything would pass all that follows."""
    assert {run: mutations.check(run, data) for run, data in mutations.data.items()} == dict.fromkeys(
        mutations.data, 0
    )
    assert walk(mutations.store, mutations.trust, mutations.seen).faults == []


def test_no_mutation_of_a_record_is_accepted(mutations: Mutations) -> None:
    mutations.every_field()
    mutations.records(1200, 1, KINDS)
    assert set(mutations.counts) >= set(KINDS), "each kind at least once"
    assert sum(mutations.counts.values()) >= 1500


def test_no_mutation_of_the_log_is_accepted(mutations: Mutations) -> None:
    mutations.log(500, 2)
    told = {kind: count for kind, count in mutations.counts.items() if kind.startswith("log: ")}
    assert len(told) == 9 and sum(told.values()) == 500 and min(told.values()) > 20
