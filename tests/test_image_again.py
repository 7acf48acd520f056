"""A second image beside a first: of the code nothing is made or sent again where only the config changed."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.base_tools import own_base
from tests.image_tools import engine as own_engine
from tests.run_tools import Project, git

# the command line in a process of its own, which tells what it sent to the engine and what it read from git
_CALL = """
import sys
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.image import assemble
target, load, read = open(sys.argv.pop(1), "a", 1), DockerEngine.load, assemble.read_blobs
def counted(archive):
    for piece in archive:
        yield piece
        print("sent", len(piece), file=target)
def reading(files):
    for file, data in read(files):
        yield file, data
        print("read", len(data), file=target)
DockerEngine.load = lambda self, archive: load(self, counted(archive))
assemble.read_blobs = reading
from orchestrator.cli.main import main
main()
"""
CODE = 400_000
CONFIG = "configs/a.yaml"


class Counted:
    """A project with much code, whose builds tell what they read and sent."""

    def __init__(self, folder: Path) -> None:
        self._count = folder / "count"
        self._env = {**os.environ, "MIRAGE_CACHE": str(folder / "cache")}
        self.project = Project(
            folder / "repository", "print(1)\n", files={"large.py": "#" * CODE + secrets.token_hex(8)}
        )
        own_base(self.project.store, self.project.folder)
        self.project.commit()
        self.tags: list[str] = []

    def build(self, *options: str) -> tuple[str, int, int]:
        """The image's digest, and bytes read of the project and sent to the engine."""
        self._count.write_text("")
        words = [
            sys.executable,
            "-c",
            _CALL,
            str(self._count),
            "image",
            "build",
            "--config",
            CONFIG,
        ]
        done = subprocess.run(
            [*words, "--json", *options],
            cwd=self.project.folder,
            env=self._env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        told = {"read": 0, "sent": 0}
        for line in self._count.read_text().splitlines():
            what, _, size = line.partition(" ")
            told[what] += int(size)
        digest = json.loads(done.stdout)["digest"]
        self.tags.append(f"mirage/run:{digest[7:31]}")
        return digest, told["read"], told["sent"]

    def gone(self) -> None:
        """Remove what was built from the engine."""
        while self.tags:
            own_engine().remove_image(self.tags.pop())

    def change(self, name: str, text: str) -> None:
        (self.project.folder / name).write_text(text)
        git(self.project.folder, "commit", "-qam", "Change")


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    made = Counted(tmp_path)
    yield made
    made.gone()


def test_a_change_of_the_config_neither_makes_nor_sends_the_code_again(counted: Counted) -> None:
    first, read, sent = counted.build()
    assert (read > CODE, sent > CODE) == (True, True)
    counted.change(CONFIG, "training: {lr: 0.5}\n")
    second, read, sent = counted.build()
    assert second != first
    assert (read < 1000, 0 < sent < 40_000) == (True, True), (read, sent)
    # another commit of the same files costs no layer at all
    git(counted.project.folder, "commit", "-q", "--allow-empty", "-m", "Nothing")
    third, _, sent = counted.build()
    assert third != second
    assert 0 < sent < 20_000
    # what is noted of one machine's engine is not believed: the image that held the code is gone
    counted.gone()
    counted.change(CONFIG, "training: {lr: 0.6}\n")
    _, read, sent = counted.build()
    assert (read < 1000, sent > CODE) == (True, True)
    # and the code is the one of the commit all the same
    counted.change("large.py", "#" * CODE + "1")
    changed, read, _ = counted.build()
    assert read > CODE
    assert counted.build("--no-cache")[:2] == (changed, read)


def test_a_layer_that_was_altered_in_the_machines_cache_is_found_out_before_it_is_sent(
    counted: Counted,
) -> None:
    counted.build()
    (tag,) = counted.tags
    counted.gone()
    cache = Path(counted._env["MIRAGE_CACHE"])
    (blob,) = (
        path
        for path in (cache / "blobs").rglob("*")
        if path.is_file() and CODE < path.stat().st_size < 2 * CODE
    )
    stamp = blob.stat().st_mtime_ns  # a disk that forgets changes no time stamp
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b"####", b"#!##", 1))
    os.utime(blob, ns=(stamp, stamp))
    with pytest.raises(AssertionError, match="is damaged"):
        counted.build()
    assert own_engine().image(tag) is None
