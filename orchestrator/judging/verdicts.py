"""The verdict on a run as a second in-toto Statement over the run's own subjects, beside its record in the store.

Predicate: in-toto/attestation spec/predicates/test-result.md. One file for each time that a run was made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.compare.difference import ALIKE, IDENTICAL, WITHIN
from orchestrator.compare.tolerances import Tolerances
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import StoreError
from orchestrator.judging.judgement import Made, Verdict
from orchestrator.ports import Store
from orchestrator.provenance import STATEMENT_TYPE, dependency, sha256
from orchestrator.reference import RunId, record_key
from orchestrator.trust import dsse
from orchestrator.trust.dsse import Envelope
from orchestrator.trust.notary import Notary

PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"


@dataclass(frozen=True)
class Judgement:
    """All that is said of one reproduction; ``summary`` is IDENTICAL, WITHIN-TOLERANCE, DIFFERS or FAILED."""

    summary: str
    verdicts: tuple[Verdict, ...]
    first: Verdict | None
    sources: tuple[str, ...]
    image: dict[str, Json]
    tolerance: Tolerances


def summary_of(verdicts: list[Verdict], *, failed: bool) -> str:
    """One word for all verdicts; ``failed``: the workflow failed, and the original did not."""
    words = {each.verdict for each in verdicts}
    if failed:
        return "FAILED"
    if words <= {IDENTICAL}:
        return IDENTICAL
    return WITHIN if words <= set(ALIKE) else "DIFFERS"


def statement(original: Made, runs: list[Made], judged: Judgement, chain: dict[str, Json]) -> bytes:
    """The Statement as canonical bytes; ``chain`` is its place in the store's log."""
    passed = [_test(each) for each in judged.verdicts if each.verdict == IDENTICAL]
    warned = [_test(each) for each in judged.verdicts if each.verdict == WITHIN]
    failed = [_test(each) for each in judged.verdicts if each.verdict not in ALIKE]
    configuration: list[Json] = [
        dependency("record", None, sha256(original.record.digest), {"run": original.record.run_id})
    ]
    configuration += [
        dependency(f"reproduction:{run.record.run_id}", None, sha256(run.record.digest)) for run in runs
    ]
    return canonical.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": cast("Json", original.record.statement["subject"]),
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "result": "FAILED" if failed or judged.summary == "FAILED" else "PASSED",
                "configuration": configuration,
                "passedTests": list(passed),
                "warnedTests": list(warned),
                "failedTests": list(failed),
                "mirage_verdict": {
                    "summary": judged.summary,
                    "verdicts": [{"kind": each.kind, **each.to_json()} for each in judged.verdicts],
                    "firstDifference": None if judged.first is None else judged.first.name,
                    "probableSources": list(judged.sources),
                    "image": judged.image,
                    "rtol": judged.tolerance.rtol,
                    "atol": judged.tolerance.atol,
                    "ignore": list(judged.tolerance.ignore),
                    "tolerance": judged.tolerance.to_json(),
                },
                "mirage_chain": chain,
            },
        }
    )


def _test(each: Verdict) -> str:
    return f"{each.kind}:{each.name}"


def folder_of(run_id: RunId) -> str:
    """Where the verdicts on a run lie in the store."""
    return record_key(run_id).removesuffix("record.json") + "verdicts/"


def keep(notary: Notary, original: Made, runs: list[Made], judged: Judgement) -> tuple[str, Digest]:
    """Seal a verdict, once and for all; it is named by the run that led to it. Gives its key and digest."""
    key = f"{folder_of(original.record.run_id)}{runs[-1].record.run_id}.json"
    tried: set[Digest] = set()
    data = notary.seal(
        key,
        lambda link: statement(original, runs, judged, link.to_json()),
        lambda link, digest: tried.add(digest),
    )
    if of_bytes(data) not in tried:
        raise StoreError(f"{key} is in the store already, with another verdict")
    return key, of_bytes(data)


@dataclass(frozen=True)
class Told:
    """A verdict read back."""

    by: str
    key: str
    digest: Digest
    envelope: Envelope
    statement: dict[str, Any]

    @property
    def summary(self) -> str:
        """One word."""
        return str(self.statement["predicate"]["mirage_verdict"]["summary"])


def of_run(store: Store, run_id: RunId) -> list[Told]:
    """The verdicts on a run, oldest first. Raises StoreError where one is damaged."""
    found = []
    for key in store.keys(folder_of(run_id)):
        data = store.read(key) or b""
        by = key.rpartition("/")[2].removesuffix(".json")
        try:
            envelope = dsse.unseal(data)
            statement = cast("dict[str, Any]", canonical.decode(envelope.payload))
            told = Told(by, key, of_bytes(data), envelope, statement)
            _ = told.summary
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"the verdict {key} is damaged: {error!r}") from error
        found.append(told)
    return found
