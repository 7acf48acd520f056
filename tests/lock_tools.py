"""Locks of tests/locks/ as a commit would hold them, and the machines that they are narrowed to."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from orchestrator.digest import of_bytes
from orchestrator.locks import lock
from orchestrator.locks.lock import LockSource
from orchestrator.locks.pinned import Lock
from orchestrator.locks.selection import select
from orchestrator.locks.target import Target

LOCKS = Path(__file__).parent / "locks"
LINUX = Target("amd64", "CPython", "3.11.2", "glibc 2.36")


def files_of(folder: str) -> dict[str, bytes]:
    """The files of one folder of tests/locks/, by path."""
    top = LOCKS / folder
    return {
        str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()
    }


def read(files: dict[str, bytes], path: str, *groups: str) -> Lock:
    """A lock as it is read from a commit of these files."""

    def held(folder: str) -> str:
        inside = sorted((name, data) for name, data in files.items() if name.startswith(folder + "/"))
        return str(of_bytes(repr(inside).encode())) if inside else ""

    source = LockSource(path, files[path], groups or ("main",), "refuse", files.get, list(files), held)
    return lock.read(source)


def chosen(files: dict[str, bytes], path: str, *groups: str, target: Target = LINUX) -> list[str]:
    """What is installed, as name==version."""
    return [f"{each.name}=={each.version}" for each in select(read(files, path, *groups), target).packages]


def built_here(name: str, setup: str = "") -> dict[str, str]:
    """The files of a package of version 1.0 with a build of its own, which needs nothing from an index."""
    backend = (
        "import zipfile, os\n"
        "def get_requires_for_build_wheel(config_settings=None): return []\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        f"    name, tag, extra = {name!r}, 'py3-none-any', ''\n"
        f"{setup}"
        "    file = f'{name}-1.0-{tag}.whl'\n"
        "    with zipfile.ZipFile(os.path.join(folder, file), 'w') as archive:\n"
        "        put = lambda path, text: archive.writestr(zipfile.ZipInfo(path), text)\n"
        "        put(f'{name}.py', f'built = True\\n# {extra}\\n')\n"
        "        put(f'{name}-1.0.dist-info/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')\n"
        "        put(f'{name}-1.0.dist-info/WHEEL', f'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n')\n"
        "        put(f'{name}-1.0.dist-info/RECORD', '')\n"
        "    return file\n"
    )
    return {
        "pyproject.toml": f'[project]\nname = "{name}"\nversion = "1.0"\n'
        '[build-system]\nrequires = []\nbuild-backend = "own"\nbackend-path = ["."]\n',
        "own.py": backend,
    }


def sdist(name: str, setup: str = "", files: dict[str, str] | None = None) -> tuple[str, bytes]:
    """A source distribution of version 1.0 with a build of its own, which needs nothing from an index."""
    content = built_here(name, setup) | {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n",
        **(files or {}),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in content.items():
            info = tarfile.TarInfo(f"{name}-1.0/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return f"{name}-1.0.tar.gz", packed.getvalue()
