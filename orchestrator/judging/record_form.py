"""The form of a record: every field, its type and grammar; what the form does not name is refused.

Field by field as docs/buildtypes/run/v1.md has it. Looks at nothing but the record; whether it is true is verify.py's
part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.judging.forms import (
    Fault,
    Form,
    boolean,
    fault,
    fields,
    many,
    number,
    one_of,
    optional,
    pairs,
    text,
)
from orchestrator.provenance import BUILD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE
from orchestrator.reference import looks_like_artifact

_DIGEST = r"sha256:[0-9a-f]{64}"
_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
WORDS = text(r"[^\x00]*")
NAME = text(r"[^\x00]+", "a name")
DIGEST = text(_DIGEST, "sha256: and 64 hex digits")
SHA256 = fields({"sha256": text("[0-9a-f]{64}", "64 hex digits")})
GIT = text("[0-9a-f]{40}|[0-9a-f]{64}", "a git object id")
WHOLE = number(whole=True)
RUN_ID = text(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}", "a run id")
STAMP = text(_STAMP, "a time in UTC")

_SANDBOX = fields(
    {
        "user": text(r"\d+:\d+", "uid:gid"),
        "readOnlyRootfs": boolean,
        "capDropAll": boolean,
        "noNewPrivileges": boolean,
        "network": one_of("none", "bridge", "host"),
        "pids": WHOLE,
        "memory": optional(WHOLE),
        "cpus": optional(number()),
        "shm": WHOLE,
        "seccomp": WORDS,
        "init": boolean,
        "limitsEnforced": boolean,
        "runtime": optional(NAME),
        "devices": many(NAME),
    },
    absent=("runtime", "devices"),  # in records of earlier versions; devices also where none were asked for
)
_EXTERNAL = fields(
    {
        "source": text(r"git\+.+", "git+ and an address"),
        "ref": optional(text(r"refs/heads/.+", "refs/heads/ and a branch")),
        "project": NAME,
        "projectPath": text(r"|(?!/)(?!(.*/)?\.\.?(/|$))[^\0]+", "a path inside the repository"),
        "configPath": text(r"(?!/)(?!(.*/)?\.\.?(/|$))[^\0]+", "a path inside the project"),
        "overrides": many(WORDS),
        "workflow": text(r"\w+(\.\w+)*", "a module"),
        "entrypoint": many(WORDS),
        "network": one_of("none", "bridge", "host"),
        "env": pairs(WORDS),
        "secretNames": many(NAME),
        "gpus": many(NAME),
        "inputs": many(NAME),
        "tolerance": pairs(fields({"rtol": number(), "atol": number(), "ignore": many(WORDS)})),
    },
    absent=("tolerance",),  # of records from before it was kept
)
_INTERNAL = fields(
    {
        "runKey": DIGEST,
        "imageKey": DIGEST,
        "envKey": DIGEST,
        "configHash": DIGEST,
        "lockKind": NAME,
        "platform": text(r"[a-z0-9]+/[a-z0-9/]+", "os/architecture"),
        "python": text(r"\d+\.\d+\.\d+.*", "a version"),
        "determinism": pairs(WORDS),
        "threads": number(1, whole=True),
        "seed": WHOLE,
        "timeout": optional(number()),
        "reproduces": optional(fields({"run": RUN_ID, "record": DIGEST})),
        "retryOf": optional(fields({"run": RUN_ID, "record": DIGEST})),
        "resumeOf": optional(fields({"run": RUN_ID, "record": DIGEST, "artifacts": many(NAME)})),
        "environment": fields(
            {
                "from": one_of("built", "machine", "store"),
                "because": one_of("own", "any", "signed"),
                "keyid": optional(text(r"SHA256:[A-Za-z0-9+/]{43}", "a key's fingerprint")),
            }
        ),
        "sandbox": _SANDBOX,
        "user": text(r"[^\x00-\x1f\x7f]{1,128}", "a name"),
    },
    # of records from before runs were made again or resumed, and from before it was said where an environment came from;
    # where nobody gave a name
    absent=("retryOf", "resumeOf", "environment", "user"),
)


def _dependency(digest: Form, annotations: Mapping[str, Form] | None, *, uri: bool) -> Form:
    known: dict[str, Form] = {"name": NAME, "digest": digest, "uri": NAME}
    if annotations is not None:
        known["annotations"] = fields(annotations)
    return fields(known, absent=() if uri else ("uri",))


_GIT_PLACE = {"dirty": boolean, "shallow": boolean, "baseCommit": GIT, "path": WORDS}
_IMAGE = {"configDigest": DIGEST, "manifestDigest": DIGEST, "diffIds": many(DIGEST), "engineId": DIGEST}
# Where a name ends with `:`, it is the beginning of the real ones.
_DEPENDENCIES: dict[str, Form] = {
    "source": _dependency(fields({"gitCommit": GIT, "gitTree": GIT}), _GIT_PLACE, uri=True),
    "submodule:": _dependency(fields({"gitCommit": GIT}), None, uri=False),
    "lock": _dependency(SHA256, None, uri=True),
    "config": _dependency(SHA256, None, uri=True),
    "base-image": _dependency(SHA256, {"name": NAME}, uri=True),
    "image": _dependency(SHA256, _IMAGE, uri=True),
    "input:": _dependency(SHA256, {"id": NAME}, uri=True),
}
_BYPRODUCTS: dict[str, Form] = {
    "log": _dependency(SHA256, {"bytes": WHOLE, "droppedBytes": WHOLE}, uri=False),
    "log.times": _dependency(SHA256, None, uri=False),
    "metrics.jsonl": _dependency(SHA256, {"unreadable": WHOLE}, uri=False),
    "events.jsonl": _dependency(SHA256, None, uri=False),
    "audit.jsonl": _dependency(SHA256, None, uri=False),
    "environment.json": _dependency(SHA256, None, uri=False),
    # of what is installed; absent in records of earlier versions
    "sbom.cdx.json": _dependency(SHA256, None, uri=False),
}


def _named(forms: Mapping[str, Form], *, once: tuple[str, ...]) -> Form:
    """A list of descriptors, each with the form that its name asks for, no name twice."""

    def check(value: Any, path: str) -> Iterator[Fault]:
        if not isinstance(value, list):
            yield fault(path, "a list", value)
            return
        seen: set[str] = set()
        for at, item in enumerate(value):
            name = item.get("name") if isinstance(item, dict) else None
            head, colon, _ = str(name).partition(":")
            form = forms.get(head + colon)
            if form is None or not isinstance(name, str):
                yield fault(f"{path}[{at}].name", "one of " + ", ".join(forms), name)
                continue
            if name in seen:
                yield fault(f"{path}[{at}].name", "each name once", name)
            seen.add(name)
            yield from form(item, f"{path}[{name}]")
        for name in once:
            if name not in seen:
                yield Fault(f"{path}[{name}]", "a value", "nothing")

    return check


_OUTPUT = fields(
    {
        "name": NAME,
        "digest": SHA256,
        "annotations": fields({"size": WHOLE, "files": WHOLE, "format": NAME}),
    }
)


def _subject(value: Any, path: str) -> Iterator[Fault]:
    if not isinstance(value, list) or not value:
        yield fault(path, "a list of at least run.json", value)
        return
    yield from fields({"name": one_of("run.json"), "digest": SHA256})(value[0], f"{path}[0]")
    names: set[str] = set()
    for at, item in enumerate(value[1:], 1):
        yield from _OUTPUT(item, f"{path}[{at}]")
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not looks_like_artifact(name) or name in names:
            yield fault(f"{path}[{at}].name", "an artifact's id, each once", name)
        names.add(str(name))


_CPU = {
    **dict.fromkeys(("vendor", "model", "family", "model_number", "stepping", "microcode"), WORDS),
    "flags": many(NAME),
    "flags_sha256": text("[0-9a-f]{64}", "64 hex digits"),
    "cores": optional(WHOLE),
}
_OF_THE_DRIVER: dict[str, Form] = {
    "memory": optional(WHOLE),
    **dict.fromkeys(("compute_capability", "ecc", "mig"), optional(NAME)),
    "power_limit": optional(number()),
}
_GPU = fields(
    {**dict.fromkeys(("model", "vbios", "uuid_sha256"), WORDS), **_OF_THE_DRIVER},
    absent=tuple(_OF_THE_DRIVER),  # where the driver was not asked, or is of an earlier version
)
CHAIN = fields({"log": text("[0-9a-f]{64}", "64 hex digits"), "seq": WHOLE, "prev": optional(DIGEST)})
_BUILDER = fields(
    {
        "id": text(r"https://mirage\.flow/builders/[a-z-]+/v1", "a builder's id"),
        "version": pairs(WORDS),
    }
)
_RESULT = fields(
    {
        "status": one_of("succeeded", "failed", "interrupted", "lost"),
        "exitCode": optional(WHOLE),
        "signal": optional(NAME),
        "reason": optional(WORDS),
        "oomKilled": boolean,
        "durationS": number(),
        "recovered": boolean,
    }
)
_AUDIT = fields(
    {
        **dict.fromkeys(
            ("inputsUsed", "inputsUnused", "missing", "writes", "connections", "programs", "host"), many(NAME)
        ),
        "more": WHOLE,
    }
)
RECORD: Form = fields(
    {
        "_type": one_of(STATEMENT_TYPE),
        "subject": _subject,
        "predicateType": one_of(PREDICATE_TYPE),
        "predicate": fields(
            {
                "buildDefinition": fields(
                    {
                        "buildType": one_of(BUILD_TYPE),
                        "externalParameters": _EXTERNAL,
                        "internalParameters": _INTERNAL,
                        "resolvedDependencies": _named(
                            _DEPENDENCIES, once=("source", "lock", "config", "base-image", "image")
                        ),
                    }
                ),
                "runDetails": fields(
                    {
                        "builder": _BUILDER,
                        "metadata": fields(
                            {
                                "invocationId": text(r"urn:mirage:run:[0-9a-f-]+", "urn:mirage:run:RUN"),
                                "startedOn": STAMP,
                                "finishedOn": STAMP,
                            }
                        ),
                        "byproducts": _named(_BYPRODUCTS, once=("environment.json",)),
                        "mirage_result": _RESULT,
                        "mirage_hardware": fields(
                            {
                                "architecture": NAME,
                                "kernel": NAME,
                                "memory": optional(WHOLE),
                                "cpu": fields(_CPU),
                                "limits": fields({"cpus": optional(number()), "memory": optional(WHOLE)}),
                                "gpu_driver": optional(NAME),
                                "gpus": many(_GPU),
                            },
                            absent=(
                                "limits",
                                "gpu_driver",
                                "gpus",
                            ),  # of records from before they were looked at
                        ),
                        "mirage_chain": CHAIN,
                        "mirage_audit": _AUDIT,
                    },
                    absent=("mirage_chain", "mirage_audit"),  # of records from before there were such
                ),
            }
        ),
    }
)
