"""A share of large and many outputs: 1 GiB in one file, 20,000 files in one artifact; `make stress` has the rest."""

from __future__ import annotations

from pathlib import Path

from tests.figures import Counted
from tests.size_tools import MIB, SIZES, huge, many, project


def test_a_file_of_1_gib(tmp_path: Path, counted: Counted) -> None:
    _, most, _ = huge(project(tmp_path / "repository"), 1024, counted(SIZES))
    assert most < 150 * MIB


def test_20000_files(tmp_path: Path, counted: Counted) -> None:
    _, most, _ = many(project(tmp_path / "repository"), 20, counted(SIZES))
    assert most < 150 * MIB
