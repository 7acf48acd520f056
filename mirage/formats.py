"""How a value becomes a payload. Owns the choice of a format and the bytes it writes.

The same value gives the same bytes: keys are sorted, and nothing is stamped with a time. Libraries are
recognised by the module of a value's type, so that none is imported that the workflow has not imported.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mirage import trees
from mirage.errors import ArtifactError

PICKLE_WAY = (
    'or, where nothing else will do, give format="pickle" (it is loaded with load(unpickle=True) only)'
)

_SUFFIXES = {
    ".json": "json",
    ".txt": "text",
    ".md": "text",
    ".npy": "npy",
    ".npz": "npz",
    ".csv": "csv",
    ".parquet": "parquet",
    ".safetensors": "safetensors",
    ".png": "png",
    ".pkl": "pickle",
    ".pickle": "pickle",
}


def write(value: Any, folder: str, format: str | None) -> tuple[str, str | None]:
    """Write a value into an empty folder; gives the format and the single file's name (None: a tree).

    Raises ArtifactError where the value has no safe form, naming the ways out.
    """
    if isinstance(value, os.PathLike) and format != "pickle":
        return _write_path(os.fspath(value), folder, format)
    chosen = format or detect(value)
    if chosen not in _WRITERS:
        raise ArtifactError(
            f"unknown format {chosen!r}",
            hint=f"known: {', '.join(_WRITERS)}; or save a file under its pathlib.Path",
        )
    entry, writer = _WRITERS[chosen]
    try:
        writer(value, os.path.join(folder, entry))
    except ArtifactError:
        raise
    except Exception as error:  # whatever the library of the value raises
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ArtifactError(
            f"a {_name(value)} cannot be written as {chosen}: {type(error).__name__}: {error}",
            hint=f"save a file of your own under its pathlib.Path, {PICKLE_WAY}",
        ) from error
    return chosen, entry


def detect(value: Any) -> str:
    """The format for a value; raises ArtifactError where only the user can choose one."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "bytes"
    if isinstance(value, str):
        return "text"
    if _is(value, "numpy", "ndarray"):
        return "npy"
    if isinstance(value, dict) and value:
        if all(_is(item, "numpy", "ndarray") for item in value.values()):
            return "npz"
        if all(_is(item, "torch", "Tensor") for item in value.values()):
            return _tensors_format()
    if _is(value, "pandas", "DataFrame"):
        return "parquet" if _importable("pyarrow") else "csv"
    if _is(value, "polars", "DataFrame"):
        return "parquet"
    if _is(value, "matplotlib", "Figure"):
        return "png"
    if isinstance(value, (dict, list, tuple, int, float)) or _is(value, "numpy", "generic"):
        return "json"
    if value is None:
        raise ArtifactError(
            "there is nothing to save: the value is None", hint="does the function return it?"
        )
    if _is(value, "torch", "Module") or _is(value, "torch", "Tensor"):
        raise ArtifactError(
            f"a {_name(value)} has no safe form of its own",
            hint=f'save its tensors: model.state_dict(), or {{"weights": tensor}}, {PICKLE_WAY}',
        )
    raise ArtifactError(
        f"no safe format for a {_name(value)}",
        hint="save its content as JSON data, NumPy arrays, a DataFrame or a file under its pathlib.Path, "
        + PICKLE_WAY,
    )


def _write_path(path: str | bytes, folder: str, format: str | None) -> tuple[str, str | None]:
    source = os.fsdecode(path)
    if os.path.isdir(source):
        trees.copy_tree(source, folder)
        return format or "directory", None
    if not os.path.isfile(source):
        raise ArtifactError(f"there is no file or directory {source!r}", hint="a plain str is saved as text")
    entry = trees.checked_entry(os.path.basename(os.path.abspath(source)))
    trees.copy_file(source, os.path.join(folder, entry))
    suffix = os.path.splitext(entry)[1].lower()
    return format or _SUFFIXES.get(suffix, "bytes"), entry


def encode_json(value: Any, what: str) -> bytes:
    """The value as JSON, keys sorted; raises ArtifactError that says where JSON cannot hold it."""
    try:
        return json.dumps(
            _plain(value, what), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{what} cannot be written as JSON: {error}",
            hint="NaN, infinities and lone surrogates have no JSON form",
        ) from error


def _plain(value: Any, at: str) -> Any:
    """JSON's own types, NumPy scalars as numbers, tuples as lists; never a silent change of a key."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ArtifactError(
                    f"{at}: the key {key!r} is no string, and JSON has only string keys", hint="use str(key)"
                )
        return {key: _plain(item, f"{at}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{at}[{position}]") for position, item in enumerate(value)]
    if _is(value, "numpy", "generic"):
        return value.item()
    raise ArtifactError(
        f"{at} is a {_name(value)}, which JSON cannot hold",
        hint=f"a dict of arrays alone is saved as .npz, array.tolist() as JSON, {PICKLE_WAY}",
    )


def _write_bytes(value: Any, path: str) -> None:
    with open(path, "wb") as stream:
        stream.write(value)


def _write_text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise TypeError("text must be a str")
    _write_bytes(value.encode("utf-8"), path)


def _write_json(value: Any, path: str) -> None:
    _write_bytes(encode_json(value, "the value"), path)


def _write_npy(value: Any, path: str) -> None:
    numpy: Any = sys.modules["numpy"]
    with open(path, "wb") as stream:
        numpy.save(stream, value, allow_pickle=False)


def _write_npz(value: Any, path: str) -> None:
    from mirage import npz

    for key in value:
        if not isinstance(key, str) or key.endswith(".npy"):
            raise ArtifactError(
                f"the array name {key!r} is ambiguous in .npz", hint="use a str without '.npy'"
            )
    with open(path, "wb") as stream:
        npz.write(value, stream, sys.modules["numpy"])


def _write_parquet(value: Any, path: str) -> None:
    if _is(value, "polars", "DataFrame"):
        value.write_parquet(path)
    else:
        value.to_parquet(path, engine="pyarrow")


def _write_csv(value: Any, path: str) -> None:
    if _is(value, "polars", "DataFrame"):
        value.write_csv(path)
    else:
        index = value.index
        # The default index is only a count; any other one is data, a named or shifted RangeIndex too.
        is_count = _is(index, "pandas", "RangeIndex") and index.name is None and index.equals(_count(index))
        value.to_csv(path, index=not is_count, lineterminator="\n")


def _count(index: Any) -> Any:
    return type(index)(len(index))


def _write_safetensors(value: Any, path: str) -> None:
    from importlib import import_module

    tensors = {key: item.detach().cpu().contiguous() for key, item in value.items()}
    import_module("safetensors.torch").save_file(tensors, path)


def _write_png(value: Any, path: str) -> None:
    value.savefig(path, format="png", metadata={"Software": None})  # without the library's version in it


def _write_pickle(value: Any, path: str) -> None:
    import pickle

    with open(path, "wb") as stream:
        pickle.dump(value, stream, protocol=5)


_WRITERS: dict[str, tuple[str, Callable[[Any, str], None]]] = {
    "bytes": ("data.bin", _write_bytes),
    "text": ("data.txt", _write_text),
    "json": ("data.json", _write_json),
    "npy": ("data.npy", _write_npy),
    "npz": ("data.npz", _write_npz),
    "parquet": ("data.parquet", _write_parquet),
    "csv": ("data.csv", _write_csv),
    "safetensors": ("data.safetensors", _write_safetensors),
    "png": ("figure.png", _write_png),
    "pickle": ("data.pickle", _write_pickle),
}


def _tensors_format() -> str:
    if _importable("safetensors"):
        return "safetensors"
    raise ArtifactError(
        "tensors are saved as safetensors, and that package is not in this environment",
        hint="add safetensors to the lock, save {name: tensor.numpy()} as arrays, " + PICKLE_WAY,
    )


def _importable(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _is(value: Any, package: str, name: str) -> bool:
    """Whether a class of that name and package is among the value's classes, without importing the package."""
    return any(
        cls.__name__ == name and cls.__module__.partition(".")[0] == package for cls in type(value).__mro__
    )


def _name(value: Any) -> str:
    cls = type(value)
    return cls.__name__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__name__}"
