"""The steps of `mirage reproduce`, wired together: find the run and its image, run, judge, keep the verdict."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.catalog import marks
from orchestrator.compare.difference import ALIKE
from orchestrator.compare.tolerances import Tolerances, recorded
from orchestrator.errors import CannotVerify, ConfigError
from orchestrator.judging import allowance, judgement, sources, verdicts
from orchestrator.judging import reproduce as reproduction
from orchestrator.judging.record import Record, wanted_image
from orchestrator.judging.verdicts import Judgement
from orchestrator.secret_sources import SecretsMissing
from orchestrator.store.sessions import writing
from orchestrator.trust import trusted

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.catalog import Row
    from orchestrator.cli.wiring import Workplace
    from orchestrator.digest import Digest
    from orchestrator.judging.judgement import Made, Verdict
    from orchestrator.redaction import Secrets


@dataclass(frozen=True)
class Outcome:
    """What came of making a run again."""

    original: str
    runs: tuple[str, ...]
    judged: Judgement
    digest: Digest

    @property
    def exit_code(self) -> int:
        """0, 1 or 9 (design section 5)."""
        if self.judged.summary == "FAILED":
            return 1
        return 0 if self.judged.summary in ALIKE else 9

    def to_json(self) -> dict[str, Json]:
        """The object of `--json`."""
        judged = self.judged

        def of(kind: str) -> list[Json]:
            return [each.to_json() for each in judged.verdicts if each.kind == kind]

        return {
            "run_id": self.original,
            "runs": [*self.runs],
            "verdict": judged.summary,
            "image": judged.image,
            "status": of("status")[0],
            "outputs": of("output"),
            "metrics": of("metric"),
            "first_difference": None if judged.first is None else judged.first.name,
            "sources": [*judged.sources],
            "attestation": self.digest,
        }


def tolerances_of(rtol: float | None, atol: float | None, ignore: tuple[str, ...]) -> Tolerances:
    """What the options allow. Raises ConfigError for a pattern that is none."""
    for text in ignore:
        try:
            re.compile(text)
        except re.error as error:
            raise ConfigError(f"--ignore {text!r} is no regular expression: {error}") from error
    return Tolerances((), rtol, atol, ignore)


def reproduce(
    place: Workplace,
    row: Row,
    tolerance: Tolerances,
    *,
    rebuild: bool,
    repeat: int,
    allow: tuple[str, ...] = (),
) -> Outcome:
    """Make a run again ``repeat`` times and judge it, within the recorded tolerances and those of the command line.

    Raises CannotVerify where it cannot be made, or asks for weaker fences than this project and ``allow`` give.
    """
    services = place.services()
    services.notary.ready()
    record = Record(row.run_id, row.record)
    signed = trusted.load(place.project.folder).check(record.envelope)
    if signed.state == trusted.BAD:
        raise CannotVerify(
            f"the record of {record.run_id} says that {signed.keyid} signed it, and that key did not: it was changed",
            hint=f"`mirage verify {record.run_id}`; restore it from another copy of the store",
        )
    first = reproduction.original(services, record)
    allowance.require(record, place.project.settings.run, allow)
    services = replace(services, secrets=_secrets(place, record))
    tolerance = replace(tolerance, committed=recorded(record.external))
    with writing(services.store) as store:
        banked = replace(services, store=store, library=services.library.banking(store))
        found = reproduction.find_image(banked, record, anew=rebuild)
    wanted = wanted_image(record)
    runs = [reproduction.again(services, first, found) for _ in range(repeat)]
    judged = _judge(place, first, runs, tolerance)
    image: dict[str, Json] = {
        "wanted": wanted.digest,
        "digest": reproduction.kept_digest(found, record),
        "origin": found.origin,
        "equal": found.equal(wanted),
    }
    difference = judgement.first_difference(judged)
    failed = first.result["status"] == "succeeded" and any(
        run.result["status"] != "succeeded" for run in runs
    )
    told = Judgement(
        summary=verdicts.summary_of(judged, failed=failed),
        verdicts=tuple(judged),
        first=difference,
        sources=tuple(sources.probable(first, runs[0], difference, repeat, place.store)),
        image=image,
        tolerance=tolerance,
    )
    with writing(services.store) as store:
        _, digest = verdicts.keep(services.notary.within(store), first, runs, told)
    marks.add(place.store, record.run_id, "verdict", [told.summary])
    return Outcome(record.run_id, tuple(run.record.run_id for run in runs), told, digest)


def _secrets(place: Workplace, record: Record) -> Secrets:
    """The values of the secrets that a record names. Raises CannotVerify where one is missing."""
    try:
        return place.secrets(tuple(record.external["secretNames"]))
    except SecretsMissing as error:
        raise CannotVerify(f"{record.run_id} needs secrets: {error.message}", hint=error.hint) from error


def _judge(place: Workplace, first: Made, runs: list[Made], tolerance: Tolerances) -> list[Verdict]:
    against_first = [judgement.judge(place.store, first, run, tolerance) for run in runs]
    exact = Tolerances()
    itself = [judgement.judge(place.store, runs[0], run, exact) for run in runs[1:]]
    return judgement.varying(judgement.worst(against_first), itself)
