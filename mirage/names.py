"""The grammar of artifact kinds, names, versions and ids, checked before anything is written."""

from __future__ import annotations

from mirage.errors import ArtifactError

KINDS = ("dataset", "model", "metrics", "report", "file")
_LONGEST = 128
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")  # sets, because importing `re` costs milliseconds
_REST = _FIRST | frozenset("._-")


def looks_like_id(text: object) -> bool:
    """Whether a config value has the form of an artifact id, and so is an input of the run."""
    if not isinstance(text, str):
        return False
    parts = text.split(":")
    return (
        len(parts) == 3
        and parts[0] in KINDS
        and all(parts)
        and not any(character.isspace() or character == "/" for character in text)
    )


def check_name(text: object, what: str) -> str:
    """Give the name or version back; raises ArtifactError where it breaks the grammar."""
    if not isinstance(text, str):
        raise ArtifactError(
            f"{what} must be a string, not {type(text).__name__} {text!r}",
            hint='in YAML, put quotes around it: version: "2024"',
        )
    if not (text and len(text) <= _LONGEST and text[0] in _FIRST and _REST.issuperset(text)):
        raise ArtifactError(
            f"{what} cannot be used: {text[:140]!r}",
            hint="start with a-z or 0-9, then a-z 0-9 . _ -; at most 128 characters, lower case",
        )
    return text


def check_id(text: object) -> str:
    """Give the artifact id back; raises ArtifactError where it is not `kind:name:version`."""
    if not isinstance(text, str):
        raise ArtifactError(
            f"not an artifact id: {text!r}", hint="give a string such as 'dataset:processed_training_data:v1'"
        )
    parts = text.split(":")
    if len(parts) != 3:
        raise ArtifactError(f"not an artifact id: {text[:300]!r} (expected kind:name:version)")
    if parts[0] not in KINDS:
        raise ArtifactError(f"unknown artifact kind {parts[0][:140]!r} (known: {', '.join(KINDS)})")
    check_name(parts[1], f"the name in {text[:300]!r}")
    check_name(parts[2], f"the version in {text[:300]!r}")
    return text
