"""A run's log on the real engine: floods, slow and closed terminals, streams, times, and readers beside the run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.figures import Counted, Counts
from tests.run_tools import BIN, Project, wait_for

FLOOD = """
import os, sys
block = (b"0123456789abcdef" * 64)[:-1] + b"\\n"
block *= 64
for _ in range({mib} * 16):
    os.write(1, block)
os.write(2, b"the end\\n")
"""
TALK = """
import sys, time
for turn in range(3):
    print("out", turn, flush=True)
    print("err", turn, file=sys.stderr, flush=True)
    time.sleep(0.3)
"""
LONG = "import time\nprint('begun', flush=True)\nfor i in range(60):\n    print(i, flush=True)\n    time.sleep(0.05)\n"


def peak(process: subprocess.Popen[str]) -> int:
    """The most memory that a process had so far, in bytes; 0 where it is gone."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


FLOODS = "T10 log flood"


def flood(project: Project, mib: int, counts: Counts) -> None:
    """So much output at full speed: bounded memory and disk, and the count is exact."""
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.flood")
    most = 0
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    while process.poll() is None:
        most = max(most, peak(process))
        while process.stderr.buffer.read(1 << 20):  # type: ignore[attr-defined]  # a text stream has one
            pass
        time.sleep(0.02)
    assert process.returncode == 0
    assert 0 < most < 150 << 20
    run_id = project.run_ids()[-1]
    (log,) = (
        item
        for item in project.record(run_id)["predicate"]["runDetails"]["byproducts"]
        if item["name"] == "log"
    )
    kept = project.blob(log["digest"]["sha256"])
    mark = re.search(rb"\n\[mirage: (\d+) bytes of log were dropped here\]\n", kept)
    assert mark is not None
    total = (mib << 20) + len(b"the end\n")
    counts.trials += 1
    counts.unless(
        len(kept) - len(mark[0]) + int(mark[1]) == total, "lost", "bytes that are not counted as dropped"
    )
    assert int(mark[1]) == log["annotations"]["droppedBytes"] == total - (48 << 20)
    assert project.mirage("logs", run_id, "--stream", "stderr").endswith("the end\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("log"),
        files={
            "workflows/flood.py": FLOOD.format(mib=200),
            "workflows/quick.py": FLOOD.format(mib=16),
            "workflows/talk.py": TALK,
            "workflows/long.py": LONG,
        },
    )


def test_a_flood_of_200_mib(project: Project, counted: Counted) -> None:
    flood(project, 200, counted(FLOODS))


def test_a_terminal_that_nobody_reads_does_not_slow_the_run(project: Project) -> None:
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.quick")
    process.wait(60)  # neither of its pipes is read, and both are full long before
    assert process.returncode == 0
    assert process.stderr is not None and process.stdout is not None
    shown = process.stderr.read()
    assert "succeeded" in process.stdout.read()
    assert len(shown) < 10 << 20
    process.stderr.close()
    process.stdout.close()


def test_closed_stdout_and_stderr_do_not_change_the_exit_code(project: Project) -> None:
    project.write("workflows/fails.py", "import sys\nprint('x' * 100000)\nsys.exit(3)\n")
    project.commit()
    words = [str(BIN / "mirage-run"), "--config", "configs/a.yaml", "--workflow", "workflows.fails"]
    for closed in ("1", "2"):
        done = subprocess.run(
            ["bash", "-c", f'{{ "$@"; echo $? >code; }} {closed}> >(exec true)', "run", *words],
            cwd=project.folder, capture_output=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0
        assert (project.folder / "code").read_text() == "1\n"
        (project.folder / "code").unlink()
    assert project.asked("show", "latest")["exit_code"] == 3


def test_streams_and_times(project: Project) -> None:
    began = time.time()
    made = project.run("--workflow", "workflows.talk")
    assert project.mirage("logs", made["run_id"], "--stream", "stdout") == "out 0\nout 1\nout 2\n"
    assert project.mirage("logs", made["run_id"], "--stream", "stderr") == "err 0\nerr 1\nerr 2\n"
    lines = project.mirage("logs", made["run_id"], "--stream", "stdout", "--timestamps").splitlines()
    stamps = [line.partition(" ")[0] for line in lines]
    assert [line.partition(" ")[2] for line in lines] == ["out 0", "out 1", "out 2"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp) for stamp in stamps)
    assert stamps == sorted(stamps) and len(set(stamps)) == 3
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(began)) <= stamps[0]


def test_logs_follow_a_run_of_another_process_also_over_its_death(project: Project) -> None:
    before = project.run_ids()
    process = project.start("--config", "configs/a.yaml", "--workflow", "workflows.long")
    wait_for(lambda: project.run_ids() != before, 60)
    wait_for(lambda: any(line["event"] == "start" for line in project.journal()), 60)
    run_id = project.run_ids()[-1]
    reader = project.start("logs", "-f", run_id, program="mirage")
    assert reader.stdout is not None
    assert reader.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    late = project.start("logs", "-f", run_id, program="mirage")  # while nobody follows the run
    assert late.stdout is not None
    assert late.stdout.readline() == "begun\n"
    assert {"run_id": run_id, "status": "unfinished"} in project.asked("ls")["runs"]
    adopter = project.start("recover", run_id, program="mirage")
    later = project.start("logs", "-f", run_id, program="mirage")  # while another process adopts it
    whole = "".join(f"{number}\n" for number in range(60))
    for each, rest in ((reader, whole), (late, whole), (later, "begun\n" + whole)):
        assert each.stdout is not None
        out = each.stdout.read()  # not by `communicate`, which passes over what is buffered already
        assert (project.ended(each, 60)[1:]) == ("", 0)
        assert out == rest
    assert project.ended(adopter)[2] == 0
