"""Real projects in real repositories, run by the real command line on the real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import docker

BIN = Path(sys.executable).parent
GIT = {
    "GIT_AUTHOR_NAME": "A. Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "A. Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
    "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
    "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
PROJECT_YAML = "project: probe\nworkflow: workflows.main\n"
CONFIG = "experiment: {name: probe}\ntraining: {lr: 1e-3}\n"


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, with a fixed author and date."""
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        env={**os.environ, **GIT},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def engine() -> Any:
    """The engine by its own library: a second witness beside our adapter."""
    return docker.from_env(timeout=60).api


def wait_for(what: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so; fails the test where it never is."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Project:
    """A project with one commit; ``folder`` is the project, which may lie below its repository's root."""

    def __init__(
        self, root: Path, workflow: str = "", *, below: str = "", files: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.folder = root / below
        content = {
            ".gitignore": ".mirage/cache/\n.mirage/runs/\n.mirage/open/\n.mirage/artifacts/\n__pycache__/\n",
            ".mirage/project.yaml": PROJECT_YAML,
            "requirements.txt": "",
            "configs/a.yaml": CONFIG,
            "workflows/main.py": workflow,
            **(files or {}),
        }
        for name, text in content.items():
            self.write(name, text)
        git(root, "init", "-q", "-b", "main")
        self.commit()

    def write(self, name: str, text: str) -> None:
        """Write a file of the project."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self) -> str:
        """Commit everything; gives the commit."""
        git(self.root, "add", "-A")
        git(self.root, "commit", "-q", "-m", "Work", "--allow-empty")
        return git(self.root, "rev-parse", "HEAD")

    def start(
        self, *words: str, program: str = "mirage-run", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a program of ours in the project, in a process group of its own."""
        return subprocess.Popen(
            [str(BIN / program), *words],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def mirage(
        self, *words: str, program: str = "mirage", code: int = 0, env: Mapping[str, str] | None = None
    ) -> str:
        """Run to the end and give stdout; the exit code must be ``code``."""
        out, err, got = self.ended(self.start(*words, program=program, env=env))
        assert got == code, f"exit code {got}, expected {code}\n{err}\n{out}"
        return out

    def ended(self, process: subprocess.Popen[str], seconds: float = 300.0) -> tuple[str, str, int]:
        """stdout, stderr and exit code of a process that was started."""
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return out, err, process.returncode

    def run(
        self, *words: str, code: int = 0, env: Mapping[str, str] | None = None, config: str = "configs/a.yaml"
    ) -> dict[str, Any]:
        """`mirage-run --config ... --json`; gives its object."""
        out = self.mirage("--config", config, "--json", *words, program="mirage-run", code=code, env=env)
        found: dict[str, Any] = json.loads(out)
        return found

    def refused(
        self, *words: str, code: int, program: str = "mirage-run", env: Mapping[str, str] | None = None
    ) -> str:
        """Run something that must be refused with ``code``; gives stderr."""
        out, err, got = self.ended(self.start(*words, program=program, env=env))
        assert got == code, f"exit code {got}, expected {code}\n{err}\n{out}"
        assert "Traceback" not in err
        return err

    def asked(self, *words: str) -> Any:
        """`mirage ... --json` as data."""
        return json.loads(self.mirage(*words, "--json"))

    @property
    def store(self) -> Path:
        """The project's store."""
        return self.folder / ".mirage" / "artifacts"

    def record(self, run_id: str) -> dict[str, Any]:
        """The record as it lies in the store."""
        path = self.store / "runs" / f"{run_id[:4]}-{run_id[4:6]}" / run_id / "record.json"
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found

    def image_layers(self, run_id: str) -> list[str]:
        """The layers of a run's image as its record has them, in bare hex."""
        parts = self.record(run_id)["predicate"]["buildDefinition"]["resolvedDependencies"]
        (image,) = (part for part in parts if part["name"] == "image")
        return [str(digest).removeprefix("sha256:") for digest in image["annotations"]["diffIds"]]

    def blob(self, digest: str) -> bytes:
        """A blob of the store, by `sha256:...` or bare hex."""
        name = digest.removeprefix("sha256:")
        return (self.store / "blobs" / "sha256" / name[:2] / name).read_bytes()

    def journal(self, *, without: Iterable[str] = ()) -> list[dict[str, Any]]:
        """The lines of the newest journal, not counting the runs ``without``; none before there is one."""
        found = sorted(
            path
            for path in (self.folder / ".mirage" / "runs").glob("*/journal")
            if path.parent.name not in without
        )
        lines = found[-1].read_text().splitlines() if found else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for_event(self, event: str, seconds: float = 60.0) -> None:
        """Wait for a line of the newest run's journal."""
        wait_for(lambda: any(line["event"] == event for line in self.journal()), seconds)

    def run_ids(self) -> list[str]:
        """All runs that this project began."""
        folder = self.folder / ".mirage" / "runs"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def containers(self) -> list[str]:
        """The containers that the engine has of this project's runs."""
        known = self.run_ids()
        found = engine().containers(all=True, filters={"label": "flow.mirage.run"})
        return [str(item["Id"]) for item in found if item["Labels"]["flow.mirage.run"] in known]
