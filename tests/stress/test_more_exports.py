"""The rest of the crates that the usual tests take a share of: each judgement takes two seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_exports import SPOILT_CRATES, Case, check_crates

pytestmark = pytest.mark.stress


def test_crates_are_accepted_and_each_way_to_spoil_one_is_found(tmp_path: Path) -> None:
    check_crates(Case(tmp_path / "case"), tmp_path, {"model": 2, "bare": 2}, [*SPOILT_CRATES])
