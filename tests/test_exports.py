"""Exports: accepted by their formats' own validators, and every one of these rejects what was spoilt."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.errors import ConfigError
from orchestrator.exports import cyclonedx, mlflow_store, openlineage, ro_crate, subject, target
from orchestrator.exports.subject import Subject
from orchestrator.image import sbom
from orchestrator.provenance import ResultOutput
from orchestrator.trust import dsse
from tests.record_tools import BASE, run_id
from tests.test_report import Shelf, png
from tests.validator_tools import HERE, judge, python_with

Spoil = Callable[[Any], Any]


class Case:
    """Three runs: data, a model that was trained on it, and one that failed."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder)
        records = self.shelf.records
        data = self.shelf.save("rows", {"a b%.csv": b"1", "deep/é.csv": b"2"}, 1)
        records.add(run_id(1), config_path="configs/data.yaml", saved=[data])
        figure = self.shelf.save("figure", {"f.png": png()}, 2)
        model = ResultOutput("model:cnn:v1", self.shelf.save("cnn", {"w.npz": b"w"}, 2).digest, 1, 1, "npz")
        course = self.shelf.course(
            [(1, {"accuracy": 0.5, "val/loss": 2.0}), (2, {"accuracy": 0.9, "odd": None})]
        )
        self.numbers = {"accuracy": 0.9, "val/loss": 2.0, "odd": None, "late": 7.0}
        records.add(
            run_id(2),
            config={"lr": 1e-3, "name": "x: y", "deep": {"list": [1, 2]}},
            metrics=self.numbers,
            inputs=["report:rows:v1"],
            packages=[("Flask_Login", "1.0+local"), ("numpy", "2.0")],
            saved=[figure, model],
            byproducts=[course],
        )
        records.add(run_id(3), status="failed", reason="exit code 1", branch=None, config={"../../up": "a", "a/b": 1, "a": 2},
            metrics={"../../../up": 1.0, "naïve (%)": 2.0, "a/b": 3.0, "a": 4.0, "x" * 300: 5.0, "": 6.0})  # fmt: skip
        key = f"keys/base/{BASE.removeprefix('sha256:')}/results/{BASE.removeprefix('sha256:')}.json"
        base: canonical.Json = {
            "digest": BASE,
            "packages": [["libstdc++6", "12.2.0-14+deb12u1"], ["bash", "5.2"]],
        }
        records.store.create(key, canonical.encode(base))

    def subject(self, number: int) -> Subject:
        """One of the runs."""
        return subject.read(self.shelf.catalog.find(run_id(number)))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


def spoil(source: Path, place: Path, change: Spoil) -> Path:
    """A copy of a JSON file with something changed."""
    value = json.loads(source.read_text())
    change(value)
    place.write_text(json.dumps(value))
    return place


# Process Run Crate


def entity(crate: Any, kind: str) -> Any:
    return next(each for each in crate["@graph"] if each["@type"] == kind)


SPOILT_CRATES: dict[str, Spoil] = {
    "no-instrument": lambda crate: entity(crate, "CreateAction").pop("instrument"),
    "no-license": lambda crate: crate["@graph"][1].pop("license"),
    "no-date": lambda crate: crate["@graph"][1].pop("datePublished"),
    "not-a-part": lambda crate: crate["@graph"][1]["hasPart"].pop(),
    "no-profile": lambda crate: crate["@graph"][1].pop("conformsTo"),
}


def check_crates(case: Case, folder: Path, good: dict[str, int], spoilt: list[str]) -> None:
    """Crates of runs are accepted; spoilt copies of the first, and one that lost a file, are not."""
    for name, number in good.items():
        with target.folder(folder / name) as inside:
            ro_crate.write(inside, case.subject(number), license=None, data=name != "bare")
    first = folder / next(iter(good))
    for name in spoilt:
        shutil.copytree(first, folder / name)
        spoil(first / "ro-crate-metadata.json", folder / name / "ro-crate-metadata.json", SPOILT_CRATES[name])
    shutil.copytree(first, folder / "lost-file")
    (folder / "lost-file" / "config.json").unlink()
    bad = [folder / name for name in (*spoilt, "lost-file")]
    found = judge("ro-crate", [*(folder / name for name in good), *bad])
    assert [found[folder / name] for name in good] == [[]] * len(good)
    assert all(found[path] for path in bad), {path.name: found[path] for path in bad}


def test_crates_are_accepted_and_spoilt_ones_are_not(case: Case, tmp_path: Path) -> None:
    check_crates(case, tmp_path, {"data": 1, "failed": 3}, ["no-instrument"])


def test_a_crate_says_what_the_record_says(case: Case, tmp_path: Path) -> None:
    with target.folder(tmp_path / "c") as folder:
        ro_crate.write(folder, case.subject(2), license="https://spdx.org/licenses/MIT", data=True)
    crate = json.loads((tmp_path / "c" / "ro-crate-metadata.json").read_text())
    told = case.subject(2).told
    assert entity(crate, "SoftwareSourceCode")["version"] == told["commit"]
    assert f"sha256:{entity(crate, 'ContainerImage')['sha256']}" == told["image"]
    action = entity(crate, "CreateAction")
    assert {"@id": "mirage:report:rows:v1"} in action["object"] and "error" not in action
    assert (tmp_path / "c" / "outputs" / "report" / "figure" / "v1" / "f.png").read_bytes() == png()
    assert (tmp_path / "c" / "record.intoto.json").read_bytes() == case.subject(2).row.record
    with target.folder(tmp_path / "failed") as folder:
        ro_crate.write(folder, case.subject(3), license=None, data=True)
    failed = entity(json.loads((tmp_path / "failed" / "ro-crate-metadata.json").read_text()), "CreateAction")
    assert failed["error"] == "exit code 1" and "Failed" in failed["actionStatus"]["@id"]


def test_a_crate_calls_a_signed_record_what_it_is(case: Case, tmp_path: Path) -> None:
    plain = case.subject(2)
    envelope = dsse.Envelope(plain.row.record, (dsse.Signature("key", b"s" * 64),)).encode()
    signed = dataclasses.replace(plain, row=dataclasses.replace(plain.row, record=envelope))
    media = []
    for name, run in (("plain", plain), ("signed", signed)):
        with target.folder(tmp_path / name) as folder:
            ro_crate.write(folder, run, license=None, data=False)
        crate = json.loads((tmp_path / name / "ro-crate-metadata.json").read_text())
        (record,) = (each for each in crate["@graph"] if each["@id"] == "record.intoto.json")
        media.append(record["encodingFormat"])
    assert media == ["application/vnd.in-toto+json", "application/vnd.dsse.envelope.v1+json"]


def test_a_packed_crate_is_the_same_bytes_again(case: Case, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        with target.folder(tmp_path / name) as folder:
            ro_crate.write(folder, case.subject(1), license=None, data=True)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    assert "ro-crate-metadata.json" in names and "outputs/report/rows/v1/deep/é.csv" in names
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "b.zip"]


# CycloneDX


def test_bills_of_materials_are_accepted_and_spoilt_ones_are_not(case: Case, tmp_path: Path) -> None:
    good = [tmp_path / f"{number}.cdx.json" for number in (1, 2, 3)]
    for path, number in zip(good, (1, 2, 3), strict=True):
        target.write_file(path, cyclonedx.encode(case.subject(number)))
    spoilt: dict[str, Spoil] = {
        "unknown-field": lambda bom: bom.update(more=1),
        "unknown-type": lambda bom: bom["components"][0].update(type="thing"),
        "short-hash": lambda bom: bom["metadata"]["component"]["hashes"][0].update(content="ab"),
        "no-name": lambda bom: bom["components"][0].pop("name"),
        "serial": lambda bom: bom.update(serialNumber="urn:uuid:1"),
        "time": lambda bom: bom["metadata"].update(timestamp="yesterday"),
    }
    bad = [spoil(good[1], tmp_path / f"{name}.json", change) for name, change in spoilt.items()]
    told = case.subject(2)
    environment = sbom.of_environment(BASE, BASE, "linux/amd64", told.packages, told.base_packages)
    good.append(tmp_path / "environment.cdx.json")
    good[3].write_bytes(environment)
    found = judge("cyclonedx-1.6", [*good, *bad])
    assert [found[path] for path in good] == [[]] * 4
    assert all(found[path] for path in bad), {path.name: found[path] for path in bad}
    # a later version takes the same document, once it says that it is one
    later = spoil(
        good[1],
        tmp_path / "later.json",
        lambda bom: bom.update(
            specVersion="1.7", **{"$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json"}
        ),
    )
    assert judge("cyclonedx-1.7", [later])[later] == []


def test_a_bill_names_packages_base_and_model(case: Case) -> None:
    bom = json.loads(cyclonedx.encode(case.subject(2)))
    components = {each["bom-ref"]: each for each in bom["components"]}
    assert {"pkg:pypi/flask-login@1.0%2Blocal", "pkg:pypi/numpy@2.0", "pkg:deb/debian/bash@5.2"} <= set(
        components
    )
    assert "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1" in components
    model = components["mirage:model:cnn:v1"]
    assert model["type"] == "machine-learning-model"
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "mirage:report:rows:v1"}]
    assert {"type": "accuracy", "value": "0.9"} in model["modelCard"]["quantitativeAnalysis"][
        "performanceMetrics"
    ]
    assert bom["metadata"]["component"]["version"] == case.subject(2).told["image"]
    known = {*components, bom["metadata"]["component"]["bom-ref"]}
    assert all(ref in known for each in bom["dependencies"] for ref in (each["ref"], *each["dependsOn"]))


def test_the_files_that_a_lock_allows_are_told_apart_from_the_one_that_it_names() -> None:
    one, two = ("sha256:" + each * 64 for each in "ab")
    named = sbom.python_package({"name": "a", "version": "1", "hashes": [one]})
    allowed = sbom.python_package({"name": "a", "version": "1", "hashes": [one, two, "md5:x"]})
    assert named["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}] and "hashes" not in allowed
    assert len(allowed["externalReferences"][0]["hashes"]) == 2  # type: ignore[index,call-overload,arg-type]


# OpenLineage


def test_events_are_accepted_and_spoilt_ones_are_not(case: Case, tmp_path: Path) -> None:
    good = tmp_path / "events.jsonl"
    target.write_file(good, openlineage.encode([case.subject(number) for number in (1, 2, 3)]))
    events = [json.loads(line) for line in good.read_text().splitlines()]
    assert [each["eventType"] for each in events] == [
        "START",
        "COMPLETE",
        "START",
        "COMPLETE",
        "START",
        "FAIL",
    ]
    assert events[2]["run"]["runId"] == events[3]["run"]["runId"] != events[5]["run"]["runId"]
    assert events[1]["outputs"][0]["name"] == events[2]["inputs"][0]["name"] == "report:rows"
    spoilt: dict[str, Spoil] = {
        "run-id": lambda event: event["run"].update(runId="7"),
        "time": lambda event: event.update(eventTime="yesterday"),
        "type": lambda event: event.update(eventType="DONE"),
        "facet": lambda event: event["job"]["facets"]["jobType"].pop("integration"),
        "schema": lambda event: event.update(schemaURL="https://openlineage.io/spec/1-0-0/OpenLineage.json"),
        "unknown": lambda event: event["run"].update(more=1),
    }
    first = tmp_path / "first.json"
    first.write_text(json.dumps(events[3]))
    bad = [spoil(first, tmp_path / f"{name}.json", change) for name, change in spoilt.items()]
    found = judge("openlineage", [good, *bad])
    assert found[good] == []
    assert all(found[path] for path in bad), {path.name: found[path] for path in bad}


# MLflow


def test_mlflow_reads_what_was_exported(case: Case, tmp_path: Path) -> None:
    place = tmp_path / "mlruns"
    with target.folder(place) as folder:
        mlflow_store.write(folder, place, [case.subject(number) for number in (1, 2, 3)], data=True)
    done = subprocess.run(
        [str(python_with("mlflow.txt")), str(HERE / "read_mlruns.py"), str(place)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["experiments"] == ["p"] and told["best"] == [run_id(2)]
    data, model, failed = told["runs"]
    assert [each["status"] for each in told["runs"]] == ["FINISHED", "FINISHED", "FAILED"]
    assert model["params"] == {"lr": "0.001", "name": "x: y", "deep.list": "[1,2]"}
    assert model["metrics"]["accuracy"] == [[1, "0.5"], [2, "0.9"]] and model["metrics"]["late"] == [
        [0, "7.0"]
    ]
    assert model["metrics"]["val/loss"] == [[1, "2.0"]] and model["metrics"]["odd"] == [[2, "nan"]]
    assert model["tags"]["mlflow.source.git.commit"] == case.subject(2).told["commit"]
    assert json.loads(model["tags"]["mirage.inputs"]) == ["report:rows:v1"]
    assert model["files"] == ["model/cnn/v1/w.npz", "report/figure/v1/f.png"]
    assert data["files"] == ["report/rows/v1/a b%.csv", "report/rows/v1/deep/é.csv"]
    assert sorted(failed["last"].values()) == ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0"]
    assert sorted(failed["params"].values()) == ["1", "2", "a"]
    inside = {path.relative_to(place).parts[0] for path in place.rglob("*") if path.is_file()}
    assert len(inside) == 1 and sorted(os.listdir(tmp_path)) == ["mlruns"]


# Where it goes


def test_nothing_is_written_over_and_nothing_half(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        target.write_file(tmp_path / "there", b"x")
    with pytest.raises(ConfigError, match="exists already"), target.folder(tmp_path / "there"):
        pass
    with pytest.raises(ConfigError, match="cannot be written"):
        target.write_file(tmp_path / "no" / "x", b"x")
    with pytest.raises(ZeroDivisionError), target.folder(tmp_path / "new") as folder:
        (folder / "half").write_text("x")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_text() == "mine"
