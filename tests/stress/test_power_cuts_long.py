"""Power cuts while a store is written: MIRAGE_STRESS_CUTS of them (200), and the control that must lose."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import Counted, Counts, dice, how_many
from tests.power_tools import PowerCuts, an_ext4
from tests.test_power_cuts import CONTROL, POWER

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]
EACH = 20


@pytest.mark.parametrize("round", range(-(-how_many("cuts", 200) // EACH)))
def test_power_cuts(tmp_path: Path, counted: Counted, round: int) -> None:
    with an_ext4(tmp_path) as disk:
        cuts = PowerCuts(disk, counted(POWER), dice(f"cuts {round}"))
        for _ in range(EACH):
            cuts.once()
    print(f"heard {cuts.acknowledged}; told from the cut on {cuts.late}, gone of that: {cuts.late_lost}")


def test_power_cuts_without_syncs(tmp_path: Path, counted: Counted) -> None:
    """Every one of them loses: each has a disk of its own, since what is left after one is not fit for use."""
    control = counted(CONTROL)
    for number in range(-(-how_many("cuts", 200) // 10)):
        counts, top = Counts("control"), tmp_path / str(number)
        top.mkdir()
        with an_ext4(top, 64) as disk:
            PowerCuts(disk, counts, dice(f"control {number}"), careless=True).once()
        control.trials += 1
        control.bitten += counts.lost > 0
    assert control.bitten >= control.trials * 0.8, f"{control.bitten} of {control.trials} lost anything"
