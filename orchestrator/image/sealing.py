"""Sealing: a root file system's tar, whoever wrote it, becomes one normalised layer.

Keeps what matters to a system (owners, all mode bits, hard links, extended attributes); order, time stamps,
names of owners, spelling and devices are ours. Owns no rule about which files a base should not have: the caller
says what to leave out.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.digest import CHUNK
from orchestrator.errors import ImageError
from orchestrator.image.layer import MTIME, header, padding

_XATTR = "SCHILY.xattr."
_PYC_HEADER = 16  # magic number, flags, then time stamp and size of the source (PEP 552)
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)  # a container engine makes its own
# Mount points that every engine needs, and that an archive may lack.
_MOUNT_POINTS = ("dev", "proc", "sys")


def seal(
    source: Path,
    sink: Callable[[bytes], object],
    *,
    leave_out: Callable[[str, bool], bool] = lambda path, is_folder: False,
) -> None:
    """Write the normalised layer of the tar at ``source`` to ``sink``, in pieces of about 1 MiB at most.

    Hard links point to the first of their names in order. ``leave_out`` is asked with each path and whether it is
    a directory. Raises ImageError where the tar is cut off, names a path twice or climbs out of its root, or where
    a file that stays is a hard link to one that was left out.
    """
    try:
        with tarfile.open(source, "r:") as archive:
            members = _by_path(archive, leave_out)
            holders = _holders(members)
            for path in sorted(members, key=_raw):
                for piece in _entry(archive, path, members, holders):
                    sink(piece)
    except tarfile.TarError as error:
        raise ImageError(f"the root file system cannot be read: {error}", hint="build it again") from error
    sink(b"\0" * 1024)


def _raw(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _clean(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageError(f"the root file system names a path outside of itself: {name!r}")
    return "/".join(parts)


def _by_path(archive: tarfile.TarFile, leave_out: Callable[[str, bool], bool]) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        path = _clean(member.name)
        if not path or member.type in _DEVICES or leave_out(path, member.isdir()):
            continue
        if path in found and not (member.isdir() and found[path].isdir()):
            raise ImageError(f"the root file system names {path!r} twice")
        found[path] = member
    for path in _MOUNT_POINTS:
        if path not in found:
            found[path] = tarfile.TarInfo(path)
            found[path].type, found[path].mode = tarfile.DIRTYPE, 0o755
    return found


def _holders(members: dict[str, tarfile.TarInfo]) -> dict[str, tuple[str, str]]:
    """For each name of a file with several: which name holds the bytes here, and which in the source."""
    groups: dict[str, list[str]] = {}
    for path, member in members.items():
        if member.islnk():
            target = _clean(member.linkname)
            if target not in members or not members[target].isreg():
                raise ImageError(f"the root file system links {path!r} to {target!r}, which is no file of it")
            groups.setdefault(target, [target]).append(path)
    return {path: (min(group, key=_raw), origin) for origin, group in groups.items() for path in group}


def _entry(
    archive: tarfile.TarFile,
    path: str,
    members: dict[str, tarfile.TarInfo],
    holders: dict[str, tuple[str, str]],
) -> Iterator[bytes]:
    holder, origin = holders.get(path, (path, path))
    member = members[origin]
    name, mode, owner = _raw(path), member.mode & 0o7777, (member.uid, member.gid)
    extra = sorted(
        (_raw(key), _raw(value)) for key, value in member.pax_headers.items() if key.startswith(_XATTR)
    )
    if member.isdir():
        yield header(name + b"/", mode, 0, b"5", b"", *owner, extra)
    elif member.issym():
        yield header(name, 0o777, 0, b"2", _raw(member.linkname), *owner, extra)
    elif holder != path:
        yield header(name, mode, 0, b"1", _raw(holder), *owner, extra)
    elif member.isreg():
        yield header(name, mode, member.size, b"0", b"", *owner, extra)
        stream = archive.extractfile(member)
        assert stream is not None
        left = member.size
        if path.endswith(".pyc"):
            head = stream.read(_PYC_HEADER)
            left -= len(head)
            yield _restamped(head, members.get(_python_source(path)))
        while piece := stream.read(CHUNK):
            left -= len(piece)
            yield piece
        if left:
            raise ImageError(f"the root file system is cut off in {path!r}", hint="build it again")
        yield padding(member.size)
    else:
        raise ImageError(f"the root file system holds something of an unknown kind: {path!r}")


def _python_source(path: str) -> str:
    """The module that byte code was compiled from (PEP 3147): `a/__pycache__/b.cpython-311.pyc` -> `a/b.py`."""
    folder, _, name = path.rpartition("/")
    return f"{folder.removesuffix('__pycache__')}{name.partition('.')[0]}.py"


def _restamped(head: bytes, source: tarfile.TarInfo | None) -> bytes:
    """A byte code file's header that is as valid for its source after sealing as it was before.

    Python believes byte code without a hash only where the source's time stamp and size are the ones in the
    header, and sealing changes every time stamp.
    """
    if source is None or len(head) < _PYC_HEADER or int.from_bytes(head[4:8], "little") != 0:
        return head
    told = (int(source.mtime) & 0xFFFFFFFF, source.size & 0xFFFFFFFF)
    if (int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")) != told:
        return head
    return head[:8] + MTIME.to_bytes(4, "little") + head[12:]
