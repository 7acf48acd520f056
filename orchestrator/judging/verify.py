"""Checking a record without running anything: its form, its own agreement, and all that it names, re-hashed.

The order is that of the record: its signature, the record itself and its place in the log, its subjects, byproducts,
inputs; then image, keys and source, which are verify_image.py's part. Nothing is read of what a signature does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.artifacts import version
from orchestrator.artifacts.withheld import is_unpublished
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import (
    ArtifactError,
    CannotVerify,
    MirageError,
    ReproducedWithDifferences,
    StoreError,
)
from orchestrator.judging import record_form, verdicts, verify_trust
from orchestrator.judging.blobs import MISMATCH, MISSING, OK, Blobs
from orchestrator.judging.record import Record, read, read_result, sha256_of
from orchestrator.judging.verify_image import Checks
from orchestrator.judging.verify_image import check as check_image
from orchestrator.ports import Engine, Store
from orchestrator.reference import RunId, parse_artifact, record_key
from orchestrator.trust.trusted import Trust


@dataclass(frozen=True)
class Finding:
    """One check: ``state`` is `ok`, `mismatch`, `missing`, or what passes all the same: `unsigned`, `unchained`."""

    check: str
    state: str
    text: str


def verify(
    record: Record,
    store: Store,
    project: Path,
    engine: Engine | None,
    blobs: Blobs | None = None,
    *,
    trust: Trust | None = None,
    signed: bool = False,
) -> list[Finding]:
    """All findings on a record. ``engine`` None: the image is looked for in the store alone.

    ``blobs`` remembers what was hashed before, for whoever verifies several records of one store. ``trust`` are the
    keys that are believed, and ``signed`` asks for a signature of one of them.
    """
    checks = Checks(blobs or Blobs(store))
    found = _Verification(record, store, checks, trust or Trust(), signed)
    if not found.signature() or not found.form():
        return _findings(checks)
    try:
        found.all()
        check_image(record, store, project, engine, checks, trust)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # a form that was met and still cannot be followed is no record of ours
        checks.add("record", MISMATCH, f"it cannot be followed: {error!r}")
    return _findings(checks)


def _findings(checks: Checks) -> list[Finding]:
    return [Finding(*each) for each in checks.found]


def exit_code(found: list[Finding]) -> int:
    """0, or 9 where anything is not as the record says, or 10 where something is missing."""
    states = {finding.state for finding in found}
    if MISMATCH in states:
        return ReproducedWithDifferences.exit_code
    return CannotVerify.exit_code if MISSING in states else 0


def summary(found: list[Finding]) -> str:
    """One word for all findings."""
    return {0: OK, 9: MISMATCH, 10: MISSING}[exit_code(found)]


class _Verification:
    """The checks of one record but for those of its image."""

    def __init__(self, record: Record, store: Store, checks: Checks, trust: Trust, signed: bool) -> None:
        self._trust = trust
        self._signed = signed
        self._record = record
        self._store = store
        self._checks = checks

    def signature(self) -> bool:
        """Whether what is signed is what the key signed; else nothing of it is read."""
        try:
            envelope = self._record.envelope
        except MirageError as error:
            self._checks.add("form", MISMATCH, error.message)
            return False
        return verify_trust.signature("signature", envelope, self._trust, self._checks, required=self._signed)

    def form(self) -> bool:
        """Whether the record is what its form says, byte for byte; else nothing more can be said of it."""
        data, checks = self._record.envelope.payload, self._checks
        try:
            statement = self._record.statement
            written = canonical.encode(statement)
        except (MirageError, RecursionError) as error:
            checks.add("form", MISMATCH, str(error))
            return False
        if written != data:
            checks.add("form", MISMATCH, "its bytes are not canonical JSON")
            return False
        faults = list(record_form.RECORD(statement, ""))
        for fault in faults:
            checks.add("form", MISMATCH, str(fault))
        if not faults:
            checks.add("form", OK, "in-toto Statement v1, SLSA Provenance v1, every field known")
        return not faults

    def all(self) -> None:
        """Everything that the record says of itself and of the store."""
        self._identity()
        self._result()
        for item in self._record.statement["subject"][1:]:
            self._output(item)
        for item in self._record.details["byproducts"]:
            self._byproduct(item)
        self._inputs()
        self._original()
        self._resumed()
        self._verdicts()

    def _identity(self) -> None:
        """The record under its own name, and its blob: what was changed in one of them is not in the other."""
        metadata = self._record.details["metadata"]
        self._checks.equal("record.run", f"urn:mirage:run:{self._record.run_id}", metadata["invocationId"])
        state = self._checks.blobs.state(self._record.digest)
        if state == OK:
            self._checks.add("record", OK, f"{self._record.digest}, as it was sealed")
        else:
            text = f"no record with the digest {self._record.digest} was ever sealed in this store: it was changed"
            self._checks.add("record", MISMATCH, text)
        details, checks = self._record.details, self._checks
        verify_trust.builder(
            "signature", self._record.envelope, self._trust, details["builder"]["id"], checks
        )
        key = record_key(self._record.run_id)
        verify_trust.place(
            "chain", key, self._record.digest, details.get("mirage_chain"), self._store, checks
        )
        if metadata["startedOn"] > metadata["finishedOn"]:
            self._checks.add("record.times", MISMATCH, "it finished before it started")

    def _result(self) -> None:
        """run.json against what the record says of the end and the outputs."""
        record, checks = self._record, self._checks
        if not checks.blob("subject run.json", record.run_json):
            return
        try:
            result = read_result(self._store, record)
        except StoreError as error:
            checks.add("subject run.json", MISMATCH, error.message)
            return
        told = record.result
        for name, other in (
            ("status", "status"),
            ("exit_code", "exitCode"),
            ("signal", "signal"),
            ("reason", "reason"),
            ("oom_killed", "oomKilled"),
        ):
            checks.equal(f"result.{name}", result.get(name), told[other])
        checks.equal("result.run_id", record.run_id, result.get("run_id"))
        saved: dict[str, Any] = {}
        for item in result["outputs"]:
            saved.setdefault(item["id"], item)
        subjects = {
            item["name"]: {"id": item["name"], "digest": sha256_of(item), **item["annotations"]}
            for item in record.statement["subject"][1:]
        }
        checks.equal("result.outputs", list(saved.values()), list(subjects.values()))

    def _output(self, item: dict[str, Any]) -> None:
        name, digest = f"output {item['name']}", sha256_of(item)
        if not self._artifact(name, digest, str(item["name"])):
            return
        manifest = self._checks.blobs.manifest(digest)
        assert manifest is not None, "it was read just now"
        said = {"size": manifest.size, "files": manifest.files, "format": manifest.format}
        self._checks.equal(name, said, item["annotations"])

    def _artifact(self, check: str, digest: Digest, text: str) -> bool:
        """An artifact whole, of the kind and name of its id, and the id still leading to it."""
        state, words = self._checks.blobs.artifact(digest)
        if state != OK:
            self._checks.add(check, state, words)
            return False
        try:
            ref = parse_artifact(text)
        except ArtifactError as error:
            self._checks.add(check, MISMATCH, error.message)
            return False
        manifest = self._checks.blobs.manifest(digest)
        assert manifest is not None, "it is whole"
        if (manifest.kind, manifest.name) != (ref.kind, ref.name):
            self._checks.add(check, MISMATCH, f"{digest} is {manifest.kind}:{manifest.name}, not {text}")
            return False
        if self._record.internal["reproduces"] is not None and is_unpublished(ref, digest):
            self._checks.add(check, OK, f"{digest}, {words}; never published")
            return True
        try:
            there = version.load(self._store, ref)
        except ArtifactError:
            self._checks.add(check, MISSING, f"{text} is no longer in the store (its content is)")
            return False
        except StoreError as error:
            self._checks.add(check, MISMATCH, error.message)
            return False
        if there.digest != digest:
            self._checks.add(check, MISMATCH, f"{text} leads to {there.digest} now, the record says {digest}")
            return False
        self._checks.add(check, OK, f"{digest}, {words}")
        return True

    def _byproduct(self, item: dict[str, Any]) -> None:
        name, digest = f"byproduct {item['name']}", sha256_of(item)
        if self._checks.blob(name, digest) and item["name"] == "log":
            with self._store.open(digest) as source:
                size = source.seek(0, 2)
            self._checks.equal(name, size, item["annotations"]["bytes"])

    def _inputs(self) -> None:
        written = [item["name"].removeprefix("input:") for item in self._record.inputs]
        named = [*dict.fromkeys((*self._record.external["inputs"], *self._record.resumed))]
        self._checks.equal("inputs", named, written)
        for item in self._record.inputs:
            known = str(item["annotations"]["id"])
            name = f"input {known}"
            self._checks.equal(name, f"mirage:{known}", item["uri"])
            if self._artifact(name, sha256_of(item), known):
                asked, got = (text.rpartition(":") for text in (item["name"].removeprefix("input:"), known))
                if asked[0] != got[0] or (asked[2] != got[2] and self._is_version(known, asked[2])):
                    self._checks.add(name, MISMATCH, f"the config asks for {''.join(asked)}")

    def _is_version(self, known: str, asked: str) -> bool:
        """Whether what the config asks for is a version of its own, and not an alias."""
        ref = parse_artifact(known)
        return asked in version.versions(self._store, ref.kind, ref.name)

    def _original(self) -> None:
        """The record that this run makes again."""
        told = self._record.internal["reproduces"]
        if told is not None:
            self._other("original", told)

    def _resumed(self) -> None:
        """The run that this one resumes, and that it had saved, or had resumed itself, what this one goes on from."""
        told = self._record.internal.get("resumeOf")
        first = None if told is None else self._other("resumed", told)
        if first is None:
            return
        try:
            saved = {item["name"]: sha256_of(item) for item in first.statement["subject"][1:]}
            saved.update({item["annotations"]["id"]: sha256_of(item) for item in first.inputs})
        except MirageError as error:
            self._checks.add("resumed", MISMATCH, error.message)
            return
        taken = {item["annotations"]["id"]: sha256_of(item) for item in self._record.inputs}
        for name in self._record.resumed:
            self._checks.equal(f"resumed {name}", saved.get(name), taken.get(name))

    def _other(self, check: str, told: dict[str, Any]) -> Record | None:
        """The record of another run, as this one names it."""
        first = read(self._store, RunId(told["run"]))
        if first is None:
            self._checks.add(check, MISSING, f"the record of {told['run']} is not in the store")
        else:
            self._checks.equal(check, parse_digest(told["record"]), first.digest)
        return first

    def _verdicts(self) -> None:
        """The verdicts on this run are about this record."""
        try:
            found = verdicts.of_run(self._store, self._record.run_id)
        except StoreError as error:
            self._checks.add("verdicts", MISMATCH, error.message)
            return
        for each in found:
            name = f"verdict by {each.by}"
            if not verify_trust.signature(
                f"{name}: signature", each.envelope, self._trust, self._checks, required=self._signed
            ):
                continue
            faults = list(_about(each.statement, self._record))
            self._checks.add(name, MISMATCH if faults else OK, faults[0] if faults else each.summary)
            if not faults:
                told = each.statement["predicate"].get("mirage_chain")
                verify_trust.place(f"{name}: chain", each.key, each.digest, told, self._store, self._checks)


def _about(statement: dict[str, Any], record: Record) -> Iterator[str]:
    try:
        if statement["predicateType"] != verdicts.PREDICATE_TYPE:
            yield "it is no verdict"
        if statement["subject"] != record.statement["subject"]:
            yield "its subjects are not those of the record"
        if sha256_of(statement["predicate"]["configuration"][0]) != record.digest:
            yield "it is about another record"
    except (KeyError, TypeError, IndexError, StoreError) as error:
        yield f"it is damaged: {error!r}"
