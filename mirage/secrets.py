"""The run's secrets, by name. Owns the public function; where the values lie is the session's business."""

from __future__ import annotations

from mirage.session import current


def secret(name: str) -> str:
    """The value of a secret that `run.secrets` names.

    Bytes that are not UTF-8 are kept as surrogate escapes (PEP 383): `secret(name).encode("utf-8", "surrogateescape")`
    gives them back. Raises ConfigError for a name that the run was not given.
    """
    return current().secret(name).decode("utf-8", "surrogateescape")
