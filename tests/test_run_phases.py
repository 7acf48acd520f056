"""mirage-run killed at 24 points of a run, once each; tests/stress has more rounds of it."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.figures import Counted, Counts
from tests.phase_tools import PHASES, Phases

KILLED = "T4 mirage-run: SIGKILL at 24 points of a run"


def killed_everywhere(top: Path, counts: Counts, rounds: int, side_by_side: int = 2) -> None:
    """Each point that often, in some projects at once: most of the time goes by waiting."""
    wanted = os.environ.get("MIRAGE_STRESS_POINTS", "")  # a regular expression: some of them only
    phases = [phase for _ in range(rounds) for phase in PHASES if re.search(wanted, phase)]

    def share(number: int) -> None:
        mine = Phases(top / str(number), counts)
        for phase in phases[number::side_by_side]:
            mine.once(phase)
        mine.check()

    with ThreadPoolExecutor(side_by_side) as pool:
        list(pool.map(share, range(side_by_side)))


def test_a_run_killed_at_each_of_24_points_leaves_one_record(tmp_path: Path, counted: Counted) -> None:
    assert len(PHASES) == 24
    counts = counted(KILLED)
    killed_everywhere(tmp_path, counts, 1)
