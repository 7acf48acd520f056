"""A small honest host for tests of the SDK: a thread that answers ready files by the contract."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

SDK_ROOT = Path(__file__).resolve().parent.parent


def content_digest(payload: Path) -> str:
    """sha256 over names, link targets and bytes, in order."""
    hasher = hashlib.sha256()
    for path in sorted(payload.rglob("*")):
        hasher.update(os.fsencode(path.relative_to(payload)) + b"\0")
        if path.is_symlink():
            hasher.update(os.fsencode(path.readlink()))
        elif path.is_file():
            hasher.update(path.read_bytes())
    return "sha256:" + hasher.hexdigest()


class Host:
    """One run's folder, and the store behind it: `versions[kind:name][version]` is a digest."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.artifacts = root / "out" / "artifacts"
        self.artifacts.mkdir(parents=True)
        (root / "in").mkdir()
        (root / "config.json").write_text(json.dumps(config))
        self.set_inputs({})
        self.ready: dict[int, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Host:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def set_inputs(self, inputs: dict[str, dict[str, Any]]) -> None:
        self.root.joinpath("in", "inputs.json").write_text(
            json.dumps({"schema": "mirage-inputs/1", "inputs": inputs})
        )

    def add_input(self, id: str, entry: str | None, data: bytes, format: str, resolved: str = "") -> Path:
        """A single-file input, or with no entry a tree that holds the file `inside`."""
        document = json.loads(self.root.joinpath("in", "inputs.json").read_text())["inputs"]
        tree = self.root / "in" / "trees" / str(len(document))
        tree.mkdir(parents=True)
        (tree / (entry or "inside")).write_bytes(data)
        document[id] = {
            "id": resolved or id,
            "path": f"trees/{len(document)}",
            "entry": entry,
            "digest": content_digest(tree),
            "format": format,
            "size": len(data),
            "files": 1,
            "metadata": {"rows": 3},
        }
        self.set_inputs(document)
        return tree

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.root / "out" / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(SDK_ROOT),
            "MIRAGE_ROOT": str(self.root),
            "MIRAGE_RUN_ID": "20260101-000000-abcdef",
            "MIRAGE_CONFIG": "configs/experiment_001.yaml",
            "MIRAGE_SEED": "7",
        }

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """A real process of the run."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _serve(self) -> None:
        while not self._stop.wait(0.002):
            for path in sorted(self.artifacts.glob("*.ready.json")):
                number = int(path.name.split(".")[0])
                if number not in self.ready:
                    self._answer(number, json.loads(path.read_text()))

    def _answer(self, number: int, ready: dict[str, Any]) -> None:
        payload = self.artifacts / str(number)
        digest = content_digest(payload)
        known = self.versions.setdefault(f"{ready['kind']}:{ready['name']}", {})
        version = ready["version"] or next((v for v, d in known.items() if d == digest), f"v{len(known) + 1}")
        answer: dict[str, Any] = {"schema": "mirage-done/1", "n": number}
        if known.setdefault(version, digest) != digest:
            answer["error"] = {
                "code": "version-exists",
                "message": f"{ready['kind']}:{ready['name']}:{version} exists with other content",
                "hint": "choose another version",
            }
        else:
            size = sum(file.stat().st_size for file in payload.rglob("*") if file.is_file())
            answer |= {"id": f"{ready['kind']}:{ready['name']}:{version}", "digest": digest, "size": size}
        temporary = self.artifacts / f"{number}.done.json.tmp"
        temporary.write_text(json.dumps(answer))
        self.ready[number] = ready  # before the answer: who has that may look
        temporary.rename(self.artifacts / f"{number}.done.json")


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process: its code, stdout and stderr."""
    stdout, stderr = child.communicate(timeout=60)
    return child.returncode, stdout, stderr
