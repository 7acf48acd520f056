"""The main job, end to end: what `mirage-run` says, what it leaves, and that both are true."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from tests.run_tools import BIN, Project, engine, git

SAVES = """
import sys
from mirage import artifact, config, flow, metrics

@flow
def main() -> artifact.Dataset:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    metrics.log(accuracy=0.5, step=1)
    metrics.log(accuracy=0.89, loss=config.training.lr)
    return artifact.Dataset.save({"rows": [1, 2, 3]}, name="processed_training_data")

if __name__ == "__main__":
    print(main().id, sys.argv[1:])
"""
TAKES = """
from mirage import artifact, config, flow

@flow
def main() -> None:
    data = config.artifact("data.train_dataset")
    assert data.load() == {"rows": [1, 2, 3]}
    artifact.Model.save({"weights": [0.5]}, name="baseline_cnn", version=config.experiment.version)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("repository"),
        SAVES,
        below="deep/probe",
        files={
            "workflows/takes.py": TAKES,
            "configs/b.yaml": 'experiment: {version: exp001}\ndata: {train_dataset: "dataset:processed_training_data:v1"}\n',
            "src/library.py": "VALUE = 1\n",
        },
    )


@pytest.fixture(scope="module")
def first(project: Project) -> dict[str, Any]:
    return project.run()


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_the_json_object_is_complete_and_true(project: Project, first: dict[str, Any]) -> None:
    assert first["status"] == "succeeded"
    assert first["exit_code"] == 0
    assert first["commit"] == git(project.root, "rev-parse", "HEAD")
    assert first["tree"] == git(project.root, "rev-parse", "HEAD:deep/probe")
    assert first["dirty"] is False
    assert first["lock"] == {"file": "requirements.txt", "digest": sha256(b"")}
    assert first["config"] == {
        "file": "configs/a.yaml",
        "digest": sha256(b'{"experiment":{"name":"probe"},"training":{"lr":0.001}}'),
    }
    assert first["inputs"] == []
    assert [output["id"] for output in first["outputs"]] == ["dataset:processed_training_data:v1"]
    assert first["metrics"] == {"accuracy": 0.89, "loss": 0.001}
    assert {"snapshot", "lock", "resolve", "image", "fetch", "start", "execute", "record"} == set(
        first["timing"]
    )
    path = f"runs/{first['run_id'][:4]}-{first['run_id'][4:6]}/{first['run_id']}/record.json"
    assert first["record"] == sha256((project.store / path).read_bytes())


def test_the_image_is_what_the_engine_says(first: dict[str, Any]) -> None:
    image = first["image"]
    found = engine().inspect_image(image["engine_id"])
    assert found["Id"] == image["engine_id"]
    assert found["Id"] in (image["digest"], image["config_digest"])
    labels = found["Config"]["Labels"]
    assert labels["flow.mirage.image-key"] == image["key"]
    assert labels["flow.mirage.lock"] == first["lock"]["digest"]
    assert labels["flow.mirage.config"] == first["config"]["digest"]
    assert labels["flow.mirage.tree"] == first["tree"]
    assert labels["org.opencontainers.image.revision"] == first["commit"]
    assert labels["org.opencontainers.image.base.digest"] == first["base"]["digest"]
    assert labels["org.opencontainers.image.created"] == "2026-01-02T03:04:05Z"


def test_the_record_is_a_statement_whose_every_digest_holds(project: Project, first: dict[str, Any]) -> None:
    record = project.record(first["run_id"])
    Statement.copy_from_pb(ParseDict(record, StatementMessage())).validate()
    predicate = json.loads(json.dumps(record["predicate"]))
    for extension in ("mirage_result", "mirage_hardware", "mirage_chain", "mirage_audit"):
        del predicate["runDetails"][extension]
    ParseDict(predicate, Provenance())  # strict: a field that SLSA does not have is an error
    assert record["subject"][0]["name"] == "run.json"
    assert (
        sha256(project.blob(record["subject"][0]["digest"]["sha256"]))
        == "sha256:" + record["subject"][0]["digest"]["sha256"]
    )
    result = json.loads(project.blob(record["subject"][0]["digest"]["sha256"]))
    assert result["status"] == "succeeded"
    assert [output["id"] for output in result["outputs"]] == [
        subject["name"] for subject in record["subject"][1:]
    ]
    definition, details = record["predicate"]["buildDefinition"], record["predicate"]["runDetails"]
    by_name = {item["name"]: item for item in definition["resolvedDependencies"]}
    assert by_name["source"]["digest"] == {"gitCommit": first["commit"], "gitTree": first["tree"]}
    assert "sha256:" + by_name["image"]["digest"]["sha256"] == first["image"]["digest"]
    assert "sha256:" + by_name["base-image"]["digest"]["sha256"] == first["base"]["digest"]
    assert "sha256:" + by_name["config"]["digest"]["sha256"] == first["config"]["digest"]
    assert "sha256:" + by_name["lock"]["digest"]["sha256"] == first["lock"]["digest"]
    assert definition["externalParameters"]["ref"] == "refs/heads/main"
    assert definition["internalParameters"]["sandbox"]["capDropAll"] is True
    assert details["mirage_hardware"]["cpu"]["cores"] >= 1
    for item in details["byproducts"]:
        assert sha256(project.blob(item["digest"]["sha256"])) == "sha256:" + item["digest"]["sha256"]
    assert {
        "log",
        "log.times",
        "metrics.jsonl",
        "events.jsonl",
        "audit.jsonl",
        "environment.json",
        "sbom.cdx.json",
    } == {item["name"] for item in details["byproducts"]}


def test_nothing_of_this_machine_is_in_a_record(project: Project, first: dict[str, Any]) -> None:
    text = json.dumps(project.record(first["run_id"]))
    for private in (str(project.root), os.uname().nodename, str(Path.home()) + "/"):
        assert private not in text


def test_the_log_is_kept_and_shown(project: Project, first: dict[str, Any]) -> None:
    text = project.mirage("logs", first["run_id"])
    # Two streams: the engine may hand on one's line break after the other's line.
    assert "to stdout" in text
    assert "to stderr" in text
    assert project.asked("logs", first["run_id"])["text"] == text


def test_an_id_in_a_config_is_an_input_and_a_custom_version_is_published(
    project: Project, first: dict[str, Any]
) -> None:
    second = project.run("--workflow", "workflows.takes", config="configs/b.yaml")
    assert second["inputs"] == first["outputs"]
    assert [output["id"] for output in second["outputs"]] == ["model:baseline_cnn:exp001"]
    again = project.run("--workflow", "workflows.takes", config="configs/b.yaml")
    assert again["outputs"] == second["outputs"]
    assert again["run_key"] == second["run_key"]
    assert again["image"] == {**second["image"], "cached": True}


def test_arguments_after_two_dashes_reach_the_workflow(project: Project, first: dict[str, Any]) -> None:
    made = project.run("--", "--verbose", "--depth=2")
    assert "['--config', 'configs/a.yaml', '--verbose', '--depth=2']" in project.mirage(
        "logs", made["run_id"]
    )
    assert made["run_key"] != first["run_key"]
    assert made["image"]["digest"] == first["image"]["digest"]


def test_set_changes_the_config_the_digest_and_what_the_workflow_sees(
    project: Project, first: dict[str, Any]
) -> None:
    made = project.run("--set", "training.lr=0.25")
    assert made["metrics"]["loss"] == 0.25
    assert made["config"]["digest"] != first["config"]["digest"]
    assert made["image"]["digest"] != first["image"]["digest"]
    assert project.record(made["run_id"])["predicate"]["buildDefinition"]["externalParameters"][
        "overrides"
    ] == ["training.lr=0.25"]


def test_runs_are_found_by_metric_status_branch_and_config_value(
    project: Project, first: dict[str, Any]
) -> None:
    def found(*words: str) -> set[str]:
        return {run["run_id"] for run in project.asked("ls", *words)["runs"]}

    assert first["run_id"] in found("--where", "metrics.accuracy ~ 0.89 and status = succeeded")
    assert first["run_id"] not in found("--where", "metrics.accuracy > 0.89")
    assert first["run_id"] in found("--where", "config.training.lr = 1e-3")
    assert first["run_id"] in found("--branch", "ma*")
    assert found("--branch", "experiment/*") == set()
    assert first["run_id"] in project.mirage("ls")
    shown = project.asked("show", first["run_id"][:15])
    assert shown["statement"] == project.record(first["run_id"])


def test_an_artifact_is_shown_and_taken_out(project: Project, first: dict[str, Any], tmp_path: Path) -> None:
    shown = project.asked("artifact", "show", "dataset:processed_training_data:latest")
    assert shown["digest"] == first["outputs"][0]["digest"]
    assert shown["run"] == first["run_id"]
    project.mirage("artifact", "get", "dataset:processed_training_data:v1", "-o", str(tmp_path / "out"))
    assert json.loads((tmp_path / "out").read_text()) == {"rows": [1, 2, 3]}


def test_files_added_by_hand_become_an_input(project: Project, first: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "x.csv").write_text("1,2\n")
    made = json.loads(
        project.mirage("artifact", "add", str(tmp_path / "raw"), "--as", "dataset:raw", "--json")
    )
    assert made["id"] == "dataset:raw:v1"
    again = json.loads(
        project.mirage("artifact", "add", str(tmp_path / "raw"), "--as", "dataset:raw", "--json")
    )
    assert again["id"] == "dataset:raw:v1"


def test_the_same_commit_elsewhere_gives_the_same_digests(
    project: Project, first: dict[str, Any], tmp_path: Path
) -> None:
    """Another folder, umask, locale, time zone and remote; and everything built anew."""
    git(project.root, "clone", "-q", str(project.root), str(tmp_path / "clone"))
    other = tmp_path / "clone" / "deep" / "probe"
    done = subprocess.run(
        [
            "sh",
            "-c",
            'umask 077; exec "$0" "$@"',
            str(BIN / "mirage-run"),
            "--config",
            "configs/a.yaml",
            "--json",
            "--no-cache",
        ],
        cwd=other,
        env={
            **os.environ,
            "TZ": "Asia/Tokyo",
            "LC_ALL": "C",
            "MIRAGE_CACHE": os.environ.get("MIRAGE_CACHE", "") or str(Path.home() / ".cache/mirage"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    for name in ("commit", "tree", "config", "lock", "base", "run_key", "outputs"):
        assert made[name] == first[name], name
    assert made["image"] == {**first["image"], "cached": False}
    assert "drift" not in done.stderr


def test_a_workflow_can_read_its_inputs_under_a_strict_umask(project: Project, tmp_path: Path) -> None:
    (tmp_path / "raw" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "raw" / "deep" / "deeper" / "x.csv").write_text("1,2\n")
    project.mirage("artifact", "add", str(tmp_path / "raw"), "--as", "dataset:nested:v1")
    project.write("configs/c.yaml", 'data: "dataset:nested:v1"\n')
    project.write(
        "workflows/reads.py",
        "from mirage import artifact\n"
        "print((artifact.load('dataset:nested:v1').path / 'deep/deeper/x.csv').read_text())\n"
        "artifact.File.save('x', name='seen')\n",
    )
    project.commit()
    command = [str(BIN / "mirage-run"), "--config", "configs/c.yaml", "--workflow", "workflows.reads"]
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$0" "$@"', *command],
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1,2" in done.stderr


def test_a_change_of_config_or_code_costs_one_layer(project: Project, first: dict[str, Any]) -> None:
    def layers() -> dict[str, str]:
        built = project.asked("image", "build", "--config", "configs/a.yaml")
        return {layer["of"]: layer["digest"] for layer in built["layers"]}

    before = layers()
    project.write("configs/a.yaml", "experiment: {name: probe}\ntraining: {lr: 2e-3}\n")
    project.commit()
    config_changed = layers()
    assert {of for of in before if before[of] != config_changed[of]} == {"mirage config"}
    project.write("src/library.py", "VALUE = 2\n")
    project.commit()
    code_changed = layers()
    assert {of for of in before if config_changed[of] != code_changed[of]} == {"mirage code"}


def test_a_dirty_tree_runs_as_a_snapshot_and_says_so(project: Project, first: dict[str, Any]) -> None:
    project.write("src/library.py", "VALUE = 3\n")
    try:
        error = project.refused("--config", "configs/a.yaml", code=3)
        assert "src/library.py" in error
        assert "--snapshot" in error
        made, again = project.run("--snapshot"), project.run("--snapshot")
        assert made["dirty"] is True
        assert made["commit"] == again["commit"] != git(project.root, "rev-parse", "HEAD")
        assert again["image"] == {**made["image"], "cached": True}
        assert made["commit"] in git(
            project.root, "for-each-ref", "--format=%(objectname)", "refs/mirage/snapshots/"
        )
    finally:
        git(project.root, "checkout", "-q", "--", ".")


def test_a_new_project_works_right_after_its_first_commit(tmp_path: Path) -> None:
    new = tmp_path / "awesome_ai_project"
    subprocess.run([str(BIN / "mirage"), "init", str(new)], check=True, capture_output=True)
    git(new, "init", "-q")
    git(new, "add", ".")
    git(new, "commit", "-q", "-m", "Begin")
    for config in ("configs/experiment_001.yaml", "configs/experiment_002.yaml"):
        done = subprocess.run(
            [str(BIN / "mirage-run"), "--config", config], cwd=new, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    plain = subprocess.run(
        [str(BIN / "python"), "-m", "workflows.training_pipeline", "--config", "configs/experiment_002.yaml"],
        cwd=new,
        capture_output=True,
        text=True,
    )
    assert plain.returncode == 0, plain.stderr
    assert "saved model:baseline:v2" in plain.stdout  # the same bytes as in the container: no new version
    assert git(new, "status", "--porcelain") == ""


def test_only_layers_that_the_engine_lacks_are_sent(
    project: Project, first: dict[str, Any], tmp_path: Path
) -> None:
    """The saved image has the layers under our own digests: what we computed is what the engine holds."""
    with (tmp_path / "image.tar").open("wb") as target:
        target.writelines(engine().get_image(first["image"]["engine_id"]))
    wanted = set(engine().inspect_image(first["image"]["engine_id"])["RootFS"]["Layers"])
    found = set()
    with tarfile.open(tmp_path / "image.tar") as saved:
        for member in saved:
            body = saved.extractfile(member) if member.isreg() else None
            if body is not None:
                found.add(sha256(body.read()))
    assert wanted <= found
