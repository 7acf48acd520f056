"""A server that hangs in the middle, by SIGSTOP: told in bounded time, what is here stays, and after SIGCONT it goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import by_hand
from orchestrator.artifacts.version import versions
from orchestrator.digest import Digest
from orchestrator.store.bucket.aws import Timeouts
from orchestrator.store.bucket.failures import Unreachable
from orchestrator.store.bucket.wire import Answer
from orchestrator.store.retry import Patience
from orchestrator.store.s3 import S3Store
from tests import s3_tools
from tests.run_tools import wait_for
from tests.s3_tools import Server, credentials, environment, store_at
from tests.store_tools import Heard, whole

MIB = 1 << 20
SOON = Timeouts(2.0, 3.0)
HASTY = Patience(tries=8, first_wait=0.1, longest_wait=0.5, longest=3.5)
# Seconds: the patience, the last silence that began within it, and a machine with other things to do.
BOUND = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own, since it is stopped."""
    with s3_tools.seaweedfs(tmp_path_factory.mktemp("hanging")) as server:
        with environment(credentials(server.endpoint)):
            yield server
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def bucket(server: Server) -> str:
    return server.new_bucket()


def opened(server: Server, bucket: str, cache: Path) -> S3Store:
    """The store as a new process opens it."""
    store = store_at(server.place(bucket), cache, patience=HASTY, timeouts=SOON)
    store.promises()
    return store


@contextmanager
def hangs(server: Server) -> Iterator[Callable[[object], None]]:
    """What is done in this ends with the error for a silent server, in time. Gives what stops it, at its first call."""
    began: list[float] = []

    def stop(*_: object) -> None:
        if not began:
            began.append(time.monotonic())
            os.kill(server.pid, signal.SIGSTOP)
            wait_for(
                lambda: _stopped(server.pid), 10
            )  # threads that are in the kernel stop when they leave it

    try:
        with pytest.raises(Unreachable, match="does not answer") as told:
            yield stop
        assert began and time.monotonic() - began[0] < BOUND
        # what cannot be sent ends as a connection that broke
        assert told.value.exit_code == 7
        assert told.value.message.endswith(("silence on the connection", "the connection broke"))
    finally:
        os.kill(server.pid, signal.SIGCONT)


def _stopped(pid: int) -> bool:
    """Whether every thread is (proc(5): the state comes after the name in brackets)."""
    states = [
        each.read_text().rpartition(")")[2].split()[0] for each in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


class Watching(Heard):
    """A Reporter that calls somebody with each step of a progress."""

    def __init__(self, action: Callable[[object], None]) -> None:
        super().__init__()
        self._action = action

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None:
        if done:
            self._action(done)


def _kept(store: S3Store, count: int, size: int) -> list[Digest]:
    return [store.put(os.urandom(size)) for _ in range(count)]


def test_in_the_middle_of_a_push(server: Server, bucket: str, tmp_path: Path) -> None:
    store = opened(server, bucket, tmp_path / "cache")
    digests = _kept(store, 192, MIB)
    with hangs(server) as stop:
        store.watcher = Watching(stop)
        store.create("refs/dataset/d/v1.json", b"names them")
    assert all(store.local.has(digest) for digest in digests)
    left = store.waiting()
    assert 0 < left <= len(digests)
    store.close()
    again = opened(server, bucket, tmp_path / "cache")
    assert again.waiting() == left, "the next process goes on with it"
    assert again.read("refs/dataset/d/v1.json") is None, "visible before it was whole"
    assert again.create("refs/dataset/d/v1.json", b"names them")
    other = opened(server, bucket, tmp_path / "other")
    other.fetch(digests)
    assert all(other.local.has(digest) for digest in digests)


def test_in_the_middle_of_a_pull(server: Server, bucket: str, tmp_path: Path) -> None:
    store = opened(server, bucket, tmp_path / "cache")
    digests = _kept(store, 40, MIB)
    store.push_owed()
    other = opened(server, bucket, tmp_path / "other")
    with hangs(server) as stop:
        other.fetch(digests, stop)
    came = [digest for digest in digests if other.local.has(digest)]
    assert 0 < len(came) < len(digests), "what came before it stays"
    again = opened(server, bucket, tmp_path / "other")
    fetched: list[int] = []
    again.fetch(digests, fetched.append)
    assert sum(fetched) == (len(digests) - len(came)) * MIB, "and is not fetched again"


def test_in_the_middle_of_a_publish(
    server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the version's request already, and carries it out when nobody waits any more."""
    store = opened(server, bucket, tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for number in range(8):
        (tmp_path / "data" / str(number)).write_bytes(os.urandom(MIB))

    def publish(store: S3Store) -> str:
        return str(by_hand.add(store, tmp_path / "data", kind="dataset", name="d", version=None).ref)

    with hangs(server) as stop:
        send = store.bucket.send

        def first(method: str, key: str, *more: Any, **named: Any) -> Answer:
            if (method, key) == ("PUT", "refs/dataset/d/v1.json"):
                stop(key)
            return send(method, key, *more, **named)

        monkeypatch.setattr(store.bucket, "send", first)
        publish(store)
    store.close()
    again = opened(server, bucket, tmp_path / "cache")
    assert publish(again) == "dataset:d:v1"
    other = opened(server, bucket, tmp_path / "other")
    assert versions(other, "dataset", "d") == ["v1"]
    assert whole(other, "dataset:d:v1")
