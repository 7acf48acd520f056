"""project.yaml, configs, `--set` and options: from text to one frozen Config, or to an error with its line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import yamlcore
from orchestrator.config import Config, Project, ProjectSettings, find_project, load_config, load_project
from orchestrator.digest import of_bytes
from orchestrator.errors import ArtifactError, ConfigError

CONFIG = """\
# an experiment
experiment: {name: baseline_cnn}
data:
  train_dataset: "dataset:processed_training_data:v1"
model: {type: SimpleCNN, input_channels: 3, layers: [8, 16]}
training: {lr: 1e-3, momentum: 1.0, batch_size: 32}
"""
DESIGN = """\
project: awesome_ai_project
workflow: workflows.training_pipeline
store: .mirage/artifacts
s3: {endpoint_url: null, region: null, profile: null}
platform: auto
base: python-3.11
environment: {lock: auto, groups: [main]}
bank: [layers, base]
dirty: refuse
run: {network: none, memory: null, cpus: null, gpus: 0, shm_size: 1g, timeout: null, threads: 1, seed: 0, env: {}, secrets: []}
build: {network: default, ca_bundle: auto, index: inherit}
retry: {infrastructure: 0}
sign: {key: auto}
trust: {environments: auto}
tolerance: {}
"""


def project_of(folder: Path, text: str = "") -> Project:
    (folder / ".mirage").mkdir(exist_ok=True)
    (folder / ".mirage" / "project.yaml").write_text(text)
    return load_project(folder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "Awesome AI"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "a.yaml").write_text(CONFIG)
    return project_of(folder)


def load(project: Project, *overrides: str, text: str | None = None, **flags: Any) -> Config:
    file = project.folder / "configs" / "a.yaml"
    if text is not None:
        file.write_text(text)
    return load_config(
        project, file, overrides, {name.replace("__", "."): value for name, value in flags.items()}
    )


def problem(project: Project, *overrides: str, text: str | None = None, **flags: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(project, *overrides, text=text, **flags)
    return str(caught.value)


# --- project.yaml


def test_every_key_has_the_default_of_the_design(tmp_path: Path) -> None:
    written = project_of(tmp_path, DESIGN).settings
    assert written == dataclasses.replace(ProjectSettings(), project="awesome_ai_project")
    assert written.run.shm_size == 1 << 30
    named = set(yamlcore.parse(DESIGN.encode(), "x").value)  # type: ignore[arg-type]  # a mapping
    assert named == {field.name for field in dataclasses.fields(ProjectSettings)}


def test_an_empty_project_is_named_after_its_folder(project: Project) -> None:
    assert project.settings == dataclasses.replace(ProjectSettings(), project="awesome-ai")


def test_settings_hold_no_dict_and_cannot_change(project: Project) -> None:
    config = load(project, "mirage.run.env={B: x, A: y}")
    assert config.settings.run.env == (("A", "y"), ("B", "x"))
    hash(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.settings.run.seed = 3  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    "written,expected",
    [
        ("memory: 512m", {"memory": 512 << 20}),
        ("memory: 1.5g", {"memory": 3 << 29}),
        ("memory: 8GiB", {"memory": 8 << 30}),
        ("memory: 8388608", {"memory": 8 << 20}),
        ("shm_size: 64k", {"shm_size": 64 << 10}),
        ("timeout: 90", {"timeout": 90.0}),
        ("timeout: 0.5", {"timeout": 0.5}),
        ("timeout: 90s", {"timeout": 90.0}),
        ("timeout: 15m", {"timeout": 900.0}),
        ("timeout: 1.5h", {"timeout": 5400.0}),
        ("cpus: 2", {"cpus": 2.0}),
        ("cpus: 1.5", {"cpus": 1.5}),
        ("gpus: 0", {"gpus": ()}),
        ("gpus: 2", {"gpus": ("count=2",)}),
        ("gpus: all", {"gpus": ("all",)}),
        ("gpus: [1, 0, GPU-3ab]", {"gpus": ("0", "1", "GPU-3ab")}),
        ("network: host", {"network": "host"}),
        ("secrets: [HF_TOKEN, A]", {"secrets": ("A", "HF_TOKEN")}),
        ('env: {B: "1", A: no}', {"env": (("A", "no"), ("B", "1"))}),
        ("env:", None),
    ],
)
def test_values_of_run(tmp_path: Path, written: str, expected: dict[str, object] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="expected a mapping of names to strings, got null"):
            project_of(tmp_path, f"run:\n  {written}")
        return
    run = project_of(tmp_path, f"run:\n  {written}\n").settings.run
    assert {name: getattr(run, name) for name in expected} == expected


@pytest.mark.parametrize(
    "text,line,words",
    [
        ("project: x\nworkflw: a.b", 2, ["unknown key 'workflw'", "did you mean 'workflow'"]),
        ("run:\n  seed: 1\n  memry: 1g", 3, ["'memry' in run", "'memory'"]),
        ("memory: 1g", 1, ["unknown key", "did you mean run.memory"]),
        ("run: {project: x}", 1, ["project at the top level"]),
        ("environment: {unpined: resolve}", 1, ["'unpinned'"]),
        ("- a", 1, ["expected a mapping", "got a list"]),
        ("run: 3", 1, ["run: expected a mapping", "got the number 3"]),
        ("project: My Project", 1, ["expected a name of a-z", "'My Project'"]),
        ("project: 7", 1, ["got the number 7"]),
        ("workflow: workflows/train.py", 1, ["expected a Python module", "write it as workflows.train"]),
        ("workflow: a..b", 1, ["Python module"]),
        ("workflow: a.class", 1, ["Python module"]),
        ("base: ''", 1, ["non-empty string"]),
        ("store: https://me:hunter2@host/x", 1, ["without a password", "committed"]),
        ("build: {index: 'https://me:hunter2@host/simple'}", 1, ["without a password"]),
        ("build: {index: ftp://host}", 1, ["inherit, none or the https://"]),
        ("dirty: snapshots", 1, ["refuse or snapshot", "did you mean 'snapshot'"]),
        ("dirty: no", 1, ["got the string 'no'"]),
        ("environment:\n  unpinned: true", 2, ["refuse or resolve", "got the boolean true"]),
        ("environment:\n  groups:\n  - main\n  - 3", 4, ["environment.groups.1: ", "got the number 3"]),
        ("run:\n  network: bridg", 2, ["none or bridge or host", "'bridge'"]),
        ("run: {memory: lots}", 1, ["run.memory", "such as 512m, 8g or 1.5g", "'lots'"]),
        ("run: {memory: 1.5}", 1, ["size", "got the number 1.5"]),
        ("run: {memory: 5m}", 1, ["at least 6291456 bytes"]),
        ("run: {memory: 99999999999999t}", 1, ["size"]),
        ("run: {memory: true}", 1, ["got the boolean true"]),
        ("run: {shm_size: null}", 1, ["size", "got null"]),
        ("run: {timeout: 0}", 1, ["duration above 0"]),
        ("run: {timeout: 5d}", 1, ["90s, 15m or 2h"]),
        ("run: {cpus: 0}", 1, ["above 0"]),
        ("run: {cpus: true}", 1, ["got the boolean"]),
        ("run: {gpus: -1}", 1, ["a number of GPUs, all, or a list"]),
        ("run: {gpus: two}", 1, ["GPUs"]),
        ("run: {gpus: ['a b']}", 1, ["GPUs"]),
        ("run: {threads: 0}", 1, ["at least 1"]),
        ("run: {threads: true}", 1, ["got the boolean"]),
        ("run: {seed: -1}", 1, ["at least 0"]),
        ("run: {seed: 1.0}", 1, ["whole number"]),
        ("run: {secrets: HF_TOKEN}", 1, ["a list of names"]),
        ("run:\n  secrets:\n  - ok\n  - a-b", 4, ["a name such as HF_TOKEN"]),
        (
            "run:\n  env:\n    A: x\n    B: 1",
            4,
            ["run.env.B", "expected a string, got the number 1", 'quote it: "1"'],
        ),
        ("run:\n  env:\n    A: true", 3, ['quote it: "true"']),
        ("run:\n  env:\n    A-B: x", 3, ["not a variable name"]),
        ("tolerance:\n  model: {}", 2, ["tolerance.model", "fits no output"]),
        (
            "tolerance:\n  'a:*':\n    rtol: -1",
            3,
            ["tolerance.a:*.rtol", "a number, at least 0", "got the number -1"],
        ),
        ("tolerance:\n  'a:*': {rtl: 1}", 2, ["tolerance.a:*", "a mapping of rtol, atol and ignore"]),
        (
            "tolerance:\n  'a:*':\n    ignore:\n    - '('",
            4,
            ["tolerance.a:*.ignore.0", "a regular expression ("],
        ),
        ("sign:\n  key: 5", 2, ["sign.key", "a non-empty string"]),
        ("run:\n  env:\n    MIRAGE_SEED: '1'", 3, ["run.env.MIRAGE_SEED", "not for projects"]),
        ("run:\n  env:\n    LD_PRELOAD: x.so", 3, ["not for projects"]),
        ('run:\n  env:\n    A: "a\\0b"', 3, ["expected a string"]),
        ("project: a\nproject: b", 2, ["duplicate key"]),
    ],
)
def test_a_mistake_in_project_yaml_names_file_line_and_what_is_expected(
    tmp_path: Path, text: str, line: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        project_of(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f".mirage/project.yaml:{line}: ")
    for word in words:
        assert word in message


def test_the_project_is_found_from_below(project: Project, tmp_path: Path) -> None:
    (project.folder / "src" / "deep").mkdir(parents=True)
    assert find_project(project.folder / "src" / "deep") == project.folder
    with pytest.raises(ConfigError, match="mirage init"):
        find_project(tmp_path)


# --- configs


def test_a_config_without_overrides_is_seen_as_it_is(project: Project) -> None:
    config = load(project)
    assert config.path == "configs/a.yaml"
    assert config.visible == config.raw == CONFIG.encode()
    assert config.digest == of_bytes(config.canonical)
    assert config.canonical == (
        b'{"data":{"train_dataset":"dataset:processed_training_data:v1"},"experiment":{"name":"baseline_cnn"},'
        b'"model":{"input_channels":3,"layers":[8,16],"type":"SimpleCNN"},'
        b'"training":{"batch_size":32,"lr":0.001,"momentum":1}}'
    )
    assert config.values()["training"] == {"lr": 0.001, "momentum": 1.0, "batch_size": 32}
    config.values().clear()
    assert config.values() == json.loads(config.canonical)


def test_the_digest_is_of_the_values_not_of_their_spelling(project: Project) -> None:
    first = load(project, text="a: 1e-3\nb: [x]\n")
    assert load(project, text="b: ['x']  # same\na: 0.001\n").digest == first.digest
    assert load(project, text="a: 1e-3\nb: [y]\n").digest != first.digest


def test_a_path_may_be_relative_and_must_stay_inside(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder / "configs")
    assert load_config(project, Path("a.yaml"), ()).path == "configs/a.yaml"
    assert load_config(project, Path("../configs/a.yaml"), ()).path == "configs/a.yaml"
    outside = tmp_path / "b.yaml"
    outside.write_text("a: 1")
    Path("link.yaml").symlink_to(outside)
    for path in (outside, Path("link.yaml")):
        with pytest.raises(ConfigError, match="outside of the project"):
            load_config(project, path, ())


def test_a_missing_config_lists_those_that_are_there(project: Project) -> None:
    (project.folder / "configs" / "b.yml").write_text("a: 1")
    with pytest.raises(ConfigError) as caught:
        load_config(project, project.folder / "configs" / "aa.yaml", ())
    assert "configs/aa.yaml does not exist" in caught.value.message
    assert "did you mean 'configs/a.yaml'" in str(caught.value)
    assert "configs/b.yml" in str(caught.value)
    with pytest.raises(ConfigError, match="is not a file"):
        load_config(project, project.folder / "configs", ())


@pytest.mark.parametrize(
    "text,words",
    [
        ("", ["configs/a.yaml: the config is empty", "a config is a mapping such as"]),
        ("# nothing\n", ["empty"]),
        ("# head\n- a\n", ["configs/a.yaml:2", "a list, not a mapping"]),
        ("just text", ["configs/a.yaml:1", "the string 'just text'"]),
        ("a: 1\na: 2", ["configs/a.yaml:2", "duplicate"]),
        ("a: 1\nmirage:\n  run:\n    sed: 1", ["configs/a.yaml:4", "unknown key 'sed' in run", "'seed'"]),
        ("mirage: x", ["configs/a.yaml:1", "expected a mapping"]),
    ],
)
def test_a_mistake_in_a_config_names_file_and_line(project: Project, text: str, words: list[str]) -> None:
    message = problem(project, text=text)
    for word in words:
        assert word in message


def test_layers_lie_on_each_other(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    project = project_of(tmp_path, "run: {seed: 1, threads: 1, network: none, cpus: 1, env: {A: p, B: p}}")
    text = "a: 1\nmirage:\n  run: {threads: 2, network: bridge, cpus: 2, env: {B: c}}\n"
    config = load(
        project, "mirage.run.network=host", "mirage.run.env.C=s", "mirage.run.cpus=3", text=text, run__cpus=4
    )
    run = config.settings.run
    assert (run.seed, run.threads, run.network, run.cpus) == (1, 2, "host", 4.0)
    assert run.env == (("A", "p"), ("B", "c"), ("C", "s"))
    assert project.settings.run.threads == 1
    flagged = load(project, text=text, workflow="w.other", dirty="snapshot", run__gpus="all").settings
    assert (flagged.workflow, flagged.dirty, flagged.run.gpus) == ("w.other", "snapshot", ("all",))


def test_the_mirage_block_and_its_overrides_are_not_part_of_the_values(project: Project) -> None:
    plain = load(project, text="a: 1\n")
    block = load(project, "mirage.run.seed=3", text="a: 1\nmirage: {run: {threads: 2}}\n")
    assert block.digest == plain.digest
    assert block.values() == {"a": 1}
    assert block.visible == block.raw
    changed = load(project, "a=2", text="a: 1\nmirage: {run: {threads: 2}}\n")
    assert changed.visible == b"a: 2\n"


@pytest.mark.parametrize(
    "override,words",
    [
        ("mirage.run.sed=1", ["--set mirage.run.sed=1: unknown key 'sed'", "'seed'"]),
        ("mirage.run.seed=x", ["--set mirage.run.seed=x: run.seed: expected a whole number"]),
        ("mirage=1", ["--set mirage=1", "mapping"]),
    ],
)
def test_a_mistake_in_an_override_of_settings_names_the_option(
    project: Project, override: str, words: list[str]
) -> None:
    for word in words:
        assert word in problem(project, override)


def test_a_mistake_in_a_flag_names_the_option(project: Project) -> None:
    assert problem(project, workflow="a b").startswith("--workflow: workflow: expected a Python module")


# --- --set


def test_set_reads_values_as_the_file_does(project: Project) -> None:
    config = load(project, "training.lr=1e-4", "model.type=no", "model.layers.1=0x20", "data={x: [1:30]}")
    assert config.values()["training"]["lr"] == 1e-4
    assert config.values()["model"] == {"type": "no", "input_channels": 3, "layers": [8, 32]}
    assert config.values()["data"] == {"x": ["1:30"]}
    assert load(project, "experiment.name=a=b").values()["experiment"]["name"] == "a=b"
    assert load(project, "experiment.name=").values()["experiment"]["name"] is None


def test_what_the_workflow_sees_holds_the_changed_value_in_the_order_of_the_file(project: Project) -> None:
    config = load(project, "training.batch_size=64", "+training.z=1", "+training.b=2", "+model.layers.2=1e-7")
    assert yaml.safe_load(config.visible) == yamlcore.parse(config.visible, "x").value == config.values()
    assert list(yaml.safe_load(config.visible)) == ["experiment", "data", "model", "training"]
    assert list(yaml.safe_load(config.visible)["training"]) == ["lr", "momentum", "batch_size", "b", "z"]
    assert isinstance(yaml.safe_load(config.visible)["training"]["momentum"], float)


def test_large_floats_stay_floats(project: Project) -> None:
    config = load(project, "b=2", text="a: 7.125831057610466e16\nb: 1\n")
    assert config.values() == {"a": 7.125831057610466e16, "b": 2}
    assert isinstance(config.values()["a"], float)
    assert config.visible == b"a: 7.125831057610466e+16\nb: 2\n"


def test_one_config_digest_has_one_visible_file(project: Project) -> None:
    pairs = [
        (("training.lr=0.001",), ()),
        (("+x=1", "+y=2"), ("+y=2", "+x=1.0")),
        (("training.batch_size=64",), ("training.batch_size=0x40",)),
        (("training.batch_size=64", "training.batch_size=32"), ()),
    ]
    for left, right in pairs:
        one, other = load(project, *left), load(project, *right)
        assert (one.digest, one.visible) == (other.digest, other.visible)


@pytest.mark.parametrize(
    "override,words",
    [
        (
            "training.lrr=1",
            ["the config has no training.lrr", "did you mean training.lr?", "`--set +training.lrr=...`"],
        ),
        ("lr=1", ["did you mean training.lr?"]),
        ("zzz=1", ["`--set +zzz=...` adds a new one"]),
        ("+training.lr=1", ["exists already", "`--set training.lr=1` changes it"]),
        ("+model.layers.0=1", ["exists already"]),
        ("training.lr.x=1", ["training.lr is the number 0.001"]),
        ("model.layers.2=1", ["no index of a list of 2", "0 to 1", "appends"]),
        ("+model.layers.3=1", ["0 to 2"]),
        ("model.layers.first=1", ["'first' is no index"]),
        ("training.lr", ["expected a path, = and a value"]),
        ("=1", ["expected a path"]),
        ("a..b=1", ["expected a path"]),
        ("+=1", ["expected a path"]),
        ("+" + ".".join("a" * 5000) + "=1", ["expected a path"]),
        ("training.lr=[1", ["--set training.lr: did not find"]),
        ("training.lr=.nan", ["no JSON form"]),
        ("training.lr=!!python/name:os.system", ["not supported"]),
        ("experiment.name=\udcff", ["not UTF-8"]),
        ("+\udcff=1", ["expected a path"]),
    ],
)
def test_a_mistake_in_set_says_what_to_do(project: Project, override: str, words: list[str]) -> None:
    message = problem(project, override)
    for word in words:
        assert word in message


def test_plus_adds_keys_with_everything_above_them(project: Project) -> None:
    values = load(project, "+a.b.c=1", "+model.layers.2=4").values()
    assert values["a"] == {"b": {"c": 1}}
    assert values["model"]["layers"] == [8, 16, 4]


# --- inputs


def test_inputs_are_the_artifact_ids_in_order_each_once(project: Project) -> None:
    text = (
        "z: model:b:v2\na: ['dataset:a:latest', {k: model:b:v2}]\n"
        "prose: 'report: see x: y'\nurl: file://host:80/x\nother: weights:a:v1\ntwo: dataset:a\n"
        "time: '1:2:3'\ndataset:key:v1: a key is not an input\nmirage: {project: x}\n"
    )
    assert load(project, text=text).inputs == ("model:b:v2", "dataset:a:latest")
    assert load(project, "z=dataset:new:v1").inputs == ("dataset:new:v1", "dataset:a:latest", "model:b:v2")


@pytest.mark.parametrize(
    "written", ["dataset:Upper:v1", "model::v1", "file:a/b:v1", "metrics:a:", "report:..:v1"]
)
def test_a_malformed_artifact_id_names_its_line(project: Project, written: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        load(project, text=f"data:\n  x: 1\n  train: ['{written}']\n")
    assert str(caught.value).startswith("configs/a.yaml:3: ")
    with pytest.raises(ArtifactError) as caught:
        load(project, f"data.x='{written}'", text="data:\n  x: 1\n")
    assert str(caught.value).startswith("--set data.x=")


WORDS = st.sampled_from(
    [
        "project",
        "run",
        "env",
        "seed",
        "gpus",
        "store",
        "environment",
        "groups",
        "x",
        "training",
        "lr",
        "0",
        "mirage",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@given(
    settings_tree=TREES,
    config_tree=TREES,
    override=st.lists(WORDS, min_size=1, max_size=4),
    value=st.text(max_size=12),
    add=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_nothing_but_typed_errors_comes_out(
    tmp_path_factory: pytest.TempPathFactory,
    settings_tree: Any,
    config_tree: Any,
    override: list[str],
    value: str,
    add: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    (folder / ".mirage").mkdir(parents=True, exist_ok=True)
    (folder / ".mirage" / "project.yaml").write_bytes(yamlcore.dump(settings_tree))
    (folder / "c.yaml").write_bytes(yamlcore.dump(config_tree))
    try:
        project = load_project(folder)
    except ConfigError as error:
        assert ".mirage/project.yaml" in str(error)
        (folder / ".mirage" / "project.yaml").write_text("")
        project = load_project(folder)
    try:
        config = load_config(
            project, folder / "c.yaml", [f"{'+' if add else ''}{'.'.join(override)}={value}"]
        )
    except (ConfigError, ArtifactError) as error:
        assert "--set" in str(error) or "c.yaml" in str(error)
        return
    assert yaml.safe_load(config.visible) == yamlcore.parse(config.visible, "c").value
