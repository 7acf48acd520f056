"""Twenty thousand mutations of records and of the log; what tests/test_mutations.py does with two thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutation_tools import KINDS, Mutations

pytestmark = pytest.mark.stress


@pytest.mark.timeout(1800)
def test_no_mutation_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mutations = Mutations(tmp_path)
    mutations.every_field()
    mutations.log(5000, 3)
    mutations.records(15_000, 4, KINDS)
    with capsys.disabled():
        for kind, count in mutations.counts.most_common():
            print(f"\n{count:6} {kind}", end="")
    assert sum(mutations.counts.values()) >= 20_000
