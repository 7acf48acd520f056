"""Whose signatures are believed here: `.mirage/keys.yaml`, committed with the project; and what they say of a record.

A key is trusted together with the builders that it may speak for (slsa.dev/spec/v1.0/verifying-artifacts, "roots of
trust": pairs of a public key and a builder.id).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import yamlcore
from orchestrator.canonical import Json
from orchestrator.errors import ConfigError
from orchestrator.trust.dsse import Envelope, pae
from orchestrator.trust.keys import PublicKey, parse_line

TRUST_FILE = ".mirage/keys.yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_BUILDER = re.compile(r"https://[^\s\"']+")
_FIELDS = {"name", "key", "builders"}

GOOD, BAD, UNKNOWN, UNSIGNED = "good", "bad", "unknown", "unsigned"


@dataclass(frozen=True)
class TrustedKey:
    """A key that is believed; ``builders`` are the builder ids that it may sign for, all of them where it is empty."""

    name: str
    key: PublicKey
    builders: tuple[str, ...] = ()

    def allows(self, builder: str) -> bool:
        """Whether it may sign for a builder."""
        return not self.builders or builder in self.builders

    def to_json(self) -> dict[str, Json]:
        """As `.mirage/keys.yaml` and `--json` have it."""
        found: dict[str, Json] = {"name": self.name, "key": self.key.line}
        return {**found, "builders": [*self.builders]} if self.builders else found


@dataclass(frozen=True)
class Signed:
    """What is known of an envelope's signature: ``state`` is `good`, `bad`, `unknown` or `unsigned`.

    ``by`` is the trusted key that it verifies with; ``keyid`` what the envelope says, which proves nothing.
    """

    state: str
    keyid: str | None = None
    by: TrustedKey | None = None


@dataclass(frozen=True)
class Trust:
    """The keys that a project trusts."""

    keys: tuple[TrustedKey, ...] = ()

    def check(self, envelope: Envelope) -> Signed:
        """Judge the signatures over an envelope's payload.

        Good is one that verifies with a trusted key, whatever key it says it is of; bad is one that says it is of a
        trusted key and does not verify with any; with no trusted key to go by nothing is known.
        """
        if not envelope.signatures:
            return Signed(UNSIGNED)
        data = pae(envelope.payload)
        keyids = {each.key.keyid for each in self.keys}
        bad: Signed | None = None
        for signature in envelope.signatures:
            for trusted in self.keys:
                if trusted.key.verifies(signature.sig, data):
                    return Signed(GOOD, trusted.key.keyid, trusted)
            if signature.keyid in keyids:
                bad = Signed(BAD, signature.keyid)
        return bad or Signed(UNKNOWN, envelope.signatures[0].keyid)

    def told(self, envelope: Envelope, builder: str) -> tuple[str, str]:
        """A signature's state and who signed, in words for people; `bad` also where the key may not for this builder."""
        found = self.check(envelope)
        if found.by is None:
            words = {BAD: "not by", UNKNOWN: "by a key that is not trusted here,", UNSIGNED: "nobody"}[
                found.state
            ]
            return found.state, f"{words} {found.keyid}" if found.keyid else words
        if not found.by.allows(builder):
            return BAD, f"by {found.by.name}, who may not sign for {builder}"
        return GOOD, f"by {found.by.name} ({found.keyid})"

    def name_of(self, keyid: str | None) -> str | None:
        """The name of a trusted key by its fingerprint."""
        return next((each.name for each in self.keys if each.key.keyid == keyid), None)


def load(project: Path) -> Trust:
    """The project's trusted keys; none where there is no file. Raises ConfigError with file and line."""
    path = project / TRUST_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Trust()
    except OSError as error:
        raise ConfigError(f"{TRUST_FILE} cannot be read: {error.strerror}") from error
    return parse(data)


def parse(data: bytes) -> Trust:
    """Read `.mirage/keys.yaml`. Raises ConfigError with the line."""
    document = yamlcore.parse(data, TRUST_FILE)
    value = document.value
    if value is None:
        return Trust()
    if not isinstance(value, dict) or set(value) != {"keys"} or not isinstance(value["keys"], list):
        raise ConfigError(
            f"{TRUST_FILE}: expected one list, `keys:`", hint="`mirage key trust PUB --name NAME` writes it"
        )
    found: list[TrustedKey] = []
    for at, item in enumerate(value["keys"]):
        where = document.at(("keys", at))
        made = _key(item, where)
        for other in found:
            if made.name == other.name or made.key == other.key:
                raise ConfigError(f"{where}: the name or the key of {other.name} a second time")
        found.append(made)
    return Trust(tuple(found))


def _key(item: Any, where: str) -> TrustedKey:
    if not isinstance(item, dict) or not {"name", "key"} <= set(item) <= _FIELDS:
        raise ConfigError(f"{where}: expected `name`, `key` and perhaps `builders`")
    builders = item.get("builders") or []
    if not isinstance(builders, list):
        raise ConfigError(f"{where}: builders: expected a list of builder ids")
    try:
        return trusted(str(item["name"]), parse_line(str(item["key"])), list(map(str, builders)))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error


def trusted(name: str, key: PublicKey, builders: Sequence[str]) -> TrustedKey:
    """A key to trust. Raises ConfigError for a name or builder id that is none."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a key cannot be named {name[:80]!r}", hint="letters, digits and . _ @ -, at most 64, such as ci"
        )
    for builder in builders:
        if not _BUILDER.fullmatch(builder):
            raise ConfigError(
                f"no builder id: {builder[:80]!r}",
                hint="such as https://mirage.flow/builders/local-docker/v1 (`mirage show RUN` prints a run's)",
            )
    return TrustedKey(name, key, tuple(builders))


def add(project: Path, made: TrustedKey) -> Trust:
    """Add a key to the project's file, whose other lines and comments stay. Raises ConfigError where it is there."""
    known = load(project)
    for other in known.keys:
        if made.key == other.key:
            raise ConfigError(f"this key is trusted already, as {other.name}", hint=f"edit {TRUST_FILE}")
        if made.name == other.name:
            raise ConfigError(f"another key is named {made.name} already", hint="choose another --name")
    wanted = Trust((*known.keys, made))
    path = project / TRUST_FILE
    lines = [f"  - name: {made.name}", f"    key: {made.key.line}"]
    lines += [f"    builders: [{', '.join(made.builders)}]"] if made.builders else []
    before = (
        path.read_text("utf-8")
        if known.keys
        else "# Keys whose signatures on records are believed: docs/trust.md\nkeys:\n"
    )
    text = before + ("" if before.endswith("\n") else "\n") + "\n".join(lines) + "\n"
    if _parsed(text) != wanted:  # written by hand in another style: then all of it is written anew
        text = yamlcore.dump({"keys": [each.to_json() for each in wanted.keys]}).decode()
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{TRUST_FILE} cannot be written: {error.strerror}") from error
    return wanted


def _parsed(text: str) -> Trust | None:
    try:
        return parse(text.encode())
    except ConfigError:
        return None
