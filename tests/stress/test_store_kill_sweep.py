"""SIGKILL and errors at every system call of a publish, all of them: minutes, not seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import Counted, how_many
from tests.store_sweep import CHANGES, KILLED, OTHERS, REFUSED_BY_DISK, Sweep

pytestmark = pytest.mark.stress


@pytest.mark.parametrize("round", range(how_many("kills", 5)))
@pytest.mark.parametrize("files", [2, 20])
def test_a_publish_killed_at_every_system_call(
    tmp_path: Path, counted: Counted, files: int, round: int
) -> None:
    swept = Sweep(tmp_path, counted(KILLED), files=files).over(CHANGES + OTHERS, "signal=KILL")
    assert swept.killed == swept.faults > 100


@pytest.mark.parametrize("files", [2, 20])
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for-good"])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "ESTALE", "EACCES"])
def test_a_publish_that_meets_an_error_at_every_change(
    tmp_path: Path, counted: Counted, files: int, for_good: bool, error: str
) -> None:
    calls = ("openat", "write", "fchmod", "utimensat", "fsync", "syncfs", "rename", "link", "ftruncate")
    sweep = Sweep(tmp_path, counted(REFUSED_BY_DISK), files=files)
    swept = sweep.over(calls, f"error={error}", for_good=for_good)
    assert swept.refused + swept.survived == swept.faults > 40
