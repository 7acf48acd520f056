"""The engine ended by SIGTERM and SIGKILL, with and without live-restore, at three points of a run: all twelve."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_tools import SecondEngine
from tests.run_tools import Project
from tests.test_engine_restarts import project, restarted

__all__ = ["project"]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "live-restore"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecondEngine]:
    folder: Path = tmp_path_factory.mktemp("engine") / "e"
    with SecondEngine(folder, live_restore=request.param) as made:
        yield made


@pytest.mark.stress
@pytest.mark.parametrize("said,away", [("2", 1.0), ("15", 1.0), ("24", 2.0)])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart(
    project: Project,
    engine: SecondEngine,
    number: signal.Signals,
    said: str,
    away: float,
) -> None:
    """The right code, or interrupted: daemon_restart; never a failure that the workflow did not have."""
    made, code, err = restarted(project, engine, "counts", said, number, away)
    end = (code, made["status"], made["exit_code"], made["reason"])
    own = (1, "failed", 7, "exit code 7")
    assert end == own or (end[:2] == (130, "interrupted") and end[3] == "daemon_restart")
    if engine.api().info()["LiveRestoreEnabled"]:
        assert end == own
    log, whole = project.mirage("logs", str(made["run_id"])), "".join(f"{i}\n" for i in range(30))
    assert log == whole or (whole.startswith(log) and (end != own or "may be missing" in err))
