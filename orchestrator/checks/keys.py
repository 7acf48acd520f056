"""The key that signs here, and the list of keys that are believed: readable, private, and each other's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.checks.finding import FAIL, OK, WARN, Finding
from orchestrator.errors import ConfigError


class _Encrypted(Exception):
    """A passphrase would be asked for."""


def examine(setting: str, project: Path, environment: Mapping[str, str]) -> Iterator[Finding]:
    """``setting`` is `sign.key` of project.yaml. Nothing is asked at a terminal, and no passphrase is tried."""
    from orchestrator.trust import chosen, keys, trusted

    trust = None
    try:
        trust = trusted.load(project)
        yield from _file(project / trusted.TRUST_FILE)
    except ConfigError as error:
        yield Finding("keys", FAIL, error.message, error.hint, error.exit_code)
    try:
        path = chosen.chosen(setting, project, environment)
        if path is None:
            yield Finding("keys", OK, f"records are not signed here{_believed(trust)}")
            return
        try:
            signer = keys.load_signer(path, _refuse)
        except _Encrypted:
            yield from _private(path)
            yield Finding(
                "keys", OK, f"records are signed with {path}, which has a passphrase{_believed(trust)}"
            )
            return
    except ConfigError as error:
        yield Finding("keys", FAIL, error.message, error.hint, error.exit_code)
        return
    yield from _private(path)
    yield Finding("keys", OK, f"records are signed with {path} ({signer.public.keyid}){_believed(trust)}")
    if trust is not None and trust.name_of(signer.public.keyid) is None:
        yield Finding(
            "keys",
            WARN,
            "what is signed here is believed by nobody in this project: the key is not in "
            + trusted.TRUST_FILE,
            "mirage key trust PUB --name NAME, then commit the file",
        )


def _refuse(path: Path) -> bytes:
    raise _Encrypted


def _private(path: Path) -> Iterator[Finding]:
    """Whether others may read a private key, as ssh(1) would refuse it."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        yield Finding(
            "keys", WARN, f"others may read the private key {path} (mode {mode:04o})", f"chmod 600 {path}"
        )
    if status.st_uid not in (os.geteuid(), 0):
        yield Finding(
            "keys", WARN, f"the private key {path} is another user's", "use a key of your own: mirage key new"
        )


def _file(path: Path) -> Iterator[Finding]:
    """Whether others may change who is believed."""
    if path.is_file() and path.stat().st_mode & 0o002:
        yield Finding("keys", WARN, f"everybody on this machine may write {path}", f"chmod o-w {path}")


def _believed(trust: object) -> str:
    from orchestrator.trust.trusted import Trust

    count = len(trust.keys) if isinstance(trust, Trust) else 0
    return f"; {count} key(s) are trusted" if count else "; no key is trusted"
