"""`mirage reproduce` with real runs on the real engine: what is the same, what is not, and why; here and elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.image.library import Library
from orchestrator.image.loading import ensure
from orchestrator.store.folder import FolderStore
from tests.base_tools import Spy, own_base
from tests.registry_tools import Registry
from tests.run_tools import Project, engine, git, wait_for

STEADY = """
import sys
from mirage import artifact, config, flow, metrics

@flow
def main() -> artifact.Dataset:
    for step in range(3):
        metrics.log(step=step, loss=1 / (step + 1))
    first = artifact.File.save("one\\n", name="text")
    artifact.Report.save({"of": first.id, "arguments": sys.argv[3:]}, name="summary", version=config.experiment.version)
    artifact.File.save("two\\n", name="text")
    return artifact.Dataset.save({"rows": [1, 2, 3]}, name="rows")

if __name__ == "__main__":
    print(main().id)
"""
TAKES = """
from mirage import artifact, config, flow

@flow
def main() -> None:
    rows = config.artifact("data.rows").load()["rows"]
    artifact.Model.save({"sum": sum(rows)}, name="model")

if __name__ == "__main__":
    main()
"""
UNSTEADY = """
import os, random, socket, threading, time, urllib.request
from mirage import artifact, flow, metrics

@flow
def main() -> None:
    artifact.File.save("always\\n", name="first")
    what = os.environ["WHAT"]
    if what == "clock":
        artifact.Report.save({"made": {"at": time.time()}}, name="second")
    elif what == "random":
        artifact.Report.save({"value": random.SystemRandom().random()}, name="second")
    elif what == "host":
        artifact.File.save(f"on {socket.gethostname()}\\n", name="second")
    elif what == "run":
        artifact.File.save(os.environ["MIRAGE_RUN_ID"], name="second")
    elif what == "near":
        artifact.Report.save({"value": 1 + 1e-9 * random.SystemRandom().random()}, name="second")
        metrics.log(step=1, loss=1 + 1e-9 * random.SystemRandom().random())
    elif what == "threads":
        found, lock = [], threading.Lock()
        def work(number):
            time.sleep(random.SystemRandom().random() / 50)
            with lock:
                found.append(number)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for each in threads: each.start()
        for each in threads: each.join()
        artifact.Report.save({"order": found}, name="second")
    elif what == "network":
        with urllib.request.urlopen(os.environ["ADDRESS"]) as answer:
            artifact.File.save(answer.read(), name="second")
    elif what == "metric":
        metrics.log(step=1, loss=0.5)
        metrics.log(step=2, loss=random.SystemRandom().random())
        metrics.log(step=3, loss=0.5)

if __name__ == "__main__":
    main()
"""
FAILS = """
import sys, time
from mirage import artifact, flow

@flow
def main() -> None:
    artifact.File.save("kept\\n", name="before")
    sys.exit(7)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("repository"),
        STEADY,
        below="deep",
        files={
            "configs/a.yaml": "experiment: {version: exp001}\n",
            "configs/b.yaml": 'data: {rows: "dataset:rows:latest"}\n',
            "workflows/takes.py": TAKES,
            "workflows/fails.py": FAILS,
            "workflows/unsteady.py": UNSTEADY,
        },
    )


@pytest.fixture(scope="module")
def first(project: Project) -> dict[str, Any]:
    return project.run("--", "--depth=2")


@pytest.fixture(scope="module")
def second(project: Project, first: dict[str, Any]) -> dict[str, Any]:
    return project.run("--workflow", "workflows.takes", config="configs/b.yaml")


def again(project: Project, run_id: str, *words: str, code: int = 0, **options: Any) -> dict[str, Any]:
    """`mirage reproduce RUN --json`."""
    found: dict[str, Any] = json.loads(
        project.mirage("reproduce", run_id, "--json", *words, code=code, **options)
    )
    return found


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["verdict"] for item in [*found["outputs"], *found["metrics"]]}


def versions(project: Project) -> set[str]:
    return {str(path.relative_to(project.store)) for path in (project.store / "refs").rglob("*.json")}


def remove_image(run: dict[str, Any]) -> None:
    """Take a run's image out of the engine."""
    name = run["image"]["digest"].removeprefix("sha256:")[:24]
    engine().remove_image(f"mirage/run:{name}", force=True)


def test_a_steady_run_is_identical_and_leaves_no_versions(project: Project, first: dict[str, Any]) -> None:
    before = versions(project)
    found = again(project, first["run_id"])
    assert found["verdict"] == "IDENTICAL"
    assert [item["name"] for item in found["outputs"]] == [output["id"] for output in first["outputs"]]
    assert [item["name"] for item in found["outputs"]] == [
        "file:text:v1",
        "report:summary:exp001",
        "file:text:v2",
        "dataset:rows:v1",
    ]
    assert set(verdicts(found).values()) == {"IDENTICAL"}
    assert found["image"] == {
        "wanted": first["image"]["digest"],
        "digest": first["image"]["digest"],
        "origin": "engine",
        "equal": True,
    }
    assert versions(project) == before
    (made,) = found["runs"]
    record = project.record(made)
    internal = record["predicate"]["buildDefinition"]["internalParameters"]
    assert internal["reproduces"] == {"run": first["run_id"], "record": first["record"]}
    original = project.record(first["run_id"])
    assert record["subject"][1:] == original["subject"][1:]
    for part in ("externalParameters", "resolvedDependencies"):
        assert record["predicate"]["buildDefinition"][part] == original["predicate"]["buildDefinition"][part]
    assert project.mirage("logs", made) == project.mirage("logs", first["run_id"])


def test_the_verdict_is_kept_as_a_statement_and_shown(project: Project, first: dict[str, Any]) -> None:
    found = again(project, first["run_id"])
    (made,) = found["runs"]
    month = f"{made[:4]}-{made[4:6]}"
    path = project.store / "runs" / month / first["run_id"] / "verdicts" / f"{made}.json"
    statement = json.loads(path.read_bytes())
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["subject"] == project.record(first["run_id"])["subject"]
    predicate = statement["predicate"]
    assert predicate["result"] == "PASSED"
    assert "output:dataset:rows:v1" in predicate["passedTests"]
    assert predicate["failedTests"] == predicate["warnedTests"] == []
    assert predicate["configuration"][0]["digest"] == {"sha256": first["record"].removeprefix("sha256:")}
    assert project.asked("show", first["run_id"])["verdict"] == "IDENTICAL"
    (listed,) = [run for run in project.asked("ls")["runs"] if run["run_id"] == made]
    assert listed["reproduces"] == first["run_id"]
    assert project.asked("verify", first["run_id"])["verdict"] == "ok"
    assert project.asked("verify", made)["verdict"] == "ok"


def test_an_image_that_the_engine_lost_is_restored_from_the_store(
    project: Project, first: dict[str, Any], second: dict[str, Any]
) -> None:
    remove_image(second)
    found = again(project, second["run_id"])
    assert (found["verdict"], found["image"]["origin"], found["image"]["equal"]) == (
        "IDENTICAL",
        "store",
        True,
    )
    assert found["image"]["digest"] == second["image"]["digest"]


def test_the_same_on_a_machine_that_has_the_store_and_nothing_else(
    project: Project, first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".mirage").mkdir(parents=True)
    (elsewhere / ".mirage" / "project.yaml").write_text("project: other\n")
    shutil.copytree(project.store, elsewhere / ".mirage" / "artifacts")
    there = Project.__new__(Project)
    there.root = there.folder = elsewhere  # no repository at all
    remove_image(second)
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    found = again(there, second["run_id"], env=env)
    assert (found["verdict"], found["image"]["origin"]) == ("IDENTICAL", "store")
    told = json.loads(there.mirage("verify", second["run_id"], "--json", code=10, env=env))
    assert [f["check"] for f in told["findings"] if f["state"] not in ("ok", "unsigned")] == ["source"]
    remove_image(second)
    name = second["image"]["key"].removeprefix("sha256:")
    shutil.rmtree(elsewhere / ".mirage" / "artifacts" / "keys" / "image" / name)
    shutil.rmtree(tmp_path / "cache")
    out, err, code = there.ended(there.start("reproduce", second["run_id"], program="mirage", env=env))
    assert code == 10, err + out
    assert "not in the repository" in err


def test_a_lost_image_is_built_again_from_the_commit(
    project: Project, first: dict[str, Any], tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project.root), "clone")
    there = Project.__new__(Project)
    there.root, there.folder = clone, clone / "deep"
    (there.folder / ".mirage" / "artifacts").parent.mkdir(exist_ok=True)
    shutil.copytree(project.store, there.store)
    git(clone, "commit", "-q", "--allow-empty", "-m", "Later")
    shutil.rmtree(there.store / "keys" / "image")
    remove_image(first)
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    base = project.record(first["run_id"])["predicate"]["buildDefinition"]["resolvedDependencies"]
    digest = next(item for item in base if item["name"] == "base-image")["digest"]["sha256"]
    found = again(there, first["run_id"], env=env)
    assert (found["verdict"], found["image"]["origin"]) == ("IDENTICAL", "rebuilt")
    assert found["image"]["equal"] is (found["image"]["digest"] == first["image"]["digest"])
    (made,) = found["runs"]
    told = there.record(made)["predicate"]["buildDefinition"]["resolvedDependencies"]
    same = next(item for item in told if item["name"] == "base-image")["digest"]["sha256"] == digest
    assert found["image"]["equal"] is same
    assert json.loads(there.mirage("verify", made, "--json", env=env))["verdict"] == "ok"


def test_rebuild_insists_on_a_new_image_though_engine_and_store_have_it(tmp_path: Path) -> None:
    """Without it the engine's image is taken; with it base, environment and image are made anew, and compared."""
    here = Spy()
    (tmp_path / "other").mkdir()
    base = own_base(tmp_path / "bank", tmp_path / "other")
    library = Library(FolderStore.open_at(tmp_path / "cache"), FolderStore.open_at(tmp_path / "bank"))
    ensure(here, base.image, base.tag, (), library.read)
    registry = Registry(tmp_path / "registry")
    name = f"{registry.address}/team/python:3.11"
    try:
        here.tag(base.tag, name)
        assert not [line for line in engine().push(name, stream=True, decode=True) if "error" in line]
        exact = f"{registry.address}/team/python@{registry.digest('team/python', '3.11')}"
        settings = f"project: probe\nworkflow: workflows.main\nbase: {exact}\n"
        there = Project(
            tmp_path / "p",
            STEADY,
            files={".mirage/project.yaml": settings, "configs/a.yaml": "experiment: {version: exp001}\n"},
        )
        made = there.run("--", "--depth=2")
        assert again(there, made["run_id"])["image"]["origin"] == "engine"
        process = there.start("reproduce", made["run_id"], "--rebuild", "--json", program="mirage")
        out, err, code = there.ended(process)
        found = json.loads(out)
        assert (code, found["verdict"], found["image"]["origin"]) == (0, "IDENTICAL", "rebuilt"), err
        assert "building the image of" in err
        assert found["image"] == {**found["image"], "wanted": made["image"]["digest"], "equal": True}
        # it insists: without the commit there is no new image, though engine and store have the old one
        (there.root / ".git").rename(tmp_path / "git")
        err = there.refused("reproduce", made["run_id"], "--rebuild", program="mirage", code=10)
        assert "not in the repository" in err
        assert again(there, made["run_id"])["image"]["origin"] == "engine"
    finally:
        registry.stop()
        for each in (name, exact):
            here.remove_image(each)


def test_a_project_with_submodules_is_built_again_from_their_clones(tmp_path: Path) -> None:
    """One beside the project's folder, one in it with another inside; the commit is not the one that is checked out."""

    def add(top: Path, source: Project, path: str) -> None:
        git(
            top,
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            f"file://{source.root}",
            path,
        )

    inner = Project(tmp_path / "inner", files={"inside.py": "VALUE = 1\n"})
    middle = Project(tmp_path / "middle", files={"half.py": "VALUE = 2\n"})
    add(middle.root, inner, "inner")
    middle.commit()
    there = Project(
        tmp_path / "repository", STEADY, below="deep", files={"configs/a.yaml": "experiment: {version: a}\n"}
    )
    add(there.root, middle, "deep/libs/middle")
    add(there.root, inner, "elsewhere")
    git(
        there.root,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "update",
        "--init",
        "--recursive",
    )
    there.commit()
    made = there.run()
    names = {
        item["name"]: item["digest"]["gitCommit"]
        for item in there.record(made["run_id"])["predicate"]["buildDefinition"]["resolvedDependencies"]
        if item["name"].startswith("submodule:")
    }
    assert names == {
        "submodule:libs/middle": git(middle.root, "rev-parse", "HEAD"),
        "submodule:libs/middle/inner": git(inner.root, "rev-parse", "HEAD"),
    }
    assert there.asked("verify", made["run_id"])["verdict"] == "ok"
    there.write("libs/later.txt", "later\n")
    there.commit()
    shutil.rmtree(there.store / "keys" / "image")
    remove_image(made)
    found = again(there, made["run_id"], env={"MIRAGE_CACHE": str(tmp_path / "cache")})
    assert (found["verdict"], found["image"]["origin"], found["image"]["equal"]) == (
        "IDENTICAL",
        "rebuilt",
        True,
    )
    assert there.asked("verify", found["runs"][0])["verdict"] == "ok"
    remove_image(made)
    shutil.rmtree(there.root / ".git" / "modules" / "deep" / "libs" / "middle" / "modules")
    shutil.rmtree(there.folder / "libs" / "middle" / "inner")
    shutil.rmtree(there.store / "keys" / "image")
    err = there.refused("reproduce", made["run_id"], program="mirage", code=10)
    assert "the submodule inner is not here at its commit" in err and "git submodule update" in err


@pytest.mark.parametrize(
    ("what", "place", "source"),
    [
        ("clock", "data.json: made.at", "a clock"),
        ("random", "data.json: value", "no source is known"),
        ("host", "data.txt: line 1", "host name"),
        ("run", "data.txt: line 1", "MIRAGE_RUN_ID"),
    ],
)
def test_what_is_not_the_same_is_found_with_its_source(
    project: Project, what: str, place: str, source: str
) -> None:
    made = project.run("--workflow", "workflows.unsteady", "--set", f"+mirage.run.env.WHAT={what}")
    before = versions(project)
    found = again(project, made["run_id"], code=9)
    assert [item["verdict"] for item in found["outputs"]] == ["IDENTICAL", "DIFFERS"]
    assert found["first_difference"] == made["outputs"][1]["id"]
    assert found["outputs"][1]["difference"]["place"] == place
    assert source in found["sources"][0]
    assert versions(project) == before
    assert project.asked("show", made["run_id"])["verdict"] == "DIFFERS"
    (again_id,) = found["runs"]
    assert ":unpublished-" in project.record(again_id)["subject"][2]["name"]
    assert project.asked("verify", again_id)["verdict"] == "ok"


def test_repeating_tells_what_differs_from_itself(project: Project) -> None:
    made = project.run("--workflow", "workflows.unsteady", "--set", "+mirage.run.env.WHAT=random")
    found = again(project, made["run_id"], "--repeat", "2", code=9)
    assert len(found["runs"]) == 2
    assert [item["varies"] for item in found["outputs"]] == [False, True]
    assert "differs from itself" in " ".join(found["sources"])


def test_near_numbers_pass_within_a_tolerance_only(project: Project) -> None:
    made = project.run("--workflow", "workflows.unsteady", "--set", "+mirage.run.env.WHAT=near")
    found = again(project, made["run_id"], "--rtol", "1e-6")
    assert found["verdict"] == "WITHIN-TOLERANCE"
    assert list(verdicts(found).values()) == ["IDENTICAL", "WITHIN-TOLERANCE", "WITHIN-TOLERANCE"]
    assert again(project, made["run_id"], "--rtol", "1e-12", code=9)["verdict"] == "DIFFERS"


def test_a_tolerance_that_is_committed_holds_for_everybody(project: Project) -> None:
    words = ("--workflow", "workflows.unsteady", "--set", "+mirage.run.env.WHAT=near")
    given = 'experiment: {version: a}\nmirage: {tolerance: {"report:sec*": {rtol: 1.0e-6}, "metric:loss": {atol: 1.0e-6}}}\n'
    project.write("configs/near.yaml", given)
    project.commit()
    made = project.run(*words, config="configs/near.yaml")
    found = again(project, made["run_id"])
    assert (found["verdict"], [*verdicts(found).values()]) == (
        "WITHIN-TOLERANCE",
        ["IDENTICAL", "WITHIN-TOLERANCE", "WITHIN-TOLERANCE"],
    )
    exact = again(project, made["run_id"], "--rtol", "0", "--atol", "0", code=9)
    assert [*verdicts(exact).values()] == ["IDENTICAL", "DIFFERS", "DIFFERS"]
    assert project.asked("verify", made["run_id"])["verdict"] == "ok"
    record = project.record(made["run_id"])["predicate"]["buildDefinition"]["externalParameters"]
    assert record["tolerance"]["metric:loss"] == {"rtol": 0, "atol": 1e-6, "ignore": []}


def test_a_race_of_threads_is_found_to_differ_from_itself(project: Project) -> None:
    made = project.run(
        "--workflow",
        "workflows.unsteady",
        "--set",
        "+mirage.run.env.WHAT=threads",
        "--set",
        "+mirage.run.threads=4",
    )
    found = again(project, made["run_id"], "--repeat", "2", code=9)
    assert found["first_difference"] == made["outputs"][1]["id"]
    assert found["outputs"][1]["difference"]["place"].startswith("data.json: order.")
    assert "differs from itself" in found["sources"][0] and "the order of threads" in found["sources"][0]
    assert any("it ran with 4" in source for source in found["sources"])


def test_an_input_that_nobody_declared_and_that_changed_is_suspected(project: Project) -> None:
    answers = [b"then\n"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[-1])

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        made = project.run(
            "--workflow", "workflows.unsteady", "--network", "host",
            "--set", "+mirage.run.env.WHAT=network", "--set", f"+mirage.run.env.ADDRESS={address}",
        )  # fmt: skip
        runs = project.run_ids()
        err = project.refused("reproduce", made["run_id"], program="mirage", code=10)
        assert "network=host" in err and "--allow network" in err
        project.refused("reproduce", made["run_id"], "--allow", "gpus", program="mirage", code=10)
        assert project.run_ids() == runs  # a record alone opens no network
        allowed = ("--allow", "network")
        assert again(project, made["run_id"], *allowed)["verdict"] == "IDENTICAL"
        answers.append(b"now\n")
        found = again(project, made["run_id"], *allowed, "--repeat", "2", code=9)
        server.shutdown()
    assert found["first_difference"] == made["outputs"][1]["id"] and not found["outputs"][1]["varies"]
    told = " ".join(found["sources"])
    assert "the same in 2 repetitions here" in told and "an undeclared input: its network was host" in told


def test_a_metric_is_compared_in_its_course(project: Project) -> None:
    made = project.run("--workflow", "workflows.unsteady", "--set", "+mirage.run.env.WHAT=metric")
    found = again(project, made["run_id"], code=9)
    assert made["metrics"] == {"loss": 0.5}, "its last value is the same"
    assert found["first_difference"] == "loss"
    assert found["metrics"][0]["difference"]["place"] == "at step 2"


def test_a_run_that_fails_alike_is_reproduced(project: Project) -> None:
    made = project.run("--workflow", "workflows.fails", code=1)
    found = again(project, made["run_id"])
    assert found["verdict"] == "IDENTICAL"
    assert verdicts(found) == {"file:before:v1": "IDENTICAL"}


def test_a_run_that_fails_now_and_did_not_before(tmp_path: Path) -> None:
    fails_later = (
        "import sys\nfrom mirage import config\n"
        "import time\nsys.exit(0 if time.time() < config.until else 5)\n"
    )
    until = time.time() + 4
    there = Project(tmp_path, fails_later, files={"configs/a.yaml": f"until: {until}\n"})
    made = there.run()
    wait_for(lambda: time.time() > until + 0.1)
    found = again(there, made["run_id"], code=1)
    assert found["verdict"] == "FAILED"
    assert found["status"]["difference"]["again"] == "failed (exit code 5)"


def test_an_input_that_was_changed_in_the_store_is_told(
    project: Project, first: dict[str, Any], second: dict[str, Any]
) -> None:
    ((kind, hexed),) = [
        ("file", path.name)
        for path in (project.store / "blobs" / "sha256").rglob("*")
        if path.is_file() and path.stat().st_size < 100 and path.read_bytes() == b'{"rows":[1,2,3]}'
    ] or [("", "")]
    assert kind, "the input's blob was not found"
    path = project.store / "blobs" / "sha256" / hexed[:2] / hexed
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content.replace(b"3", b"4"))
    try:
        err = project.refused("reproduce", second["run_id"], program="mirage", code=10)
        assert "the input dataset:rows:v1 is damaged" in err
        told = json.loads(project.mirage("verify", second["run_id"], "--json", code=9))
        assert [f["check"] for f in told["findings"] if f["state"] == "mismatch"] == ["input dataset:rows:v1"]
        path.unlink()
        err = project.refused("reproduce", second["run_id"], program="mirage", code=10)
        assert "the input dataset:rows:v1 is not in the store" in err
        told = json.loads(project.mirage("verify", second["run_id"], "--json", code=10))
        assert [f["check"] for f in told["findings"] if f["state"] == "missing"] == ["input dataset:rows:v1"]
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)


def test_one_that_dies_on_the_way_is_recovered_and_publishes_nothing(tmp_path: Path) -> None:
    workflow = (
        "import time\nfrom mirage import artifact, config, flow\n"
        "@flow\ndef main():\n    artifact.File.save('a', name='before')\n    time.sleep(config.seconds)\n"
        "    artifact.File.save(str(time.time()), name='after')\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    there = Project(tmp_path, workflow, files={"configs/a.yaml": "seconds: 3\n"})
    made = there.run()
    before = versions(there)
    process = there.start("reproduce", made["run_id"], program="mirage")
    wait_for(
        lambda: any(line["event"] == "withhold" for line in there.journal())
    )  # of the new run, not the first
    there.wait_for_event("published")
    os.kill(process.pid, 9)
    process.communicate()
    found = there.asked("recover")
    assert [item["status"] for item in found["recovered"]] == ["succeeded"], found
    (recovered,) = found["recovered"]
    assert recovered["status"] == "succeeded"
    assert versions(there) == before
    subjects = there.record(recovered["run_id"])["subject"]
    assert subjects[1]["name"] == "file:before:v1"
    assert subjects[2]["name"].startswith("file:after:unpublished-")
    assert there.asked("verify", recovered["run_id"])["verdict"] == "ok"
