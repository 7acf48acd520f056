"""The log that is kept: head and tail to the byte, and a count of what fell out that is always exact."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import logtimes
from orchestrator.logreading import LiveLog
from orchestrator.logspool import LogSpool
from orchestrator.logtimes import Printer
from tests.store_tools import mounted, needs_root, open_descriptors

MARK = re.compile(rb"\n\[mirage: (\d+) bytes of log were dropped here\]\n")


def _expected(data: bytes, head: int, tail: int) -> tuple[bytes, int]:
    """What must be in the file, and how many bytes are not."""
    if len(data) <= head + tail:
        return data, 0
    lost = len(data) - head - tail
    mark = f"\n[mirage: {lost} bytes of log were dropped here]\n".encode()
    return data[:head] + mark + data[len(data) - tail :], lost


def _spool(path: Path, pieces: list[bytes], head: int, tail: int) -> LogSpool:
    with LogSpool(path, head=head, tail=tail) as spool:
        for piece in pieces:
            spool.write(piece)
    return spool


def _bytes(count: int) -> bytes:
    return (b"0123456789abcdefghijklmnopqrstuvwxyz" * (count // 36 + 1))[:count]


@given(
    st.lists(st.integers(0, 40), max_size=40),
    st.integers(1, 50),
    st.integers(1, 50),
)
def test_head_tail_and_count_are_exact(sizes: list[int], head: int, tail: int) -> None:
    data = _bytes(sum(sizes))
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        spool = _spool(Path(name) / "log", pieces, head, tail)
        content, lost = _expected(data, head, tail)
        assert (Path(name) / "log").read_bytes() == content
        assert (spool.total, spool.kept, spool.dropped) == (len(data), len(data) - lost, lost)
        assert sorted(path.name for path in Path(name).iterdir()) == ["log", "log.times"]


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 149, 150, 151, 199, 200, 201, 250, 251, 10_000])
def test_at_the_borders(tmp_path: Path, count: int) -> None:
    data = _bytes(count)
    spool = _spool(tmp_path / "log", [data], 100, 50)
    content, lost = _expected(data, 100, 50)
    assert (tmp_path / "log").read_bytes() == content
    assert spool.dropped == lost


def test_one_write_of_any_size_stays_within_the_cap_on_disk(tmp_path: Path) -> None:
    with LogSpool(tmp_path / "log", head=1000, tail=500) as spool:
        for _ in range(10):
            spool.write(bytes(100_000))
            sizes = [path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".times"]
            assert sum(sizes) <= 1000 + 2 * 500


def test_what_an_earlier_process_left_does_not_mix_in(tmp_path: Path) -> None:
    """A dead process's spool and its successor's, in one folder, as recover.py has them."""
    dead = LogSpool(tmp_path / "log", head=10, tail=10)
    dead.write(b"D" * 100)
    assert len(list(tmp_path.iterdir())) == 6
    data = _bytes(25)
    spool = _spool(tmp_path / "log.adopted", [data], 10, 10)
    assert (tmp_path / "log.adopted").read_bytes() == _expected(data, 10, 10)[0]
    assert spool.dropped == 5
    again = _spool(tmp_path / "log", [data], 10, 10)
    assert (tmp_path / "log").read_bytes() == _expected(data, 10, 10)[0]
    assert again.dropped == 5
    dead.close()


def test_a_late_write_is_counted_as_dropped(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "log", [b"in time"], 100, 100)
    spool.write(b"too late")
    spool.close()
    assert (tmp_path / "log").read_bytes() == b"in time"
    assert (spool.total, spool.kept, spool.dropped) == (15, 7, 8)


def test_closing_beside_a_writer_is_safe(tmp_path: Path) -> None:
    """The reader thread may outlive its 10 seconds of patience: nothing may go into somebody else's file."""
    for turn in range(30):
        path = tmp_path / f"log{turn}"
        spool = LogSpool(path, head=100, tail=1000)
        started = threading.Event()

        def write(spool: LogSpool = spool, started: threading.Event = started) -> None:
            for _ in range(3000):
                spool.write(b"0123456789")
                started.set()

        writer = threading.Thread(target=write)
        writer.start()
        started.wait()
        spool.close()
        other = path.with_suffix(".other")
        with other.open("wb") as sink:
            writer.join()
            sink.write(b"mine")
        assert other.read_bytes() == b"mine"
        kept = MARK.sub(b"", path.read_bytes())
        assert len(kept) == spool.kept
        assert spool.total == 30_000


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = open_descriptors()
    _spool(tmp_path / "log", [bytes(1000)], 10, 10)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "head,tail,fits",
    [
        (4 << 20, 1 << 20, False),  # the head does not fit
        (512 << 10, 2 << 20, False),  # the tail does not fit
        (350 << 10, 350 << 10, False),  # a second piece of the tail does not fit
        (400 << 10, 300 << 10, True),  # all fits, joined in the room of its pieces
        (100 << 10, 200 << 10, True),
    ],
)
@pytest.mark.parametrize("piece", [4096, 100_000, 1 << 20])
def test_a_full_disk_stops_the_keeping_and_the_count_stays_exact(
    tmp_path: Path, head: int, tail: int, fits: bool, piece: int
) -> None:
    needs_root()
    data = _bytes(3 << 20)
    with mounted(tmp_path / "disk", "size=1m") as disk:
        with LogSpool(disk / "log", head=head, tail=tail) as spool:
            for at in range(0, len(data), piece):
                spool.write(data[at : at + piece])
        content = (disk / "log").read_bytes()
        assert sorted(path.name for path in disk.iterdir()) == ["log", "log.times"]
        assert spool.total == len(data)
        assert spool.dropped == len(data) - spool.kept
        if fits:
            assert spool.problem is None
            assert content == _expected(data, head, tail)[0]
        else:
            assert spool.problem == "No space left on device"
            assert spool.kept >= min(head + tail, 1 << 20) - (64 << 10), "what was on disk was thrown away"
            mark = MARK.search(content)
            assert data.startswith(content[: mark.start()] if mark else content)
            if mark:
                assert int(mark[1]) <= spool.dropped  # the mark itself took room of the tail
                assert len(content) - len(mark[0]) == spool.kept
            else:
                assert len(content) == spool.kept


def _streams(path: Path) -> dict[str, bytes]:
    """What each stream kept, by the times beside the log."""
    found = {}
    for stream in ("stdout", "stderr"):
        printer = Printer(logtimes.read(logtimes.beside(path)), stream=stream)
        found[stream] = MARK.sub(b"", printer.show(path.read_bytes()))
    return found


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.integers(1, 30)), max_size=40),
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 30),
)
def test_each_stream_is_told_apart_to_the_byte(
    writes: list[tuple[str, int]], head: int, tail: int, marks: int
) -> None:
    """stdout writes capitals, stderr small letters; what is kept of each is what is kept of the log."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        path = Path(name) / "log"
        total = b""
        with LogSpool(path, head=head, tail=tail, marks=marks) as spool:
            for stream, count in writes:
                data = (b"A" if stream == "stdout" else b"a") * count
                total += data
                spool.write(data, stream)
        content = MARK.sub(b"", path.read_bytes())
        assert len(content) == spool.kept == len(total) - spool.dropped
        assert spool.dropped == 0 or (
            (match := MARK.search(path.read_bytes())) and int(match[1]) == spool.dropped
        )
        found = _streams(path)
        assert found["stdout"] == bytes(byte for byte in content if byte == ord("A"))
        assert found["stderr"] == bytes(byte for byte in content if byte == ord("a"))


def test_times_stand_before_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_764_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    with LogSpool(tmp_path / "log") as spool:
        spool.write(b"one\ntw", "stdout")
        now += 1.5
        spool.write(b"o\nthree\n", "stdout")
        spool.write(b"bad\n", "stderr")
    printer = Printer(logtimes.read(tmp_path / "log.times"), times=True)
    shown = b"".join(map(printer.show, (b"one", b"\ntwo\nthr", b"ee\nbad\n")))
    assert shown.decode().splitlines() == [
        "2025-11-24T16:00:00.000Z one",
        "2025-11-24T16:00:00.000Z two",
        "2025-11-24T16:00:01.500Z three",
        "2025-11-24T16:00:01.500Z bad",
    ]


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_a_log_that_grows_is_read_over_its_rotations(tmp_path: Path, every: int) -> None:
    """Read often enough nothing is missed; read too seldom, the number of bytes that went by is told."""
    live = LiveLog(tmp_path)
    shown, total = b"", b""
    spool = LogSpool(tmp_path / "log", head=100, tail=50)
    for turn in range(60):
        data = _bytes(17)
        total += data
        spool.write(data, "stderr")
        if turn % every == 0:
            shown += b"".join(live.read())
    shown += b"".join(live.read())
    spool.close()
    shown += b"".join(live.read())
    gaps = [int(each) for each in re.findall(rb"\n\[mirage: (\d+) bytes went by unread here\]\n", shown)]
    plain = re.sub(rb"\n\[mirage: \d+ bytes went by unread here\]\n", b"", shown)
    assert len(plain) + sum(gaps) == len(total)
    assert total.endswith(re.split(rb"unread here\]\n", shown)[-1])
    assert bool(gaps) == (every > 3)
    printer = Printer(live.marks(), stream="stdout")
    assert b"0" not in re.sub(rb"\n\[mirage: \d+ bytes", b"", printer.show(shown))


def test_an_adopters_log_is_read_from_where_the_dead_ones_ends(tmp_path: Path) -> None:
    live, data = LiveLog(tmp_path), _bytes(3000)
    dead = LogSpool(tmp_path / "log")
    dead.write(data[:1000])
    shown = b"".join(live.read())
    adopter = LogSpool(tmp_path / "log.adopted")
    adopter.write(data[:500])
    shown += b"".join(live.read())
    adopter.write(data[500:])
    shown += b"".join(live.read())
    adopter.close()
    dead.close()
    assert shown + b"".join(live.read()) == data
