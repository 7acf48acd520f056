"""What to do about a run that met its fences: from its record, its audit and the end of its log, for people.

Says nothing where it does not know: a guess about why a workflow failed would send people the wrong way.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.ends import DAEMON_RESTART
from orchestrator.provenance import Result

# What programs print when there is no network: getaddrinfo(3) and connect(2) in glibc's and Go's words, and curl's.
_NO_NETWORK = (
    b"Temporary failure in name resolution",
    b"Name or service not known",
    b"[Errno -3]",
    b"[Errno -2]",
    b"Network is unreachable",
    b"[Errno 101]",
    b"Could not resolve host",
    b"Could not resolve proxy",
    b"dial tcp: lookup ",
    b"Name resolution failed",
)
_NOT_THERE = (b"No such file or directory", b"FileNotFoundError", b"[Errno 2]", b"does not exist")
_READ_ONLY = (b"Read-only file system", b"[Errno 30]")
# A traceback's last words are what ended the workflow.
TAIL = 4096


def of_sealed(run_id: str, definition: Any, result: Result, log: Path) -> tuple[str, ...]:
    """The hints of a run that was sealed just now, with its log's file."""
    tail = b""
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - TAIL))
            tail = source.read(TAIL)
    except OSError:
        pass
    audit: Any = None if result.audit_json is None else canonical.decode(result.audit_json)
    return (*of(result.status, definition, audit, tail), *going_on(run_id, definition, result))


def resuming(run_id: str, definition: Any, result: Result) -> tuple[str, ...]:
    """How a run goes on that something outside of its workflow ended, where it had saved something.

    Nothing of one that failed by itself: the same commit would fail again.
    """
    ended = result.status in ("interrupted", "lost") or result.reason in ("timeout", "out of memory")
    internal = definition["internalParameters"]
    saved = [output.id for output in result.outputs] or (internal.get("resumeOf") or {}).get("artifacts")
    if not ended or not saved or internal["reproduces"] is not None:
        return ()
    more = {"timeout": " --timeout ...", "out of memory": " --set mirage.run.memory=..."}
    return (
        f"mirage-run --resume {run_id}{more.get(str(result.reason), '')} starts it again with what it saved, "
        f"{saved[-1]} the last",
    )


def going_on(run_id: str, definition: Any, result: Result) -> tuple[str, ...]:
    """How a run goes on that the engine or the machine ended: from what it had saved, or from its beginning."""
    found = resuming(run_id, definition, result)
    if found or (result.reason != DAEMON_RESTART and result.status != "lost"):
        return found
    return (
        f"it had saved nothing: mirage-run --config {definition['externalParameters']['configPath']} starts it anew",
    )


def of(status: str, definition: dict[str, Any], audit: dict[str, Any] | None, tail: bytes) -> list[str]:
    """One text for each thing to do; ``tail``: the log's last TAIL bytes."""
    found = []
    audit = audit or {}
    external = definition["externalParameters"]
    if status == "failed":
        end = tail[-TAIL:]
        if external["network"] == "none" and _says(end, _NO_NETWORK):
            found.append(_network(_names(audit, "connections")))
        if _says(end, _NOT_THERE):
            found += [_missing(path, external) for path in _names(audit, "missing") if _told(path, end)][:3]
        if _says(end, _READ_ONLY):
            found += [_write(path) for path in _names(audit, "writes") if _told(path, end)][:3]
    link = definition.get("internalParameters", {}).get("resumeOf") or {}
    unread = [name for name in _names(audit, "inputsUnused") if name in link.get("artifacts", ())]
    if unread:
        found.append(
            f"resumed, and not seen read: {', '.join(unread)} (a workflow goes on from what "
            "artifact.Model.resumed(NAME) and its like give it)"
        )
    unused = [name for name in _names(audit, "inputsUnused") if name not in unread]
    if unused and status == "succeeded":
        found.append(
            f"declared and not seen used: {', '.join(unused)} "
            f"(an input belongs out of {external['configPath']} if the workflow does not need it)"
        )
    return found


def _says(text: bytes, words: tuple[bytes, ...]) -> bool:
    return any(word in text for word in words)


def _names(audit: dict[str, Any], name: str) -> list[str]:
    return [str(each) for each in audit.get(name) or ()]


def _told(path: str, text: bytes) -> bool:
    """Whether the text names the file: as it was opened, or by its last part."""
    return os.path.basename(path).encode() in text


def _network(connections: list[str]) -> str:
    outside = [name for name in connections if not name.startswith(("unix:", "127.", "[::1]", "localhost"))]
    where = f" to {', '.join(outside[:3])}" if outside else ""
    return (
        f"it asked for a connection{where}, and this run has no network: allow it with --network bridge, or\n"
        "     run: {network: bridge}\n"
        "     in .mirage/project.yaml (or below `mirage:` in the config); the record will say so"
    )


def _missing(path: str, external: dict[str, Any]) -> str:
    inside = "/workspace/"
    if path.startswith(inside):
        path = path.removeprefix(inside)
        where = f"{path} is not in the commit"
    else:
        where = f"{path} is neither in the image nor an input"
    name = "".join(
        c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in os.path.basename(path).lower()
    )
    name = name.partition(".")[0].strip("._-") or "data"
    return (
        f"{where}: make it an input with\n"
        f"     mirage artifact add {path} --as dataset:{name}\n"
        f'     and "dataset:{name}:latest" in {external["configPath"]}, or commit it'
    )


def _write(path: str) -> str:
    return (
        f"{path.removeprefix('/workspace/')} cannot be written: a run keeps what it saves with "
        "artifact.File.save(...), and has $TMPDIR for the rest"
    )
