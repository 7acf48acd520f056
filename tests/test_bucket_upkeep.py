"""`mirage gc` and `mirage fsck` of a store in a bucket, on a real server: nothing live goes, all garbage does."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.artifacts import by_hand, tombstone
from orchestrator.artifacts.version import resolve
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import StoreError
from orchestrator.store import bucket_upkeep, turns
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.kept import keep, promises_of
from orchestrator.store.packs import TOP
from orchestrator.store.s3 import S3Store
from orchestrator.store.sessions import hold, release, writing
from orchestrator.upkeep.collect import collect, look
from orchestrator.upkeep.fsck import Check, Report
from tests.chaos import Chaos, chaos
from tests.gc_tools import Shared, beside, check_sealed, check_whole, open_store
from tests.run_tools import Project, wait_for
from tests.s3_tools import Server, credentials, environment, shared_bucket, store_at
from tests.store_tools import Heard, content, whole
from tests.test_collect import publish_while_collecting


@pytest.fixture(autouse=True)
def signed(seaweedfs: Server) -> Iterator[None]:
    with environment(credentials(seaweedfs.endpoint)):
        yield


@pytest.fixture
def shared(seaweedfs: Server, tmp_path: Path) -> Shared:
    bucket = shared_bucket(seaweedfs, tmp_path / "first")
    return Shared(seaweedfs, seaweedfs.place(bucket, secrets.token_hex(6)), tmp_path)


@pytest.fixture
def store(shared: Shared) -> Iterator[S3Store]:
    opened: S3Store = open_store(shared)
    yield opened
    opened.close()


def another(shared: Shared, name: str = "another") -> S3Store:
    """The store on another machine."""
    shared_bucket(shared.server, shared.folder / name)
    return store_at(shared.place, shared.folder / name)


def _through(proxy: Chaos, store: S3Store, shared: Shared) -> S3Store:
    """The store behind a proxy, whose address need not be probed again."""
    place = shared.server.place(shared.place.bucket, shared.place.prefix, proxy.endpoint)
    there = Bucket(place)
    there.read("store.json")  # by which it hears who answers
    keep(
        there,
        shared.folder / "there/stores/probes",
        promises_of(store.bucket, store.folder.parent / "probes"),
    )
    return store_at(place, shared.folder / "there")


def _add(store: S3Store, tmp_path: Path, contents: dict[str, bytes], name: str = "data") -> str:
    folder = tmp_path / f"{name}-{secrets.token_hex(4)}"
    folder.mkdir()
    for file, data in contents.items():
        (folder / file).write_bytes(data)
    return str(by_hand.add(store, folder, kind="dataset", name=name, version=None).ref)


def _give_up(store: S3Store, id: str) -> None:
    found = resolve(store, id)
    tombstone.bury(store, found.ref, found.digest, "old")


def _collect(store: S3Store) -> int:
    return collect(store, 0.0, Heard(), patience=20).removed


def _packs(store: S3Store) -> set[str]:
    return {key for key, _ in store.bucket.list(TOP) if not key.endswith(".idx")}


def _many(letter: str, count: int = 80, size: int = 3000) -> dict[str, bytes]:
    return {f"{letter}{number}": os.urandom(size) for number in range(count)}


# --- garbage --------------------------------------------------------------------------------------------------


def test_what_versions_need_stays_and_the_rest_goes(store: S3Store, shared: Shared, tmp_path: Path) -> None:
    kept = _add(store, tmp_path, {"one": b"one"})
    gone = _add(store, tmp_path, {"two": b"two"})
    store.put(b"nobody needs this")
    store.flush()
    assert [held.digest for held in look(store, 0).garbage] == [of_bytes(b"nobody needs this")]
    assert look(store, 3600).young == 1
    assert collect(store, 3600.0, Heard()).removed == 0
    _give_up(store, gone)
    assert _collect(store) == 4
    assert look(store, 0).garbage == []
    other = another(shared)
    assert whole(other, kept)
    assert not other.has(of_bytes(b"two"))
    assert not store.has(of_bytes(b"two")), (
        "what this process saw before a collection is not believed after it"
    )
    assert turns.read_state(store).phase == turns.IDLE


def test_a_writer_that_saw_a_blob_before_a_collection_writes_it_anew(
    store: S3Store, shared: Shared, tmp_path: Path
) -> None:
    """Two machines: one remembers what is in the bucket, the other collects it."""
    contents = {**_many("a"), "large": os.urandom(1 << 20)}
    id = _add(store, tmp_path, contents)
    assert all(store.has(of_bytes(data)) for data in contents.values())
    _give_up(store, id)
    assert _collect(another(shared)) == 83
    again = _add(store, tmp_path, contents, "again")
    assert whole(another(shared, "third"), again)


def test_a_pack_goes_when_nothing_needs_it_and_is_packed_anew_when_little_does(
    store: S3Store, shared: Shared, tmp_path: Path
) -> None:
    first, second = _many("a"), _many("b")
    ids = _add(store, tmp_path, first), _add(store, tmp_path, second, "other")
    mixed = _add(store, tmp_path, dict(list(first.items())[:8]), "few")
    assert len(_packs(store)) == 2
    before = _packs(store)
    _give_up(store, ids[1])
    assert _collect(store) == 82
    assert len(_packs(store)) == 1, "the pack of which nothing is needed went"
    _give_up(store, ids[0])
    done = collect(store, 0.0, Heard())
    assert (done.removed, done.bytes > 72 * 3000) == (74, True)
    assert len(_packs(store)) == 1 and not _packs(store) & before, "what is needed is in a new pack"
    assert look(store, 0).garbage == []
    other = another(shared)
    assert whole(other, mixed)
    assert sum(size for key, size in store.bucket.list(TOP) if not key.endswith(".idx")) == 8 * 3000


def test_a_pack_that_is_mostly_needed_is_left_and_told(store: S3Store, tmp_path: Path) -> None:
    contents = _many("a")
    all_of_it = _add(store, tmp_path, contents)
    _add(store, tmp_path, dict(list(contents.items())[:70]), "most")
    packs = _packs(store)
    _give_up(store, all_of_it)
    found = look(store, 0)
    assert (found.packed, len(found.garbage)) == (12, 0), "ten files, a tree and a manifest"
    assert found.packed_bytes > 10 * 3000
    assert _collect(store) == 0
    assert _packs(store) == packs


def test_a_reader_whose_pack_went_finds_its_blobs_in_the_next(
    store: S3Store, shared: Shared, tmp_path: Path
) -> None:
    contents = _many("a")
    all_of_it = _add(store, tmp_path, contents)
    few = dict(list(contents.items())[:8])
    _add(store, tmp_path, few, "few")
    reader = another(shared)
    reader._packs.refresh()
    _give_up(store, all_of_it)
    _collect(store)
    reader.fetch(of_bytes(data) for data in few.values())
    assert all(content(reader, of_bytes(data)) == data for data in few.values())
    gone = of_bytes(contents["a79"])
    with pytest.raises(StoreError, match="is not in the store"):
        reader.fetch([gone])


def test_what_is_needed_again_while_it_is_condemned_stays(store: S3Store, shared: Shared) -> None:
    """The rescue, across machines: an old writer keeps the collector waiting, a new one needs what is condemned."""
    digests = [store.put(b"an old blob %d" % number) for number in range(5)]
    store.flush()
    with writing(store):
        collector = beside(lambda: collect(open_store(shared), 0.0, Heard(), patience=20))
        wait_for(lambda: turns.read_state(store).phase == turns.CONDEMNED)
        with writing(another(shared)) as newcomer:
            assert newcomer.has(digests[0])
            with newcomer.intake() as intake:
                for number in range(1, 5):
                    path = shared.folder / f"old-{number}"
                    path.write_bytes(b"an old blob %d" % number)
                    with path.open("rb") as source:
                        intake.add(source.fileno(), 100)
            assert len(list(store.keys("gc/keep/"))) == 5
    collector.join(20)
    assert collector.exitcode == 0
    assert set(digests) == {held.digest for held in store.blobs()}, "they were rescued"
    assert _collect(store) == 5, "nobody named them in the end"


def test_nothing_live_goes_while_eight_machines_publish(shared: Shared) -> None:
    published, broken, told = publish_while_collecting(shared, 8.0)
    print(f"published {published}, broken {broken}; rounds, removed, rescued: {told}")
    assert broken == 0
    rounds, removed, _ = map(int, told.split())
    assert published > 20
    assert rounds > 1
    assert removed > 10
    store: S3Store = open_store(shared)
    assert check_whole(shared) > 8
    _collect(store)
    assert look(store, 0).garbage == []
    assert check_whole(shared) > 8
    assert check_sealed(shared) > 4
    assert list(store.keys("gc/session/")) == []


def test_what_a_run_holds_stays_also_where_the_bucket_was_away(
    store: S3Store, shared: Shared, tmp_path: Path
) -> None:
    with chaos(shared.server.endpoint, 0.0) as proxy:
        there = _through(proxy, store, shared)
        there.promises()
        digest = there.put(b"an input of a run")
        there.flush()
        proxy.canned = lambda handler: (503, b"")
        with writing(there) as kept:
            hold(kept, "20261125-120000-abcdef", "prepared", [digest])
            with pytest.raises(StoreError):
                kept.create("refs/dataset/d/v1.json", b"{}")
        proxy.canned = lambda handler: None
        there.bucket._silence = None
        assert _collect(store) == 1, "nobody could know of it"
        with writing(there) as kept:
            assert kept.create("marks/2026-11/a", b"{}")
        assert _collect(store) == 0
        assert store.has(digest), "it was pushed again, from the machine that held it"
        release(there, "20261125-120000-abcdef")
        assert _collect(store) == 1


def test_nothing_is_collected_by_what_a_machine_remembers(
    store: S3Store, shared: Shared, tmp_path: Path
) -> None:
    """The bucket goes away in the middle of the look: what others published is then unknown."""
    _add(store, tmp_path, {"one": b"one"})
    store.put(b"garbage")
    store.flush()
    with chaos(shared.server.endpoint, 0.0) as proxy:
        there = _through(proxy, store, shared)
        list(there.keys("refs/"))

        def away(handler: object) -> tuple[int, bytes] | None:
            return (503, b"") if "refs%2F" in str(getattr(handler, "path", "")) else None

        proxy.canned = away
        with pytest.raises(StoreError, match="go slower"):
            _collect(there)
    assert store.has(of_bytes(b"garbage"))


def test_a_deletion_that_was_not_answered_is_over_before_its_collection(
    store: S3Store, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may carry it out late; a writer that wrote the blob anew would lose it."""
    monkeypatch.setattr(bucket_upkeep, "LATE", 1.5)
    digest = store.put(b"garbage")
    store.flush()
    with chaos(shared.server.endpoint, 0.0) as proxy:
        there = _through(proxy, store, shared)
        lost: list[str] = []

        def lose(handler: object) -> tuple[int, bytes] | None:
            if getattr(handler, "command", "") == "DELETE" and hex_of(digest) in str(
                getattr(handler, "path", "")
            ):
                lost.append("")
                return (500, b"") if len(lost) == 1 else None
            return None

        proxy.canned = lose
        began = time.monotonic()
        assert _collect(there) == 1
        assert time.monotonic() - began > 1.5
    assert not another(shared).has(digest)


def test_leftovers_of_dead_writers(store: S3Store, shared: Shared) -> None:
    bucket = store.bucket
    bucket.call("create_multipart_upload", "begin", Key=bucket.full("blobs/sha256/ab/x"))
    half, lone = TOP + "a" * 64, TOP + "b" * 64 + ".idx"
    for key in (half, lone, "probe/abc/once"):
        bucket.put(key, b"1234", of_bytes(b"1234"), "none")
    store._packs.refresh()
    assert store.sweep(3600.0, pretend=False) == (0, 0), "living writers may be at it"
    assert store.sweep(0.0, pretend=True) == (4, 12)
    assert store.sweep(0.0) == (4, 12)
    assert store.sweep(0.0) == (0, 0)
    assert list(bucket.uploads("blobs/")) == []


# --- damage ---------------------------------------------------------------------------------------------------


def _check(store: S3Store, *, repair: bool = False, copies: tuple[S3Store, ...] = ()) -> Report:
    return Check(store, Heard()).run(repair=repair, copies=copies)


def _rot(store: S3Store, digest: Digest) -> None:
    key = f"blobs/sha256/{digest[7:9]}/{digest[7:]}"
    size = store.bucket.size(key)
    assert size is not None
    bad = bytes(size)
    store.bucket.put(key, bad, of_bytes(bad), "none")


def test_every_fault_is_found_and_mended_from_another_copy(
    store: S3Store, shared: Shared, tmp_path: Path
) -> None:
    packed, large = _many("a"), os.urandom(9 << 20)
    contents = {**packed, "one": b"one" * 400_000, "two": b"two" * 400_000, "large": large}
    id = _add(store, tmp_path, contents)
    other = another(shared)
    other.fetch(of_bytes(data) for data in contents.values())
    list(other.reads(list(other.keys("refs/"))))
    resolve(other, id)
    (pack,) = _packs(store)
    data = store.bucket.read(pack)
    assert data is not None
    rotten = bytearray(data)
    rotten[5000:5010] = bytes(10)
    store.bucket.put(pack, bytes(rotten), of_bytes(bytes(rotten)), "none")
    _rot(store, of_bytes(contents["one"]))
    _rot(store, of_bytes(large))
    store.bucket.delete([f"blobs/sha256/{of_bytes(contents['two'])[7:9]}/{of_bytes(contents['two'])[7:]}"])
    fresh = another(shared, "fresh")
    report = _check(fresh)
    assert sorted(each.state for each in report.open) == ["damaged", "damaged", "damaged", "missing"]
    assert {each.owners[0].split()[-1] for each in report.open} == {"one", "two", "large", "a1"}
    assert len(_check(fresh, repair=True).open) == 4, "there is nothing to mend it from"
    report = Check(other, Heard()).run(repair=True, copies=[other.copy])
    assert report.open == []
    assert {each.mended for each in report.findings} == {"restored from this machine's copy"}
    assert _check(another(shared, "last")).findings == ()
    assert whole(another(shared, "very last"), id)


def test_an_object_is_mended_from_what_a_machine_saw(store: S3Store, shared: Shared, tmp_path: Path) -> None:
    id = _add(store, tmp_path, {"one": b"one"})
    store.bucket.put("refs/dataset/data/v1.json", b"{", of_bytes(b"{"), "none")
    assert [each.state for each in _check(another(shared)).open] == ["damaged"]
    report = Check(store, Heard()).run(repair=True, copies=[store.copy])
    assert report.open == []
    assert whole(another(shared, "third"), id)


# --- by the command line --------------------------------------------------------------------------------------


def test_by_the_command_line(shared: Shared, tmp_path: Path) -> None:
    settings = (
        f"project: p\nworkflow: workflows.main\nstore: {shared.place.uri}\n"
        f"s3: {{endpoint_url: '{shared.server.endpoint}', region: us-east-1}}\n"
    )
    project = Project(tmp_path / "p", "", files={".mirage/project.yaml": settings})
    project.commit()
    with environment({"MIRAGE_CACHE": str(tmp_path / "cache")}):
        shared_bucket(shared.server, tmp_path / "cache")
        (tmp_path / "file").write_bytes(b"a file")
        for name in ("one", "two"):
            (tmp_path / "file").write_bytes(name.encode())
            project.mirage("artifact", "add", str(tmp_path / "file"), "--as", f"dataset:{name}")
        project.mirage("artifact", "rm", "dataset:one:v1", "--reason", "a trial")
        found = project.asked("gc", "--older-than", "0s", "--dry-run")
        assert (found["garbage"]["blobs"], found["removed"]) == (3, None)
        assert project.asked("gc", "--older-than", "0s", "--yes")["removed"]["blobs"] == 3
        assert project.asked("gc", "--older-than", "0s")["garbage"] == {"blobs": 0, "bytes": 0}
        assert project.asked("fsck") == {"blobs": 3, "bytes": found["live"]["bytes"], "findings": []}
        there = store_at(shared.place, tmp_path / "eyes")
        _rot(there, of_bytes(b"two"))
        project.mirage("fsck", code=9)
        project.mirage("fsck", "--repair")
        project.mirage("fsck")
