"""Where an export goes: a file or folder that appears whole or not at all, never over something that exists."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import ConfigError


def write_file(path: Path, data: bytes) -> None:
    """Write a file that is not there yet. Raises ConfigError."""
    _refuse(path)
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        part.write_bytes(data)
        part.rename(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", hint="name another place with -o"
        ) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` at the end: as it is, or packed where that ends in `.zip`.

    Raises ConfigError where it cannot be written.
    """
    _refuse(path)
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        if path.suffix == ".zip":
            packed = part.with_name(f"{part.name}.zip")
            _pack(part, packed)
            packed.rename(path)
        else:
            part.rename(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", hint="name another place with -o"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.with_name(f"{part.name}.zip").unlink(missing_ok=True)


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise ConfigError(f"{path} exists already", hint="name another place with -o")


def _pack(top: Path, target: Path) -> None:
    """The same files give the same bytes: sorted, with one time stamp."""
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for path in sorted(each for each in top.rglob("*") if each.is_file() and not each.is_symlink()):
            item = zipfile.ZipInfo(path.relative_to(top).as_posix(), (1980, 1, 1, 0, 0, 0))
            item.compress_type, item.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            with path.open("rb") as source, archive.open(item, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
