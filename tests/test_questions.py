"""The questions about runs, asked of real runs by the real command line."""

from __future__ import annotations

import csv
import io
import json
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import BIN, PROJECT_YAML, Project, engine, git
from tests.validator_tools import judge

WORKFLOW = """
from mirage import artifact, config, flow, metrics

@flow
def main() -> None:
    rows = config.artifact("data.rows").load() if config.get("data") else [1, 2, 3]
    metrics.log(accuracy=config.training.accuracy, loss=0.1)
    if config.get("data"):
        artifact.Model.save({"w": rows, "lr": config.training.lr}, name="cnn")
    else:
        artifact.Dataset.save(rows, name="rows")

if __name__ == "__main__":
    main()
"""
DATA = "training: {accuracy: 0.5, lr: 1e-3}\n"
TRAIN = 'data: {rows: "dataset:rows:v1"}\ntraining: {accuracy: 0.89, lr: 1e-3}\n'


class Story:
    """A data run, a training run, one of uncommitted work, and one after that was committed with more."""

    def __init__(self, root: Path) -> None:
        files = {"configs/data.yaml": DATA, "configs/train.yaml": TRAIN, "src/a.py": "A = 1\n"}
        self.project = Project(root, WORKFLOW, below="deep/probe", files=files)
        (root / "rows.json").write_text("[1]")
        self.data = self.project.run(config="configs/data.yaml")
        self.train = self.project.run(config="configs/train.yaml")
        self.same = self.project.run(config="configs/train.yaml")
        self.project.write("src/a.py", "A = 2\n")
        self.project.write("src/b.py", "B = 1\n")
        words = ("--snapshot", "--set", "training.accuracy=0.91", "--set", "training.lr=0.01")
        alice = {"MIRAGE_USER": "Alice B."}
        self.dirty = self.project.run(*words, config="configs/train.yaml", env=alice)
        self.later = self.project.commit()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("repository"))


def ids(story: Story, *words: str) -> list[str]:
    return [run["run_id"] for run in story.project.asked("ls", *words)["runs"]]


def test_the_question_of_the_article_takes_one_line(story: Story) -> None:
    columns = "run_id,config,commit,inputs,image,config.training.lr"
    out = story.project.mirage(
        "ls", "--where", "metrics.accuracy ~ 0.89", "--limit", "1", "--columns", columns
    )
    head, line = out.splitlines()
    assert head.split() == columns.split(",")
    same = story.same
    assert line.split() == [
        same["run_id"], "configs/train.yaml", same["commit"], "dataset:rows:v1", same["image"]["digest"], "0.001",
    ]  # fmt: skip


def test_ls_selects_sorts_and_limits(story: Story) -> None:
    data, train, same, dirty = (each["run_id"] for each in (story.data, story.train, story.same, story.dirty))
    assert ids(story) == [dirty, same, train, data]
    assert ids(story, "--where", "inputs = dataset:rows:v1 and not dirty = true") == [same, train]
    assert ids(story, "--where", "outputs ~ model:*", "--sort", "metrics.accuracy") == [same, train, dirty]
    assert ids(story, "--sort", "-config.training.lr", "--limit", "2") == [dirty, same]
    assert ids(story, "--where", f"image_key = {story.train['image']['key']}") == [same, train]
    assert ids(story, "--where", f"commit = {story.train['commit']}") == [same, train, data]


def test_ls_prints_csv_and_chosen_fields(story: Story) -> None:
    rows = list(csv.DictReader(io.StringIO(story.project.mirage("ls", "--csv"))))
    assert [row["run_id"] for row in rows] == ids(story)
    assert [float(row["metrics.accuracy"]) for row in rows] == [0.91, 0.89, 0.89, 0.5]
    assert rows[0]["dirty"] == "true" and rows[0]["tags"] == ""
    chosen = story.project.asked("ls", "--columns", "run_id,config.training.lr,nothing", "--limit", "1")
    assert chosen == {
        "runs": [{"run_id": story.dirty["run_id"], "config.training.lr": 0.01, "nothing": None}]
    }
    err = story.project.refused("ls", "--columns", "a,,b", code=2, program="mirage")
    assert "--columns" in err


def test_ls_says_what_was_misspelt(story: Story) -> None:
    process = story.project.start(
        "ls", "--where", "accuracy > 0.1 and config.trainig.lr > 0", program="mirage"
    )
    _, err, code = story.project.ended(process)
    assert code == 0
    assert (
        "accuracy (did you mean metrics.accuracy or config.training.accuracy?)" in err
        and "config.training.lr" in err
    )


def test_who_began_a_run_is_a_field_where_they_gave_a_name(story: Story, tmp_path: Path) -> None:
    project, dirty = story.project, story.dirty["run_id"]
    assert ids(story, "--where", "user ~ Alice*") == [dirty]
    assert ids(story, "--where", "user = null") == [
        each["run_id"] for each in (story.same, story.train, story.data)
    ]
    assert "Alice B." in project.mirage("ls").splitlines()[1] and "Alice B." in project.mirage("show", dirty)
    assert project.asked("verify", dirty)["verdict"] == "ok"
    assert (
        "user" not in project.mirage("ls", "--limit", "1", "--where", "user = null").splitlines()[0].split()
    )
    err = project.refused("--config", "configs/train.yaml", "--snapshot", code=2, env={"MIRAGE_USER": "a\nb"})
    assert "MIRAGE_USER" in err
    assert ids(story)[0] == dirty, "no run began"
    project.mirage("export", dirty, "--format", "ro-crate", "-o", str(tmp_path / "crate"))
    graph = json.loads((tmp_path / "crate" / "ro-crate-metadata.json").read_text())["@graph"]
    (action,) = (each for each in graph if each["@type"] == "CreateAction")
    assert {"@id": "#user", "@type": "Person", "name": "Alice B."} in graph and action["agent"] == {
        "@id": "#user"
    }
    assert judge("ro-crate", [tmp_path / "crate"]) == {tmp_path / "crate": []}


def test_a_snapshot_is_shown_as_the_commit_that_it_became(story: Story) -> None:
    dirty = story.dirty["run_id"]
    assert story.project.asked("show", dirty)["committed_as"] == story.later
    assert story.project.asked("show", story.train["run_id"])["committed_as"] is None
    assert story.project.asked("ls")["runs"][0]["committed_as"] == story.later
    assert f"committed since as {story.later}" in story.project.mirage("show", dirty)
    line = story.project.mirage("ls", "--limit", "1").splitlines()[1]
    assert story.later[:10] in line and story.dirty["commit"][:10] not in line


def test_diff_says_what_differs_and_nothing_else(story: Story) -> None:
    found = story.project.asked("diff", story.train["run_id"], story.dirty["run_id"])
    assert (found["a"], found["b"]) == (story.train["run_id"], story.dirty["run_id"])
    sections = {each["section"]: each["changes"] for each in found["differences"]}
    # Two runs may take the same time to the last digit that is kept: then there is no such line.
    took = sections.pop("result", [{"name": "seconds"}])
    assert [each["name"] for each in took] == ["seconds"]
    assert list(sections) == ["commits", "files", "config", "metrics", "outputs"]
    commit, only = sections["commits"]
    assert commit == {"name": "commit", "a": story.train["commit"], "b": story.dirty["commit"]}
    assert only["name"] == story.dirty["commit"] and only["a"] is None
    files = {each["name"]: (each["a"], each["b"]) for each in sections["files"]}
    blob = git(story.project.root, "rev-parse", f"{story.train['commit']}:deep/probe/src/a.py")
    assert (
        files["src/a.py"][0] == blob
        and files["src/b.py"][0] is None
        and set(files) == {"src/a.py", "src/b.py"}
    )
    assert sections["config"] == [
        {"name": "training.accuracy", "a": 0.89, "b": 0.91},
        {"name": "training.lr", "a": 0.001, "b": 0.01},
    ]
    assert sections["metrics"] == [{"name": "accuracy", "a": 0.89, "b": 0.91}]
    assert sections["outputs"][0]["name"] == "model:cnn"


def test_diff_of_equal_runs_is_their_time_and_nothing(story: Story) -> None:
    found = story.project.asked("diff", story.train["run_id"], story.same["run_id"])
    assert {each["section"] for each in found["differences"]} <= {"result"}
    one = story.train["run_id"]
    assert "no difference" in story.project.mirage("diff", one, one)
    text = story.project.mirage("diff", story.train["run_id"], story.dirty["run_id"])
    assert "~ src/a.py" in text and "+ src/b.py" in text and "training.lr" in text and "0.001 -> 0.01" in text


def test_diff_without_the_commits_says_so(story: Story, tmp_path: Path) -> None:
    clone = tmp_path / "elsewhere"
    shutil.copytree(story.project.folder, clone)
    git(clone, "init", "-q", "-b", "main")
    words = ["diff", story.train["run_id"], story.dirty["run_id"], "--json"]
    done = subprocess.run(
        [str(BIN / "mirage"), *words], cwd=clone, capture_output=True, text=True, check=True
    )
    sections = {each["section"]: each for each in json.loads(done.stdout)["differences"]}
    assert "does not have" in sections["commits"]["note"] and "does not have" in sections["files"]["note"]
    assert sections["files"]["changes"][0]["name"] == "tree" and sections["config"]["changes"]


def test_lineage_goes_both_ways(story: Story) -> None:
    data, train = story.data["run_id"], story.train["run_id"]
    (model,) = (each["id"] for each in story.train["outputs"])
    found = story.project.asked("lineage", train)
    edges = {(each["from"], each["to"]) for each in found["edges"]}
    assert {(data, "dataset:rows:v1"), ("dataset:rows:v1", train), (train, model)} == edges
    up = story.project.asked("lineage", model, "--up")
    assert {node["id"] for node in up["nodes"]} == {model, train, "dataset:rows:v1", data}
    down = story.project.asked("lineage", "dataset:rows:latest", "--down")
    runs = {each["run_id"] for each in (story.train, story.same, story.dirty)}
    assert down["root"] == "dataset:rows:v1"
    assert {node["id"] for node in down["nodes"] if node["kind"] == "run"} == runs
    text = story.project.mirage("lineage", model)
    assert text.index("comes from") < text.index(data) < text.index("led to")
    assert story.project.mirage("lineage", model, "--dot").startswith("digraph")


def test_lineage_says_what_was_added_by_hand(story: Story) -> None:
    story.project.mirage("artifact", "add", str(story.project.root / "rows.json"), "--as", "file:raw:v1")
    assert "added by hand" in story.project.mirage("lineage", "file:raw:v1")
    assert story.project.asked("lineage", "file:raw:v1")["edges"] == []
    assert "no artifact" in story.project.refused("lineage", "model:none:v1", code=6, program="mirage")


def test_graphviz_reads_the_graph(story: Story) -> None:
    text = story.project.mirage("lineage", story.data["run_id"], "--dot")
    subprocess.run(["dot", "-Tsvg"], input=text, text=True, check=True, capture_output=True)


def test_a_report_of_real_runs(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    story.project.mirage("tag", story.same["run_id"], "told")
    told = story.project.asked("report", story.dirty["run_id"], story.train["run_id"], "-o", str(out))
    assert told == {
        "path": str(out),
        "size": out.stat().st_size,
        "runs": [story.dirty["run_id"], story.train["run_id"]],
    }
    text = out.read_text()
    for each in (story.dirty, story.train):
        assert each["image"]["digest"] in text and each["record"] in text
    assert f"committed since as {story.later}" in text and "training.<wbr>lr" in text and "rows:v1" in text
    assert story.data["run_id"] in text  # where the data came from
    story.project.mirage("report", "latest", "-o", str(out))
    assert out.read_text().count("<script") == 0
    err = story.project.refused(
        "report", "latest", "-o", str(tmp_path / "no" / "r.html"), code=2, program="mirage"
    )
    assert "cannot be written" in err


def test_exports_of_a_real_run(story: Story, tmp_path: Path) -> None:
    project, run = story.project, story.train["run_id"]
    written = {}
    for name, kind in (
        ("ro-crate", "ro-crate"),
        ("cyclonedx", "cyclonedx-1.6"),
        ("openlineage", "openlineage"),
    ):
        path = tmp_path / name
        told = project.asked("export", run, "--format", name, "-o", str(path))
        assert told == {"format": name, "path": str(path), "runs": [run]}
        assert judge(kind, [path]) == {path: []}
        written[name] = path
    bom = json.loads(written["cyclonedx"].read_text())
    assert bom["metadata"]["component"]["version"] == story.train["image"]["digest"]
    assert any(each["bom-ref"].startswith("pkg:deb/debian/python3.11") for each in bom["components"])
    project.mirage("export", run, story.data["run_id"], "--format", "mlflow", "-o", str(tmp_path / "mlruns"))
    project.mirage("export", run, "--format", "record", "-o", str(tmp_path / "r.json"))
    assert json.loads((tmp_path / "r.json").read_text()) == project.record(run)
    for words in (
        ("--format", "record", "-o", str(tmp_path / "r.json")),
        (story.data["run_id"], "--format", "cyclonedx"),
        ("--format", "cyclonedx", "--license", "https://spdx.org/licenses/MIT"),
        ("--format", "mlflow", "-o", str(tmp_path / "m.zip")),
    ):
        project.refused("export", run, *words, code=2, program="mirage")


def keys(answer: Any) -> dict[str, Any]:
    return {each["kind"]: each for each in answer["keys"]}


def test_explain_tells_hits_and_misses_of_a_run(story: Story) -> None:
    first = keys(story.project.asked("explain", story.data["run_id"]))
    assert [first[kind]["state"] for kind in ("env", "image", "run")] == ["miss"] * 3
    again = keys(story.project.asked("explain", story.same["run_id"]))
    assert [again[kind]["state"] for kind in ("env", "image", "run")] == ["hit"] * 3
    assert again["run"]["first_run"] == story.train["run_id"]
    assert again["image"]["led_to"] == [story.train["image"]["digest"]]
    changed = keys(story.project.asked("explain", story.dirty["run_id"]))
    assert changed["env"]["state"] == "hit" and changed["image"]["state"] == changed["run"]["state"] == "miss"
    assert changed["image"]["key"] == story.dirty["image"]["key"]
    nearest = changed["image"]["nearest"]
    assert (
        nearest["run"] == story.train["run_id"]
    )  # nearer than the data run, which has another config's path too
    assert {each["component"] for each in nearest["differences"]} == {"commit", "tree", "config"}
    values = {each["component"]: (each["before"], each["now"]) for each in nearest["differences"]}
    assert values["tree"] == (story.train["tree"], story.dirty["tree"])
    assert {each["component"] for each in changed["run"]["nearest"]["differences"]} == {"tree", "config"}
    inside = {each["component"]: each["inside"] for each in nearest["differences"]}
    assert [(each["name"], each["before"], each["now"]) for each in inside["config"]] == [
        ("training.accuracy", 0.89, 0.91),
        ("training.lr", 0.001, 0.01),
    ]
    files = {each["name"]: (each["before"] is None, each["now"] is None) for each in inside["tree"]}
    assert files == {"src/a.py": (False, False), "src/b.py": (True, False)}
    text = story.project.mirage("explain", story.dirty["run_id"])
    assert "training.lr  0.001 -> 0.01" in text and "~ src/a.py" in text and "+ src/b.py" in text


def test_long_values_are_told_apart_where_they_differ(story: Story) -> None:
    """Two commands of a hundred characters that differ at their end: both ends are shown, not twice the beginning."""
    text = story.project.mirage("explain", story.train["run_id"])
    (line,) = (line for line in text.splitlines() if line.split()[:1] == ["argv"])
    before, now = line.split(" -> ")
    assert before.endswith('configs/data.yaml"]') and now.endswith('configs/train.yaml"]')
    told = story.project.mirage("diff", story.data["run_id"], story.train["run_id"])
    (line,) = (line for line in told.splitlines() if line.split()[:1] == ["entrypoint"])
    before, now = line.split(" -> ")
    assert before.endswith('data.yaml"]') and now.endswith('train.yaml"]')


def test_explain_foresees_the_keys_of_a_run_and_builds_nothing(story: Story) -> None:
    project = story.project
    change = f"training.lr=0.{secrets.randbits(60)}"  # the machine remembers images of earlier days
    foreseen = keys(project.asked("explain", "--config", "configs/train.yaml", "--set", change))
    assert foreseen["env"]["state"] == "hit"
    assert foreseen["image"]["state"] == foreseen["run"]["state"] == "miss"
    differing = [each["component"] for each in foreseen["image"]["nearest"]["differences"]]
    assert "config" in differing
    (config,) = (d for d in foreseen["run"]["nearest"]["differences"] if d["component"] == "config")
    assert "training.lr" in [each["name"] for each in config["inside"]]
    label = {"label": f"flow.mirage.image-key={foreseen['image']['key']}"}
    assert engine().images(filters=label) == []
    text = project.mirage("explain", "--config", "configs/train.yaml", "--set", change)
    assert "nearest" in text and "it would be built" in text
    ran = project.run("--set", change, config="configs/train.yaml")
    assert ran["image"]["key"] == foreseen["image"]["key"] and ran["run_key"] == foreseen["run"]["key"]
    after = keys(project.asked("explain", "--config", "configs/train.yaml", "--set", change))
    assert [after[kind]["state"] for kind in ("env", "image", "run")] == ["hit"] * 3
    assert after["run"]["first_run"] == ran["run_id"]


def test_explain_without_the_base_builds_none(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "p", files={"Dockerfile.new": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN true\n"}
    )
    project.write(".mirage/project.yaml", PROJECT_YAML + "base: Dockerfile.new\n")
    project.commit()
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    found = keys(json.loads(project.mirage("explain", "--config", "configs/a.yaml", "--json", env=env)))
    assert {each["state"] for each in found.values()} == {"unknown"}
    assert "not known here yet" in found["env"]["reason"]
    project.refused("explain", code=2, program="mirage")
    project.refused("explain", "latest", "--snapshot", code=2, program="mirage")


def test_tags_and_notes_stay_with_the_run(story: Story) -> None:
    project, run = story.project, story.train["run_id"]
    project.mirage("tag", run, "best", "paper")
    project.mirage("note", run, "the one of the article\x1b[2J")
    assert ids(story, "--where", "tags = best") == [run]
    assert ids(story, "--where", "notes ~ *article*") == [run]
    shown = project.mirage("show", run)
    assert "tags     best paper" in shown and "the one of the article" in shown and "\x1b" not in shown
    assert "best paper" in project.mirage("ls", "--where", "tags = best")
    told = json.loads(project.mirage("tag", run, "--remove", "best", "--json"))
    assert told["tags"] == ["paper"]
    assert [each["kind"] for each in told["history"]] == ["tag", "tag", "note", "untag"]
    assert ids(story, "--where", "tags = best") == []
    assert "has no tag" in project.refused("tag", run, "--remove", "best", code=2, program="mirage")
    assert project.record(run)["predicate"]  # the record itself was not touched
    assert project.asked("show", run)["record"] == story.train["record"]


def test_listing_a_project_without_a_store_makes_none(tmp_path: Path) -> None:
    project = Project(tmp_path / "p")
    before = sorted(str(path) for path in project.folder.rglob("*") if ".git/" not in str(path))
    for words in (
        ("ls",),
        ("ls", "--where", "metrics.x > 1"),
        ("ls", "--json"),
        ("ls", "--csv", "--rebuild"),
    ):
        out, err, code = project.ended(project.start(*words, program="mirage"))
        assert code == 0 and "warning" not in err and "Traceback" not in err
        if words == ("ls", "--json"):
            assert json.loads(out) == {"runs": []}
    assert before == sorted(str(path) for path in project.folder.rglob("*") if ".git/" not in str(path))
