"""Large files: written by some and hashed behind them, copied in the kernel or by hand, and taken up where a network broke."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import by_hand, copying_out
from orchestrator.digest import of_bytes
from orchestrator.errors import StoreError
from orchestrator.store import following, scattered
from orchestrator.store.folder import FolderStore
from tests.store_tools import (
    FINE,
    REFUSED,
    check_store,
    collect,
    in_child,
    injected,
    mounted,
    needs_root,
    staged,
)

SIZE = following.LARGE + 12345
EXTENT = 1 << 20


@pytest.fixture
def data() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


def test_extents_may_come_in_any_order(target: int, data: bytes) -> None:
    follower = following.Follower(target, SIZE, EXTENT)
    starts = [*range(0, SIZE, EXTENT)]

    def write(mine: list[int]) -> None:
        for start in mine:
            end = min(start + EXTENT, SIZE)
            for piece in range(start, end, 300_000):
                until = min(piece + 300_000, end)
                following.write_at(target, data[piece:until], piece)
                follower.came(until)

    threads = [threading.Thread(target=write, args=(starts[::-1][part::3],)) for part in range(3)]
    for thread in threads:
        thread.start()
    heard: list[int] = []
    assert follower.digest(heard.append) == of_bytes(data)
    assert sum(heard) == SIZE
    for thread in threads:
        thread.join()


def test_who_fails_ends_it_for_all(target: int, data: bytes) -> None:
    follower = following.Follower(target, SIZE, EXTENT)
    following.write_at(target, data[:EXTENT], 0)
    follower.came(EXTENT)
    threading.Timer(0.1, follower.fail, [StoreError("the network is gone")]).start()
    with pytest.raises(StoreError, match="network is gone"):
        follower.digest()
    with pytest.raises(StoreError, match="another part") as told:
        follower.came(2 * EXTENT)
    assert "network is gone" in str(told.value.__cause__)


@pytest.mark.parametrize("kernel", ["all of it", "half of it", "nothing"])
def test_a_copy_is_whole_whatever_the_kernel_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: int, data: bytes, kernel: str
) -> None:
    (tmp_path / "source").write_bytes(data)
    real, calls = os.copy_file_range, 0

    def copy(source: int, sink: int, size: int, *places: int | None) -> int:
        nonlocal calls
        calls += 1
        if kernel == "nothing" or calls > 1:
            raise OSError(18, "Invalid cross-device link")
        return real(source, sink, size // 2, *places)

    if kernel != "all of it":
        monkeypatch.setattr(os, "copy_file_range", copy)
    with (tmp_path / "source").open("rb", buffering=0) as source:
        assert following.copied(source.fileno(), target, SIZE) == of_bytes(data)
        assert source.tell() == SIZE, "progress is told by its position"
    assert (tmp_path / "target").read_bytes() == data


def test_a_source_that_becomes_shorter_is_told(tmp_path: Path, target: int, data: bytes) -> None:
    (tmp_path / "source").write_bytes(data)
    with (
        (tmp_path / "source").open("rb", buffering=0) as source,
        pytest.raises(following.Unreadable, match="shorter"),
    ):
        following.copied(source.fileno(), target, SIZE + 1)


def test_a_large_file_is_added_and_copied_out(store: FolderStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    made = by_hand.add(store, tmp_path / "file", kind="dataset", name="d", version=None)
    assert check_store(Path(store.location)) == 3
    copying_out.copy_out(store, made, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    (kept,) = (
        path
        for path in (Path(store.location) / "blobs").rglob("*")
        if path.is_file() and path.stat().st_size == SIZE
    )
    kept.chmod(0o644)
    with kept.open("r+b") as sink:
        sink.seek(SIZE - 1)
        sink.write(bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match="damaged"):
        copying_out.copy_out(store, made, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_holes_stay_holes(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with (tmp_path / "d" / "file").open("wb") as sink:
        sink.seek(4 * SIZE)
        sink.write(b"end")
    (entry,) = collect(store, tmp_path / "d")
    assert entry.digest is not None
    assert store.blob_path(entry.digest).stat().st_blocks * 512 < SIZE


@pytest.mark.parametrize("fault", ["copy_file_range:error=EIO:when=1", "preadv2:error=EIO:when=2"])
def test_a_failing_disk_leaves_nothing_behind(
    store: FolderStore, tmp_path: Path, data: bytes, fault: str
) -> None:
    needs_root()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(data)
    end, met = injected(lambda: collect(store, tmp_path / "d"), fault, tmp_path / "trace")
    assert met
    if fault.startswith("preadv2"):
        assert end == REFUSED
        assert check_store(Path(store.location)) == 0
    else:
        assert end == 0, "what the kernel cannot copy is read and written"
        assert check_store(Path(store.location)) == 1
    assert staged(Path(store.location)) == []


def test_a_full_disk_is_told_as_one(tmp_path: Path, data: bytes) -> None:
    needs_root()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(data)
    with mounted(tmp_path / "small", "size=6m") as place:
        small = FolderStore.open_at(place / "store")
        with pytest.raises(StoreError, match="No space left"):
            collect(small, tmp_path / "d")
        assert staged(place / "store") == []


@pytest.mark.parametrize("way", ["in the kernel", "by hand"])
def test_what_is_no_data_takes_no_room(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Holes, at the begin, between and at the end, and room that was only reserved."""
    if way == "by hand":
        monkeypatch.setattr(following, "_in_kernel", lambda *_: 0)
    part, size = os.urandom(EXTENT), 24 * EXTENT
    path, whole = tmp_path / "d" / "file", bytearray(size)
    path.parent.mkdir()
    with path.open("wb") as sink:
        for at in (2, 9, 10):
            os.pwrite(sink.fileno(), part, at * EXTENT)
            whole[at * EXTENT : (at + 1) * EXTENT] = part
        os.posix_fallocate(sink.fileno(), 12 * EXTENT, 6 * EXTENT)
        sink.truncate(size)
    digest = of_bytes(bytes(whole))  # reading it would make data of what was reserved
    assert [each.digest for each in collect(store, path.parent)] == [digest]
    with store.open(digest) as blob:
        assert of_bytes(blob.read()) == digest
        assert os.fstat(blob.fileno()).st_blocks * 512 <= 4 * EXTENT


@pytest.mark.parametrize("hole", [0, 20])
def test_how_far_a_copy_is_can_be_seen_from_the_source(
    target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hole: int
) -> None:
    """For who tells the progress: the position in the source only grows, and ends at its end."""
    seen: list[int] = []
    copy = following._in_kernel
    with (tmp_path / "source").open("w+b", buffering=0) as source:
        source.write(os.urandom(40 * EXTENT))
        source.truncate((40 + hole) * EXTENT)
        source.seek(0)

        def watched(*words: int) -> int:
            seen.append(os.lseek(source.fileno(), 0, os.SEEK_CUR))
            return copy(*words)

        monkeypatch.setattr(following, "_in_kernel", watched)
        following.copied(source.fileno(), target, (40 + hole) * EXTENT)
        seen.append(source.tell())
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == (40 + hole) * EXTENT
    assert 0 < seen[1] < 40 * EXTENT


def test_what_was_said_to_be_a_hole_and_is_not_is_copied(
    target: int, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenZFS did that for files that had just been written (openzfs/zfs, issue 15526)."""
    (tmp_path / "source").write_bytes(data)
    seek = os.lseek
    monkeypatch.setattr(
        os,
        "lseek",
        lambda descriptor, at, how: (
            seek(descriptor, 0, os.SEEK_END) if how == os.SEEK_DATA else seek(descriptor, at, how)
        ),
    )
    with (tmp_path / "source").open("rb", buffering=0) as source:
        assert following.copied(source.fileno(), target, SIZE) == of_bytes(data)


def _interrupted(seconds: float, again: float) -> list[int]:
    """SIGALRM raises KeyboardInterrupt after so many seconds, and once more; how often it has."""
    heard: list[int] = []

    def interrupt(number: int, _: object) -> None:
        heard.append(number)
        if len(heard) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
    return heard


def test_a_copy_that_was_interrupted_twice_writes_to_no_other_file(
    store: FolderStore, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time while it waits for a slow source, the second while it waits for the thread that reads it."""
    (tmp_path / "file").write_bytes(data)
    before, read = signal.getsignal(signal.SIGALRM), os.preadv
    reading = os.open(tmp_path / "file", os.O_RDONLY)

    def slowly(descriptor: int, rooms: list[memoryview], at: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1)
        return read(descriptor, rooms, at)

    monkeypatch.setattr(following, "_in_kernel", lambda *_: 0)
    monkeypatch.setattr(os, "preadv", slowly)
    heard = _interrupted(0.2, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt), store.intake() as intake:
            intake.add(reading, SIZE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(heard) == 2
    others = [os.open(tmp_path / f"other-{number}", os.O_RDWR | os.O_CREAT) for number in range(4)]
    time.sleep(1.2)
    assert [os.fstat(other).st_size for other in others] == [0] * 4
    for each in (*others, reading):
        os.close(each)
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 0


def test_a_copy_that_is_interrupted_as_its_thread_begins_ends_it(
    store: FolderStore, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Thread(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt  # where it waits for the thread, a signal's handler runs just so

    (tmp_path / "file").write_bytes(data)
    before = threading.active_count()
    with monkeypatch.context() as patch, (tmp_path / "file").open("rb") as source:
        patch.setattr(threading, "Thread", Thread)
        with pytest.raises(KeyboardInterrupt), store.intake() as intake:
            intake.add(source.fileno(), SIZE)
    assert threading.active_count() == before
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 0


def test_a_file_that_is_written_in_places_is_discarded_where_it_fails(
    store: FolderStore, data: bytes
) -> None:
    with (
        suppress(StoreError),
        store.scattered(of_bytes(data), SIZE, EXTENT) as file,
    ):
        file.write_at(data[:EXTENT], 0)
        file.fail(StoreError("gone"))
        file.follow(lambda size: None)
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 0


def _begun(store: FolderStore, data: bytes, *places: tuple[int, int]) -> None:
    """What a process leaves that could not go on after it had written these places."""
    with store.scattered(of_bytes(data), SIZE, EXTENT) as file:
        for start, end in places:
            file.write_at(data[start:end], start)
        file.spare()


def _gone_on(store: FolderStore, data: bytes, wanted: list[tuple[int, int]] | None) -> bool:
    """Write what is missing, which is what was ``wanted``; whether it was whole and is a blob now."""
    digest = of_bytes(data)
    with store.scattered(digest, SIZE, EXTENT) as file:
        missing = list(file.missing())
        assert wanted is None or missing == wanted
        for start, end in missing:
            file.write_at(data[start:end], start)
        whole = file.follow(lambda size: None) == digest
        if whole:
            file.commit()
    return whole


_EXTENTS = [(start, min(start + EXTENT, SIZE)) for start in range(0, SIZE, EXTENT)]


def test_a_file_that_is_written_in_places_is_gone_on_with(store: FolderStore, data: bytes) -> None:
    _begun(store, data, _EXTENTS[0], _EXTENTS[2], _EXTENTS[-1])
    assert staged(Path(store.location)) == [f"{of_bytes(data)[7:]}.part"]
    assert not store.has(of_bytes(data))
    assert _gone_on(store, data, [_EXTENTS[1], *_EXTENTS[3:-1]])
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 1


def test_of_two_at_once_one_goes_on_and_both_succeed(store: FolderStore, data: bytes) -> None:
    _begun(store, data, _EXTENTS[0])
    with store.scattered(of_bytes(data), SIZE, EXTENT) as first:
        assert first.resumed
        assert _gone_on(store, data, _EXTENTS)
        assert list(first.missing()) == _EXTENTS[1:]
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda part: os.truncate(part, SIZE + 40),
        lambda part: os.truncate(part, 0),
        lambda part: following.write_at(part, b"another format..", SIZE),
        lambda part: following.write_at(part, (2 * EXTENT).to_bytes(8, "little"), SIZE + 16),
        lambda part: following.write_at(part, b"\xff" * 8, SIZE + 24),
        lambda part: os.fchmod(part, 0o666),
        lambda part: os.fchown(part, 12345, 12345),
    ],
    ids=["cut", "empty", "format", "extents", "beyond", "open to others", "of another user"],
)
def test_what_is_no_part_of_ours_is_not_gone_on_with(
    store: FolderStore, data: bytes, harm: Callable[[int], object]
) -> None:
    needs_root()
    _begun(store, data, _EXTENTS[0])
    part = os.open(Path(store.location) / "staging" / f"{of_bytes(data)[7:]}.part", os.O_RDWR)
    harm(part)
    os.close(part)
    harmed = os.listdir(Path(store.location) / "staging")
    assert _gone_on(store, data, _EXTENTS)
    assert check_store(Path(store.location)) == 1
    assert set(staged(Path(store.location))) <= set(harmed)


def test_a_link_in_the_place_of_a_part_is_not_followed(
    store: FolderStore, data: bytes, tmp_path: Path
) -> None:
    (tmp_path / "else").write_bytes(b"mine")
    (Path(store.location) / "staging" / f"{of_bytes(data)[7:]}.part").symlink_to(tmp_path / "else")
    assert _gone_on(store, data, _EXTENTS)
    assert (tmp_path / "else").read_bytes() == b"mine"


def test_what_is_made_durable_when_it_is_interrupted_is_gone_on_with(
    store: FolderStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with store.scattered(of_bytes(data), SIZE, EXTENT) as file:
        for start, end in _EXTENTS:
            file.write_at(data[start:end], start)
        file.follow(lambda size: None)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "fsync", interrupted)
            file.commit()
    assert _gone_on(store, data, [])
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 1


def test_a_part_that_was_sealed_and_not_named_goes(store: FolderStore, data: bytes, tmp_path: Path) -> None:
    """Its writer died just then. Not as root, who may open it."""
    needs_root()

    def other() -> None:
        mine = FolderStore.open_at(tmp_path / "mine")
        _begun(mine, data, _EXTENTS[0])
        (part,) = (Path(mine.location) / "staging").iterdir()
        os.truncate(part, SIZE)
        part.chmod(0o444)
        assert _gone_on(mine, data, _EXTENTS)
        assert staged(Path(mine.location)) == [] and check_store(Path(mine.location)) == 1

    with mounted(tmp_path / "open", "mode=0777") as place:
        tmp_path = place
        for folder in place.parents:
            folder.chmod(folder.stat().st_mode | 0o111)
        assert in_child(other, nobody=True) == FINE


def test_where_a_lock_holds_on_one_machine_alone_each_has_its_own_part(
    store: FolderStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network file systems, whose major number is 0; the other machine is known by its kernel's boot."""
    monkeypatch.setattr(os, "major", lambda device: 0)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    boots = iter([b"11111111", b"22222222"])
    real = open

    def booted(path: Any, *more: Any, **named: Any) -> Any:
        return io.BytesIO(next(boots)) if str(path).endswith("boot_id") else real(path, *more, **named)

    monkeypatch.setattr(scattered, "open", booted, raising=False)
    _begun(store, data, _EXTENTS[0])
    assert _gone_on(store, data, _EXTENTS), "nothing was taken from the other machine"
    assert staged(Path(store.location)) == [f"{of_bytes(data)[7:]}.11111111.part"]
    assert store.sweep(-60.0, pretend=False)[0] == 1


def test_where_nothing_can_be_locked_nothing_is_left(
    store: FolderStore, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    assert _gone_on(store, data, _EXTENTS)
    assert staged(Path(store.location)) == [] and check_store(Path(store.location)) == 1


def test_a_part_that_nobody_goes_on_with_is_swept(store: FolderStore, data: bytes) -> None:
    _begun(store, data, _EXTENTS[0])
    assert store.sweep(3600.0, pretend=False) == (0, 0)
    assert store.sweep(-60.0, pretend=False)[0] == 1
    assert staged(Path(store.location)) == []
