"""Checkpoints of a store's log: its size and newest entry in one small signed text, to be kept where no one rewrites it.

The form is that of C2SP (c2sp.org/tlog-checkpoint, c2sp.org/signed-note): origin, size, hash, an empty line, signatures.
The hash is the newest entry's digest and not a Merkle root: the log is a chain.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ConfigError, StoreError
from orchestrator.trust.chain import Head
from orchestrator.trust.keys import PublicKey, Signer
from orchestrator.trust.trusted import BAD, GOOD, UNKNOWN, UNSIGNED, Signed, Trust

_DASH = "\u2014 "
_ED25519 = b"\x01"
_EMPTY = of_bytes(b"")


@dataclass(frozen=True)
class Checkpoint:
    """A log as it was once; ``signatures`` are of (key name, key hash and signature as bytes)."""

    origin: str
    size: int
    digest: Digest
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def body(self) -> str:
        """The text that is signed."""
        root = base64.b64encode(bytes.fromhex(hex_of(self.digest))).decode()
        return f"{self.origin}\n{self.size}\n{root}\n"

    def text(self) -> str:
        """The whole note."""
        lines = [f"{_DASH}{name} {base64.b64encode(sig).decode()}\n" for name, sig in self.signatures]
        return f"{self.body}\n{''.join(lines)}"

    def check(self, trust: Trust) -> Signed:
        """Judge its signatures as those of a record."""
        if not self.signatures:
            return Signed(UNSIGNED)
        bad: Signed | None = None
        for name, sig in self.signatures:
            for trusted in trust.keys:
                if sig[:4] != _key_hash(name, trusted.key):
                    continue
                if trusted.key.verifies(sig[4:], self.body.encode()):
                    return Signed(GOOD, trusted.key.keyid, trusted)
                bad = Signed(BAD, trusted.key.keyid)
        return bad or Signed(UNKNOWN)


def make(origin: str, head: Head, signer: Signer | None) -> Checkpoint:
    """The checkpoint of a log as it is now; not signed where there is no key."""
    made = Checkpoint(origin, head.seq + 1, head.digest or _EMPTY)
    if signer is None:
        return made
    sig = _key_hash(origin, signer.public) + signer.sign(made.body.encode())
    return Checkpoint(made.origin, made.size, made.digest, ((origin, sig),))


def parse(text: str) -> Checkpoint:
    """Read a checkpoint. Raises ConfigError where it is none."""
    try:
        body, empty, rest = text.partition("\n\n")
        origin, size, root, *others = body.split("\n")
        if others or not empty or not origin or str(int(size)) != size or int(size) < 0:
            raise ValueError("its three lines are origin, size and hash")
        digest = parse_digest(f"sha256:{base64.b64decode(root, validate=True).hex()}")
        signatures = []
        for line in rest.splitlines():
            name, _, sig = line.removeprefix(_DASH).partition(" ")
            if not line.startswith(_DASH) or not name:
                raise ValueError(f"no signature: {line[:80]!r}")
            signatures.append((name, base64.b64decode(sig, validate=True)))
        made = Checkpoint(origin, int(size), digest, tuple(signatures))
        if made.text() != text:
            raise ValueError("another spelling")
    except (ValueError, binascii.Error, StoreError) as error:
        raise ConfigError(
            f"this is no checkpoint: {error}", hint="`mirage log checkpoint -o FILE` writes one"
        ) from error
    return made


def _key_hash(name: str, key: PublicKey) -> bytes:
    """c2sp.org/signed-note, "Signatures": the first four bytes of SHA-256(name, newline, type, key)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]
