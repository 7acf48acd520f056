"""Hostile input to every reader of what others wrote: only typed errors, in time, in bounds. And what it once found.

The longer share, and a coverage-guided one, is in tests/stress/test_fuzz_long.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator import canonical, plan
from orchestrator.errors import LockError, SourceError, StoreError
from orchestrator.image import oci
from orchestrator.journal import RunFolders
from orchestrator.journal import read as read_journal
from orchestrator.locks import lock
from orchestrator.reference import RunId
from orchestrator.source import listing, objects
from tests import lock_tools
from tests.fuzzing import RUN_ID, guarded, mutated, targets

ROOT = Path(__file__).resolve().parent.parent
# Inputs for each target in the usual tests; MIRAGE_FUZZ changes it.
COUNT = int(os.environ.get("MIRAGE_FUZZ", "1250"))


def fuzz(name: str, count: int, seed: int) -> str:
    """One target in a process of its own, with its limits; gives what it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing", name, str(count), str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-2000:]


def test_every_reader_answers_with_a_typed_error_in_time() -> None:
    """The seed is fixed, so that the usual tests give the same answer each time."""
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda name: fuzz(name, COUNT, 7), targets()))
    found = [json.loads(text) for text in results]
    for each in found:
        print(f"  {each['target']:<14} {each['tried']:>6} inputs in {each['seconds']} s")
    assert [each for each in found if each["finding"]] == []
    assert sum(each["tried"] for each in found) >= 0.9 * COUNT * len(found)


def test_the_runner_finds_what_is_wrong() -> None:
    """Otherwise a green fuzz says nothing: a reader that breaks, and one that hangs, are told."""
    with pytest.raises(ZeroDivisionError):
        guarded(lambda data: 1 // 0, b"")  # type: ignore[arg-type]
    program = (
        "from tests import fuzzing\n"
        "def slow(data):\n    while True: pass\n"
        "def large(data):\n    return b'x' * (300 << 20)\n"
        "fuzzing.limit()\n"
        "for action in (slow, large):\n"
        "    try:\n        fuzzing.guarded(action, b'')\n"
        "    except BaseException as error:\n        print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["TooSlow", "MemoryError"], done.stderr


def test_mutations_reach_depth_and_bytes() -> None:
    deep = mutated(b"x", [("nest", 0.5, b"", 60)])
    assert deep.count(b"[") > 10_000
    assert mutated(b"abc", [("replace", 0.34, b"Z", 1)]) == b"aZc"
    assert mutated(b"abc", [("delete", 0.0, b"", 2)]) == b"c"


# What the fuzzing found, each kept


DEEP = b"[" * 50_000 + b"]" * 50_000


def test_a_journal_of_nested_brackets_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "runs" / RUN_ID).mkdir(parents=True)
    (tmp_path / "runs" / RUN_ID / "journal").write_bytes(DEEP + b'\n{"event":"begun"}\n')
    assert list(read_journal(RunFolders(tmp_path / "runs", tmp_path / "open"), RunId(RUN_ID))) == [
        {"event": "begun"}
    ]


def test_json_that_is_nested_too_deep_is_a_value_error_everywhere() -> None:
    with pytest.raises(ValueError, match="nested"):
        canonical.decode(DEEP)
    with pytest.raises(ValueError, match="nested"):
        oci.parse(DEEP, b"{}")
    with pytest.raises(StoreError):
        plan.parse(DEEP)


def test_a_poetry_lock_whose_files_have_no_hash_is_named() -> None:
    files = lock_tools.files_of("poetry21")
    broken = files["poetry.lock"].replace(b", hash = ", b", hush = ", 1)
    with pytest.raises(LockError, match=r"poetry\.lock is not as its tool writes it: KeyError"):
        lock_tools.read({**files, "poetry.lock": broken}, "poetry.lock")


def test_a_pipfile_lock_of_nested_brackets_is_named() -> None:
    files = lock_tools.files_of("pipenv")
    with pytest.raises(LockError, match="not as its tool writes it: RecursionError"):
        lock_tools.read({**files, "Pipfile.lock": DEEP}, "Pipfile.lock")
    with pytest.raises(LockError):
        lock.parse("Pipfile.lock", b'{"_meta": {"hash": {"sha256": 1}, "sources": 7}, "default": []}')


def test_a_commit_whose_committer_has_no_time_is_named() -> None:
    """Found by the coverage-guided fuzzer."""
    for line in (
        b"committer x",
        b"committer A <a@b> now +0000",
        b"committer " + b"9" * 5000 + b" +0000",
        b"committer ",
    ):
        with pytest.raises(SourceError, match="cannot be read"):
            objects.commit_time(b"tree x\n" + line + b"\n\nmessage", "c")
    assert objects.commit_time(b"tree x\ncommitter A <a@b> 1700000000 +0000\n\nmessage", "c") == 1_700_000_000
    assert objects.commit_time(b"committer A <a@b> -5 +0000\n\n", "c") == 0


def test_a_listing_that_git_does_not_write_is_named() -> None:
    oid = b"ab" * 20
    for line in (
        b"x",
        b"100644 blob " + oid + b" 7",
        b"100644 blob zz 7\ta",
        b"\xff\ta",
        b"100644 blob " + oid + b" 7\t",
    ):
        with pytest.raises(SourceError):
            list(listing.entries(line + b"\0"))
    assert list(listing.entries(b"100644 blob " + oid + b"       7\ta\nb\tc\0")) == [
        ("100644", b"blob", "ab" * 20, b"7", b"a\nb\tc")
    ]
