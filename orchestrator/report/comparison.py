"""What differs between the runs of a report, name by name, with each run's value; judges nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.questions.diff import leaves
from orchestrator.report.account import Account


@dataclass(frozen=True)
class Line:
    """One name with a value for each run; None where a run has none."""

    name: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Group:
    """What differs in one respect, and how many names are the same in all runs."""

    title: str
    lines: tuple[Line, ...]
    alike: int


def groups(runs: Sequence[Account]) -> tuple[Group, ...]:
    """The respects in which the runs differ, in the order in which they matter."""
    found = (
        _group("Source", runs, _source),
        _group("Config", runs, lambda run: dict(run.config)),
        _group("Inputs", runs, _inputs),
        _group("Packages", runs, lambda run: dict(run.packages)),
        _group("Settings", runs, _settings),
        _group("Machine", runs, _machine),
    )
    return tuple(group for group in found if group.lines)


def _group(title: str, runs: Sequence[Account], values: Callable[[Account], dict[str, Any]]) -> Group:
    each = [values(run) for run in runs]
    names = dict.fromkeys(name for one in each for name in one)
    lines = [Line(name, tuple(_text(one, name) for one in each)) for name in names]
    differing = tuple(line for line in lines if len(set(line.values)) > 1)
    return Group(title, differing, len(lines) - len(differing))


def _text(values: dict[str, Any], name: str) -> str | None:
    return shown(values[name]) if name in values else None


def shown(value: Json) -> str:
    """A value for people: a string as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    return canonical.encode(value).decode()


def _source(run: Account) -> dict[str, Any]:
    told = run.told
    return {
        "commit": told["commit"],
        "branch": told["branch"],
        "project tree": told["tree"],
        "lock": told["lock"],
        "base": told["base"],
        "image": told["image"],
    }


def _inputs(run: Account) -> dict[str, Any]:
    return {
        item["name"].removeprefix(
            "input:"
        ): f"{item['annotations']['id']} sha256:{item['digest']['sha256'][:12]}"
        for item in run.row.definition["resolvedDependencies"]
        if item["name"].startswith("input:")
    }


def _settings(run: Account) -> dict[str, Any]:
    external, internal = run.row.definition["externalParameters"], run.row.definition["internalParameters"]
    found = {name: external.get(name) for name in ("workflow", "configPath", "overrides", "network", "gpus")}
    found |= {name: internal.get(name) for name in ("threads", "seed", "platform", "python")}
    return {**found, **leaves(external.get("env"), "env.")}


def _machine(run: Account) -> dict[str, Any]:
    hardware, builder = run.row.details.get("mirage_hardware"), run.row.details["builder"]
    return {**leaves(hardware), **leaves(builder.get("version"), "engine.")}
