"""What a file system was found to promise to a store in a folder; tried, since network mounts differ in all of it."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.disk import NO_LINK, sync

_WRITERS = 8
# What a machine by itself cannot see, or not in time: kinds of file systems on which no store can be kept, and why.
_SMB = (
    "is SMB (cifs): a file that somebody reads cannot be replaced there, a name that was raced for cannot be read, and "
    "nothing makes names durable"
)
_UNFIT = {
    "fuse.seaweedfs": "(fuse.seaweedfs) gives one name to two machines: two mounts both won a name in 252 of 300 races, "
    "with version 4.48",
    **dict.fromkeys(("cifs", "smb3", "smb2", "smbfs", "fuse.smbnetfs"), _SMB),
}
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


@dataclass(frozen=True)
class FolderPromises:
    """What was found. The first five a store cannot do without; the rest only make it quicker, or help to tell more.

    ``no_link`` is what the file system says where it has no hard links, ``no_sync`` where it makes nothing durable.
    """

    link_once: bool  # link(2) refuses a name that is taken
    race: bool  # of several who link at once, one wins
    replaces: bool  # rename(2) puts the new file in the place of the old one, whole, also of one that is read
    no_link: str = ""
    no_sync: str = ""
    exclusive: bool = True  # O_EXCL refuses a name that is taken
    link_count: bool = True  # a lost answer to link(2) can be told by the number of names
    stamps: bool = True  # a time stamp of one second after the epoch stays as it is
    modes: bool = True  # a file can be made read-only
    reflink: bool = False  # two files can share their bytes
    kind: str = ""  # of file system
    nocto: bool = False  # NFS that does not ask the server when a file is opened

    @property
    def problem(self) -> str | None:
        """Why no store can be kept there, or None."""
        if self.kind in _UNFIT:
            return _UNFIT[self.kind]
        if self.nocto:
            return "is mounted with nocto, so that this machine does not see what others change"
        if self.no_link:
            return (
                f"has no hard links ({self.no_link}), which is how a version is given to one publisher only"
            )
        if not self.link_once or not self.exclusive:
            return "lets a second publisher replace a first"
        if not self.race:
            return "lets several publishers at once win one name"
        if not self.replaces:
            return "does not put a renamed file in the place of another one that is being read"
        if self.no_sync:
            return f"cannot make files and their names durable ({self.no_sync})"
        return None

    def summary(self) -> str:
        """One line for a person."""
        return (
            "creates once by link(2), also raced; renames replace; files and folders are synced; "
            f"{'has' if self.reflink else 'has no'} reflinks"
            f"{'' if self.link_count else '; does not count names, so a lost answer is told by reading'}"
            f"{'' if self.stamps else '; changes time stamps, so each blob is hashed each time it is looked for'}"
            f"{'' if self.modes else '; files stay writable'}"
        )


def examine(fresh: Callable[[], str]) -> FolderPromises:
    """Try everything with files that ``fresh`` names, which are removed. Raises OSError where none can be written."""
    made: list[str] = []

    def name() -> str:
        made.append(fresh())
        return made[-1]

    try:
        kind, options = file_system(Path(name()).parent)
        if kind in _UNFIT:  # what else would be found there is beside the point
            return FolderPromises(False, False, False, kind=kind)
        return _examine(name, kind, nocto="nocto" in options)
    finally:
        for each in made:
            with suppress(OSError):
                os.unlink(each)


def _examine(name: Callable[[], str], kind: str, *, nocto: bool) -> FolderPromises:
    first, second, third = name(), name(), name()
    with _opened(first, b"first") as descriptor:
        no_sync = _refusal(lambda: os.fsync(descriptor)) or _refusal(lambda: sync(os.path.dirname(first)))
        with _opened(second, b"second"):
            pass
        exclusive = _taken(lambda: os.close(os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL)))
        link_once = _taken(lambda: os.link(second, first))
        no_link = _refusal(lambda: os.link(first, third))
        counted = os.fstat(descriptor).st_nlink == 2
    race = not no_link and link_once and _race(name)
    replaces = _replaces(first, second)
    return FolderPromises(
        link_once=link_once,
        race=race,
        replaces=replaces,
        no_link=no_link,
        no_sync=no_sync,
        exclusive=exclusive,
        link_count=counted,
        stamps=_stamps(second),
        modes=_modes(second),
        reflink=_reflinks(second, name()),
        kind=kind,
        nocto=nocto,
    )


@contextmanager
def _opened(path: str, data: bytes) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(action: Callable[[], object]) -> bool:
    """Whether it is refused since the name is taken; where it cannot be done at all, nothing is taken over either."""
    try:
        action()
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return True
    return False


def _refusal(action: Callable[[], object]) -> str:
    """What the file system says where it does not do this; empty where it does."""
    try:
        action()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _race(name: Callable[[], str]) -> bool:
    """Whether of many who link at the same moment exactly one wins, and its bytes are the ones that stay."""
    target, own = name(), [name() for _ in range(_WRITERS)]
    for number, path in enumerate(own):
        with _opened(path, b"%d" % number):
            pass
    gate, won = threading.Barrier(_WRITERS), []

    def claim(number: int) -> None:
        gate.wait()
        with suppress(OSError):
            os.link(own[number], target)
            won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(_WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(won) == 1 and _bytes(target) == b"%d" % won[0]


def _replaces(source: str, target: str) -> bool:
    data, before = _bytes(source), _bytes(target)
    with open(target, "rb", buffering=0) as reader:
        if _refusal(lambda: os.rename(source, target)):
            return False
        return _bytes(target) == data and not os.path.lexists(source) and reader.read() in (before, data)


def _bytes(path: str) -> bytes:
    with open(path, "rb") as source:
        return source.read()


def _stamps(path: str) -> bool:
    return not _refusal(lambda: os.utime(path, (1, 1))) and os.stat(path).st_mtime_ns == 10**9


def _modes(path: str) -> bool:
    return not _refusal(lambda: os.chmod(path, 0o444)) and stat.S_IMODE(os.stat(path).st_mode) == 0o444


def _reflinks(path: str, copy: str) -> bool:
    import fcntl

    with open(path, "rb") as source, _opened(copy, b"") as target:
        return not _refusal(lambda: fcntl.ioctl(target, _FICLONE, source.fileno()))


def file_system(folder: Path) -> tuple[str, frozenset[str]]:
    """The kind of file system that a folder lies on (proc(5), mountinfo), and its options; empty where that cannot be told.

    By the place of its mount: Btrfs gives each subvolume a device number that no mount has.
    """
    found, options, depth = "", "", -1
    try:
        path = folder.resolve()
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            where = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[4]))
            if len(where.parts) >= depth and path.is_relative_to(where):
                kind, *_, options = line.partition(" - ")[2].split()
                found, depth = kind, len(where.parts)
    except (OSError, ValueError, IndexError):
        pass
    return found, frozenset(options.split(","))
