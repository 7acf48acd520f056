"""Mirage with one safeguard taken out, in a copy of it: the tests of faults find each of them, for the right reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.figures import HARM, Counted

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parent.parent.parent
POWER = "tests/test_power_cuts.py::test_what_was_acknowledged_survives_a_power_cut"
ORDER = "tests/test_store_crash.py::test_everything_is_durable_before_it_is_named_and_named_before_it_is_pointed_to"
PHASES = "tests/test_run_phases.py"
RACES = "tests/test_store_races.py::test_twenty_races_of_sixteen_publishers_with_readers_beside_them"


@dataclass(frozen=True)
class Mutation:
    """One edit of one file, which must fit exactly once, and the test that must find it."""

    file: str
    before: str
    after: str
    check: str
    env: dict[str, str] = field(default_factory=dict)
    says: str = rf"({'|'.join(HARM)}): "


MUTATIONS = {
    "a version's pointer is not synced": Mutation(
        "orchestrator/store/folder_objects.py",
        "                os.fchmod(descriptor, 0o444)\n                os.fsync(descriptor)\n",
        "                os.fchmod(descriptor, 0o444)\n",
        POWER,
    ),
    "the folder of a version's pointer is not synced": Mutation(
        "orchestrator/store/folder_objects.py",
        "                sync(os.path.dirname(target))\n                return made\n",
        "                return made\n",
        ORDER,
        says="AssertionError: acknowledged before the pointer's name was durable",
    ),
    "a blob is not synced": Mutation(
        "orchestrator/store/staging.py",
        "        if durable:\n            os.fsync(self._descriptor)\n",
        "",
        POWER,
    ),
    "many blobs are not synced": Mutation(
        "orchestrator/store/disk.py",
        "        _sync_file_system(folder)\n        if _SYNCFS_TELLS",
        "        if _SYNCFS_TELLS",
        POWER,
    ),
    "a line of the journal is not synced": Mutation(
        "orchestrator/journal.py",
        "                self._torn = False\n                os.fsync(self._file.fileno())\n",
        "                self._torn = False\n",
        POWER,
    ),
    "no line before a record is put into the log": Mutation(
        "orchestrator/life.py",
        '        journal.write("record", digest=digest, seq=link.seq)\n',
        "",
        PHASES,
        {"MIRAGE_STRESS_POINTS": "after name log/"},
    ),
    "a killed save is not known again": Mutation(
        "orchestrator/recover.py",
        "        outbox.again = True  # the dead process may have published more than it came to tell\n",
        "",
        PHASES,
        {"MIRAGE_STRESS_POINTS": "before line published"},
        says="duplicates: ",
    ),
    "a version is given without looking whether it is taken": Mutation(
        "orchestrator/store/folder_objects.py",
        "                    os.link(staged, target)\n                except OSError:\n                    if os.fst",
        "                    os.replace(staged, target)\n                except OSError:\n                    if os.fst",
        RACES,
    ),
}


def checked(top: Path, mutation: Mutation) -> subprocess.CompletedProcess[str]:
    """The test in the copy, by the copy."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MIRAGE_STRESS", "PYTEST"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", mutation.check],
        cwd=top, env={**env, **mutation.env, "PYTHONPATH": str(top)}, capture_output=True, text=True,
    )  # fmt: skip


def copied(top: Path) -> Path:
    """The project without what it makes."""
    ignored = shutil.ignore_patterns("__pycache__", ".mypy_cache")
    for name in ("orchestrator", "mirage", "tests", "images", "scripts", "examples"):
        shutil.copytree(ROOT / name, top / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", top)
    return top


@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_found(tmp_path: Path, counted: Counted, name: str) -> None:
    counts, mutation = counted("safeguards taken out"), MUTATIONS[name]
    top = copied(tmp_path / "copy")
    counts.trials += 1
    path = top / mutation.file
    text = path.read_text()
    assert text.count(mutation.before) == 1, f"{name}: the code has changed; change the mutation with it"
    path.write_text(text.replace(mutation.before, mutation.after))
    done = checked(top, mutation)
    harm = re.search(rf"^E\s+{mutation.says}.*", done.stdout, re.M)
    assert done.returncode == 1 and harm, f"{name} was not found\n{done.stdout[-3000:]}"
    print(f"{name}: {harm[0]}")
    counts.bitten += 1


@pytest.mark.parametrize("check", [POWER, ORDER, PHASES, RACES])
def test_a_copy_with_nothing_taken_out_passes(tmp_path: Path, check: str) -> None:
    env = {"MIRAGE_STRESS_POINTS": "name"} if check == PHASES else {}
    done = checked(copied(tmp_path / "copy"), Mutation("", "", "", check, env))
    assert done.returncode == 0, done.stdout[-3000:]
