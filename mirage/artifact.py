"""Artifacts: `artifact.Dataset.save(...)`, `artifact.load(id)`. Owns their ids, and what a saved one is."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mirage import session
from mirage.errors import ArtifactError
from mirage.names import check_id, check_name

TYPE_CHECKING = False  # see mirage/session.py
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, ClassVar, Protocol, TypeVar, overload

    A = TypeVar("A", bound="Artifact")
    A_co = TypeVar("A_co", bound="Artifact", covariant=True)

    class LoadValue(Protocol):
        """`artifact.load()`: the value."""

        def __call__(self, *, unpickle: bool = False) -> Any:
            """The value by its format; a directory gives its path, an unknown format the bytes."""

    class LoadArtifact(Protocol[A_co]):
        """`Dataset.load(id)`: the artifact."""

        def __call__(self, id: str) -> A_co:
            """The input with that id; raises ArtifactError where it is of another kind."""


class _Load:
    """One name for two questions: of the class, which artifact has an id; of an artifact, what it holds."""

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type[A]) -> LoadArtifact[A]: ...
        @overload
        def __get__(self, instance: Artifact, owner: type[Artifact]) -> LoadValue: ...

    def __get__(self, instance: Artifact | None, owner: type[Any]) -> Any:
        return owner._find if instance is None else instance._value


class Artifact:
    """Immutable data with an id `kind:name:version`: an input of the run, or what `save` gave back.

    It is a path (`open(dataset)`, `pathlib.Path(dataset)`): the file of a single-file artifact, else the
    directory. ``digest`` is that of its content, ``size`` is in bytes.
    """

    kind: ClassVar[str] = ""
    load = _Load()

    __slots__ = ("_path", "digest", "format", "id", "metadata", "size")

    def __init__(
        self, id: str, digest: str, size: int, format: str | None, metadata: Mapping[str, Any], path: str
    ) -> None:
        self.id = id
        self.digest = digest
        self.size = size
        self.format = format
        self.metadata = dict(metadata)
        self._path = path

    @property
    def name(self) -> str:
        """The name in the id."""
        return self.id.split(":")[1]

    @property
    def version(self) -> str:
        """The version in the id: `v1`, or the custom one."""
        return self.id.split(":")[2]

    @property
    def path(self) -> Path:
        """Where the content is in this run."""
        from pathlib import Path

        return Path(self._path)

    @classmethod
    def save(
        cls: type[A],
        value: Any,
        *,
        name: str,
        version: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        format: str | None = None,
    ) -> A:
        """Publish a value as a new version of `kind:name`; when this returns, it is safe in the store.

        ``value``: a path (pathlib.Path; a plain str is text), bytes, str, JSON data, a NumPy array or a dict
        of them, a DataFrame, a dict of torch tensors, a matplotlib figure; anything else needs
        ``format="pickle"``. Without ``version`` the store gives the next of v1, v2, ...; the same content
        gives the version that has it. Raises ArtifactError for a name outside the grammar, a value without
        a safe form, and where the host refuses, such as a custom version that has other content.
        """
        if not cls.kind:
            raise TypeError("save with a kind, such as artifact.Dataset.save(...)")
        check_name(name, "the artifact's name")
        if version is not None:
            check_name(version, "the artifact's version")
        notes = _checked_metadata(metadata)
        host = session.current()
        number, folder = host.new_payload()
        chosen, entry = _write(value, folder, format)
        answer = host.publish(
            {
                "n": number,
                "kind": cls.kind,
                "name": name,
                "version": version,
                "format": chosen,
                "entry": entry,
                "metadata": notes,
            }
        )
        error = answer.get("error")
        if error is not None:
            raise ArtifactError(str(error["message"]), hint=error.get("hint"), code=error.get("code"))
        path = folder if entry is None else os.path.join(folder, entry)
        return cls(answer["id"], answer["digest"], answer["size"], chosen, notes, path)

    @classmethod
    def _find(cls: type[A], id: str) -> A:
        kind = check_id(id).split(":")[0]
        if cls.kind and kind != cls.kind:
            raise ArtifactError(
                f"{id!r} is a {kind}, not a {cls.kind}", hint=f"artifact.{_KINDS[kind].__name__}.load({id!r})"
            )
        made = cls if cls.kind else _KINDS[kind]
        return _made(made, session.current().resolve(id))  # type: ignore[return-value]  # of cls's kind, or cls has none

    @classmethod
    def resumed(cls: type[A], name: str) -> A | None:
        """The last artifact of this kind and name that was saved by the run which this one resumes.

        None in a run that resumes none (`mirage-run --resume RUN`), where that one had saved no such artifact,
        and outside of a run. Raises ArtifactError for a name outside of the grammar.
        """
        if not cls.kind:
            raise TypeError("resumed with a kind, such as artifact.Model.resumed(...)")
        check_name(name, "the artifact's name")
        found = _resumed(f"{cls.kind}:{name}:")
        return _made(cls, found[-1]) if found else None

    def _value(self, *, unpickle: bool = False) -> Any:
        from mirage.loading import read

        return read(self.path, self.format, unpickle=unpickle, id=self.id)

    def __fspath__(self) -> str:
        return self._path

    def __repr__(self) -> str:
        return f"<artifact {self.id} {self.digest[:19]} {self.size} bytes>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artifact) and (self.id, self.digest) == (other.id, other.digest)

    def __hash__(self) -> int:
        return hash((self.id, self.digest))


class Dataset(Artifact):
    """Data to train or judge with."""

    kind = "dataset"
    __slots__ = ()


class Model(Artifact):
    """What a training leaves."""

    kind = "model"
    __slots__ = ()


class Metrics(Artifact):
    """Numbers that belong together, kept as a whole (`metrics.log` is for single ones)."""

    kind = "metrics"
    __slots__ = ()


class Report(Artifact):
    """Something for people: a picture, a text, a page."""

    kind = "report"
    __slots__ = ()


class File(Artifact):
    """Anything else."""

    kind = "file"
    __slots__ = ()


_KINDS: dict[str, type[Artifact]] = {cls.kind: cls for cls in (Dataset, Model, Metrics, Report, File)}


def load(id: str) -> Artifact:
    """The input with that id, of whatever kind.

    Raises ArtifactError for an id that the config does not name: a run can take only what its config says.
    """
    return Artifact.load(id)


def inputs() -> dict[str, Artifact]:
    """All inputs of the run, by their ids as the config writes them."""
    return {id: load(id) for id in session.current().input_ids()}


def resumed() -> tuple[Artifact, ...]:
    """All that this run goes on from: of each kind and name the last one that the run saved which this one resumes.

    In the order in which they were saved; empty in a run that resumes none, and outside of a run.
    """
    return tuple(_made(_KINDS[entry["id"].split(":")[0]], entry) for entry in _resumed(""))


def _resumed(beginning: str) -> tuple[dict[str, Any], ...]:
    host = session.active()
    return () if host is None else host.resumed(beginning)


def _made(cls: type[A], entry: Mapping[str, Any]) -> A:
    path = entry["path"] if entry["entry"] is None else os.path.join(entry["path"], entry["entry"])
    return cls(
        entry["id"], entry["digest"], entry["size"], entry["format"], entry.get("metadata") or {}, path
    )


def _write(value: Any, folder: str, format: str | None) -> tuple[str, str | None]:
    from mirage import formats

    try:
        return formats.write(value, folder, format)
    except BaseException:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)  # no ready.json names it: only its room is given back
        raise


def _checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ArtifactError(f"metadata must be a mapping, not a {type(metadata).__name__}")
    from json import loads

    from mirage.formats import encode_json

    notes: dict[str, Any] = loads(encode_json(metadata, "metadata"))
    return notes
