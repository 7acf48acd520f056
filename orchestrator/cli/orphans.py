"""What `mirage-run` does at its start about open runs that a dead process left in this project."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.cli.wiring import Workplace


def settle_orphans(place: Workplace) -> None:
    """Seal what dead processes left here; one that still runs gets a follower of its own."""
    if not place.folders.unfinished():
        return
    from orchestrator.recover import Left

    running, others = place.recovery.orphans()
    for found in place.recovery.recover(others):
        if isinstance(found, Left):
            place.reporter.warn(
                f"{found.run_id} was left by a dead process, and is left alone: {found.reason}"
            )
        else:
            place.reporter.note(f"sealed the record of {found.plan.run_id}, which a dead process had left")
    from orchestrator.process import start_detached

    for run_id in running:
        log = str(place.folders.of(run_id) / "recover.log")
        start_detached(
            [sys.executable, "-m", "orchestrator.cli", "recover", run_id],
            cwd=str(place.project.folder),
            log=log,
        )
        place.reporter.note(f"{run_id} is still running without its follower: adopted in the background")
