"""Power cuts while a store is written: whatever was acknowledged is there afterwards; without syncs it is not."""

from __future__ import annotations

from pathlib import Path

from tests.figures import Counted, Counts, dice
from tests.power_tools import PowerCuts, an_ext4

POWER = "T3 power cut"
CONTROL = "T3 power cut without syncs: the control"


def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path, counted: Counted) -> None:
    with an_ext4(tmp_path) as disk:
        cuts = PowerCuts(disk, counted(POWER), dice("cuts"))
        for _ in range(20):
            cuts.once()
    assert cuts.acknowledged > 100


def test_without_syncs_a_power_cut_loses(tmp_path: Path, counted: Counted) -> None:
    """The control: if this lost nothing, the test above would show nothing."""
    control = counted(CONTROL)
    counts = Counts("control")
    with an_ext4(tmp_path) as disk:
        cuts = PowerCuts(disk, counts, dice("control"), careless=True)
        cuts.once()
    control.trials, control.bitten = counts.trials, int(counts.lost > 0)
    assert counts.lost > 2
