"""Runs as an MLflow tracking folder (`mlruns`), the file layout that `mlflow.search_runs` and `mlflow ui` read.

Params are the config's values, tags say what Mirage knows besides. The layout is MLflow's FileStore, as far as a
finished run needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from orchestrator.artifacts import copying_out
from orchestrator.canonical import encode
from orchestrator.exports.subject import Subject
from orchestrator.questions.diff import leaves

_STATUS = {"succeeded": 3, "failed": 4, "interrupted": 5, "lost": 4}  # RunStatus: FINISHED, FAILED, KILLED
_LONGEST = 250  # bytes of a name: MLflow's own bound, and below what a file may be called
_PARAM, _TAG = 6000, 5000  # characters


def write(folder: Path, place: Path, runs: list[Subject], *, data: bool) -> None:
    """Fill a folder with experiments, one for each project, and their runs; ``place`` is where it will be.

    MLflow finds a run's files by a whole path, so a folder that is moved later is read without them.
    """
    for run in runs:
        number = str(int(sha256(run.project.encode()).hexdigest()[:15], 16))
        experiment = folder / number
        if not experiment.exists():
            experiment.mkdir()
            _yaml(
                experiment / "meta.yaml",
                {
                    "artifact_location": (place / number).as_uri(),
                    "creation_time": 0,
                    "experiment_id": number,
                    "last_update_time": 0,
                    "lifecycle_stage": "active",
                    "name": run.project,
                },
            )
        _run(experiment, (place / number).as_uri(), run, data=data)
    trash = folder / ".trash"
    trash.mkdir(exist_ok=True)


def identity(run_id: str) -> str:
    """MLflow's id of a run: 32 hex digits, the same at each export."""
    return sha256(run_id.encode()).hexdigest()[:32]


def _run(experiment: Path, address: str, run: Subject, *, data: bool) -> None:
    own = identity(run.run_id)
    folder = experiment / own
    for part in ("params", "metrics", "tags", "artifacts", "inputs", "outputs"):
        (folder / part).mkdir(parents=True)
    told = run.told
    _yaml(
        folder / "meta.yaml",
        {
            "artifact_uri": f"{address}/{own}/artifacts",
            "end_time": _milliseconds(run.finished),
            "entry_point_name": "",
            "experiment_id": experiment.name,
            "lifecycle_stage": "active",
            "run_id": own,
            "run_name": run.run_id,
            "run_uuid": own,
            "source_name": "",
            "source_type": 4,
            "source_version": "",
            "start_time": _milliseconds(str(told["started"])),
            "status": _STATUS.get(str(told["status"]), 4),
            "tags": [],
            "user_id": "",
        },
    )
    for name, value in leaves(run.row.config).items():
        text = value if isinstance(value, str) else encode(value).decode()
        _entry(folder / "params", name, text[:_PARAM])
    for name, value in _tags(run):
        _entry(folder / "tags", name, str(value)[:_TAG])
    _metrics(folder / "metrics", run)
    if data:
        for output in run.outputs:
            made = output.version(run.run_id)
            if made is not None:
                kind, name, version = output.id.split(":")
                target = folder / "artifacts" / kind / name / version
                entry = made.manifest.entry
                target = target / entry if entry else target
                target.parent.mkdir(parents=True, exist_ok=True)
                copying_out.copy_out(run.store, made, target)


def _tags(run: Subject) -> Iterator[tuple[str, Any]]:
    told = run.told
    yield "mlflow.runName", run.run_id
    yield "mlflow.source.git.commit", told["commit"]
    if told["user"]:
        yield "mlflow.user", told["user"]
    yield "mlflow.source.name", told["workflow"]
    yield "mlflow.source.type", "PROJECT"
    if told["branch"]:
        yield "mlflow.source.git.branch", told["branch"]
    if run.source:
        yield "mlflow.source.git.repoURL", run.source
    if told["notes"]:
        yield "mlflow.note.content", "\n\n".join(map(str, told["notes"]))
    for name in (
        "run_id",
        "config",
        "config_digest",
        "tree",
        "dirty",
        "image",
        "base",
        "lock",
        "run_key",
        "record",
        "verdict",
    ):
        if told[name] is not None:
            yield f"mirage.{name}", told[name]
    for name in ("inputs", "outputs", "tags", "overrides"):
        yield f"mirage.{name}", json.dumps(told[name])


def _metrics(folder: Path, run: Subject) -> None:
    """Every logged value in its order; of a run without a course the last ones."""
    began = _milliseconds(str(run.told["started"]))
    lines: dict[str, list[str]] = {}
    for line in (run.blob("metrics.jsonl") or b"").splitlines():
        for name, value, when, step in _values(line, began):
            known = lines.setdefault(name, [])
            known.append(f"{when} {value} {len(known) if step is None else step}")
    for name, last in run.told["metrics"].items():
        lines.setdefault(name, [f"{began} {_number(last)} 0"])
    for name, found in lines.items():
        _entry(folder, name, "\n".join(found) + "\n")


def _values(line: bytes, began: int) -> list[tuple[str, str, int, int | None]]:
    try:
        item = json.loads(line)
        when = int(item["time"] * 1000) if isinstance(item.get("time"), int | float) else began
        step = item["step"] if type(item.get("step")) is int else None
        return [(str(name), _number(value), when, step) for name, value in item["values"].items()]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return []


def _number(value: Any) -> str:
    return repr(float(value)) if isinstance(value, int | float) else "nan"


def _entry(folder: Path, name: str, text: str) -> None:
    """One file for each name. A name that MLflow would refuse, or that is taken, ends in a digest of itself."""
    safe = re.sub(r"[^\w. /-]", "_", name, flags=re.ASCII)
    parts = [part for part in safe.split("/") if part.strip(". ")]
    safe = "/".join(parts)
    if safe != name or len(safe) > _LONGEST or (folder / safe).exists() or _below_a_file(folder, safe):
        safe = f"{safe[: _LONGEST - 20].replace('/', '_')}_{sha256(name.encode('utf-8', 'replace')).hexdigest()[:8]}"
    path = folder / safe
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8", errors="replace", newline="\n")


def _below_a_file(folder: Path, name: str) -> bool:
    parts = name.split("/")
    return any((folder / "/".join(parts[:at])).is_file() for at in range(1, len(parts)))


def _milliseconds(stamp: str) -> int:
    return int(datetime.fromisoformat(stamp.removesuffix("Z") + "+00:00").timestamp() * 1000)


def _yaml(path: Path, values: dict[str, Any]) -> None:
    """YAML 1.2 is a superset of JSON (section 1.3), and these values are plain."""
    path.write_text(json.dumps(values, indent=1, ensure_ascii=True) + "\n")
