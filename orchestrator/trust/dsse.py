"""DSSE envelopes: a Statement with signatures over its very bytes (secure-systems-lab/dsse, protocol.md 1.0.2).

An unsigned record is the Statement itself, as records were before they could be signed; ``unseal`` reads both. Knows no
key: what it gives is what a signature was made over, and nothing is ever parsed from anywhere else.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from orchestrator import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"  # dsse, envelope.md
# Canonical JSON sorts its names: an envelope begins with `payload`, a Statement with `_type`.
_BEGINNING = b'{"payload":'


@dataclass(frozen=True)
class Signature:
    """One signature; ``keyid`` is a hint for looking a key up, and proves nothing."""

    keyid: str
    sig: bytes


@dataclass(frozen=True)
class Envelope:
    """The bytes that were signed, and by what; no signatures where they are a bare Statement."""

    payload: bytes
    signatures: tuple[Signature, ...] = ()

    def encode(self) -> bytes:
        """The envelope as it lies in the store: canonical JSON, or the bare Statement where nothing signed it."""
        if not self.signatures:
            return self.payload
        return canonical.encode(
            {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [
                    {"keyid": each.keyid, "sig": base64.b64encode(each.sig).decode()}
                    for each in self.signatures
                ],
            }
        )


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Pre-Authentication Encoding: what a signature is made over (protocol.md, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def is_sealed(data: bytes) -> bool:
    """Whether these bytes are an envelope, and not a bare Statement."""
    return data.startswith(_BEGINNING)


def unseal(data: bytes) -> Envelope:
    """Read a record or a verdict as it lies in the store.

    Raises ValueError where it is an envelope of another form than the one that ``encode`` writes: each envelope has
    one spelling, so that nothing can be changed in it without its digest or its signature.
    """
    if not is_sealed(data):
        return Envelope(data)
    found = canonical.decode(data)
    try:
        if not isinstance(found, dict) or found["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("its payload is of another type")
        signatures = found["signatures"]
        assert isinstance(signatures, list)
        envelope = Envelope(
            _bytes(found["payload"]),
            tuple(Signature(_text(each["keyid"]), _bytes(each["sig"])) for each in signatures),  # type: ignore[index, call-overload]
        )
    except (KeyError, TypeError, AssertionError, binascii.Error) as error:
        raise ValueError(f"it is no DSSE envelope: {error!r}") from error
    if not envelope.signatures or envelope.encode() != data:
        raise ValueError("it is no DSSE envelope as Mirage writes one")
    return envelope


def payload_of(data: bytes) -> bytes:
    """The Statement's bytes of a record, signed or not. Raises ValueError where it is no envelope."""
    return unseal(data).payload if is_sealed(data) else data


def _bytes(value: object) -> bytes:
    return base64.b64decode(_text(value), validate=True)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {type(value).__name__}")
    return value
