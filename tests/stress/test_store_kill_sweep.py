"""SIGKILL and errors at every system call of a publish, all of them: minutes, not seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store_sweep import CHANGES, OTHERS, Sweep

pytestmark = pytest.mark.stress


@pytest.mark.parametrize("round", range(3))
@pytest.mark.parametrize("files", [2, 20])
def test_a_publish_killed_at_every_system_call(tmp_path: Path, files: int, round: int) -> None:
    swept = Sweep(tmp_path, files=files).over(CHANGES + OTHERS, "signal=KILL")
    assert swept.killed == swept.faults > 100


@pytest.mark.parametrize("files", [2, 20])
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT", "ESTALE", "EACCES"])
def test_a_publish_that_meets_an_error_at_every_change(tmp_path: Path, files: int, error: str) -> None:
    calls = ("openat", "write", "fchmod", "utimensat", "fsync", "syncfs", "rename", "link", "ftruncate")
    swept = Sweep(tmp_path, files=files).over(calls, f"error={error}")
    assert swept.refused + swept.survived == swept.faults > 40
