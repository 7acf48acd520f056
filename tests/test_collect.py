"""Garbage collection: nothing live removed, all garbage gone, whoever dies and whenever."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest

from orchestrator.artifacts import by_hand, tombstone
from orchestrator.artifacts.version import resolve
from orchestrator.digest import hex_of, of_bytes
from orchestrator.errors import StoreError
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from orchestrator.image.library import Library
from orchestrator.ports import Store
from orchestrator.store import turns
from orchestrator.store.folder import FolderStore
from orchestrator.store.sessions import StoreBusy, hold, release, writing
from orchestrator.upkeep import machine
from orchestrator.upkeep.collect import Busy, collect, look
from tests.gc_tools import (
    Root,
    beside,
    check_sealed,
    check_whole,
    collect_often,
    notes,
    open_store,
    seal,
    write,
)
from tests.image_tools import python_base
from tests.run_tools import Project, engine, wait_for
from tests.store_tools import Heard, blob, check_store, save


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


def _collect(store: FolderStore, older_than: float = 0.0, patience: float = 10.0) -> int:
    return collect(store, older_than, Heard(), patience=patience).removed


def _add(store: FolderStore, tmp_path: Path, words: str, name: str = "data") -> str:
    path = tmp_path / "file"
    path.write_text(words)
    return str(by_hand.add(store, path, kind="dataset", name=name, version=None).ref)


def test_what_versions_need_stays_and_the_rest_goes(store: FolderStore, tmp_path: Path) -> None:
    first, second = _add(store, tmp_path, "one"), _add(store, tmp_path, "two")
    store.put(b"nobody needs this")
    assert [held.digest for held in look(store, 0).garbage] == [of_bytes(b"nobody needs this")]
    assert look(store, 3600).young == 1
    assert _collect(store, 3600) == 0
    assert _collect(store) == 1
    found = resolve(store, first)
    tombstone.bury(store, found.ref, found.digest, "old")
    assert _collect(store) == 3, "manifest, tree and file"
    assert check_whole(Path(store.location)) == 1
    assert check_store(Path(store.location)) == 3
    assert resolve(store, second)
    assert (
        turns.read_state(store) == turns.State(4, turns.IDLE) or turns.read_state(store).phase == turns.IDLE
    )


def test_a_hold_protects_until_it_is_released(store: FolderStore) -> None:
    digest = store.put(b"of a run that goes on")
    hold(store, "20261125-120000-abcdef", "prepared", [digest])
    assert _collect(store) == 0
    release(store, "20261125-120000-abcdef")
    assert _collect(store) == 1
    assert not store.has(digest)


def test_a_collection_waits_for_who_was_there_before(store: FolderStore) -> None:
    with writing(store) as kept:
        digest = kept.put(b"about to be named")
        with pytest.raises(Busy, match="1 writer"):
            _collect(store, patience=0.2)
        assert store.has(digest)
    assert _collect(store) == 1


def test_a_session_of_a_dead_process_holds_nobody_up(store: FolderStore) -> None:
    def die() -> None:
        with writing(store) as kept:
            kept.put(b"never named")
            os.kill(os.getpid(), signal.SIGKILL)

    child = beside(die)
    child.join(20)
    assert len(list(store.keys("gc/session/"))) == 1
    assert _collect(store, patience=0.0) == 1
    assert list(store.keys("gc/session/")) == []


def test_what_is_needed_again_while_it_is_condemned_stays(store: FolderStore) -> None:
    """The rescue: an old writer keeps the collector waiting, a new one needs what is condemned."""
    digest = store.put(b"an old blob")
    with writing(store):
        collector = beside(lambda: collect(open_store(Path(store.location)), 0.0, Heard(), patience=20))
        wait_for(lambda: turns.read_state(store).phase == turns.CONDEMNED)
        with writing(store) as newcomer:
            assert newcomer.has(digest)
            assert len(list(store.keys("gc/keep/"))) == 1
    collector.join(20)
    assert collector.exitcode == 0
    assert store.has(digest), "it was rescued"
    assert _collect(store) == 1, "nobody named it in the end"


def test_two_collectors_do_not_work_at_once(store: FolderStore) -> None:
    store.put(b"garbage")
    with writing(store):
        collector = beside(lambda: collect(open_store(Path(store.location)), 0.0, Heard(), patience=20))
        wait_for(lambda: turns.read_state(store).phase == turns.CONDEMNED)
        with pytest.raises(Busy, match="another `mirage gc` works"):
            _collect(store)
    collector.join(20)
    assert collector.exitcode == 0


def test_a_collector_that_was_replaced_stops(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It seems dead to another one, which takes over: the fence keeps the first from removing anything more."""
    digest = store.put(b"garbage")
    with writing(store):
        collector = beside(lambda: collect(open_store(Path(store.location)), 0.0, Heard(), patience=20))
        wait_for(lambda: turns.read_state(store).phase == turns.CONDEMNED)
        monkeypatch.setattr(turns, "DEAD", 0.0)
        number = turns.take_lock(store)
    collector.join(20)
    assert collector.exitcode == 1
    assert store.has(digest)
    assert number is not None
    turns.release_lock(store, number)
    assert _collect(store) == 1


def test_where_a_need_cannot_be_told_nothing_is_removed(store: FolderStore, tmp_path: Path) -> None:
    id = _add(store, tmp_path, "one")
    garbage = store.put(b"garbage")
    blob(Path(store.location), resolve(store, id).manifest.tree).unlink()
    with pytest.raises(StoreError, match="cannot be told"):
        _collect(store)
    assert store.has(garbage)


@pytest.mark.parametrize("phase", ["looking", turns.CONDEMNED, turns.DELETING])
def test_a_collector_that_is_killed_is_replaced(tmp_path: Path, phase: str) -> None:
    """SIGKILL in each phase; writers go on, and a second collection finishes."""
    store = open_store(tmp_path / "store")
    for number in range(300):
        store.put(b"garbage %d" % number)
    id = _add(store, tmp_path, "live")

    def slowly() -> None:
        mine = open_store(tmp_path / "store")
        enter, remove = turns.write_state, mine.remove

        def told(where: Store, state: turns.State) -> None:
            enter(where, state)
            if state.phase == phase or (phase == "looking" and state.phase == turns.IDLE):
                if phase == turns.DELETING:
                    remove([of_bytes(b"garbage %d" % number) for number in range(100)])
                os.kill(os.getpid(), signal.SIGKILL)

        turns.write_state = told  # type: ignore[assignment]  # only in this forked process
        collect(mine, 0.0, Heard())

    child = beside(slowly)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    began = time.monotonic()
    with writing(store) as kept:
        kept.put(b"garbage 0")
    assert time.monotonic() - began < 5, "writers do not wait for the dead"
    assert _collect(store) >= 200
    assert turns.read_state(store).phase == turns.IDLE
    assert check_whole(tmp_path / "store") == 1
    assert check_store(tmp_path / "store") == 3
    assert resolve(store, id)
    assert list(store.keys("gc/condemned/")) == []


def publish_while_collecting(root: Root, seconds: float, *, sessions: bool = True) -> tuple[int, int, str]:
    """8 writers, 2 sealers of runs and a collector; gives published and broken versions, and what the collector says."""
    open_store(root)
    writers = [beside(write, root, number, seconds, sessions) for number in range(8)]
    writers += [beside(seal, root, number, seconds) for number in range(2)]
    collector = beside(collect_often, root, seconds)
    for process in (*writers, collector):
        process.join(seconds * 3 + 60)
    assert [process.exitcode for process in writers] == [0] * 10
    assert collector.exitcode == 0
    told = [(notes(root) / f"writer-{number}").read_text().split() for number in range(8)]
    published, broken = (sum(int(each[at]) for each in told) for at in (0, 1))
    return published, broken, (notes(root) / "collector").read_text()


def test_nothing_live_goes_while_eight_writers_publish(tmp_path: Path) -> None:
    published, broken, told = publish_while_collecting(tmp_path / "store", 6.0)
    print(f"published {published}, broken {broken}; rounds, removed, rescued: {told}")
    assert broken == 0
    rounds, removed, _ = map(int, told.split())
    assert published > 50
    assert rounds > 3
    assert removed > 20
    root = tmp_path / "store"
    assert check_whole(root) == 24
    _collect(open_store(root))
    assert look(open_store(root), 0).garbage == []
    assert check_whole(root) == 24
    assert check_sealed(root) > 20
    assert list(open_store(root).keys("gc/session/")) == []


def test_who_meets_a_collection_that_deletes_does_it_again(store: FolderStore, tmp_path: Path) -> None:
    """A session of the condemned phase finds a condemned blob, and deleting has begun before it can say so."""
    (tmp_path / "file").write_bytes(b"streamed")
    digests = [store.put(data) for data in (b"put", b"streamed", b"taken", b"seen", b"whole")]
    names = [hex_of(digest) for digest in digests]
    store.create(f"gc/condemned/{1:016}.json", json.dumps(names).encode())
    turns.write_state(store, turns.State(1, turns.CONDEMNED))

    def end() -> None:
        store.remove(digests)
        turns.write_state(store, turns.State(1, turns.IDLE))

    def meet(action: Callable[[Store], object]) -> object:
        turns.write_state(store, turns.State(1, turns.CONDEMNED))
        with writing(store) as kept:
            turns.write_state(store, turns.State(1, turns.DELETING))
            timer = threading.Timer(0.1, end)
            timer.start()
            try:
                return action(kept)
            finally:
                timer.join()

    def stream(kept: Store) -> None:
        with kept.writer() as writer:
            writer.write(b"streamed")
            writer.commit()

    def take(kept: Store) -> None:
        with (tmp_path / "file").open("rb") as source, kept.intake() as intake:
            intake.add(source.fileno(), 8)

    number, _ = turns.newest_lock(store)
    assert number == 0
    turns.take_lock(store)  # so that it is not taken for one that a dead collector left
    assert meet(lambda kept: kept.put(b"put")) == digests[0]
    assert store.has(digests[0]), "put again"
    store.put(b"streamed")
    with pytest.raises(StoreBusy):
        meet(stream)
    store.put(b"streamed")
    with pytest.raises(StoreBusy):
        meet(take)
    store.put(b"seen")
    assert meet(lambda kept: kept.has(digests[3])) is False
    (tmp_path / "whole").write_bytes(b"whole")
    store.put(b"whole")
    meet(lambda kept: kept.put_file(tmp_path / "whole", digest=digests[4], link=False))
    assert store.has(digests[4])


def test_by_the_command_line(tmp_path: Path) -> None:
    """Two runs; what the one that is given up saved goes, and everything of the other stays whole."""
    project = Project(
        tmp_path / "p",
        "import sys\nfrom mirage import artifact\nartifact.File.save(sys.argv[-1].encode(), name='made')\n",
    )
    first, second = project.run("--", "one"), project.run("--", "two")
    assert [item["id"] for item in second["outputs"]] == ["file:made:v2"]
    before = project.asked("gc", "--older-than", "0s")
    assert before["garbage"]["blobs"] == 0, "all that two runs left is needed"
    project.mirage("artifact", "rm", "file:made:v1", "--reason", "a trial", "--force")
    found = project.asked("gc", "--older-than", "0s")
    assert found["garbage"]["blobs"] == 3
    assert found["removed"] is None
    out, err, code = project.ended(project.start("gc", "--older-than", "0s", program="mirage"))
    assert (code, "--yes removes it" in err) == (0, True)
    assert "garbage" in out
    assert project.asked("gc", "--yes")["removed"] is None, "nothing is a day old"
    done = project.asked("gc", "--older-than", "0s", "--yes")
    assert done["removed"]["blobs"] == 3
    assert project.asked("gc", "--older-than", "0s")["garbage"] == {"blobs": 0, "bytes": 0}
    project.mirage("verify", second["run_id"])
    project.mirage("verify", first["run_id"], code=10)
    assert list((project.store / "gc" / "session").iterdir()) == []
    assert list((project.store / "gc" / "hold").rglob("*.json")) == []


def test_images_and_layers_of_the_machine(tmp_path: Path) -> None:
    """What no record names can go; here nothing is old, so nothing goes, and everything is told."""
    project = Project(tmp_path / "p", "")
    made = project.run()
    record = project.record(made["run_id"])
    image = next(
        item
        for item in record["predicate"]["buildDefinition"]["resolvedDependencies"]
        if item["name"] == "image"
    )
    wanted = machine.needed(open_store(project.store))
    assert {digest.removeprefix("sha256:") for digest in image["annotations"]["diffIds"]} <= wanted
    engine = DockerEngine(choose(os.environ))
    name = f"mirage/run:{made['image']['digest'].removeprefix('sha256:')[:24]}"

    def names(wanted: set[str], unused: float) -> set[str]:
        return {each.name for each in machine.images(engine, wanted, 3600.0, lambda name: unused)}

    assert name not in names(wanted, 9999.0)
    assert name in names(set(), 9999.0)
    assert names(set(), 3599.0) == set()
    library = Library(FolderStore.open_at(tmp_path / "cache"), open_store(project.store))
    assert library.unused_for(name) == 0.0
    os.utime(tmp_path / "cache" / "used" / name.replace("/", "-").replace(":", "-"), (1, 1))
    assert library.unused_for(name) > 1e9
    library.used(name)
    assert library.unused_for(name) < 60
    told = project.asked("gc", "--machine", "--older-than", "9999d", "--yes")
    assert (told["images"], told["layers"]["blobs"], told["volumes"], told["removed"]) == ([], 0, [], None)


def test_the_installers_cache_in_the_engine_goes_when_no_build_used_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"mirage-test-{secrets.token_hex(6)}"
    client, project = engine(), Project(tmp_path / "p", "")
    client.create_volume(name)
    held = client.create_container(
        python_base().tag,
        command=["python3", "-c", "open('/x/y', 'wb').write(bytes(3 << 20))"],
        host_config=client.create_host_config(binds=[f"{name}:/x"], network_mode="none"),
    )["Id"]
    try:
        client.start(held)
        client.wait(held)
        stamp = tmp_path / "cache" / "used" / f"volume-{name}"
        env = {"MIRAGE_CACHE": str(tmp_path / "cache")}

        def gc(*words: str) -> dict[str, Any]:
            """Of the volumes that others made, none is a day old by this cache, which sees them for the first time."""
            options = ("gc", "--machine", "--older-than", "1d", "--json", *words)
            found: dict[str, Any] = json.loads(project.mirage(*options, env=env))
            return found

        assert gc("--dry-run")["volumes"] == []
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        os.utime(stamp, (1, 1))
        assert gc("--dry-run")["volumes"] == [], "a container has it"
        client.remove_container(held)
        (told,) = gc("--dry-run")["volumes"]
        assert (told["name"], told["bytes"] >= 3 << 20) == (name, True)
        text = project.mirage("gc", "--machine", "--older-than", "1d", "--dry-run", env=env)
        assert re.search(rf"volume +{name}  3\.0 MiB of the installer's cache", text)
        assert gc("--yes")["removed"]["volumes"] == 1
        assert gc("--dry-run")["volumes"] == []
    finally:
        with suppress(docker.errors.NotFound):
            client.remove_container(held, force=True)
        with suppress(docker.errors.NotFound):
            client.remove_volume(name)


def test_a_session_costs_little(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    save(store, tmp_path / "a")
    began = time.perf_counter()
    for _ in range(50):
        with writing(store):
            pass
    each = (time.perf_counter() - began) / 50
    print(f"{each * 1000:.2f} ms")
    assert each < 0.05
