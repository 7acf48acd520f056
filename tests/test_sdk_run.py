"""Config, flows, steps and metrics of a workflow, inside a run and outside of one."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mirage
from mirage import Config, MirageError, MissingKey, artifact, flow, metrics, session, step
from tests.sdk_host import SDK_ROOT, Host, ended

VALUES: dict[str, Any] = {
    "experiment": {"name": "baseline_cnn"},
    "data": {"train_dataset": "dataset:processed:v1", "splits": [{"name": "train", "part": 0.8}]},
    "training": {"lr": 1e-3, "batch_size": 32, "a.b": 1, "optimizer": {"betas": [0.9, 0.99]}},
}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with Host(tmp_path / "mirage", VALUES) as running:
        for name, value in running.environment().items():
            if name.startswith("MIRAGE_"):
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(session, "_current", None)
        monkeypatch.setattr(metrics, "_warned", False)
        yield running


def test_the_config_is_reached_by_keys_attributes_and_dotted_paths(host: Host) -> None:
    config = Config()
    assert config["training"]["lr"] == config.training.lr == config.get("training.lr") == 0.001
    assert config.get("training.momentum", 0.5) == 0.5
    assert config.get("training.lr.deeper") is None
    assert config.training.get("a.b") == 1
    assert config.data.splits[0].part == 0.8
    assert dict(**config.experiment) == {"name": "baseline_cnn"}
    assert "training" in config
    assert list(config) == list(VALUES)
    assert hasattr(config, "training")
    assert not hasattr(config, "trainign")


def test_the_config_as_a_dict_is_a_copy(host: Host) -> None:
    config = Config()
    plain = config.as_dict()
    assert plain == VALUES
    assert json.loads(json.dumps(plain)) == VALUES
    plain["training"]["optimizer"]["betas"].append(1)
    config.training.optimizer.betas.append(1)
    assert config.as_dict() == VALUES


@pytest.mark.parametrize("caught_as", [KeyError, AttributeError, MissingKey])
def test_a_missing_key_names_the_file_and_the_nearest_key(host: Host, caught_as: type[Exception]) -> None:
    with pytest.raises(caught_as) as caught:
        _ = Config().training.batchsize
    assert str(caught.value) == (
        "configs/experiment_001.yaml has no key 'training.batchsize'\n  -> did you mean 'training.batch_size'?"
    )
    with pytest.raises(caught_as, match="it has: experiment, data, training"):
        _ = Config()["zzz"]


def test_an_input_is_reached_by_its_place_in_the_config(host: Host) -> None:
    host.add_input("dataset:processed:v1", "data.json", b"[1]", "json")
    config = Config()
    assert config.artifact("data.train_dataset").load() == [1]
    assert artifact.load(config.data.train_dataset) == config.data.artifact("train_dataset")
    with pytest.raises(MirageError, match="not an artifact id"):
        config.artifact("training.lr")


def test_a_flow_keeps_signature_arguments_and_result_and_logs_what_happened(host: Host) -> None:
    @step(name="square")
    def squared(x: int) -> int:
        return x * x

    @flow
    def train(first: int, /, *rest: int, scale: float = 1.0, **more: Any) -> tuple[Any, ...]:
        """Doc."""
        return first, rest, scale, more, squared(first)

    assert train(2, 3, 4, scale=0.5, extra=None) == (2, (3, 4), 0.5, {"extra": None}, 4)
    assert train.__doc__ == "Doc."
    assert str(inspect.signature(train)).startswith("(first: 'int', /, *rest: 'int'")
    events = host.lines("events.jsonl")
    assert [(event["event"], event["name"]) for event in events] == [
        ("flow-start", "train"),
        ("step-start", "square"),
        ("step-end", "square"),
        ("flow-end", "train"),
    ]
    assert set(events[0]) == {"time", "event", "name", "seconds", "error"}
    assert events[0]["seconds"] is None
    assert 0 <= events[2]["seconds"] <= events[3]["seconds"]


def test_an_error_is_logged_and_raised_unchanged(host: Host) -> None:
    @flow()
    def fails() -> None:
        raise ValueError("no such column: ä")

    with pytest.raises(ValueError, match="no such column"):
        fails()
    last = host.lines("events.jsonl")[-1]
    assert (last["event"], last["error"]) == ("flow-error", "ValueError: no such column: ä")


@pytest.mark.parametrize(("code", "event"), [(0, "flow-end"), (None, "flow-end"), (3, "flow-error")])
def test_a_flow_that_exits_is_judged_by_its_code(host: Host, code: int | None, event: str) -> None:
    @flow
    def leaves() -> None:
        sys.exit(code)

    with pytest.raises(SystemExit):
        leaves()
    assert host.lines("events.jsonl")[-1]["event"] == event


def test_coroutines_and_generators_are_timed_to_their_end(host: Host) -> None:
    @step
    async def waits() -> str:
        await asyncio.sleep(0.05)
        return "done"

    @step
    def yields() -> Iterator[int]:
        yield from (1, 2)

    assert asyncio.run(waits()) == "done"
    assert list(yields()) == [1, 2]
    ends = [event for event in host.lines("events.jsonl") if event["event"] == "step-end"]
    assert [event["name"] for event in ends] == ["waits", "yields"]
    assert ends[0]["seconds"] >= 0.05


def test_the_outermost_flow_seeds_and_an_inner_one_does_not(host: Host) -> None:
    @flow
    def inner() -> float:
        return random.random()

    @flow
    def outer() -> list[float]:
        return [random.random(), inner(), float(np.random.random())]

    expected = random.Random(7)
    first = outer()
    assert first[:2] == [expected.random(), expected.random()]
    assert first[2] == float(np.random.RandomState(7).random_sample())
    assert outer() == first


def test_a_seed_that_is_no_number_is_an_error(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAGE_SEED", "lucky")
    with pytest.raises(mirage.ConfigError, match="'lucky'"):
        flow(lambda: None)()


def test_outside_a_run_a_marked_function_is_a_plain_function(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MIRAGE_RUN_ID", "MIRAGE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(session, "_current", None)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    assert step(lambda x: x + 1)(1) == 2
    assert session._current is None


def test_metrics_are_kept_as_numbers_by_step(host: Host) -> None:
    metrics.log(accuracy=0.89, step=3)
    named: dict[str, Any] = {"val/acc": np.array(1)}
    metrics.log(loss=np.float32(0.5), n=np.int64(4), big=2**60, **named)
    first, second = host.lines("metrics.jsonl")
    assert (first["step"], first["values"]) == (3, {"accuracy": 0.89})
    assert first["time"] > 1.7e9
    assert (second["step"], second["values"]) == (
        None,
        {"loss": 0.5, "n": 4, "big": float(2**60), "val/acc": 1.0},
    )


def test_nan_and_infinity_are_null_and_told_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    metrics.log(loss=float("nan"))
    metrics.log(loss=float("-inf"), accuracy=0.5)
    assert [line["values"] for line in host.lines("metrics.jsonl")] == [
        {"loss": None},
        {"loss": None, "accuracy": 0.5},
    ]
    assert capsys.readouterr().err == "mirage: the metric 'loss' is nan; it is kept as null (told once)\n"


@pytest.mark.parametrize("value", [True, "0.5", b"1", None, [1.0], np.bool_(True), 1j])
def test_what_is_no_number_is_no_metric(host: Host, value: Any) -> None:
    with pytest.raises(TypeError, match="'accuracy' must be a number"):
        metrics.log(accuracy=value)
    assert host.lines("metrics.jsonl") == []


def test_metrics_need_a_value_and_whole_steps(host: Host) -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.log(step=1)
    for bad in (0.5, True, {"loss": 1}):
        with pytest.raises(TypeError, match="step must be an integer"):
            metrics.log(step=bad, loss=1.0)


def test_the_articles_workflow_runs_as_a_module(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "project" / "workflows"
    folder.mkdir(parents=True)
    (folder / "training_pipeline.py").write_text(
        """
from mirage import artifact, config, flow, metrics, step

@flow
def prepare_dataset(raw_data_path: str) -> artifact.Dataset:
    processed = {"rows": [raw_data_path, config.training.lr]}
    metrics.log(accuracy=0.89, step=3)
    return artifact.Dataset.save(processed, name="processed_training_data")

if __name__ == "__main__":
    print(prepare_dataset("raw").id)
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "workflows.training_pipeline", "--config", "configs/experiment_001.yaml"],
        cwd=folder.parent,
        env=host.environment(),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout == "dataset:processed_training_data:v1\n"


def test_a_container_without_its_files_says_what_is_wrong(tmp_path: Path, host: Host) -> None:
    (host.root / "config.json").unlink()
    with pytest.raises(MirageError, match="MIRAGE_RUN_ID is set"):
        _ = Config().training


PLAIN_HOST = """
import json, pathlib
from orchestrator.errors import MirageError

class Session:
    config_path = "configs/x.yaml"
    def __init__(self, argv):
        if argv[:1] != ["--config"]:
            raise MirageError("no config", hint="--config FILE")
        self.out = pathlib.Path("out"); self.out.mkdir()
    def config_values(self): return {"data": {"d": "dataset:d:v1", "again": ["dataset:d:v1", "model:m:v2"]}}
    def resolve(self, id):
        if id == "model:m:v2": raise MirageError("no model:m:v2 in the store", hint="mirage artifact ls")
        return {"id": id, "path": str(self.out.resolve()), "entry": "in.json", "digest": "sha256:00",
                "format": "json", "size": 3, "files": 1, "metadata": {}}
    def new_payload(self):
        (self.out / "0").mkdir(); (self.out / "in.json").write_text("[7]"); return 0, str(self.out / "0")
    def publish(self, ready):
        (self.out / "ready").write_text(json.dumps(ready))
        return {"schema": "mirage-done/1", "n": 0, "id": "dataset:x:v1", "digest": "sha256:11", "size": 1}
    def log_metrics(self, line): (self.out / "metrics").write_text(json.dumps(line))
    def log_event(self, line): print(line["event"])

open_session = Session
"""


def run_plain(folder: Path, code: str, *arguments: str) -> tuple[int, str, str]:
    """The SDK without a run and, by -S, without the host package of this environment."""
    shutil.copytree(SDK_ROOT / "mirage", folder / "mirage", dirs_exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_plain_mode_speaks_to_the_projects_own_store(tmp_path: Path) -> None:
    (tmp_path / "orchestrator").mkdir()
    shutil.copy(SDK_ROOT / "orchestrator" / "errors.py", tmp_path / "orchestrator")
    (tmp_path / "orchestrator" / "plain.py").write_text(PLAIN_HOST)
    code = """
from mirage import ArtifactError, artifact, config, flow, metrics
@flow
def main():
    metrics.log(a=1)
    print(config.data.d, artifact.Dataset.save("x", name="x").id)
    return artifact.load(config.data.d).load()
print(main())
try: artifact.inputs()
except ArtifactError as error: print(error)
"""
    returned, stdout, stderr = run_plain(tmp_path, code, "--config", "configs/x.yaml")
    assert (returned, stderr) == (0, "")
    assert stdout.splitlines() == [
        "flow-start",
        "dataset:d:v1 dataset:x:v1",
        "flow-end",
        "[7]",
        "no model:m:v2 in the store",
        "  -> mirage artifact ls",
    ]
    assert json.loads((tmp_path / "out" / "ready").read_text())["schema"] == "mirage-ready/1"
    assert (tmp_path / "out" / "0" / "data.txt").read_text() == "x"
    _, _, stderr = run_plain(tmp_path, "from mirage import config; config.data")
    assert stderr.endswith("mirage.ConfigError: no config\n  -> --config FILE\n")


def test_plain_mode_without_the_host_package_says_what_to_install(tmp_path: Path) -> None:
    returned, _, stderr = run_plain(tmp_path, "from mirage import config; config.data", "--config", "c.yaml")
    assert returned == 1
    assert "pip install mirage-flow" in stderr


def test_importing_the_sdk_pulls_in_nothing_slow(tmp_path: Path) -> None:
    slow = ["typing", "re", "json", "pathlib", "inspect", "dataclasses", "shutil", "random", "orchestrator"]
    code = f"import sys, mirage; print([name for name in {slow} if name in sys.modules])"
    assert run_plain(tmp_path, code) == (0, "[]\n", "")


def test_the_sdk_is_the_standard_library_only_and_python_3_9() -> None:
    for path in sorted((SDK_ROOT / "mirage").glob("*.py")):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                top = name.split(".")[0]
                assert top in sys.stdlib_module_names or top == "mirage", f"{path.name} imports {name}"


def test_forked_workers_share_the_run(host: Host) -> None:
    code = """
import multiprocessing
from mirage import artifact, config

def work(number):
    return artifact.File.save(f"{number}-{config.training.lr}", name="part").id

if __name__ == "__main__":
    config.training
    with multiprocessing.get_context("fork").Pool(3) as pool:
        print(len(set(pool.map(work, range(9)))))
"""
    returned, stdout, stderr = ended(host.start(code))
    assert (returned, stdout) == (0, "9\n"), stderr
