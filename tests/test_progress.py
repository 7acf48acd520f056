"""Progress: bars on a terminal, lines elsewhere, JSON events; none of it stops or slows a run."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.terminal import TerminalReporter
from orchestrator.progress import Meter
from tests.run_tools import BIN, Project

WORKFLOW = """\
import sys, time
from mirage import artifact
print("on", flush=True)
artifact.Dataset.save({"n": 1}, name="data")
sys.stderr.write("half a line, \\xe9")
sys.stderr.flush()
time.sleep(0.3)
print(" and the rest", file=sys.stderr, flush=True)
"""
LARGE = """\
import sys
from pathlib import Path
from mirage import artifact
path = Path("/mirage/out/large.bin")
with path.open("wb") as sink:
    for n in range(120):
        sink.write(bytes([n % 251]) * (1 << 20))
print("written", flush=True)
artifact.File.save(path, name="large")
print("saved", flush=True)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("progress"),
        WORKFLOW + f"# {os.urandom(8).hex()}\n",  # no engine has its image already
        files={"workflows/large.py": LARGE, "configs/bad.yaml": "training: {lr: 1, lr: 2}\n"},
    )


SOON = {"MIRAGE_TEST_PROGRESS": "0.02", "PYTHONPATH": str(Path(__file__).parent / "killing")}


class Terminal:
    """A program on a terminal of its own; ``read`` is all that it showed so far."""

    def __init__(self, project: Project, *words: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self.process = subprocess.Popen(
            [str(BIN / "mirage-run"), *words],
            cwd=project.folder,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, **SOON},
            start_new_session=True,
        )
        os.close(slave)

    def read(self, seconds: float) -> Iterator[bytes]:
        """What is shown, until the program ends."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            ready, _, _ = select.select([self._master], [], [], 0.2)
            try:
                if ready and (data := os.read(self._master, 65536)):
                    yield data
                elif self.process.poll() is not None:
                    return
            except OSError:  # EIO: nobody has the other side open any more
                return
        raise AssertionError("it did not end")

    def hang_up(self) -> None:
        """Close the terminal under it."""
        os.close(self._master)


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_of_a_run_are_json_lines(project: Project) -> None:
    process = project.start("--config", "configs/a.yaml", "--json", "--json-events")
    out, err, code = project.ended(process)
    assert code == 0
    made, told = json.loads(out), events(err)
    assert all(isinstance(each["time"], float) and each["event"] for each in told)
    run_id = made["run_id"]
    states = [each["state"] for each in told if each["event"] == "state" and each["run"] == run_id]
    assert states == ["created", "running", "succeeded"]
    phases = [each["name"] for each in told if each["event"] == "phase" and each["state"] == "end"]
    assert phases == [
        "snapshot",
        "lock",
        "resolve",
        "image",
        "fetch",
        "start",
        "execute",
        "collect",
        "record",
    ]
    (saved,) = [each for each in told if each["event"] == "saved"]
    assert {"id": saved["id"], "digest": saved["digest"], "size": saved["size"]} == made["outputs"][0]
    steps = {each["step"]: each for each in told if each["event"] == "progress" and each["ended"]}
    data = steps["collect dataset:data"]
    assert data["done"] == data["total"] == made["outputs"][0]["size"]
    assert steps["load the image"]["done"] > 0
    logged = dict.fromkeys(("stdout", "stderr"), "")
    for each in told:
        if each["event"] == "log":
            logged[each["stream"]] += each["text"]
    assert logged == {"stdout": "on\n", "stderr": "half a line, é and the rest\n"}


def test_an_error_is_an_event_too(project: Project) -> None:
    process = project.start("--config", "configs/bad.yaml", "--json-events")
    out, err, code = project.ended(process)
    assert (out, code) == ("", 2)
    last = events(err)[-1]
    assert (last["event"], last["exit_code"]) == ("error", 2) and "lr" in last["message"]


def test_a_bar_on_a_terminal_and_the_log_live(project: Project) -> None:
    """A large save is slow enough for a bar; the workflow's lines come whole, and the bar is gone at the end."""
    terminal = Terminal(project, "--config", "configs/a.yaml", "--workflow", "workflows.large")
    shown = b"".join(terminal.read(120)).decode()
    assert terminal.process.wait(10) == 0
    assert "\nwritten\r\n" in shown.replace("\x1b[K", "") and "saved\r\n" in shown
    bars = re.findall(r"collect file:large  [0-9.]+ MiB of 120.0 MiB  \[[#-]+\] +\d+%", shown)
    assert bars, shown
    last = [_shown(line) for line in shown.split("\r\n")]
    assert not any("collect file" in line for line in last), last
    assert "\x1b[?25l" not in shown, "the cursor is left as it is"


def _shown(line: str) -> str:
    """What stands there at the end, after each return to the line's beginning wiped it."""
    return line.rpartition("\r\x1b[K")[2]


@pytest.mark.parametrize("how", ["stops reading", "hangs up"])
def test_a_terminal_that_is_slow_or_gone_does_not_keep_a_run(project: Project, how: str) -> None:
    terminal = Terminal(project, "--config", "configs/a.yaml", "--workflow", "workflows.large")
    reading = terminal.read(60)
    while b"written" not in next(reading):
        pass
    if how == "hangs up":
        terminal.hang_up()
    assert terminal.process.wait(90) == 0  # it is no session's leader's terminal: nobody sends SIGHUP
    told = project.asked("show", "latest")
    assert (told["status"], len(told["outputs"])) == ("succeeded", 1)
    if how == "stops reading":
        terminal.hang_up()


def test_events_that_nobody_reads_do_not_keep_a_run(project: Project) -> None:
    process = project.start("--config", "configs/a.yaml", "--json-events")
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(60) == 0


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a short step; of a long one a line now and then, and its end."""
    from orchestrator.cli import terminal

    monkeypatch.setattr(terminal, "_LINE_EVERY", 0.3)
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)
    reporter = TerminalReporter(stream)
    with Meter(reporter, "short", 10) as meter:
        meter.add(10)
    with Meter(reporter, "push", 4 << 20) as meter:
        for _ in range(4):
            meter.add(1 << 20)
            time.sleep(0.35)
    terminal.settle()
    lines = stream.buffer.getvalue().decode().splitlines()
    assert 2 <= len(lines) <= 5
    assert lines[-1] == "    push: 4.0 MiB of 4.0 MiB" and not any("short" in line for line in lines)


def test_half_a_line_of_the_workflow_is_not_written_over() -> None:
    class Tty(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    from orchestrator.cli import terminal

    stream = Tty(io.BytesIO(), write_through=True)
    reporter = TerminalReporter(stream)
    reporter.log("stdout", b"epoch 1: ")
    reporter.progress("push", 1, 2)
    reporter.detail("installing")
    reporter.log("stdout", b"done\n")
    reporter.progress("push", 1, 2)
    reporter.log("stdout", b"next\n")
    terminal.settle()
    shown = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert shown.startswith("epoch 1: done\n\r\x1b[K    push  1 B of 2 B") and shown.endswith(
        "\r\x1b[Knext\n"
    )


def test_start_up_loads_nothing_for_it() -> None:
    """Neither bars nor events are imported by a run that shows none."""
    code = (
        "import sys\nsys.argv = ['mirage-run', '--version']\nimport orchestrator.cli.run_command\n"
        "print('orchestrator.cli.bars' in sys.modules, 'orchestrator.resume' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
