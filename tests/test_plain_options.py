"""`mirage ls` reads its options without click where it can: always to what click would have read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cli.ls_command import ls
from orchestrator.cli.plain_options import FLAGS, VALUES, options_of_ls
from tests.record_tools import Records, run_id

WORDS = st.one_of(
    st.sampled_from(
        [*VALUES, *FLAGS, "--", "-h", "--help", "--wher", "-x", "--json=1", "--limit=5", "--where="]
    ),
    st.sampled_from(
        ["0", "7", "-3", "٣", "1_0", " 4", "007", "9" * 12, "metrics.a >= 1", "-metrics.a", "", "="]
    ),
    st.text(max_size=4),
)


def by_click(arguments: list[str]) -> dict[str, object] | None:
    """What click makes of them; None where it has something to say instead."""
    try:
        return ls.make_context("ls", list(arguments)).params
    except (click.ClickException, click.exceptions.Exit):
        return None


def test_it_knows_the_very_options_that_click_has() -> None:
    assert {option.opts[0]: option.name for option in ls.params} == {**VALUES, **FLAGS}
    assert {option.opts[0] for option in ls.params if getattr(option, "is_flag", False)} == set(FLAGS)


@settings(max_examples=600, deadline=None)
@given(st.lists(WORDS, max_size=6))
def test_what_it_reads_is_what_click_reads(arguments: list[str]) -> None:
    found = options_of_ls(arguments)
    if found is not None:
        assert found == by_click(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--where", "metrics.accuracy >= 0.89", "--limit", "20"],
        ["--where=status = failed", "--sort", "-metrics.accuracy", "--json"],
        ["--columns", "run_id,commit", "--csv", "--branch", "experiment/*", "--rebuild"],
        ["--limit", "3", "--limit=4"],
        [],
    ],
)
def test_the_usual_questions_need_no_click(arguments: list[str]) -> None:
    assert options_of_ls(arguments) == by_click(arguments) is not None


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--limit", "0"], ["--limit"], ["--wherever"], ["latest"], ["--json=yes"], ["--"]],
)
def test_whatever_is_in_doubt_is_left_to_click(arguments: list[str]) -> None:
    assert options_of_ls(arguments) is None


def test_a_question_loads_neither_click_nor_what_secrets_and_dataclasses_need(tmp_path: Path) -> None:
    """Each of them takes longer to load than the index to answer; `mirage ls` has 50 ms beyond the interpreter."""
    bin_folder = Path(sys.executable).parent
    project = tmp_path / "p"
    subprocess.run([str(bin_folder / "mirage"), "init", str(project)], check=True, capture_output=True)
    records = Records(project / ".mirage" / "artifacts")
    for number in range(3):
        records.add(run_id(number), metrics={"accuracy": 0.5})
    asked = [sys.executable, "-X", "importtime", str(bin_folder / "mirage"), "ls", "--where", "seconds > 0"]
    for _ in range(3):  # the first makes the index, the second remembers what project.yaml says of the store
        done = subprocess.run(asked, cwd=project, capture_output=True, text=True)
    loaded = {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert done.returncode == 0 and str(run_id(0)) in done.stdout and "orchestrator.cli.listing" in loaded
    heavy = {
        "click",
        "yaml",
        "inspect",
        "dataclasses",
        "base64",
        "docker",
        "ssl",
        "logging",
        "uuid",
        "concurrent",
    }
    assert loaded & heavy == set()
