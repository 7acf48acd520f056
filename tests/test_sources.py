"""Where a difference between two runs probably comes from: each kind of source, from records that differ in it alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.compare.difference import Difference
from orchestrator.digest import Digest, of_bytes
from orchestrator.judging import judgement, sources
from orchestrator.judging.judgement import Made, Verdict
from orchestrator.judging.record import Record
from tests.record_tools import HARDWARE, Records, run_id

CPU: Any = HARDWARE
OTHER = of_bytes(b"another image")


def made(records: Records, number: int, **about: Any) -> Made:
    return judgement.made(records.store, Record(run_id(number), records.add(run_id(number), **about)))


def told(
    tmp_path: Path, one: dict[str, Any], two: dict[str, Any], values: tuple[str, str] = ("1", "2")
) -> list[str]:
    records = Records(tmp_path / "store")
    first = Verdict("output", "model:m", "DIFFERS", Difference("data.json: a", *values))
    return sources.probable(made(records, 1, **one), made(records, 2, **two), first, 1, records.store)


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        ({}, {"base": of_bytes(b"new base"), "image_key": OTHER}, ["a drifted base"]),
        (
            {"packages": [("numpy", "1.26.3"), ("six", "1.16.0")]},
            {"packages": [("numpy", "1.26.4"), ("six", "1.16.0")], "image_key": OTHER},
            ["an unpinned package: numpy 1.26.3 became 1.26.4"],
        ),
        (
            {"packages": [("gone", "1")]},
            {"packages": [("new", "2")], "image_key": OTHER},
            ["gone 1 became none, new none became 2"],
        ),
        ({}, {"image_key": OTHER}, ["a rebuilt image"]),
        (
            {},
            {"hardware": {**CPU, "cpu": {**CPU["cpu"], "model": "N"}}},
            ["another hardware class: the processor (M became N)"],
        ),
        ({"network": "bridge"}, {"network": "bridge"}, ["an undeclared input: its network was bridge"]),
        ({}, {}, ["no source is known"]),
    ],
)
def test_each_kind_of_source_is_named(
    tmp_path: Path, one: dict[str, Any], two: dict[str, Any], words: list[str]
) -> None:
    found = told(tmp_path, one, two)
    assert all(any(word in line for line in found) for word in words), found
    assert words[0] in found[0], "the likeliest comes first"


def test_other_files_under_one_version_are_an_unpinned_package(tmp_path: Path) -> None:
    old, new = {"six": ("1.16.0", "sha256=a")}, {"six": ("1.16.0", "sha256=b")}
    assert "six 1.16.0 came with other files under the same version" in sources._packages(old, new)


def test_what_was_installed_may_be_gone(tmp_path: Path) -> None:
    records = Records(tmp_path / "store")
    one = made(records, 1, packages=[("numpy", "1")])
    two = made(records, 2, packages=[("numpy", "2")], image_key=OTHER)
    digest = two.record.byproduct("environment.json")
    assert isinstance(digest, str)
    records.blob(Digest(digest)).unlink()
    first = Verdict("output", "model:m", "DIFFERS", None)
    assert "a rebuilt environment" in sources.probable(one, two, first, 1, records.store)[0]


def test_nothing_differs_and_nothing_is_suspected(tmp_path: Path) -> None:
    records = Records(tmp_path / "store")
    assert sources.probable(made(records, 1), made(records, 2), None, 1, records.store) == []
