"""What a run may publish: sizes, holes, counts, and nothing with a secret in it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.artifacts.guard import Guard, SecretInArtifact
from orchestrator.artifacts.outbox import Outbox
from orchestrator.redaction import Redactor, forms
from orchestrator.settings import OutputSettings
from orchestrator.store.folder import FolderStore
from tests.image_tools import Notes
from tests.run_tools import Project

VALUE = b"sesame/open+1234"


class Run:
    """An outbox with a guard; ``save`` gives the host's answer."""

    def __init__(self, folder: Path, guard: Guard) -> None:
        self.store = FolderStore.open_at(folder / "store")
        self.folder = folder / "out"
        (self.folder / "artifacts").mkdir(parents=True)
        self.outbox = Outbox(self.folder, self.store, "20261125-022642-163276", Notes(), guard=guard)
        self.n = 0

    def save(self, write: Callable[[Path], object], **words: object) -> dict[str, object]:
        n, self.n = self.n, self.n + 1
        payload = self.folder / "artifacts" / str(n)
        payload.mkdir()
        write(payload)
        ready = {
            "schema": "mirage-ready/1",
            "n": n,
            "kind": "file",
            "name": f"x{n}",
            "format": "directory",
            **words,
        }
        (self.folder / "artifacts" / f"{n}.ready.json").write_text(json.dumps(ready))
        self.outbox.poll()
        answer: dict[str, object] = json.loads((self.folder / "artifacts" / f"{n}.done.json").read_text())
        return answer

    def blobs(self) -> list[bytes]:
        """What the store was given."""
        return [path.read_bytes() for path in (self.folder.parent / "store").rglob("*") if path.is_file()]


def sparse(size: int) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        with (folder / "holes").open("wb") as stream:
            stream.truncate(size)

    return write


def error_of(answer: dict[str, object]) -> str:
    error = answer.get("error")
    assert isinstance(error, dict), answer
    return f"{error['code']}: {error['message']} -> {error['hint']}"


def test_a_terabyte_of_nothing_is_refused_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, Guard(limits=OutputSettings()))
    begun = time.monotonic()
    for size in (1 << 40, 1 << 42, 17 << 30):
        assert "holes" in error_of(run.save(sparse(size)))
    assert time.monotonic() - begun < 5
    assert sum(map(len, run.blobs())) < 1 << 20
    assert "error" not in run.save(sparse(1 << 20))  # ordinary holes are nothing to speak of


def test_the_limits_count_over_all_that_a_run_saves_and_not_what_was_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, Guard(limits=OutputSettings(max_bytes=100, max_files=3)))
    assert "error" not in run.save(lambda folder: (folder / "a").write_bytes(b"x" * 60))
    for _ in range(3):
        told = error_of(run.save(lambda folder: (folder / "a").write_bytes(b"x" * 41)))
        assert "would have saved 101 bytes, and at most 100 are allowed" in told
        assert "`run: {outputs: {max_bytes: ...}}`" in told
    assert "error" not in run.save(lambda folder: (folder / "a").write_bytes(b"x" * 40))
    assert "error" not in run.save(lambda folder: (folder / "a").write_bytes(b""))
    assert "max_files" in error_of(run.save(lambda folder: (folder / "a").write_bytes(b"")))


@pytest.mark.parametrize("form", sorted(forms(VALUE)))
def test_a_secret_in_a_file_is_found_wherever_it_lies(tmp_path: Path, form: bytes) -> None:
    run = Run(tmp_path, Guard(Redactor((("K", VALUE),)), OutputSettings()))
    edge = (1 << 20) - len(form) // 2  # across two pieces
    for data in (form, b"x" * edge + form + b"y" * 1000):
        told = error_of(run.save(lambda folder, data=data: (folder / "model").write_bytes(data)))  # type: ignore[misc]  # mypy cannot infer it
        assert told.startswith("secret-in-artifact: the value of the secret K is in its file 'model'")
        assert VALUE.decode() not in told
    assert not any(form in blob for blob in run.blobs())


def test_a_secret_in_a_name_a_link_or_metadata_is_refused_too(tmp_path: Path) -> None:
    run = Run(tmp_path, Guard(Redactor((("K", VALUE),)), OutputSettings()))
    hexed = VALUE.hex()
    assert "the name of a file" in error_of(run.save(lambda folder: (folder / hexed).write_bytes(b"")))
    assert "the link 'l'" in error_of(run.save(lambda folder: (folder / "l").symlink_to(hexed)))
    assert "its name or metadata" in error_of(run.save(lambda folder: None, metadata={"a": [VALUE.decode()]}))
    assert "its name or metadata" in error_of(run.save(lambda folder: None, name=f"x{hexed}"))
    allowed = Run(tmp_path / "2", Guard(Redactor((("K", VALUE),)), OutputSettings(secrets="allow")))
    assert "error" not in allowed.save(lambda folder: (folder / hexed).write_bytes(VALUE))


def test_the_error_is_an_artifact_error() -> None:
    with pytest.raises(SecretInArtifact) as caught:
        Guard(Redactor((("K", VALUE),))).check_text(VALUE, "here")
    assert caught.value.exit_code == 6


def test_a_workflow_hears_of_it_and_goes_on(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "repository",
        "import pathlib\nfrom mirage import artifact\n"
        "pathlib.Path('/mirage/tmp/big').write_bytes(bytes(3 << 20))\n"
        "try:\n    artifact.File.save(pathlib.Path('/mirage/tmp/big'), name='big')\n"
        "except artifact.ArtifactError as error:\n    print('told', error.message)\n"
        "artifact.File.save('x', name='small')\n",
    )
    made = project.run("--set", "mirage.run.outputs.max_bytes=1m")
    assert [output["id"] for output in made["outputs"]] == ["file:small:v1"]
    assert "at most 1,048,576 are allowed" in project.mirage("logs", "latest")


def test_files_are_really_sparse_here(tmp_path: Path) -> None:
    """What the tests above stand on."""
    sparse(1 << 30)(tmp_path)
    assert os.stat(tmp_path / "holes").st_blocks * 512 < 1 << 20
