"""Plain mode: a workflow run outside a container, with the project's own store.

The only module of the SDK that reaches for the host package, and only when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from mirage.errors import ArtifactError, ConfigError, MirageError
from mirage.names import looks_like_id
from mirage.session import Session


class PlainSession:
    """The host's session with its errors translated into the SDK's."""

    def __init__(self, host: Any, host_error: type[Exception]) -> None:
        self._host = host
        self._host_error = host_error
        self.config_path: str = host.config_path

    def config_values(self) -> dict[str, Any]:
        """The resolved config; raises ConfigError where it cannot be used."""
        values: dict[str, Any] = self._ask(ConfigError, self._host.config_values)
        return values

    def input_ids(self) -> tuple[str, ...]:
        """Every string of the config that has the form of an artifact id, in order, once."""
        found: dict[str, None] = {}
        todo: list[Any] = [self.config_values()]
        while todo:
            value = todo.pop()
            if isinstance(value, dict):
                todo.extend(reversed(list(value.values())))
            elif isinstance(value, list):
                todo.extend(reversed(value))
            elif looks_like_id(value):
                found[value] = None
        return tuple(found)

    def resolve(self, id: str) -> dict[str, Any]:
        """The input's entry; raises ArtifactError where the config or the store does not have it."""
        entry: dict[str, Any] = self._ask(ArtifactError, self._host.resolve, id)
        return entry

    def resumed(self, beginning: str = "") -> tuple[dict[str, Any], ...]:
        """Nothing: a workflow outside of a container resumes no run."""
        return ()

    def new_payload(self) -> tuple[int, str]:
        """A number and an empty directory."""
        payload: tuple[int, str] = self._ask(ArtifactError, self._host.new_payload)
        return payload

    def publish(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Publish the payload in the project's store."""
        done: dict[str, Any] = self._ask(
            ArtifactError, self._host.publish, {"schema": "mirage-ready/1", **ready}
        )
        return done

    def secret(self, name: str) -> bytes:
        """The value of a secret, from the caller's own sources."""
        value: bytes = self._ask(ConfigError, self._host.secret, name)
        return value

    def log_metrics(self, line: dict[str, Any]) -> None:
        """Append one line of metrics."""
        self._ask(MirageError, self._host.log_metrics, line)

    def log_event(self, line: dict[str, Any]) -> None:
        """Append one event."""
        self._ask(MirageError, self._host.log_event, line)

    def _ask(self, as_type: type[MirageError], call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except self._host_error as error:
            raise _translated(error, as_type) from error


def open_session(arguments: list[str]) -> Session:
    """Open the project's own store for this process; ``arguments`` are the command line's, program left out.

    Raises MirageError that says what to install where the host package is not there, and ConfigError
    where the project or the config cannot be used.
    """
    try:
        plain = importlib.import_module("orchestrator.plain")
        errors = importlib.import_module("orchestrator.errors")
    except ModuleNotFoundError as error:
        raise MirageError(
            f"this is no run's container, and the project's store cannot be opened: {error}",
            hint="pip install mirage-flow, or start the workflow with: mirage-run --config FILE",
        ) from error
    host_error: type[Exception] = errors.MirageError
    try:
        return PlainSession(plain.open_session(arguments), host_error)
    except host_error as error:
        raise _translated(error, ConfigError) from error


def _translated(error: Exception, as_type: type[MirageError]) -> MirageError:
    return as_type(str(getattr(error, "message", error)), hint=getattr(error, "hint", None))
