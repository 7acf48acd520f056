"""`mirage verify`: a whole record passes; one that was changed anywhere, or whose things were, does not."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.judging import record_form
from orchestrator.judging.blobs import Blobs
from orchestrator.judging.record import Record
from orchestrator.judging.verify import Finding, exit_code, verify
from orchestrator.reference import RunId
from orchestrator.store.folder import FolderStore
from tests.mutation_tools import changed, leaves
from tests.run_tools import Project, git

WORKFLOW = """
from mirage import artifact, config, flow, metrics

@flow
def main() -> None:
    print("a log")
    metrics.log(step=1, loss=0.5)
    artifact.Dataset.save({"rows": [1, 2, 3]}, name="rows")
    if config.second:
        artifact.File.save("x", name="other", version="exp001", metadata={"a": 1})

if __name__ == "__main__":
    main()
"""


class Sealed:
    """A run with its record, in a project of its own."""

    def __init__(self, root: Path) -> None:
        self.project = Project(
            root,
            WORKFLOW,
            below="deep",
            files={
                "configs/a.yaml": "second: false\n",
                "configs/b.yaml": 'second: true\nrows: "dataset:rows:latest"\n',
                ".mirage/project.yaml": "project: probe\nworkflow: workflows.main\n"
                "run: {env: {MODE: slow}, timeout: 60, seed: 7}\n",
            },
        )
        self.project.run()
        self.run = self.project.run("--set", "+more=1", "--", "--depth=2", config="configs/b.yaml")
        self.run_id = RunId(self.run["run_id"])
        self.store = FolderStore.open_at(self.project.store)
        self.blobs = Blobs(self.store)
        self.record = self.project.record(self.run_id)

    def check(self, record: Any = None, *, data: bytes | None = None) -> list[Finding]:
        """The findings on this record, on another one under its name, or on any bytes; no engine is asked."""
        written = canonical.encode(self.record if record is None else record) if data is None else data
        return verify(Record(self.run_id, written), self.store, self.project.folder, None, self.blobs)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return Sealed(tmp_path_factory.mktemp("repository"))


def wrong(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.state not in ("ok", "unsigned")]


def test_a_whole_record_passes_with_and_without_an_engine(sealed: Sealed) -> None:
    found = sealed.project.asked("verify", sealed.run_id)
    assert found["verdict"] == "ok"
    states = {item["check"]: item["state"] for item in found["findings"]}
    assert states.pop("signature") == "unsigned"
    assert set(states.values()) == {"ok"}
    assert "chain" in states
    assert {
        "form",
        "record",
        "subject run.json",
        "output file:other:exp001",
        "byproduct log",
        "input dataset:rows:v1",
        "config",
        "image",
        "env key",
        "image key",
        "run key",
        "source",
        "lock",
    } <= set(states)
    assert "in the engine and restorable from the store" in next(
        item["text"] for item in found["findings"] if item["check"] == "image"
    )
    assert wrong(sealed.check()) == []
    assert list(record_form.RECORD(sealed.record, "")) == []


def test_no_changed_field_is_accepted(sealed: Sealed) -> None:
    count = 0
    for path in leaves(sealed.record):
        for change in ("change", "remove", "add"):
            made = changed(sealed.record, path, change)
            assert exit_code(sealed.check(made)) == 9, (path, change)
            count += 1
    assert count > 300


def test_no_flipped_bit_is_accepted(sealed: Sealed) -> None:
    data = canonical.encode(sealed.record)
    dice = random.Random(5)
    for _ in range(150):
        at, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
        assert exit_code(sealed.check(data=data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])) == 9
    for end in (0, 1, len(data) // 2, len(data) - 1):
        assert exit_code(sealed.check(data=data[:end])) == 9
    for same in (data + b"\n", b" " + data, data.replace(b'":', b'": ', 1)):
        assert exit_code(sealed.check(data=same)) == 9


def test_what_matters_is_held_by_more_than_the_seal(sealed: Sealed) -> None:
    """Also a forger who writes his record's blob is found out, in every field that says what was computed."""
    internal = sealed.record["predicate"]["buildDefinition"]["internalParameters"]
    unchecked = set()
    for path in leaves(sealed.record):
        found = wrong(sealed.check(changed(sealed.record, path, "change")))
        if {finding.check for finding in found} <= {"record", "chain"}:  # the seals, and nothing else
            unchecked.add(".".join(str(part) for part in path if not isinstance(part, int)))
    told = "predicate.buildDefinition."
    assert {name.removeprefix(told) for name in unchecked if name.startswith(told)} <= {
        "externalParameters.gpus",
        "externalParameters.overrides",
        "internalParameters.timeout",
        *(f"internalParameters.determinism.{name}" for name in internal["determinism"]),
        *(f"internalParameters.sandbox.{name}" for name in internal["sandbox"]),
        "resolvedDependencies.annotations.name",
        "resolvedDependencies.annotations.shallow",
        "resolvedDependencies.uri",
    }
    assert f"{told}externalParameters.overrides" in unchecked, "what only a signature holds is told as it is"
    assert not {name for name in unchecked if name.startswith("subject")}


def test_a_record_under_the_name_of_another_is_refused(sealed: Sealed) -> None:
    first = json.loads(sealed.project.mirage("ls", "--json"))["runs"][-1]["run_id"]
    found = wrong(sealed.check(sealed.project.record(first)))
    assert "record.run" in {finding.check for finding in found}


@pytest.fixture
def copied(sealed: Sealed, tmp_path: Path) -> Project:
    """The same project and store, to damage."""
    shutil.copytree(sealed.project.root, tmp_path / "copy", symlinks=True)
    there = Project.__new__(Project)
    there.root, there.folder = tmp_path / "copy", tmp_path / "copy" / "deep"
    return there


def blob(project: Project, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return project.store / "blobs" / "sha256" / name[:2] / name


def told(project: Project, run_id: str, code: int) -> set[tuple[str, str]]:
    found = json.loads(project.mirage("verify", run_id, "--json", code=code))
    assert found["verdict"] == {9: "mismatch", 10: "missing"}[code]
    return {
        (f["check"], f["state"])
        for f in found["findings"]
        if f["state"] not in ("ok", "unsigned", "unchained")
    }


@pytest.mark.parametrize(
    ("what", "check"),
    [
        ("run.json", "subject run.json"),
        ("log", "byproduct log"),
        ("environment.json", "byproduct environment.json"),
        ("config", "config"),
        ("output", "output file:other:exp001"),
        ("input", "input dataset:rows:v1"),
    ],
)
def test_a_blob_that_was_changed_or_lost_is_named(
    sealed: Sealed, copied: Project, what: str, check: str
) -> None:
    record, run = sealed.record, sealed.run
    digest = {
        "run.json": record["subject"][0]["digest"]["sha256"],
        "config": run["config"]["digest"],
        "output": run["outputs"][1]["digest"],
        "input": run["inputs"][0]["digest"],
        **{
            item["name"]: item["digest"]["sha256"] for item in record["predicate"]["runDetails"]["byproducts"]
        },
    }[what]
    path = blob(copied, digest)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if what in ("output", "input"):  # inside of an artifact: its one file's bytes
        path.unlink()
        path.write_bytes(data)
        content = {"output": b"x", "input": b'{"rows":[1,2,3]}'}[what]
        path = next(
            p for p in (copied.store / "blobs").rglob("*") if p.is_file() and p.read_bytes() == content
        )
        path.unlink()
        path.write_bytes(b"y" * len(content))
    both = (
        {("output dataset:rows:v1", state) for state in ("mismatch", "missing")} if what == "input" else set()
    )
    assert told(copied, sealed.run_id, 9) - both == {(check, "mismatch")}
    path.unlink()
    assert told(copied, sealed.run_id, 10) - both == {(check, "missing")}


def test_a_version_that_leads_elsewhere_is_named(sealed: Sealed, copied: Project) -> None:
    path = copied.store / "refs" / "file" / "other" / "exp001.json"
    pointer = json.loads(path.read_bytes())
    path.unlink()
    assert told(copied, sealed.run_id, 10) == {("output file:other:exp001", "missing")}
    path.write_text(json.dumps({**pointer, "digest": sealed.run["inputs"][0]["digest"]}))
    assert told(copied, sealed.run_id, 9) == {("output file:other:exp001", "mismatch")}


def test_a_damaged_layer_or_key_is_named_though_the_engine_has_the_image(
    sealed: Sealed, copied: Project
) -> None:
    top = copied.store / "keys" / "image" / sealed.run["image"]["key"].removeprefix("sha256:")
    manifest = top / "manifest.json"
    kept = manifest.read_bytes()
    manifest.write_bytes(kept.replace(b'"schema"', b'"scheme"'))
    assert told(copied, sealed.run_id, 9) == {("image key", "mismatch")}
    manifest.unlink()
    assert told(copied, sealed.run_id, 10) == {("image key", "missing")}
    manifest.write_bytes(kept)
    image = json.loads(next((top / "results").iterdir()).read_bytes())
    layer = blob(copied, json.loads(image["manifest"])["layers"][-1]["digest"])
    data = layer.read_bytes()
    layer.unlink()
    layer.write_bytes(data[:-1] + b"\x01")
    assert told(copied, sealed.run_id, 9) == {("image.layer", "mismatch")}
    no_engine = {"DOCKER_HOST": "unix:///nonexistent/engine.sock"}
    layer.unlink()
    found = json.loads(copied.mirage("verify", sealed.run_id, "--json", code=10, env=no_engine))
    assert {(f["check"], f["state"]) for f in found["findings"]} >= {("image.layer", "missing")}
    layer.write_bytes(data)
    found = json.loads(copied.mirage("verify", sealed.run_id, "--json", env=no_engine))
    assert found["verdict"] == "ok"


def test_a_commit_that_is_not_here_cannot_be_verified(sealed: Sealed, copied: Project) -> None:
    shutil.rmtree(copied.root / ".git")
    git(copied.root, "init", "-q")
    assert told(copied, sealed.run_id, 10) == {("source", "missing")}


def test_a_record_from_before_there_was_a_log_passes_where_there_is_none(
    sealed: Sealed, copied: Project
) -> None:
    record = json.loads(canonical.encode(sealed.record))
    del record["predicate"]["runDetails"]["mirage_chain"]
    data = canonical.encode(record)
    FolderStore(copied.store).put(data)
    path = copied.store / "runs" / f"{sealed.run_id[:4]}-{sealed.run_id[4:6]}" / sealed.run_id / "record.json"
    path.unlink()
    path.write_bytes(data)
    assert told(copied, sealed.run_id, 9) == {("chain", "mismatch")}, "the log knows that it had a place"
    shutil.rmtree(copied.store / "log")
    found = json.loads(copied.mirage("verify", sealed.run_id, "--json"))
    assert {f["state"] for f in found["findings"] if f["check"] == "chain"} == {"unchained"}


def test_a_verdict_about_another_record_is_named(sealed: Sealed, copied: Project) -> None:
    folder = copied.store / "runs" / f"{sealed.run_id[:4]}-{sealed.run_id[4:6]}" / sealed.run_id / "verdicts"
    copied.mirage("reproduce", sealed.run_id)
    (path,) = folder.iterdir()
    assert json.loads(copied.mirage("verify", sealed.run_id, "--json"))["verdict"] == "ok"
    statement = json.loads(path.read_bytes())
    statement["predicate"]["configuration"][0]["digest"]["sha256"] = "0" * 64
    path.unlink()
    path.write_bytes(canonical.encode(statement))
    assert told(copied, sealed.run_id, 9) == {(f"verdict by {path.stem}", "mismatch")}
