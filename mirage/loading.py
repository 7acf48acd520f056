"""How a payload becomes a value again. Owns the reader of each format; never unpickles unless asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mirage.errors import ArtifactError


def read(path: Path, format: str | None, *, unpickle: bool, id: str) -> Any:
    """The value of an artifact; a directory gives its path, an unknown format the file's bytes.

    Raises ArtifactError for a pickle without ``unpickle``, and where the library that reads the format is
    not in the environment.
    """
    if path.is_dir():
        return path
    if format == "pickle":
        return _read_pickle(path, unpickle, id)
    reader = _READERS.get(format or "", Path.read_bytes)
    try:
        return reader(path)
    except ImportError as error:
        raise ArtifactError(
            f"{id} is {format}, and what reads it is not in this environment: {error}",
            hint=f"add the package to the lock, or read the file yourself: {path}",
        ) from error
    except ValueError as error:
        raise ArtifactError(
            f"{id} cannot be read as {format}: {error}", hint=f"its file is {path}"
        ) from error


def _read_pickle(path: Path, unpickle: bool, id: str) -> Any:
    if not unpickle:
        raise ArtifactError(
            f"{id} is a pickle, and loading one runs whatever code it carries",
            hint="where you trust who made it: load(unpickle=True)",
        )
    import pickle

    with path.open("rb") as stream:
        return pickle.load(stream)  # noqa: S301 - asked for by name, see above


def _read_json(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _read_text(path: Path) -> str:
    return path.read_bytes().decode("utf-8")  # read_text would change the line ends


def _read_npy(path: Path) -> Any:
    return import_module("numpy").load(path, allow_pickle=False)


def _read_npz(path: Path) -> dict[str, Any]:
    with import_module("numpy").load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _read_table(path: Path, method: str) -> Any:
    try:
        library = import_module("pandas")
    except ModuleNotFoundError:
        library = import_module("polars")
    return getattr(library, method)(path)


def _read_safetensors(path: Path) -> Any:
    try:
        return import_module("safetensors.torch").load_file(path)
    except ModuleNotFoundError:
        return import_module("safetensors.numpy").load_file(path)


_READERS: dict[str, Callable[[Path], Any]] = {
    "json": _read_json,
    "text": _read_text,
    "npy": _read_npy,
    "npz": _read_npz,
    "parquet": lambda path: _read_table(path, "read_parquet"),
    "csv": lambda path: _read_table(path, "read_csv"),
    "safetensors": _read_safetensors,
}
