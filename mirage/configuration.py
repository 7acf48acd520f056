"""`config`: the resolved config of the run, read-only. Owns the way from a dotted key to a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mirage import session
from mirage.errors import ConfigError, MissingKey, nearest

TYPE_CHECKING = False  # see mirage/session.py
if TYPE_CHECKING:
    from typing import Any

    from mirage.artifact import Artifact


class Section(Mapping):  # type: ignore[type-arg]  # Mapping[str, Any] would need `typing` at run time
    """A mapping of the config: `section["lr"]`, `section.lr`, `section.get("optimizer.beta", 0.9)`.

    A key that has the name of a method (`get`, `items`, ...) is reached by `section["items"]`.
    """

    def __init__(self, values: dict[str, Any], at: str, file: str) -> None:
        self._content = values
        self._at = at
        self._file = file

    def __getitem__(self, key: str) -> Any:
        if key not in self._content:
            raise self._missing(key)
        return self._wrap(self._content[key], _join(self._at, key))

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            raise AttributeError(key)
        return self[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return f"<config {self._at + ' of ' if self._at else ''}{self._file}: {self._content!r}>"

    def get(self, key: str, default: Any = None) -> Any:
        """The value under a key or a dotted path, or the default where the config has none."""
        section: Any = self
        if key in self._content:
            return self[key]
        for part in key.split("."):
            if not isinstance(section, Section) or part not in section._content:
                return default
            section = section[part]
        return section

    def artifact(self, key: str) -> Artifact:
        """The input artifact whose id stands under a dotted path.

        Raises MissingKey where the config has no such key, ArtifactError where the value is no artifact id.
        """
        from mirage.artifact import load

        section: Any = self
        for part in key.split("."):
            if not isinstance(section, Section):
                raise ConfigError(f"{self._file}: nothing can stand below a value: {_join(self._at, key)}")
            section = section[part]
        return load(section)

    def as_dict(self) -> dict[str, Any]:
        """A copy in plain dicts and lists, for libraries that want them."""
        return {key: _copy(value) for key, value in self._content.items()}

    def _wrap(self, value: Any, at: str) -> Any:
        if isinstance(value, dict):
            return Section(value, at, self._file)
        if isinstance(value, list):
            return [self._wrap(item, f"{at}[{position}]") for position, item in enumerate(value)]
        return value

    def _missing(self, key: str) -> MissingKey:
        close = nearest(str(key), self._content)
        if close:
            hint = f"did you mean {' or '.join(repr(_join(self._at, c)) for c in close)}?"
        else:
            hint = f"it has: {', '.join(self._content) or 'nothing'}"
        return MissingKey(f"{self._file} has no key {_join(self._at, str(key))!r}", hint=hint)


class Config(Section):
    """The whole config, read at the first use."""

    def __init__(self) -> None:
        self._at = ""

    def __getattr__(self, key: str) -> Any:
        if key in ("_content", "_file"):  # not read yet
            host = session.current()
            self._file = host.config_path
            self._content = host.config_values()
            return self.__dict__[key]
        return super().__getattr__(key)


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
