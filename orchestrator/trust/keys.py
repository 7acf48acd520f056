"""ed25519 keys: made, read from PEM and OpenSSH files, and used. The only module that imports `cryptography`.

A key is told by its OpenSSH fingerprint (`SHA256:...`, as `ssh-keygen -lf` prints it). Everything of the library is
imported where it is used: an unsigned run never loads it (28 ms).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_HEAD = (
    b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"  # RFC 8709 section 4: two strings, the second of 32 bytes
)
_LINE = re.compile(r"ssh-ed25519 ([A-Za-z0-9+/]{68})(?:\s.*)?")
_LONGEST = 1 << 16  # of a key file, in bytes
Passphrase = Callable[[Path], bytes]


@dataclass(frozen=True)
class PublicKey:
    """An ed25519 public key: its 32 bytes (RFC 8032)."""

    raw: bytes

    @property
    def line(self) -> str:
        """As OpenSSH writes it, without a comment."""
        return f"ssh-ed25519 {base64.b64encode(_HEAD + self.raw).decode()}"

    @property
    def keyid(self) -> str:
        """Its OpenSSH fingerprint."""
        made = hashlib.sha256(_HEAD + self.raw).digest()
        return f"SHA256:{base64.b64encode(made).decode().rstrip('=')}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether a signature over these bytes was made with this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> bytes:
        """As a PEM file (SubjectPublicKeyInfo), for openssl."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(self.raw).public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True)
class Signer:
    """A private key, ready."""

    public: PublicKey
    _private: Ed25519PrivateKey

    def sign(self, data: bytes) -> bytes:
        """An ed25519 signature over these bytes, 64 bytes."""
        return self._private.sign(data)


def parse_line(text: str) -> PublicKey:
    """A public key from OpenSSH's one line; needs no library. Raises ConfigError."""
    found = _LINE.fullmatch(text.strip())
    try:
        blob = base64.b64decode(found[1], validate=True) if found else b""
    except binascii.Error:
        blob = b""
    if not blob.startswith(_HEAD) or len(blob) != len(_HEAD) + 32:
        raise ConfigError(
            f"not an ed25519 public key: {text.strip()[:60]!r}",
            hint="expected a line `ssh-ed25519 AAAA...`, or a PEM file with BEGIN PUBLIC KEY",
        )
    return PublicKey(blob[len(_HEAD) :])


def read_public(path: Path) -> PublicKey:
    """A public key from a file: OpenSSH's line or PEM. Raises ConfigError."""
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{path} is a private key", hint=f"name its public half: {path}.pub")
    if not data.lstrip().startswith(b"-----BEGIN"):
        return parse_line(data.decode("utf-8", "replace"))
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _other_kind(path, key)
    return PublicKey(key.public_bytes_raw())


def load_signer(path: Path, passphrase: Passphrase) -> Signer:
    """A private key from a PEM (PKCS #8) or OpenSSH file.

    ``passphrase`` is asked for it where the file is encrypted. Raises ConfigError for a file that is missing, no
    private key, of another kind than ed25519, or that the passphrase does not open.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    data = _read(path)
    if b"PRIVATE KEY" not in data:
        hint = (
            "name the private half, without .pub" if path.suffix == ".pub" else "`mirage key new` makes one"
        )
        raise ConfigError(f"{path} is no private key", hint=hint)
    load = load_ssh_private_key if b"BEGIN OPENSSH" in data else load_pem_private_key
    word: bytes | None = None
    try:
        try:
            key = load(data, None)
        except (TypeError, ValueError) as error:
            # cryptography says it with TypeError for PEM, and with ValueError for OpenSSH's own format
            if "assword" not in str(error):
                raise
            word = passphrase(path)
            key = load(data, word)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if word is not None:
            raise ConfigError(
                f"the passphrase does not open {path}",
                hint="it comes from MIRAGE_SIGN_PASSPHRASE_FILE, MIRAGE_SIGN_PASSPHRASE, or the terminal",
            ) from error
        raise ConfigError(f"{path} cannot be read as a private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _other_kind(path, key)
    return Signer(PublicKey(key.public_key().public_bytes_raw()), key)


def new() -> tuple[bytes, PublicKey]:
    """A new key: its PEM file (PKCS #8, not encrypted) and its public half."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, PublicKey(made.public_key().public_bytes_raw())


def _other_kind(path: Path, key: object) -> ConfigError:
    kind = type(key).__name__.removeprefix("_").removesuffix("PublicKey").removesuffix("PrivateKey")
    return ConfigError(
        f"{path} is a key of another kind ({kind}): records are signed with ed25519",
        hint="`mirage key new`, or `ssh-keygen -t ed25519`",
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as source:
            return source.read(_LONGEST)
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be read: {error.strerror}",
            hint="`mirage key new` makes one; MIRAGE_SIGN_KEY=none runs without",
        ) from error
