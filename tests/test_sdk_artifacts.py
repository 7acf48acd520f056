"""What `save` writes, what it refuses, and what `load` gives back."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirage import Artifact, ArtifactError, artifact, session
from tests.sdk_host import Host, ended


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with Host(tmp_path / "mirage", {"data": {}}) as running:
        for name, value in running.environment().items():
            if name.startswith("MIRAGE_"):
                monkeypatch.setenv(name, value)
        monkeypatch.setattr(session, "_current", None)
        yield running


@pytest.mark.parametrize(
    ("value", "format", "entry", "data"),
    [
        (b"\x00\xff", "bytes", "data.bin", b"\x00\xff"),
        ("line\r\nä", "text", "data.txt", "line\r\nä".encode()),
        ({"b": [1, 2.5, None], "a": "ä"}, "json", "data.json", '{"a":"ä","b":[1,2.5,null]}'.encode()),
        ([True, {"x": {}}], "json", "data.json", b'[true,{"x":{}}]'),
        ({}, "json", "data.json", b"{}"),
        (3, "json", "data.json", b"3"),
    ],
)
def test_plain_values_are_written_as_they_are_and_come_back(
    host: Host, value: Any, format: str, entry: str, data: bytes
) -> None:
    saved = artifact.Dataset.save(value, name="x", metadata={"rows": 2})
    assert saved.id == "dataset:x:v1"
    assert saved.path.read_bytes() == data
    assert saved.load() == value
    assert host.ready[0] == {
        "schema": "mirage-ready/1",
        "n": 0,
        "kind": "dataset",
        "name": "x",
        "version": None,
        "format": format,
        "entry": entry,
        "metadata": {"rows": 2},
    }
    assert (saved.kind, saved.name, saved.version, saved.size) == ("dataset", "x", "v1", len(data))


def test_numpy_scalars_and_tuples_become_json_numbers_and_lists(host: Host) -> None:
    saved = artifact.Metrics.save({"loss": np.float32(0.5), "n": np.int64(3), "shape": (1, 2)}, name="m")
    assert saved.path.read_bytes() == b'{"loss":0.5,"n":3,"shape":[1,2]}'


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        (None, "None", "return"),
        ({1: "a"}, "key 1 is no string", "str(key)"),
        ({"a": [0.0, float("nan")]}, "JSON", "NaN"),
        ({"a": {"b": {1, 2}}}, "the value['a']['b'] is a set", "pickle"),
        ({"w": np.zeros(2), "epoch": 3}, "the value['w'] is a numpy.ndarray", ".npz"),
        ("\ud800", "cannot be written as text", "Path"),
        (np.array([object()]), "cannot be written as npy", "pickle"),
        ({"w": np.array([{}])}, "cannot be written as npz", "pickle"),
        ({"w.npy": np.zeros(1)}, "ambiguous", None),
        (np.ma.masked_array([1, 2], mask=[False, True]), "cannot be written as npy", "pickle"),
        (object(), "no safe format for a object", "pickle"),
        (Path("/nowhere/at all"), "there is no file", "str is saved as text"),
    ],
)
def test_what_has_no_safe_form_is_refused_with_the_ways_out(
    host: Host, value: Any, message: str, hint: str | None
) -> None:
    with pytest.raises(ArtifactError) as caught:
        artifact.Dataset.save(value, name="x")
    assert message in caught.value.message
    assert hint is None or hint in str(caught.value.hint)
    assert list(host.artifacts.iterdir()) == []  # nothing was announced, and its room is free again


def test_arrays_keep_their_type_shape_and_values(host: Host) -> None:
    array = np.arange(12, dtype=">i2").reshape(3, 4)
    saved = artifact.Dataset.save(array, name="x")
    assert host.ready[0]["format"] == "npy"
    loaded = saved.load()
    assert loaded.dtype == array.dtype
    assert (loaded == array).all()


def test_a_dict_of_arrays_has_the_same_bytes_whatever_the_order_and_the_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, bias = np.linspace(0, 1, 7), np.array(3.5)
    first = artifact.Model.save({"weights": weights, "bias": bias}, name="m")
    code = """
import os, sys, time
os.environ["TZ"] = "Asia/Tokyo"; time.tzset(); time.sleep(1)
import numpy as np
from mirage import artifact
saved = artifact.Model.save({"bias": np.array(3.5), "weights": np.linspace(0, 1, 7)}, name="m")
print(saved.id, saved.digest)
"""
    returned, stdout, stderr = ended(host.start(code))
    assert returned == 0, stderr
    assert stdout.split() == ["model:m:v1", first.digest]
    loaded = first.load()
    assert sorted(loaded) == ["bias", "weights"]
    assert loaded["bias"].shape == ()
    assert (loaded["weights"] == weights).all()
    with np.load(first) as archive:  # NumPy itself reads it, and the artifact is a path
        assert archive.files == ["bias", "weights"]


def test_pickles_are_written_on_demand_and_read_on_demand_only(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no safe format"):
        artifact.Model.save({1, 2}, name="m")
    saved = artifact.Model.save({1, 2}, name="m", format="pickle")
    with pytest.raises(ArtifactError, match="runs whatever code it carries"):
        saved.load()
    assert saved.load(unpickle=True) == {1, 2}
    copied = artifact.Model.save(saved.path, name="copy")  # a file called .pickle stays one
    with pytest.raises(ArtifactError, match="runs whatever code it carries"):
        copied.load()


def test_a_path_is_copied_and_a_str_is_text(host: Host, tmp_path: Path) -> None:
    tool = tmp_path / "train.sh"
    tool.write_bytes(b"#!/bin/sh\n")
    tool.chmod(0o700)
    saved = artifact.File.save(tool, name="tool")
    assert saved.path.name == "train.sh"
    assert stat.S_IMODE(saved.path.stat().st_mode) == 0o755
    assert saved.load() == b"#!/bin/sh\n"
    assert artifact.File.save(str(tool), name="text").load() == str(tool)


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.json", "json"), ("a.NPZ", "npz"), ("a.md", "text"), ("a.pt", "bytes"), ("a", "bytes")],
)
def test_a_files_suffix_tells_its_format(host: Host, tmp_path: Path, name: str, format: str) -> None:
    (tmp_path / name).write_bytes(b"[]")
    artifact.File.save(tmp_path / name, name="x")
    assert (host.ready[0]["format"], host.ready[0]["entry"]) == (format, name)


def test_a_directory_is_copied_as_it_is_and_stays_removable(host: Host, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "empty").mkdir(parents=True)
    (tree / "deep" / "a b\n").write_bytes(b"1")
    (tree / "link").symlink_to("deep/a b\n")
    (tree / "deep").chmod(0o555)
    saved = artifact.Dataset.save(tree, name="x")
    assert (host.ready[0]["format"], host.ready[0]["entry"]) == ("directory", None)
    assert saved.load() == saved.path
    assert os.readlink(saved.path / "link") == "deep/a b\n"
    assert (saved.path / "link").read_bytes() == b"1"
    assert (saved.path / "deep" / "empty").is_dir()
    assert stat.S_IMODE((saved.path / "deep").stat().st_mode) & 0o200


def test_pipes_and_the_outbox_itself_are_refused(host: Host, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "pipe")
    with pytest.raises(ArtifactError, match="no regular file"):
        artifact.Dataset.save(tree, name="x")
    with pytest.raises(ArtifactError, match="own outbox"):
        artifact.Dataset.save(host.root / "out", name="x")
    assert host.ready == {}


def test_file_names_that_json_cannot_hold_are_refused(host: Host, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"caf\\xe9.*not UTF-8"):
        artifact.File.save(path, name="x")


def test_the_same_content_is_the_same_version_and_new_content_the_next(host: Host) -> None:
    ids = [artifact.Dataset.save(value, name="x").id for value in ("a", "b", "a")]
    assert ids == ["dataset:x:v1", "dataset:x:v2", "dataset:x:v1"]


def test_the_hosts_refusal_is_raised_with_its_message_hint_and_code(host: Host) -> None:
    assert artifact.Model.save("a", name="baseline_cnn", version="exp001").id == "model:baseline_cnn:exp001"
    with pytest.raises(ArtifactError) as caught:
        artifact.Model.save("b", name="baseline_cnn", version="exp001")
    assert caught.value.message == "model:baseline_cnn:exp001 exists with other content"
    assert (caught.value.hint, caught.value.code) == ("choose another version", "version-exists")
    assert str(caught.value).endswith("\n  -> choose another version")


@pytest.mark.parametrize("word", ["", "A", "a:b", "../x", "-a", "a" * 129, "a\n", 3, "é"])
def test_names_and_versions_outside_the_grammar_never_become_a_path(host: Host, word: Any) -> None:
    with pytest.raises(ArtifactError, match="name"):
        artifact.Dataset.save("x", name=word)
    with pytest.raises(ArtifactError, match="version"):
        artifact.Dataset.save("x", name="x", version=word)
    assert list(host.artifacts.iterdir()) == []


def test_metadata_must_be_json(host: Host) -> None:
    with pytest.raises(ArtifactError, match=r"metadata\['when'\] is a"):
        artifact.Dataset.save("x", name="x", metadata={"when": object()})
    assert artifact.Dataset.save("x", name="x", metadata={"n": np.int32(2)}).metadata == {"n": 2}


def test_an_unknown_format_names_the_known_ones(host: Host) -> None:
    with pytest.raises(ArtifactError, match="safetensors"):
        artifact.Dataset.save("x", name="x", format="xml")


def test_save_without_a_kind_says_how(host: Host) -> None:
    with pytest.raises(TypeError, match=r"artifact\.Dataset\.save"):
        Artifact.save("x", name="x")


def test_inputs_are_loaded_by_the_id_that_the_config_names(host: Host) -> None:
    host.add_input("dataset:d:latest", "data.json", b"[1]", "json", resolved="dataset:d:v4")
    tree = host.add_input("file:t:v1", None, b"x", "directory")
    found = artifact.load("dataset:d:latest")
    assert isinstance(found, artifact.Dataset)
    assert (found.id, found.load(), found.metadata) == ("dataset:d:v4", [1], {"rows": 3})
    assert found.path.name == "data.json"
    assert artifact.Dataset.load("dataset:d:v4") == found
    assert artifact.load("file:t:v1").path == tree
    assert list(artifact.inputs()) == ["dataset:d:latest", "file:t:v1"]


def test_an_input_of_another_kind_is_refused(host: Host) -> None:
    host.add_input("dataset:d:v1", "data.json", b"[1]", "json")
    with pytest.raises(ArtifactError, match=r"is a dataset, not a model\n  -> artifact\.Dataset\.load"):
        artifact.Model.load("dataset:d:v1")


def test_an_id_that_is_not_in_the_config_says_where_to_write_it(host: Host) -> None:
    with pytest.raises(ArtifactError) as caught:
        artifact.load("model:m:v1")
    assert "configs/experiment_001.yaml does not name it" in caught.value.message
    assert 'train_dataset: "model:m:v1"' in str(caught.value.hint)
    host.add_input("dataset:processed:v1", "data.json", b"[1]", "json")
    with pytest.raises(ArtifactError) as caught:
        session._current = None
        artifact.load("dataset:procesed:v1")
    assert caught.value.hint == "did you mean 'dataset:processed:v1'?"


@pytest.mark.parametrize("id", ["d", "data:x:v1", "dataset:x", "dataset:X:v1", "dataset:x:../v1", 3])
def test_what_is_no_id_is_refused_before_anything_is_looked_up(host: Host, id: Any) -> None:
    with pytest.raises(ArtifactError):
        artifact.load(id)


def test_a_damaged_payload_names_the_artifact_and_its_file(host: Host) -> None:
    host.add_input("dataset:d:v1", "data.npy", b"not numpy", "npy")
    host.add_input("model:m:v1", "weights.safetensors", b"", "safetensors")
    with pytest.raises(ArtifactError, match=r"dataset:d:v1 cannot be read as npy"):
        artifact.load("dataset:d:v1").load()
    with pytest.raises(ArtifactError, match=r"model:m:v1 is safetensors, .*not in this environment"):
        artifact.load("model:m:v1").load()


def test_a_pickled_array_inside_an_npy_input_is_not_unpickled(host: Host, tmp_path: Path) -> None:
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    host.add_input("dataset:d:v1", "evil.npy", (tmp_path / "evil.npy").read_bytes(), "npy")
    with pytest.raises(ArtifactError, match="cannot be read as npy"):
        artifact.load("dataset:d:v1").load()


SAVER = """
import random, sys
from mirage import artifact, metrics
for i in range(25):
    saved = artifact.File.save(f"{sys.argv[1]}-{i}" * 2000, name=f"of-{sys.argv[1]}")
    assert saved.path.read_text() == f"{sys.argv[1]}-{i}" * 2000
    metrics.log(step=i, worker=int(sys.argv[1]), padding=float("1" * 300))
"""


def test_four_processes_save_and_log_into_one_outbox_at_once(host: Host) -> None:
    children = [host.start(SAVER, str(number)) for number in range(4)]
    for child in children:
        returned, _, stderr = ended(child)
        assert returned == 0, stderr
    assert sorted(host.ready) == list(range(100))
    assert all(len(host.versions[f"file:of-{number}"]) == 25 for number in range(4))
    lines = host.lines("metrics.jsonl")
    for number in range(4):
        own = [line["step"] for line in lines if line["values"]["worker"] == number]
        assert own == list(range(25))


KILLED = """
from pathlib import Path
from mirage import artifact
i = 0
while True:
    (Path.cwd() / "one").write_bytes(b"%08d" % i * 20000)
    (Path.cwd() / "two").write_bytes(b"%08d" % i * 20000)
    artifact.File.save(Path.cwd(), name="checkpoint")
    i += 1
"""


def test_a_killed_saver_leaves_no_ready_file_without_its_whole_payload(host: Host, tmp_path: Path) -> None:
    moments = random.Random(1)
    for attempt in range(8):
        work = tmp_path / f"work{attempt}"
        work.mkdir()
        child = host.start(f"import os; os.chdir({str(work)!r})\n{KILLED}")
        try:
            child.wait(timeout=0.25 + moments.random() * 0.2)
        except Exception:
            child.kill()
        ended(child)
    announced = 0
    for ready in host.artifacts.glob("*.ready.json"):
        document = json.loads(ready.read_text())  # whole, or not there
        payload = host.artifacts / str(document["n"])
        one, two = (payload / "one").read_bytes(), (payload / "two").read_bytes()
        assert len(one) == 160000
        assert one == two
        announced += 1
    assert announced >= 8


def test_save_waits_for_the_host_as_long_as_it_takes(tmp_path: Path) -> None:
    host = Host(tmp_path / "mirage", {})
    child = host.start(
        "import mirage.outbox as o; o.NOTICE_EVERY = 0.2\n"
        "from mirage import artifact; print(artifact.File.save('x', name='x').id)"
    )
    with pytest.raises(Exception, match="timed out"):
        child.wait(timeout=1.5)
    with host:
        returned, stdout, stderr = ended(child)
    assert (returned, stdout) == (0, "file:x:v1\n")
    assert "waiting for the host" in stderr
    assert "mirage recover" in stderr


def test_the_bytes_of_npz_are_the_same_with_every_python_and_numpy(host: Host) -> None:
    # Made with Python 3.9.18, 3.11.2, 3.11.7 and 3.13.0, NumPy 2.0.2 to 2.5.5: zipfile's own bytes differ.
    saved = artifact.Dataset.save({"b": np.arange(3.0), "a": np.ones(2, "<i4"), "ä": np.zeros(())}, name="x")
    assert (
        hashlib.sha256(saved.path.read_bytes()).hexdigest()
        == "1c113238772a15058b62823a1124991f73fcc1bfeb8b877ad7e27515ee7b7647"
    )
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a.npy", "b.npy", "ä.npy"]
