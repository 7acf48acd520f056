"""Records without runs: a store with as many sealed runs as a test wants, made of what the code makes records of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator import canonical, provenance
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.provenance import Byproduct, Result, ResultOutput
from orchestrator.reference import RunId, record_key
from orchestrator.store.folder import FolderStore

BASE, ENV_KEY, IMAGE_KEY, RUN_KEY = (of_bytes(each) for each in (b"base", b"env", b"image", b"run"))
HARDWARE: Json = {
    "architecture": "x86_64",
    "kernel": "6.1",
    "cpu": {"vendor": "V", "model": "M", "family": "6", "model_number": "1", "stepping": "1", "microcode": "0x1",
            "flags": ["avx2"], "flags_sha256": "0" * 64, "cores": 2},
    "memory": 8 << 30,
}  # fmt: skip
BUILDER: Json = {
    "id": provenance.BUILDER.format(executor="local-docker"),
    "version": {"mirage": "0.1.0", "docker": "20.10", "kernel": "6.1", "runc": "1.1"},
}


def hexed(text: str, digits: int = 40) -> str:
    """A made-up git id."""
    return of_bytes(text.encode())[7 : 7 + digits]


def run_id(number: int) -> RunId:
    """The id of a made-up run: one a minute from 1 January 2026 on."""
    minute, day = number % 1440, number // 1440
    month, day = day // 28 % 12, day % 28
    year = 2026 + number // (1440 * 28 * 12)
    return RunId(
        f"{year}{month + 1:02}{day + 1:02}-{minute // 60:02}{minute % 60:02}00-{number & 0xFFFFFF:06x}"
    )


class Records:
    """Writes sealed runs into a store; ``fast`` leaves out what a power cut could undo."""

    def __init__(self, folder: Path, *, fast: bool = False) -> None:
        self.store = FolderStore.open_at(folder)
        self.folder = folder
        self._fast = fast
        self._folders: set[str] = set()

    def put(self, data: bytes) -> Digest:
        """Keep a blob."""
        if not self._fast:
            return self.store.put(data)
        digest = of_bytes(data)
        path = self.store.blob_path(digest)
        if not path.exists():
            path.write_bytes(data)
            os.utime(path, (1, 1))
        return digest

    def add(
        self,
        run: RunId,
        *,
        config: dict[str, Any] | None = None,
        metrics: dict[str, float | None] | None = None,
        status: str = "succeeded",
        reason: str | None = None,
        branch: str | None = "main",
        commit: str = hexed("commit"),
        tree: str = hexed("tree"),
        base_commit: str | None = None,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
        overrides: Sequence[str] = (),
        seconds: float = 1.5,
        env_key: Digest = ENV_KEY,
        image_key: Digest = IMAGE_KEY,
        run_key: Digest = RUN_KEY,
        base: Digest = BASE,
        packages: Sequence[tuple[str, str]] = (),
        config_path: str = "configs/a.yaml",
        hardware: Json = HARDWARE,
        builder: Json = BUILDER,
        network: str = "none",
        prefix: str = "",
        saved: Sequence[ResultOutput] = (),
        byproducts: Sequence[Byproduct] = (),
    ) -> bytes:
        """Seal a run; gives its record."""
        config_bytes = canonical.encode(config or {})
        digest = self.put(config_bytes)
        argv = ["python", "-m", "workflows.main", "--config", config_path]
        dirty = base_commit is not None
        dependencies: list[Json] = [
            provenance.dependency("source", "git+file", {"gitCommit": commit, "gitTree": tree},
                {"dirty": dirty, "shallow": False, "baseCommit": base_commit or commit, "path": prefix}),
            provenance.dependency("lock", "git+file#requirements.txt", provenance.sha256(of_bytes(repr(packages).encode()))),
            provenance.dependency("config", f"git+file#{config_path}", provenance.sha256(digest)),
            provenance.dependency("base-image", "recipe:b", provenance.sha256(base), {"name": "b"}),
            provenance.dependency("image", "pkg:oci/p", provenance.sha256(of_bytes(image_key.encode()))),
        ]  # fmt: skip
        dependencies += [
            provenance.dependency(f"input:{name}", f"mirage:{name}", provenance.sha256(of_bytes(name.encode())), {"id": name})
            for name in inputs
        ]  # fmt: skip
        definition: Json = {
            "buildType": provenance.BUILD_TYPE,
            "externalParameters": {
                "source": "git+file",
                "ref": f"refs/heads/{branch}" if branch else None,
                "project": "p", "projectPath": prefix, "configPath": config_path, "overrides": [*overrides],
                "workflow": "workflows.main", "entrypoint": [*argv], "network": network, "env": {},
                "secretNames": [], "gpus": [], "inputs": [*inputs],
            },
            "internalParameters": {
                "runKey": run_key, "imageKey": image_key, "envKey": env_key, "configHash": digest,
                "lockKind": "requirements", "platform": "linux/amd64", "python": "3.11.2", "determinism": {},
                "threads": 1, "seed": 0, "sandbox": {"user": "1:1", "network": network, "memory": None},
            },
            "resolvedDependencies": dependencies,
        }  # fmt: skip
        installed: Json = [{"name": name, "version": version} for name, version in packages]
        stamp = f"{run[:4]}-{run[4:6]}-{run[6:8]}T{run[9:11]}:{run[11:13]}:{run[13:15]}Z"
        result = Result(
            status=status, exit_code=0 if status == "succeeded" else 1, signal=None, reason=reason, oom_killed=False,
            started_at=stamp, finished_at=stamp, seconds=seconds,
            outputs=tuple(ResultOutput(name, of_bytes(name.encode()), 1, 1, "json") for name in outputs) + tuple(saved),
            metrics=tuple(sorted((metrics or {}).items())),
            byproducts=(*byproducts, Byproduct("environment.json", self.put(canonical.encode(installed)))),
            unpublished=(), recovered=False,
        )  # fmt: skip
        record = provenance.statement(
            run, definition, builder, hardware, result, self.put(result.run_json(run))
        )
        key = record_key(run)
        if self._fast:
            path = self.folder / key
            path.parent.mkdir(parents=True)
            path.write_bytes(record)
        else:
            assert self.store.create(key, record)
        return record

    def record_path(self, run: RunId) -> Path:
        """Where a run's record lies."""
        return self.folder / record_key(run)

    def blob(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.folder / "blobs" / "sha256" / hex_of(Digest(digest))[:2] / hex_of(Digest(digest))
