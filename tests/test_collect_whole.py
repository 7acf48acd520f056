"""Garbage collection of a store that has everything: what a run, a verdict, the log and the keys lead to stays."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import StoreError
from orchestrator.image import wheel_bank
from orchestrator.image.library import Library
from orchestrator.store.folder import FolderStore
from orchestrator.store.sessions import hold, release
from orchestrator.trust import chain
from orchestrator.trust.chain import Entry, Link, Log
from orchestrator.trust.dsse import Envelope, Signature
from orchestrator.upkeep.collect import collect, look
from orchestrator.upkeep.fsck import Check
from orchestrator.upkeep.reach import Reach, raw
from tests.image_tools import SIX
from tests.run_tools import Project, engine
from tests.store_tools import Heard, blob

WORKFLOW = """
import six
from mirage import artifact, flow, metrics

@flow
def main() -> None:
    metrics.log(loss=0.5)
    print("hello")
    artifact.File.save(artifact.load("dataset:mine:best").path.read_bytes(), name="made")

if __name__ == "__main__":
    main()
"""
SETTINGS = """project: probe
workflow: workflows.main
bank: [layers, base, wheels]
environment: {unpinned: resolve}
"""


def _blobs(project: Project) -> set[str]:
    return {path.name for path in (project.store / "blobs").rglob("*") if path.is_file()}


def test_everything_that_is_needed_outlives_a_collection(tmp_path: Path) -> None:
    files = {
        "requirements.txt": SIX.decode() + "packaging\n",
        ".mirage/project.yaml": SETTINGS,
        "configs/b.yaml": "data: 'dataset:mine:best'\n",
    }
    project = Project(tmp_path / "repository", WORKFLOW, files=files)
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "MIRAGE_SIGN_KEY": ""}

    def asked(*words: str, **more: str) -> Any:
        return json.loads(project.mirage(*words, "--json", env={**env, **more}))

    made = asked("key", "new")
    asked("key", "trust", made["public"], "--name", "me")
    project.commit()
    data, unwanted = tmp_path / "data.txt", tmp_path / "unwanted.txt"
    data.write_text("data")
    unwanted.write_text("unwanted")
    for path, name in ((data, "mine"), (unwanted, "other")):
        asked("artifact", "add", str(path), "--as", f"dataset:{name}")
    asked("artifact", "tag", "dataset:mine:v1", "best")
    first = project.run(config="configs/b.yaml", env=env)
    run = first["run_id"]
    asked("note", run, "a note")
    project.write("workflows/main.py", WORKFLOW + "# changed\n")
    snapshot = project.run("--snapshot", config="configs/b.yaml", env=env)
    again = asked("reproduce", run)
    assert again["verdict"] == "IDENTICAL"
    asked("artifact", "rm", "dataset:other:v1", "--reason", "a trial")
    store = FolderStore.open_at(project.store)
    garbage = {store.put(b"nobody needs this")[7:], of_bytes(b"unwanted")[7:]}
    before = _blobs(project)

    told = asked("gc", "--older-than", "0s", "--yes")
    gone = before - _blobs(project)
    assert garbage < gone
    assert len(gone) == told["removed"]["blobs"] == 4, "and the manifest and the tree of what was given up"
    assert asked("gc", "--older-than", "0s")["garbage"]["blobs"] == 0
    for each in (run, snapshot["run_id"], *again["runs"]):
        project.mirage("verify", each, env=env)
    project.mirage("log", "verify", env=env)
    assert asked("fsck")["findings"] == []

    # on another machine: nothing but the store
    name = f"mirage/run:{first['image']['digest'].removeprefix('sha256:')[:24]}"
    engine().remove_image(name, force=True)
    elsewhere = asked("reproduce", run, MIRAGE_CACHE=str(tmp_path / "cache"))
    assert (elsewhere["verdict"], elsewhere["image"]["origin"]) == ("IDENTICAL", "store")
    key = project_key(project, run, "envKey")
    kept = wheel_bank.find(Library(FolderStore.open_at(tmp_path / "third"), store), key)
    assert kept is not None
    assert sorted(each.package for each in kept) == ["packaging", "six"]


def project_key(project: Project, run: str, name: str) -> Digest:
    """A key that a signed record names."""
    statement = json.loads(base64.b64decode(project.record(run)["payload"]))
    return Digest(statement["predicate"]["buildDefinition"]["internalParameters"][name])


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


RUN = "20261125-120000-abcdef"
KEY = f"runs/2026-11/{RUN}/record.json"


def _entry(store: FolderStore, needed: Digest) -> tuple[bytes, bytes]:
    """A record's place in the log, and not yet its name: as whoever dies between the two leaves it."""
    link = Link(Log(store, None).id, 0, None)
    statement = canonical.encode(
        {
            "subject": [],
            "predicate": {"buildDefinition": {"resolvedDependencies": []}, "run.json": needed},
        }
    )
    envelope = Envelope(statement, (Signature("k", b"s"),)).encode()
    store.create(chain.entry_key(0), Entry(link, KEY, store.put(envelope)).encode())
    return envelope, statement


@pytest.mark.parametrize("sealed", [False, True])
def test_what_the_log_names_stays_with_and_without_its_name(store: FolderStore, sealed: bool) -> None:
    needed = store.put(b"the result")
    envelope, statement = _entry(store, needed)
    if sealed:
        store.create(KEY, envelope)
    old = store.put(statement)
    garbage = store.put(b"garbage")
    assert collect(store, 0.0, Heard()).removed == 1
    assert store.has(needed)
    assert store.has(of_bytes(envelope))
    assert store.has(old), "what is in the envelope may lie there by itself"
    assert not store.has(garbage)


class Sealing(FolderStore):
    """A store in which a run is sealed at one moment of a look at it."""

    moment = -1

    def keys(self, prefix: str) -> Iterator[str]:
        self.moment -= 1
        if self.moment == 0:
            envelope, _ = _entry(self, of_bytes(b"a layer"))
            self.create(KEY, envelope)
            release(self, RUN)
        return iter(list(super().keys(prefix)))


@pytest.mark.parametrize("moment", range(1, 9))
def test_a_run_that_is_sealed_during_a_look_is_seen(tmp_path: Path, moment: int) -> None:
    FolderStore.open_at(tmp_path / "store")
    store = Sealing(tmp_path / "store")
    layer = store.put(b"a layer")
    hold(store, RUN, "prepared", [layer])
    reach = Reach(store, [layer])
    store.moment = moment
    reach.update()
    assert raw(layer) in reach.live


def test_where_the_log_cannot_be_read_nothing_is_removed(store: FolderStore) -> None:
    _entry(store, store.put(b"the result"))
    path = Path(store.location) / chain.entry_key(0)
    path.chmod(0o644)
    path.write_bytes(b"{")
    store.put(b"garbage")
    with pytest.raises(StoreError, match="cannot be told"):
        look(store, 0.0)


def test_wheels_stay_by_the_list_that_names_them(store: FolderStore) -> None:
    wheel = store.put(b"a wheel")
    listed = store.put(canonical.encode([{"package": "a", "digest": wheel}]))
    top = f"keys/wheels/{of_bytes(b'k')[7:]}"
    store.create(f"{top}/manifest.json", b"{}")
    store.create(f"{top}/results/{listed[7:]}.json", canonical.encode({"digest": listed}))
    store.put(b"garbage")
    assert collect(store, 0.0, Heard()).removed == 1
    assert store.has(wheel)
    assert store.has(listed)
    path = blob(Path(store.location), wheel)
    path.chmod(0o644)
    path.write_bytes(b"another")
    (found,) = [each for each in Check(store, Heard()).run().findings if each.state == "damaged"]
    assert found.owners == (f"kept for the key {of_bytes(b'k')[7:19]} (wheels)",)


def test_records_and_the_log_mend_each_other(store: FolderStore) -> None:
    envelope, _ = _entry(store, store.put(b"the result"))
    digest = of_bytes(envelope)
    (found,) = Check(store, Heard()).run().findings
    assert (found.state, found.what) == ("missing", KEY)
    assert found.owners == ("entry 0 of the log",)
    assert _mended(store) == {KEY: "restored from the log"}
    assert store.read(KEY) == envelope
    path = Path(store.location) / KEY
    path.chmod(0o644)
    path.write_bytes(b"{}")
    assert _mended(store) == {KEY: "restored from the log"}
    blob(Path(store.location), digest).unlink()
    assert _mended(store) == {digest: f"restored from {KEY}"}
    assert store.has(digest)


def _mended(store: FolderStore) -> dict[str, str]:
    report = Check(store, Heard()).run(repair=True)
    return {each.what: each.mended for each in report.findings if each.mended}


def test_an_entry_of_another_log_mends_nothing(store: FolderStore, tmp_path: Path) -> None:
    _entry(store, store.put(b"the result"))
    other = FolderStore.open_at(tmp_path / "other")
    _entry(other, other.put(b"the result"))
    path = Path(store.location) / chain.entry_key(0)
    path.chmod(0o644)
    path.write_bytes(b"{")
    report = Check(store, Heard()).run(repair=True, copies=[other])
    assert [each.what for each in report.open] == [chain.entry_key(0)]
