"""Asking the list of runs loads little, and never an older answer of what project.yaml says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from orchestrator.project_folder import PROJECT_FILE, remember_store, remembered_store
from tests.record_tools import Records, run_id
from tests.run_tools import BIN

PROGRAM = """
import json, os, sys
leave = os._exit
def tell(code):
    print(json.dumps(sorted(sys.modules)), file=sys.stderr, flush=True)
    leave(code)
os._exit = tell
sys.argv = ["mirage", "ls", "--where", "metrics.accuracy >= 0.89", "--limit", "20"]
from orchestrator.cli.main import main
main()
"""


def project(folder: Path, text: str = "project: p\n") -> Path:
    (folder / PROJECT_FILE).parent.mkdir(parents=True)
    (folder / PROJECT_FILE).write_text(text)
    return folder


def ls(folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(BIN / "mirage"), "ls", "--json"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def ids(folder: Path) -> list[str]:
    return [each["run_id"] for each in json.loads(ls(folder).stdout)["runs"]]


def test_a_question_loads_neither_yaml_nor_the_engine_nor_openssl(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    Records(folder / ".mirage" / "artifacts").add(run_id(1), metrics={"accuracy": 0.9})
    for _ in range(2):  # the index is made; what project.yaml says is remembered
        ls(folder)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, capture_output=True, text=True, check=True
    )
    assert run_id(1) in done.stdout
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    heavy = {"yaml", "docker", "_hashlib", "rfc8785", "concurrent.futures", "logging", "orchestrator.config"}
    assert loaded & heavy == set() and "orchestrator.catalog.ask" in loaded


def test_a_changed_project_yaml_is_read_again(tmp_path: Path) -> None:
    folder = project(tmp_path / "p")
    for name, number in ((".mirage/artifacts", 1), ("other", 2)):
        Records(folder / name).add(run_id(number))
    assert ids(folder) == ids(folder) == [run_id(1)]
    assert remembered_store(folder) == ".mirage/artifacts"
    (folder / PROJECT_FILE).write_text("project: p\nstore: other\n")
    assert remembered_store(folder) is None
    assert ids(folder) == ids(folder) == [run_id(2)]
    (folder / PROJECT_FILE).write_text("project: p\nstor: other\n")
    assert "did you mean" in ls(folder, 2).stderr


def test_what_is_remembered_is_for_these_very_bytes(tmp_path: Path) -> None:
    folder = project(tmp_path / "p", "project: \\xff\n")
    (folder / ".mirage" / "cache").mkdir()
    remember_store(folder, b"project: \xff\n", "elsewhere")
    assert remembered_store(folder) is None
    remember_store(folder, b"project: \\xff\n", "here")
    assert remembered_store(folder) == "here"
    for damage in ("", "{}", "[]", '{"of": 1}', '{"of": ["0", ""], "store": 3}', "[" * 100_000):
        (folder / ".mirage" / "cache" / "store-of-project.json").write_text(damage)
        assert remembered_store(folder) is None
