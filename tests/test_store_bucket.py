"""A store in a bucket, against real servers and a network that fails: nothing lost, nothing torn, each refusal told."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts import by_hand, copying_out
from orchestrator.artifacts.version import resolve
from orchestrator.digest import Digest, of_bytes, of_file
from orchestrator.errors import StoreError
from orchestrator.settings import S3Settings
from orchestrator.store import pushing as backend
from orchestrator.store.bucket import transfer
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.failures import (
    AccessDenied,
    ClockSkew,
    ExpiredCredentials,
    NoCredentials,
    NoSuchBucket,
    Throttled,
    Unreachable,
    WrongPlace,
)
from orchestrator.store.bucket.place import parse_uri
from orchestrator.store.bucket.probe import probe
from orchestrator.store.opening import forget_promises, open_store
from orchestrator.store.retry import Patience
from orchestrator.store.s3 import S3Store
from tests.chaos import FAULTS, Chaos, chaos, error_body, upstream
from tests.figures import Counted
from tests.run_tools import wait_for
from tests.s3_tools import KEY, QUICK, SECRET, Server, credentials, environment, shared_bucket, store_at
from tests.s3_work import BUCKETS, NAMES, one_winner, survive
from tests.store_tools import staged

MIB = 1 << 20
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def signed(seaweedfs: Server) -> Iterator[None]:
    with environment(credentials(seaweedfs.endpoint)):
        yield


@pytest.fixture
def bucket(seaweedfs: Server, tmp_path: Path) -> str:
    return shared_bucket(seaweedfs, tmp_path / "cache")


@pytest.fixture
def store(seaweedfs: Server, bucket: str, tmp_path: Path) -> Iterator[S3Store]:
    opened = store_at(seaweedfs.place(bucket, secrets.token_hex(6)), tmp_path / "cache")
    yield opened
    opened.close()


@pytest.fixture
def proxy(seaweedfs: Server) -> Iterator[Chaos]:
    with chaos(seaweedfs.endpoint, 0.0) as server:
        yield server


def elsewhere(store: S3Store, tmp_path: Path, name: str = "elsewhere") -> S3Store:
    """The same store on another machine."""
    return store_at(store.bucket.place, tmp_path / name)


# --- what goes to the bucket, and when ------------------------------------------------------------------------


def test_what_an_object_names_is_in_the_bucket_before_it(store: S3Store, tmp_path: Path) -> None:
    digest = store.put(b"content")
    assert not elsewhere(store, tmp_path).has(digest)
    assert store.has(digest)
    store.create("runs/2026-11/a/record.json", digest.encode())
    other = elsewhere(store, tmp_path)
    assert other.has(digest)
    with other.open(digest) as source:
        assert source.read() == b"content"


def test_what_a_dead_process_owed_is_pushed_by_the_next(store: S3Store, bucket: str, tmp_path: Path) -> None:
    code = (
        "import sys, os\nfrom pathlib import Path\nfrom orchestrator.store.opening import open_store\n"
        "store = open_store(sys.argv[1], Path('/'))\n"
        "store.put(b'pushed before'); store.push_owed()\n"
        "store.put(b'kept by a process that died'); os._exit(9)\n"
    )
    env = {**os.environ, "MIRAGE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code, store.bucket.place.uri], env=env, check=False)
    assert done.returncode == 9
    digest = of_bytes(b"kept by a process that died")
    assert not elsewhere(store, tmp_path).has(digest)
    with environment({"MIRAGE_CACHE": str(tmp_path / "cache")}):
        successor = open_store(store.bucket.place.uri, tmp_path)
        successor.create("runs/2026-11/b/record.json", b"names it")
    assert elsewhere(store, tmp_path).has(digest)


def test_a_push_of_what_is_there_sends_nothing(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_MANY", 20)  # from here on folders are listed
    digests = [store.put(f"{number}".encode()) for number in range(30)]
    store.push_owed()
    again = store_at(
        seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint),
        tmp_path / "cache",
    )
    again.promises()
    before = proxy.requests["PUT"]
    for number in range(30):
        again.put(f"{number}".encode())
    again.push_owed()
    again._there.clear()
    again.push(digests[:10])
    assert proxy.requests["PUT"] == before


def test_many_blobs_are_fetched_together(store: S3Store, tmp_path: Path) -> None:
    contents = [os.urandom(number * 37 % 5000) for number in range(200)] + [os.urandom(9 * MIB), b""]
    digests = [store.put(data) for data in contents]
    store.push_owed()
    other = elsewhere(store, tmp_path)
    other.fetch(digests)
    for digest, data in zip(digests, contents, strict=True):
        assert other.local.blob_path(digest).read_bytes() == data
    missing = of_bytes(b"missing")
    third = elsewhere(store, tmp_path, "third")
    with pytest.raises(StoreError, match="is not in the store"):
        third.fetch([*digests[:5], missing])
    assert all(third.local.has(digest) for digest in digests[:5]), "what came before the failure stays"


def test_an_artifact_is_copied_out_after_one_fetch(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(70):
        (source / f"{number}").write_bytes(b"file %d" % number)
    by_hand.add(store, source, kind="dataset", name="d", version=None)
    other = elsewhere(store, tmp_path)
    fetches = []
    part = Bucket.part

    def count(self: Bucket, key: str, start: int, length: int) -> tuple[bytes, int] | None:
        fetches.append(key)
        return part(self, key, start, length)

    monkeypatch.setattr(Bucket, "part", count)
    copying_out.copy_out(other, resolve(other, "dataset:d:v1"), tmp_path / "back")
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert len(fetches) < 6, "one for the pack, not one for each file"


def test_damage_in_the_bucket_is_told_and_not_kept(store: S3Store, tmp_path: Path) -> None:
    small, large = store.put(b"good bytes"), store.put(os.urandom(9 * MIB))
    store.push_owed()
    for digest, size in ((small, 10), (large, 9 * MIB)):
        key = f"blobs/sha256/{digest[7:9]}/{digest[7:]}"
        bad = os.urandom(size)
        store.bucket.put(key, bad, of_bytes(bad), "payload")
        other = elsewhere(store, tmp_path)
        with pytest.raises(StoreError, match="damaged bytes"):
            other.open(digest)
        assert not other.local.has(digest)
        assert not other.local.has(of_bytes(bad))


def test_damage_here_is_mended_from_the_bucket(store: S3Store, tmp_path: Path) -> None:
    digest = store.put(b"good bytes")
    store.push_owed()
    path = store.local.blob_path(digest)
    stamp = path.stat().st_mtime_ns
    path.chmod(0o644)
    path.write_bytes(b"evil bytes")
    os.utime(path, ns=(stamp, stamp))
    store.materialise(digest, tmp_path / "out", executable=False)
    assert (tmp_path / "out").read_bytes() == b"good bytes"


def test_a_damaged_file_is_never_pushed(store: S3Store, tmp_path: Path) -> None:
    digest = store.put(b"good bytes")
    path = store.local.blob_path(digest)
    path.chmod(0o644)
    path.write_bytes(b"evil bytes")
    with pytest.raises(StoreError, match="is damaged"):
        store.create("runs/2026-11/c/record.json", b"")
    assert not elsewhere(store, tmp_path).has(digest)
    assert store.read("runs/2026-11/c/record.json") is None


def test_listings_have_all_their_pages(store: S3Store) -> None:
    keys = [f"marks/2026-11/{number:04}" for number in range(1100)]
    transfer.in_parallel(lambda key: store.bucket.put(key, b"", of_bytes(b""), "payload"), keys)
    assert list(store.keys("marks/")) == keys


# --- large blobs ----------------------------------------------------------------------------------------------


def test_a_large_upload_goes_on_where_another_process_died(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path
) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(MIB) * 80)
    with path.open("rb") as made:
        digest = of_file(made)
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    first = store_at(place, tmp_path / "cache", patience=Patience(tries=1))
    first.put_file(path, digest=digest, link=False)
    sent: list[str] = []

    def die(handler: object) -> tuple[int, bytes] | None:
        where = str(getattr(handler, "path", ""))
        if "partNumber=" in where and "blobs" in where:
            sent.append(where)
            if len(sent) > 2:
                return 503, error_body("SlowDown")
        return None

    first.promises()
    proxy.canned = die
    with pytest.raises(Throttled):
        first.push_owed()
    first.close()
    assert len(list(store.bucket.uploads("blobs/"))) == 1
    assert not store.bucket.size(f"blobs/sha256/{digest[7:9]}/{digest[7:]}"), "visible before it was whole"
    sent.clear()
    proxy.canned = lambda handler: sent.append(str(handler.path)) if "partNumber=" in handler.path else None
    second = store_at(place, tmp_path / "cache")
    second.push_owed()
    assert 0 < len(sent) < 5, "parts that were there were sent again"
    other = elsewhere(store, tmp_path)
    with other.open(digest) as source:
        assert of_file(source) == digest
    assert list(store.bucket.uploads("blobs/")) == []


def test_a_large_download_goes_on_where_the_network_broke(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path
) -> None:
    digest = _pushed(store, tmp_path, 70 * MIB)
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    other = store_at(place, tmp_path / "other", patience=Patience(tries=2))
    asked: list[int] = []

    def half(handler: Any) -> str | None:
        """Half of what was asked for: an extent comes in ever smaller pieces."""
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", handler.headers.get("Range", ""))
        if wanted is None or "blobs" not in handler.path:
            return None
        asked.append(int(wanted[1]))
        return "half" if wanted[1] != "0" and int(wanted[2]) - int(wanted[1]) >= 2 * MIB else None

    proxy.planted = half
    other.fetch([digest])
    with other.open(digest) as source:
        assert of_file(source) == digest
    assert len(asked) > 20
    assert len(set(asked)) == len(asked), "bytes that had come were asked for again"
    other.close()


@pytest.mark.parametrize("cause", ["killed", "interrupted", "refused"])
def test_a_large_download_goes_on_where_another_process_died(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path, cause: str
) -> None:
    """It is killed (SIGKILL), stopped (SIGINT), or told to come later, after 40 of 70 MiB."""
    digest = _pushed(store, tmp_path, 70 * MIB)
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    part, later = tmp_path / "other", threading.Event()

    def stall(handler: Any) -> tuple[int, bytes] | None:
        """The first three extents of 12 MiB are given; of the others nothing is heard until ``later``."""
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", handler.headers.get("Range", ""))
        if wanted is None or "blobs" not in handler.path or int(wanted[1]) < 36 * MIB:
            return None
        later.wait(60)
        return 503, error_body("SlowDown")

    proxy.canned = stall
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom tests.s3_tools import Patience, store_at\n"
        "from orchestrator.store.bucket.failures import Throttled\nfrom orchestrator.store.bucket.place import Place\n"
        "place = Place(**json.loads(sys.argv[1]))\n"
        "try: store_at(place, Path(sys.argv[2]), patience=Patience(tries=1)).fetch([sys.argv[3]])\n"
        "except Throttled: sys.exit(5)\nexcept KeyboardInterrupt: sys.exit(6)\n"
    )
    words = [sys.executable, "-c", code, json.dumps(asdict(place)), str(part), digest]
    with subprocess.Popen(words, cwd=ROOT) as child:
        wait_for(lambda: _noted(part, digest) == 36 * MIB)
        if cause != "refused":
            child.send_signal(signal.SIGKILL if cause == "killed" else signal.SIGINT)
        later.set()
    assert child.returncode == {"killed": -9, "interrupted": 6, "refused": 5}[cause]
    asked: list[int] = []

    def count(handler: Any) -> None:
        wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", handler.headers.get("Range", ""))
        if wanted is not None and "blobs" in handler.path:
            asked.append(int(wanted[2]) + 1 - int(wanted[1]))

    proxy.canned = count
    again = store_at(place, tmp_path / "other")
    again.fetch([digest])
    with again.open(digest) as source:
        assert of_file(source) == digest
    # the first piece is asked for to learn the size
    assert sum(asked) == (70 - 36 + 4) * MIB
    assert staged(again.local.blob_path(digest).parents[3]) == []
    again.close()


def _pushed(store: S3Store, folder: Path, size: int) -> Digest:
    """A new file of so many bytes, which the bucket has as a blob; gives its digest."""
    path = folder / "large"
    path.write_bytes(os.urandom(size))
    with path.open("rb") as made:
        digest = of_file(made)
    store.put_file(path, digest=digest, link=False)
    store.push_owed()
    return digest


def _noted(folder: Path, digest: Digest) -> int:
    """How many bytes are noted as there of a blob of 70 MiB in extents of 12 MiB."""
    for part in folder.rglob(f"{digest[7:]}.part"):
        notes = part.read_bytes()[70 * MIB + 24 :]
        ends = [end for (end,) in struct.iter_unpack("<Q", notes)]
        return sum(end - number * 12 * MIB for number, end in enumerate(ends) if end)
    return 0


def test_what_was_left_of_a_download_is_not_believed(
    store: S3Store, seaweedfs: Server, tmp_path: Path
) -> None:
    """What is noted may not have come to the disk before the power went: then all of it comes once more."""
    digest = _pushed(store, tmp_path, 20 * MIB)
    other = elsewhere(store, tmp_path)
    with other.local.scattered(digest, 20 * MIB, 4 * MIB) as file:
        file.write_at(b"not what was there" * 100, 0)
        file.write_at(os.urandom(4 * MIB), 4 * MIB)
        file.spare()
    other.fetch([digest])
    with other.open(digest) as source:
        assert of_file(source) == digest
    assert staged(other.local.blob_path(digest).parents[3]) == []


def test_a_part_of_another_place_is_not_taken(store: S3Store, proxy: Chaos, seaweedfs: Server) -> None:
    data = os.urandom(3 * MIB)
    store.bucket.put("x", data, of_bytes(data), "payload")
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    bucket = Bucket(place, patience=Patience(tries=2, first_wait=0.01))
    taken: list[bytes] = []
    for told, match in (
        (f"bytes 0-{MIB - 1}/{3 * MIB}", "another range"),
        ("", "another range"),
        (f"bytes {MIB}-{2 * MIB - 1}/{4 * MIB}", "changed"),
    ):
        proxy.said["Content-Range"] = told
        with pytest.raises(StoreError, match=match):
            transfer.pour(bucket, "x", MIB, 2 * MIB, 3 * MIB, lambda piece, at: taken.append(piece))
    assert taken == []
    proxy.said.clear()
    transfer.pour(bucket, "x", MIB, 2 * MIB, 3 * MIB, lambda piece, at: taken.append(piece))
    assert b"".join(taken) == data[MIB : 2 * MIB]


def test_a_large_download_of_another_object_is_refused(
    store: S3Store, seaweedfs: Server, tmp_path: Path
) -> None:
    digest = _pushed(store, tmp_path, 20 * MIB)
    key = f"blobs/sha256/{digest[7:9]}/{digest[7:]}"
    with store.open(digest) as source:
        data = bytearray(source.read())
    data[-1] ^= 1
    store.bucket.call("put_object", "spoil it", Key=store.bucket.full(key), Body=bytes(data))
    other = elsewhere(store, tmp_path)
    with pytest.raises(StoreError, match="damaged"):
        other.fetch([digest])
    assert not other.local.has(digest)
    with pytest.raises(StoreError, match="changed in"):
        transfer.pour(store.bucket, key, 0, MIB, 21 * MIB, lambda piece, place: None)


def test_an_upload_that_nobody_ends_is_swept_when_it_is_old(store: S3Store) -> None:
    full = store.bucket.full("blobs/sha256/ab/x")
    store.bucket.call("create_multipart_upload", "begin an upload", Key=full)
    assert store.sweep() == (0, 0), "a living writer may be at it"
    assert store.sweep(older_than=-60) == (1, 0)
    assert list(store.bucket.uploads("blobs/")) == []


# --- a network that fails -------------------------------------------------------------------------------------


def test_nothing_is_lost_on_a_network_that_fails(seaweedfs: Server, tmp_path: Path, counted: Counted) -> None:
    met = survive(seaweedfs, tmp_path, 240, counted(BUCKETS), large=1)
    assert sum(met.values()) >= 20
    assert set(met) == set(FAULTS), "a kind of fault was never met"


def test_a_lost_reply_is_still_ours(store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path) -> None:
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    there = store_at(place, tmp_path / "cache")
    there.promises()
    for fault in ("lost reply", "late 500"):
        proxy.faults, proxy.share = (fault,), 1.0
        proxy.canned = lambda handler: setattr(proxy, "share", 0.0)  # the first request alone
        assert there.create(f"refs/dataset/d/{fault[:4]}.json", b"same bytes"), fault
        assert not store.create(f"refs/dataset/d/{fault[:4]}.json", b"same bytes")


def test_a_name_has_one_winner(seaweedfs: Server, tmp_path: Path, counted: Counted) -> None:
    one_winner(seaweedfs, tmp_path, 16, 4, counted(NAMES))


# --- refusals -------------------------------------------------------------------------------------------------


def test_a_server_that_ignores_conditions_is_refused(rclone: Server, tmp_path: Path) -> None:
    place = rclone.place(rclone.new_bucket())
    with chaos(rclone.endpoint, 0.0) as proxy:
        there = rclone.place(place.bucket, endpoint=proxy.endpoint)
        for turn in range(3):
            with pytest.raises(StoreError, match="ignores If-None-Match") as refused:
                store_at(there, tmp_path / "cache")
            assert "`mirage doctor` tries it again" in str(refused.value.hint)
            if turn == 0:
                assert proxy.requests["PUT"] > 0
                proxy.requests.clear()
        assert proxy.requests == {"GET": 2}, "the refusal was kept: only store.json was looked for"
    assert Bucket(place, patience=QUICK).read("store.json") is None
    found = probe(Bucket(place, patience=QUICK))
    assert (found.condition, found.race, found.multipart_condition) == ("none", False, False)


def test_what_a_good_server_promises_is_found_once(store: S3Store, tmp_path: Path) -> None:
    found = probe(store.bucket)
    assert found.problem is None
    assert (found.condition, found.race, found.multipart_condition) == ("if-none-match", True, True)
    assert found.integrity == "sha256", "SeaweedFS does not look at the signed hash of a body"
    assert store.promises() == found
    assert [key for key, _ in store.bucket.list("probe/")] == []


def _writes(proxy: Chaos, store: S3Store) -> int:
    """How many requests it takes that write, until a store is known to be usable."""
    before = proxy.requests["PUT"]
    store.promises()
    store.close()
    return proxy.requests["PUT"] - before


def test_what_was_found_is_for_the_server_that_answered(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server, or another version of it, behind the same address; and one that nobody looked at for a month."""
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    assert _writes(proxy, store_at(place, tmp_path / "cache")) > 0
    assert _writes(proxy, store_at(place, tmp_path / "cache")) == 0
    proxy.said["Server"] = "SeaweedFS of next year"
    assert _writes(proxy, store_at(place, tmp_path / "cache")) > 0
    assert _writes(proxy, store_at(place, tmp_path / "cache")) == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 24 * 3600)
    assert _writes(proxy, store_at(place, tmp_path / "cache")) > 0


@pytest.mark.parametrize("tells", [True, False])
def test_a_server_that_was_exchanged_for_another_one(
    tells: bool, proxy: Chaos, seaweedfs: Server, rclone: Server, tmp_path: Path
) -> None:
    """What one promised is not believed of the next one. Where they do not say who they are, `mirage doctor` is told."""
    bucket, liar, honest = seaweedfs.new_bucket(), upstream(rclone.endpoint), upstream(seaweedfs.endpoint)
    rclone.client().create_bucket(Bucket=bucket)
    place = seaweedfs.place(bucket, endpoint=proxy.endpoint)
    settings = S3Settings(endpoint_url=proxy.endpoint, region="us-east-1")
    with environment({"MIRAGE_CACHE": str(tmp_path / "cache")}):
        for there, lies in ((honest, False), (liar, True), (honest, False))[0 if tells else 1 :]:
            proxy.upstream, proxy.said = there, {"Server": str(lies) if tells else ""}
            if not tells:
                forget_promises(place.uri, settings)
            for _ in range(2):
                if lies:
                    with pytest.raises(StoreError, match="ignores If-None-Match"):
                        store_at(place, tmp_path / "cache").promises()
                else:
                    assert store_at(place, tmp_path / "cache").promises().problem is None


def _once(endpoint: str, **more: str) -> Bucket:
    return Bucket(
        parse_uri("s3://bucket/x", endpoint_url=endpoint, **more), patience=Patience(tries=2, first_wait=0.01)
    )


@pytest.mark.parametrize(
    ("status", "body", "expected", "words"),
    [
        (400, error_body("ExpiredToken"), ExpiredCredentials, "have expired"),
        (403, error_body("AccessDenied"), AccessDenied, "does not let you"),
        (403, error_body("SignatureDoesNotMatch"), AccessDenied, "which credentials"),
        (403, error_body("RequestTimeTooSkewed"), ClockSkew, "clock is wrong"),
        (404, error_body("NoSuchBucket"), NoSuchBucket, "aws s3 mb s3://bucket"),
        (
            301,
            error_body("PermanentRedirect") + b"<Region>eu-central-1</Region>",
            WrongPlace,
            "region: eu-central-1",
        ),
        (400, error_body("AuthorizationHeaderMalformed"), WrongPlace, "region"),
        (503, error_body("SlowDown"), Throttled, "go slower"),
    ],
)
def test_each_refusal_is_told_apart(
    proxy: Chaos, status: int, body: bytes, expected: type[StoreError], words: str
) -> None:
    proxy.canned = lambda _: (status, body)
    # the answer to a HEAD has no body: its 404 may be about the object or the bucket
    for ask in (Bucket.read,) if expected is NoSuchBucket else (Bucket.read, Bucket.size):
        with pytest.raises(expected) as caught:
            ask(_once(proxy.endpoint), "store.json")
        assert caught.value.exit_code == 7
        assert caught.value.hint is not None
        assert words in str(caught.value)
        assert SECRET not in str(caught.value) and KEY not in str(caught.value)


def test_a_missing_bucket_is_told_by_a_real_server(seaweedfs: Server, tmp_path: Path) -> None:
    with pytest.raises(NoSuchBucket, match="there is no bucket t-nowhere"):
        store_at(seaweedfs.place("t-nowhere"), tmp_path / "cache")


def test_wrong_credentials_are_told_by_a_real_server(seaweedfs: Server, bucket: str, tmp_path: Path) -> None:
    with environment({"AWS_SECRET_ACCESS_KEY": "wrong"}), pytest.raises(AccessDenied):
        store_at(seaweedfs.place(bucket), tmp_path / "cache")


def test_silence_is_told_and_may_pass(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9 does not answer") as caught:
        _once("http://127.0.0.1:9").read("store.json")
    assert isinstance(caught.value.__cause__, OSError), "which tells the outbox to wait"


def test_no_credentials_are_told(proxy: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(NoCredentials, match="no credentials for s3://bucket/x"):
        _once(proxy.endpoint).read("store.json")
    with pytest.raises(StoreError, match="there is no profile 'nobody'"):
        _once(proxy.endpoint, profile="nobody")


def test_credentials_that_expire_in_the_middle(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path
) -> None:
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    there = store_at(place, tmp_path / "cache")
    there.promises()
    digests = [there.put(f"blob {number}".encode()) for number in range(40)]
    puts: list[str] = []

    def expire(handler: object) -> tuple[int, bytes] | None:
        if getattr(handler, "command", "") == "PUT":
            puts.append("")
        return (400, error_body("ExpiredToken")) if len(puts) > 20 else None

    proxy.canned = expire
    with pytest.raises(ExpiredCredentials, match="have expired"):
        there.create("runs/2026-11/d/record.json", b"")
    assert store.read("runs/2026-11/d/record.json") is None
    there.close()
    proxy.canned = lambda _: None
    again = store_at(place, tmp_path / "cache")
    assert again.create("runs/2026-11/d/record.json", b"")
    other = elsewhere(store, tmp_path)
    assert all(other.has(digest) for digest in digests)


def test_credentials_that_were_renewed_meanwhile_are_used(
    proxy: Chaos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = s\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    bucket = _once(proxy.endpoint)

    def answer(handler: object) -> tuple[int, bytes]:
        old = "Credential=OLD/" in getattr(handler, "headers", {})["Authorization"]
        return (400, error_body("ExpiredToken")) if old else (404, error_body("NoSuchKey"))

    proxy.canned = answer
    with pytest.raises(ExpiredCredentials):
        bucket.read("store.json")
    file.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = s\n")
    assert bucket.read("store.json") is None


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///x", "s3://A_b/x", "s3://b", "s3://bucket/../x", "s3://bucket/a b", "s3://bu..et/"]
)
def test_a_uri_that_names_no_bucket_is_refused(uri: str) -> None:
    with pytest.raises(StoreError, match="not the URI of a bucket"):
        parse_uri(uri)


def test_credentials_are_nowhere_on_the_disk(store: S3Store, tmp_path: Path) -> None:
    store.create("runs/2026-11/e/record.json", store.put(b"x").encode())
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes() and KEY.encode() not in path.read_bytes()


def test_a_folder_store_loads_no_library_for_buckets(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom orchestrator.store.opening import open_store\n"
        "open_store('store', Path(sys.argv[1])).put(b'x')\n"
        "print({'botocore', 'urllib3', 'tenacity'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- packs ----------------------------------------------------------------------------------------------------


def test_many_small_blobs_travel_in_packs_and_are_not_sent_twice(
    store: S3Store, proxy: Chaos, seaweedfs: Server, tmp_path: Path
) -> None:
    place = seaweedfs.place(store.bucket.place.bucket, store.bucket.place.prefix, proxy.endpoint)
    there = store_at(place, tmp_path / "cache")
    there.promises()
    contents = [os.urandom(number * 811 % 90_000) for number in range(1, 500)] + [b""]
    with there.intake() as intake:
        for number, data in enumerate(contents):
            path = tmp_path / str(number)
            path.write_bytes(data)
            with path.open("rb") as source:
                intake.add(source.fileno(), len(data))
    before = proxy.requests["PUT"]
    there.push_owed()
    assert proxy.requests["PUT"] - before <= 8, "500 blobs, 22 MB: three packs with their indices"
    assert not [key for key, _ in store.bucket.list("blobs/")]
    other = store_at(place, tmp_path / "elsewhere")
    digests = [of_bytes(data) for data in contents]
    before = proxy.requests["GET"]
    other.fetch(digests)
    assert proxy.requests["GET"] - before <= 12
    for digest, data in zip(digests, contents, strict=True):
        assert other.local.blob_path(digest).read_bytes() == data
    third = store_at(place, tmp_path / "third")
    assert third.has(digests[7])
    with third.open(digests[9]) as source:  # one alone: its pack is found, and only its part of it fetched
        assert source.read() == contents[9]
    other.promises()
    before = proxy.requests["PUT"]
    other.push(digests)
    assert proxy.requests["PUT"] == before


def test_a_damaged_pack_is_told_and_not_kept(store: S3Store, tmp_path: Path) -> None:
    digests = [store.put(os.urandom(1000)) for _ in range(100)]
    store.push_owed()
    (pack,) = (key for key, _ in store.bucket.list("packs/") if not key.endswith(".idx"))
    whole = store.bucket.part(pack, 0, 1 << 20)
    assert whole is not None
    for data, words in (
        (bytes(len(whole[0])), "damaged bytes"),
        (whole[0][:5000], "not what its index says"),
    ):
        store.bucket.put(pack, data, of_bytes(data), "none")
        other = elsewhere(store, tmp_path, words.replace(" ", "-"))
        with pytest.raises(StoreError, match=words):
            other.fetch(digests)
        assert not any(other.local.has(digest) for digest in digests[50:])
    index = f"{pack}.idx"
    store.bucket.put(
        index, b"mirage-pack/1\n../../x 0 9\n", of_bytes(b"mirage-pack/1\n../../x 0 9\n"), "none"
    )
    with pytest.raises(StoreError, match="is no index of a pack"):
        elsewhere(store, tmp_path, "index").fetch(digests)
