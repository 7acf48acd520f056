"""A run made again, judged against the first: a verdict for its end, each output and each metric, in their order.

Also where the first difference probably comes from. Runs nothing, writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts.version import read_verified
from orchestrator.artifacts.withheld import is_unpublished
from orchestrator.canonical import Json
from orchestrator.compare import artifacts
from orchestrator.compare.difference import (
    ALIKE,
    DIFFERS,
    IDENTICAL,
    MISSING,
    NEW,
    WITHIN,
    Difference,
    Tolerance,
    numbers,
    shown,
)
from orchestrator.compare.text import values
from orchestrator.compare.tolerances import Tolerances
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import StoreError
from orchestrator.judging.record import Record, read_result
from orchestrator.ports import Store
from orchestrator.reference import parse_artifact

_METRICS_LIMIT = 64 << 20


@dataclass(frozen=True)
class Verdict:
    """One thing compared: ``kind`` is `status`, `output` or `metric`; ``varies``: it also differs from itself."""

    kind: str
    name: str
    verdict: str
    difference: Difference | None = None
    varies: bool = False

    def to_json(self) -> dict[str, Json]:
        """The form for `--json` and the attestation."""
        found: dict[str, Json] = {"name": self.name, "verdict": self.verdict, "varies": self.varies}
        if self.difference is not None:
            found["difference"] = {
                "place": self.difference.place,
                "original": self.difference.original,
                "again": self.difference.again,
            }
        return found


@dataclass(frozen=True)
class Made:
    """A sealed run with its result."""

    record: Record
    result: dict[str, Any]

    @property
    def outputs(self) -> list[tuple[str, Digest]]:
        """Ids and digests in the order in which they were saved."""
        return [(str(item["id"]), parse_digest(item["digest"])) for item in self.result["outputs"]]


def made(store: Store, record: Record) -> Made:
    """A run for judging. Raises StoreError where its result is missing or damaged."""
    return Made(record, read_result(store, record))


def judge(store: Store, original: Made, again: Made, tolerance: Tolerances) -> list[Verdict]:
    """All verdicts: how it ended, the outputs in the original's order, the metrics."""
    return [
        _status(original, again),
        *_outputs(store, original, again, tolerance),
        *_metrics(store, original, again, tolerance),
    ]


def worst(all_of_them: list[list[Verdict]]) -> list[Verdict]:
    """The verdicts on several repetitions as one list: of each thing the first that does not pass."""
    merged = {(each.kind, each.name): each for each in all_of_them[0]}
    for verdicts in all_of_them[1:]:
        for each in verdicts:
            before = merged.get((each.kind, each.name))
            if before is None or _RANK[each.verdict] > _RANK[before.verdict]:
                merged[(each.kind, each.name)] = each
    return list(merged.values())


_RANK = {word: rank for rank, word in enumerate((IDENTICAL, WITHIN, DIFFERS, NEW, MISSING))}


def varying(verdicts: list[Verdict], against_itself: list[list[Verdict]]) -> list[Verdict]:
    """Mark what is not the same in repetitions on one machine either."""
    unstable = {_stem(each) for found in against_itself for each in found if each.verdict != IDENTICAL}
    return [replace(each, varies=each.verdict != IDENTICAL and _stem(each) in unstable) for each in verdicts]


def _stem(each: Verdict) -> tuple[str, str]:
    """What is compared but for its version: repetitions have none."""
    return each.kind, ":".join(each.name.split(":")[:2]) if each.kind == "output" else each.name


def alike(verdicts: list[Verdict]) -> bool:
    """Whether everything passes."""
    return all(each.verdict in ALIKE for each in verdicts)


def first_difference(verdicts: list[Verdict]) -> Verdict | None:
    """The first output that does not pass, else the first metric, else that it ended otherwise."""
    failed = [each for each in verdicts if each.verdict not in ALIKE]
    for kind in ("output", "metric", "status"):
        for each in failed:
            if each.kind == kind:
                return each
    return None


def _status(original: Made, again: Made) -> Verdict:
    old, new = _end(original), _end(again)
    if old == new:
        return Verdict("status", "status", IDENTICAL)
    return Verdict("status", "status", DIFFERS, Difference("", old, new))


def _end(run: Made) -> str:
    reason = run.result["reason"]
    return f"{run.result['status']}{f' ({reason})' if reason else ''}"


def _outputs(store: Store, original: Made, again: Made, tolerance: Tolerances) -> Iterator[Verdict]:
    """Outputs by kind and name, the first saved with the first saved."""
    left = list(again.outputs)
    for text, digest in original.outputs:
        ref = parse_artifact(text)
        name = text if _published(text, digest) else f"{ref.kind}:{ref.name}"
        at = _partner(left, text)
        if at is None:
            yield Verdict("output", name, MISSING)
            continue
        yield _output(store, name, digest, left.pop(at)[1], tolerance.of(f"{ref.kind}:{ref.name}"))
    for text, _ in left:
        yield Verdict("output", text, NEW)


def _published(text: str, digest: Digest) -> bool:
    return not is_unpublished(parse_artifact(text), digest)


def _partner(left: list[tuple[str, Digest]], text: str) -> int | None:
    """Under its very id, which the same content has, else the next that was saved under its name."""
    ref = parse_artifact(text)
    same = [parse_artifact(other) for other, _ in left]
    for at, other in enumerate(same):
        if (other.kind, other.name) == (ref.kind, ref.name):
            exact = [n for n, each in enumerate(same) if each == ref]
            return exact[0] if exact else at
    return None


def _output(store: Store, name: str, old: Digest, new: Digest, tolerance: Tolerance) -> Verdict:
    if old == new:
        return Verdict("output", name, IDENTICAL)
    try:
        found = artifacts.compare(store, old, new, tolerance)
    except StoreError as error:
        return Verdict("output", name, DIFFERS, Difference("", "its content", error.message))
    if found is None:
        return Verdict(
            "output", name, WITHIN, Difference("", "its bytes", "others of the same meaning", within=True)
        )
    return Verdict("output", name, WITHIN if found.within else DIFFERS, found)


def _metrics(store: Store, original: Made, again: Made, tolerance: Tolerances) -> Iterator[Verdict]:
    """The last value of each metric; a difference is told where the course of the metric first parts."""
    old, new = original.result["metrics"], again.result["metrics"]
    courses: tuple[list[Any], list[Any]] | None = None
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new or name not in old:
            yield Verdict("metric", name, MISSING if name in old else NEW)
            continue
        courses = courses or (_course(store, original.record), _course(store, again.record))
        given = tolerance.of(f"metric:{name}")
        found = _value(old[name], new[name], given)
        course = _parting(name, *courses, given)
        if course is not None and (found is None or not course.within):
            found = course
        if found is None:
            yield Verdict("metric", name, IDENTICAL)
        else:
            yield Verdict("metric", name, WITHIN if found.within else DIFFERS, found)


def _value(old: Any, new: Any, tolerance: Tolerance) -> Difference | None:
    if isinstance(old, int | float) and isinstance(new, int | float):
        return numbers("", old, new, tolerance)
    return None if old == new else Difference("", shown(old), shown(new))


def _course(store: Store, record: Record) -> list[Any]:
    """All lines of a run's metrics that can be read."""
    digest = record.byproduct("metrics.jsonl")
    if digest is None:
        return []
    found = []
    try:
        data = read_verified(store, digest, limit=_METRICS_LIMIT)
    except StoreError:
        return []  # too many of them, or gone: the last values are compared all the same
    for line in data.splitlines():
        try:
            item = canonical.decode(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(item, dict) and isinstance(item.get("values"), dict):
            found.append(item)
    return found


def _parting(name: str, old: list[Any], new: list[Any], tolerance: Tolerance) -> Difference | None:
    """Where a metric's values first part, or the first within the tolerance."""
    courses = [[each for each in lines if name in each["values"]] for lines in (old, new)]
    within: Difference | None = None
    for number, (before, after) in enumerate(zip(*courses, strict=False), 1):
        found = values(before["values"][name], after["values"][name], tolerance)
        if found is None:
            continue
        step = before.get("step")
        found = found.at(f"at step {step}" if step is not None else f"value {number}")
        if not found.within:
            return found
        within = within or found
    if len(courses[0]) != len(courses[1]):
        return Difference("", f"{len(courses[0])} values", f"{len(courses[1])}")
    return within
