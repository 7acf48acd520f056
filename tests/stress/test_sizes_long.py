"""One output of MIRAGE_STRESS_HUGE_MIB (20 GiB), and one of MIRAGE_STRESS_MANY thousand files (999: a million names)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.figures import Counted, how_many
from tests.size_tools import MIB, SIZES, huge, many, project

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]


def test_a_file_of_20_gib(tmp_path: Path, counted: Counted) -> None:
    """Twice that is on the disk for a while: in the run's outbox and in the store."""
    mib = how_many("huge_mib", 20 << 10)
    said, most, seconds = huge(project(tmp_path / "repository"), mib, counted(SIZES), by_hand=True)
    print(f"{mib} MiB: {seconds:.0f} s, at most {most / MIB:.0f} MiB of memory")
    print(said)
    assert most < 150 * MIB
    assert len(re.findall(r"collect file:huge: [0-9.]+ .iB of ", said)) >= min(3, mib // 4096)


def test_a_million_files(tmp_path: Path, counted: Counted) -> None:
    thousands = how_many("many", 999)
    said, most, seconds = many(project(tmp_path / "repository"), thousands, counted(SIZES), by_hand=True)
    print(f"{thousands},000 files: {seconds:.0f} s, at most {most / MIB:.0f} MiB of memory")
    print(said)
    assert most < 500 * MIB
