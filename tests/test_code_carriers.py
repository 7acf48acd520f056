"""Artifacts whose loading runs code: told before anybody loads them, and never loaded without being asked for."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy
import pytest

from tests.run_tools import Project


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("carriers"))


def archive(member: str, data: bytes) -> bytes:
    """A zip as torch.save writes it: stored, with a pickle in it."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as writer:
        writer.writestr(member, data)
    return sink.getvalue()


def saved(value: object, *, npz: bool = False) -> bytes:
    sink = io.BytesIO()
    if npz:
        numpy.savez(sink, a=value)  # type: ignore[arg-type]  # objects, which is the point
    else:
        numpy.save(sink, value, allow_pickle=True)  # type: ignore[arg-type]
    return sink.getvalue()


def test_each_kind_of_file_that_carries_code_is_named(project: Project, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    objects = numpy.array([{"a": 1}], dtype=object)
    carrying = {
        **{f"protocol-{n}.dat": pickle.dumps(Bomb(mark), protocol=n) for n in (2, 3, 4, 5)},
        "old.pkl": pickle.dumps(Bomb(mark), protocol=0),
        "renamed.txt": pickle.dumps(Bomb(mark)),
        "model.bin": archive("model/data.pkl", pickle.dumps(Bomb(mark))),
        "weights.pt": b"",
        "weights.PTH": b"x",
        "model.joblib": b"\x78\x9c",
        "objects.npy": saved(objects),
        "objects.npz": saved(objects, npz=True),
    }
    harmless = {
        "numbers.npy": saved(numpy.arange(3)),
        "numbers.npz": saved(numpy.arange(3), npz=True),
        "table.csv": b"a,b\n",
        "weights.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
        "picture.png": b"\x89PNG\r\n",
        "code.zip": archive("a.txt", b"text"),
        "empty": b"",
        "pickle.txt": b"a pickle",
    }
    folder = tmp_path / "files"
    folder.mkdir()
    for name, data in {**carrying, **harmless}.items():
        (folder / name).write_bytes(data)
    project.mirage("artifact", "add", str(folder), "--as", "model:mixed")
    shown = project.asked("artifact", "show", "model:mixed:v1")
    assert {item["path"] for item in shown["carries_code"]} == set(carrying)
    why = {item["path"]: item["why"] for item in shown["carries_code"]}
    assert why["model.bin"] == "a PyTorch archive with a pickle"
    assert why["objects.npy"] == why["objects.npz"] == "an array of Python objects, pickled"
    assert why["weights.PTH"] == "by its name (.pth) a pickle"
    text = project.mirage("artifact", "show", "model:mixed:v1")
    assert text.count("caution") == len(carrying)
    assert "renamed.txt is a pickle: loading it runs whatever code it carries" in text
    assert not mark.exists()


def test_an_artifact_without_such_files_is_shown_without_a_word(project: Project, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n")
    project.mirage("artifact", "add", str(tmp_path / "table.csv"), "--as", "dataset:table")
    assert project.asked("artifact", "show", "dataset:table:v1")["carries_code"] == []
    assert "caution" not in project.mirage("artifact", "show", "dataset:table:v1")


def test_the_sdk_unpickles_only_where_the_caller_says_so() -> None:
    """Nothing else of the SDK or the host loads a pickle, or lets a library do it."""
    root = Path(__file__).parent.parent
    loads = {
        path.relative_to(root).as_posix(): path.read_text()
        for top in ("mirage", "orchestrator")
        for path in (root / top).rglob("*.py")
    }
    users = {name for name, text in loads.items() if "pickle.load" in text or "allow_pickle=True" in text}
    assert users == {"mirage/loading.py"}
    assert loads["mirage/loading.py"].count("pickle.load(") == 1
    for name, text in loads.items():
        assert "marshal.loads" not in text and "shelve" not in text, name
