"""Content digests: `sha256:<64 hex>` values, their grammar, and hashing of bytes, streams and files.

Grammar and algorithm: OCI image-spec, "Digests" (descriptor.md); only sha256 is registered here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, BinaryIO, NewType

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    import hashlib

Digest = NewType("Digest", str)

_GRAMMAR = re.compile(r"sha256:[0-9a-f]{64}")
CHUNK = 1 << 20


def sha256(data: bytes | memoryview = b"") -> hashlib._Hash:
    """A hasher. OpenSSL's library comes with it, a fifth of what a question that hashes nothing takes in all."""
    import hashlib

    return hashlib.sha256(data)


def parse_digest(text: object) -> Digest:
    """Check a digest that came from outside before it names anything.

    Raises StoreError where it is not `sha256:` and 64 lower-case hex digits.
    """
    if not isinstance(text, str) or not _GRAMMAR.fullmatch(text):
        raise StoreError(f"not a digest: {str(text)[:100]!r} (expected sha256: and 64 hex digits)")
    return Digest(text)


def of_bytes(data: bytes | memoryview) -> Digest:
    """The digest of bytes in memory."""
    return Digest("sha256:" + sha256(data).hexdigest())


def of_hasher(hasher: hashlib._Hash) -> Digest:
    """The digest of what a sha256 hasher was fed."""
    return Digest("sha256:" + hasher.hexdigest())


def of_chunks(chunks: Iterable[bytes]) -> Digest:
    """The digest of a stream given in pieces."""
    hasher = sha256()
    for chunk in chunks:
        hasher.update(chunk)
    return of_hasher(hasher)


def of_file(stream: BinaryIO) -> Digest:
    """The digest of an open file from its current position to its end."""
    return of_chunks(iter(lambda: stream.read(CHUNK), b""))


def hex_of(digest: Digest) -> str:
    """The 64 hex digits, for file names and tags."""
    return digest.removeprefix("sha256:")
