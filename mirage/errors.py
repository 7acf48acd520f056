"""The SDK's errors: what happened, and what to do next. Owns no behaviour."""

from __future__ import annotations

from collections.abc import Iterable


class MirageError(Exception):
    """Base of what the SDK raises on purpose; ``message`` says what happened, ``hint`` what to do next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  -> {self.hint}"


class ArtifactError(MirageError):
    """An artifact cannot be saved or loaded; ``code`` is the host's word for it, where the host refused."""

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class ConfigError(MirageError):
    """The config is missing or does not hold what was asked of it."""


class MissingKey(ConfigError, KeyError, AttributeError):
    """The config has no such key; caught as KeyError and, for ``hasattr``, as AttributeError."""


for _public in (MirageError, ArtifactError, ConfigError, MissingKey):
    _public.__module__ = "mirage"  # tracebacks then show the name that users import


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """At most three known words close to ``word``, best first."""
    from difflib import get_close_matches  # only on the way to an error

    return get_close_matches(word, list(known), n=3, cutoff=0.5)
