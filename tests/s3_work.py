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
from orchestrator.store.retry import Patience
from tests.chaos import chaos
from tests.figures import Counts
from tests.s3_tools import Server, shared_bucket, store_at

THREADS = 8
READERS = 4
SHORT = Timeouts(2.0, 2.0)
PERSISTENT = Patience(tries=30, first_wait=0.01, longest_wait=0.5, longest=600.0)  # on a busy machine too


BUCKETS = "T6 bucket: a faulty network, 8 workers"
NAMES = "T6 bucket: one name by many"


def survive(server: Server, tmp: Path, operations: int, counts: Counts, *, large: int) -> dict[str, int]:
    """So many operations through the proxy from some threads; everything that was acknowledged is there, and whole.

    Gives how often each fault was met. ``large`` blobs go in parts. Harm goes to ``counts``.
    """
    bucket, prefix = shared_bucket(server, tmp / "cache"), secrets.token_hex(6)
    # listings grow with the work: then a hang ends with the proxy's reset, and not with the client's patience
    timeouts = SHORT if operations < 1000 else Timeouts(5.0, 30.0)
    with chaos(server.endpoint, 0.0) as proxy:
        # what the bucket promises is known; the probe of this address would meet the faults otherwise
        _probed(server.place(bucket, prefix, proxy.endpoint), tmp / "cache")
        proxy.share = 0.1
        stores = [
            store_at(
                server.place(bucket, prefix, proxy.endpoint),
                tmp / "cache",
                timeouts=timeouts,
                patience=PERSISTENT,
            )
            for _ in range(THREADS)
        ]
        acknowledged: dict[str, bytes] = {}
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
                        counts.found("lost", f"{key}: created by nobody else, and told to be so")
                elif kind < 0.7:
                    key, data = chance.choice(mine)
                    counts.unless(store.read(key) == of_bytes(data).encode(), "lost", key)
                elif kind < 0.8:
                    key, data = chance.choice(mine)
                    counts.unless(not store.create(key, b"another"), "duplicates", key)
                elif kind < 0.97:
                    key, data = chance.choice(mine)
                    store.local.blob_path(of_bytes(data)).unlink(missing_ok=True)
                    with store.open(of_bytes(data)) as source:
                        counts.unless(source.read() == data, "corrupt", key)
                else:
                    found = set(store.keys("runs/"))
                    counts.unless({key for key, _ in mine} <= found, "lost", "a listing without a key")

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, range(THREADS)))
        # parts take their time on a busy machine
        patient = store_at(server.place(bucket, prefix, proxy.endpoint), tmp / "cache", patience=PERSISTENT)
        for number in range(large):
            path = tmp / "large"
            path.write_bytes(os.urandom(1 << 20) * (65 + number))
            with path.open("rb") as made:
                digest = of_file(made)
            patient.put_file(path, digest=digest, link=False)
            patient.push_owed()
            patient.local.blob_path(digest).unlink()
            with patient.open(digest) as source:
                counts.unless(of_file(source) == digest, "corrupt", f"large {number}")
        met = dict(proxy.met)
    counts.trials += operations
    direct = store_at(server.place(bucket, prefix), tmp / "other")
    counts.unless(set(direct.keys("runs/")) == set(acknowledged), "lost", "keys")
    direct.fetch([_digest(content) for content in acknowledged.values()])
    for key, content in acknowledged.items():
        counts.unless(direct.read(key) == content, "lost", key)
        with direct.open(_digest(content)) as source:
            counts.unless(of_file(source) == _digest(content), "corrupt", key)
    direct.sweep(older_than=-60)
    counts.unless(list(direct.bucket.uploads("blobs/")) == [], "orphans", "an unfinished upload")
    return met


def _digest(content: bytes) -> Digest:
    return parse_digest(content.decode())


def _probed(place: Place, cache: Path) -> None:
    store_at(place, cache).promises()


def one_winner(server: Server, tmp: Path, processes: int, rounds: int, counts: Counts) -> None:
    """In each round all processes create one key at the same moment, each from a machine's cache of its own.

    Four readers watch: what they see first is what the winner wrote, whole, and stays.
    """
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

    def watch(number: int) -> None:
        shared_bucket(server, tmp / f"reader-{number}")
        store = store_at(place, tmp / f"reader-{number}")
        for turn in range(rounds):
            key, first = f"refs/dataset/race/v{turn}.json", None
            while first is None:
                first = store.read(key)
            assert store.read(key) == first, "it changed"
            seen.put((turn, first))
        os._exit(0)

    seen = fork.SimpleQueue()
    workers = [fork.Process(target=work, args=(number,)) for number in range(processes)]
    readers = [fork.Process(target=watch, args=(number,)) for number in range(READERS)]
    for worker in (*workers, *readers):
        worker.start()
    read = [seen.get() for _ in range(READERS * rounds)]
    winners: dict[int, list[int]] = {}
    for number, won in (results.get() for _ in workers):
        for turn in won:
            winners.setdefault(turn, []).append(number)
    for worker in (*workers, *readers):
        worker.join()
        assert worker.exitcode == 0
    counts.trials += rounds
    counts.unless(sorted(winners) == list(range(rounds)), "lost", "a round without a winner")
    store = store_at(place, tmp / "probed")
    for turn, won in winners.items():
        counts.unless(len(won) == 1, "duplicates", f"round {turn} has the winners {won}")
        kept = store.read(f"refs/dataset/race/v{turn}.json")
        counts.unless(kept == str(won[0]).encode(), "corrupt", f"round {turn}")
    for turn, data in read:
        counts.unless(
            data == str(winners[turn][0]).encode(), "corrupt", f"round {turn}: a reader saw something else"
        )
