"""Work on a store behind a faulty network, and the look at what it left: used briefly, and at length in stress."""

from __future__ import annotations

import multiprocessing
import os
import random
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.digest import Digest, of_bytes, of_file, parse_digest
from orchestrator.store.bucket.aws import Timeouts
from orchestrator.store.bucket.place import Place
from tests.chaos import chaos
from tests.s3_tools import Server, shared_bucket, store_at

THREADS = 8
SHORT = Timeouts(1.0, 1.0)


def survive(server: Server, tmp: Path, operations: int, *, large: int) -> dict[str, int]:
    """So many operations through the proxy from some threads; everything that was acknowledged is there, and whole.

    Gives how often each fault was met. ``large`` blobs go in parts.
    """
    bucket, prefix = shared_bucket(server, tmp / "cache"), secrets.token_hex(6)
    with chaos(server.endpoint, 0.0) as proxy:
        # what the bucket promises is known; the probe of this address would meet the faults otherwise
        _probed(server.place(bucket, prefix, proxy.endpoint), tmp / "cache")
        proxy.share = 0.1
        stores = [
            store_at(server.place(bucket, prefix, proxy.endpoint), tmp / "cache", timeouts=SHORT)
            for _ in range(THREADS)
        ]
        acknowledged: dict[str, bytes] = {}
        lost: list[str] = []
        lock = threading.Lock()

        def work(number: int) -> None:
            store, chance = stores[number], random.Random(number)
            mine: list[tuple[str, bytes]] = []
            for turn in range(operations // THREADS):
                kind = chance.random()
                if kind < 0.5 or not mine:
                    key, data = (
                        f"runs/2026-11/{number}-{turn}/record.json",
                        os.urandom(chance.randrange(1, 3000)),
                    )
                    digest = store.put(data)
                    content = digest.encode()
                    if store.create(key, content):
                        mine.append((key, data))
                        with lock:
                            acknowledged[key] = content
                    else:
                        lost.append(key)
                elif kind < 0.7:
                    key, data = chance.choice(mine)
                    assert store.read(key) == of_bytes(data).encode(), key
                elif kind < 0.8:
                    key, data = chance.choice(mine)
                    assert not store.create(key, b"another"), key
                elif kind < 0.97:
                    _, data = chance.choice(mine)
                    store.local.blob_path(of_bytes(data)).unlink(missing_ok=True)
                    with store.open(of_bytes(data)) as source:
                        assert source.read() == data
                else:
                    found = set(store.keys("runs/"))
                    assert {key for key, _ in mine} <= found

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
        for number in range(large):
            path = tmp / "large"
            path.write_bytes(os.urandom(1 << 20) * (65 + number))
            with path.open("rb") as made:
                digest = of_file(made)
            stores[0].put_file(path, digest=digest, link=False)
            stores[0].push_owed()
            stores[0].local.blob_path(digest).unlink()
            with stores[0].open(digest) as source:
                assert of_file(source) == digest
        met = dict(proxy.met)
    assert lost == [], "created by nobody else, and told to be so"
    direct = store_at(server.place(bucket, prefix), tmp / "other")
    assert set(direct.keys("runs/")) == set(acknowledged)
    direct.fetch([_digest(content) for content in acknowledged.values()])
    for key, content in acknowledged.items():
        assert direct.read(key) == content, key
        with direct.open(_digest(content)) as source:
            assert of_file(source) == _digest(content)
    direct.sweep(older_than=-60)
    assert list(direct.bucket.uploads("blobs/")) == []
    return met


def _digest(content: bytes) -> Digest:
    return parse_digest(content.decode())


def _probed(place: Place, cache: Path) -> None:
    store_at(place, cache).promises()


def one_winner(server: Server, tmp: Path, processes: int, rounds: int) -> None:
    """In each round all processes create one key at the same moment, each from a machine's cache of its own."""
    bucket, prefix = shared_bucket(server, tmp / "probed"), secrets.token_hex(6)
    place = server.place(bucket, prefix)
    store_at(place, tmp / "probed")
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(processes), fork.SimpleQueue()

    def work(number: int) -> None:
        shared_bucket(server, tmp / str(number))
        store = store_at(place, tmp / str(number))
        won = []
        for turn in range(rounds):
            gate.wait()
            if store.create(f"refs/dataset/race/v{turn}.json", f"{number}".encode()):
                won.append(turn)
            assert store.read(f"refs/dataset/race/v{turn}.json") is not None, "told to exist, and does not"
        results.put((number, won))
        os._exit(0)

    workers = [fork.Process(target=work, args=(number,)) for number in range(processes)]
    for worker in workers:
        worker.start()
    winners: dict[int, list[int]] = {}
    for number, won in (results.get() for _ in workers):
        for turn in won:
            winners.setdefault(turn, []).append(number)
    for worker in workers:
        worker.join()
    assert sorted(winners) == list(range(rounds)), "a round without a winner"
    store = store_at(place, tmp / "probed")
    for turn, won in winners.items():
        assert len(won) == 1, f"round {turn} has the winners {won}"
        assert store.read(f"refs/dataset/race/v{turn}.json") == str(won[0]).encode()
