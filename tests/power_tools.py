"""Power cuts on a real ext4: the file system is shut down in the middle of writing, mounted again, and looked at.

The cut is ext4's own (EXT4_IOC_SHUTDOWN without a flush of its log, as the tests of file systems have it): from that
moment nothing more reaches the disk, and what was only in memory is lost. A write cache in a drive that lies about
its flushes is not played.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from orchestrator import journal
from orchestrator.artifacts.version import every, versions
from orchestrator.digest import Digest, of_file
from orchestrator.errors import MirageError
from orchestrator.journal import RunFolders
from orchestrator.reference import RunId, record_key
from orchestrator.store import disk
from orchestrator.store.folder import FolderStore
from orchestrator.trust.chain import Link
from orchestrator.trust.notary import Notary
from orchestrator.trust.trusted import Trust
from orchestrator.trust.walk import walk
from tests.figures import Counts
from tests.record_tools import run_id
from tests.store_tools import needs_root, save, whole
from tests.trust_tools import statement

# linux/ext4.h: _IOR('X', 125, __u32), and EXT4_GOING_FLAGS_NOLOGFLUSH
_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2


class Disk:
    """An ext4 in a file, mounted."""

    def __init__(self, top: Path, mib: int = 192) -> None:
        needs_root()
        self._image = top / "disk.img"
        self.folder = top / "disk"
        self.folder.mkdir()
        with self._image.open("wb") as sink:
            sink.truncate(mib << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.folder], check=True)

    def _unmount(self) -> None:
        """Unmount it, and wait until the kernel has let go of it: a container that starts this moment holds all mounts."""
        subprocess.run(["umount", self.folder], check=True)
        for _ in range(600):
            found = subprocess.run(["losetup", "-j", self._image], capture_output=True, check=True)
            if not found.stdout:
                return
            time.sleep(0.02)
        raise AssertionError(f"{self._image} stays busy")

    def cut(self) -> None:
        """The power fails."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """What was shut down is mounted again, and its log replayed."""
        self._unmount()
        self._mount()

    def close(self) -> None:
        """Unmount it for good."""
        subprocess.run(["umount", "-l", self.folder], check=True)


@contextmanager
def an_ext4(top: Path, mib: int = 192) -> Iterator[Disk]:
    """A Disk for a while."""
    made = Disk(top, mib)
    try:
        yield made
    finally:
        made.close()


class PowerCuts:
    """Publishes, journals and records on a disk whose power fails now and then; each cut is looked at."""

    def __init__(self, disk: Disk, counts: Counts, dice: Random, *, careless: bool = False) -> None:
        self._disk, self._counts, self._dice, self._careless = disk, counts, dice, careless
        self._store = disk.folder / "store"
        self._folders = RunFolders(disk.folder / "runs", disk.folder / "open")
        self._runs = 0
        self.acknowledged = 0
        self.late, self.late_lost = 0, [""][:0]  # what was told from the cut on, and what of that is gone
        FolderStore.open_at(self._store)
        os.sync()

    def once(self) -> None:
        """Write until the power fails; count what was acknowledged and is gone, and what is torn."""
        self._counts.trials += 1
        acked, late = self._until_the_cut()
        self._disk.power_on()
        self.acknowledged += len(acked)
        self.late += len(late)
        self._look(acked, late)

    def _until_the_cut(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """What was heard before the power failed, and what was told afterwards."""
        source, sink = os.pipe()
        child, seed, first = os.fork(), self._dice.random(), self._runs
        if child == 0:
            code = 1
            try:
                os.close(source)
                if self._careless:
                    _forget_to_sync()
                self._write(sink, Random(seed), first)
            except MirageError:
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(sink)
        # from the first words on: opening a store is a part of it, too
        select.select([source], [], [], 30)
        heard, least, patience = b"", self._dice.randint(4, 16), time.monotonic() + 60
        while heard.count(b"\n") < least and time.monotonic() < patience:
            heard += os.read(source, 1 << 16) if select.select([source], [], [], 1)[0] else b""
        time.sleep(self._dice.uniform(0.0, 0.03))
        # What was told before this moment counts, by the time that it was told, whether or not we had read it by then.
        # Later, on a machine without power, nobody would have told it: while here a sync that was under way may even come
        # back without an error.
        began = time.monotonic()
        self._disk.cut()
        ended = time.monotonic()
        with open(source, "rb") as rest:
            told = [json.loads(line) for line in (heard + rest.read()).splitlines()]
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it did not end by a refusal"
        self._runs += 1_000
        told = [{**line, "during": str(float(line["time"]) < ended)} for line in told if len(line) > 1]
        before = [line for line in told if float(line["time"]) < began]
        return before, told[len(before) :]

    def _write(self, sink: int, dice: Random, number: int) -> None:
        def tell(what: dict[str, str]) -> None:
            os.write(sink, json.dumps({**what, "time": str(time.monotonic())}).encode() + b"\n")

        tell({})
        store = FolderStore.open_at(self._store)
        notary = Notary(store)
        while True:
            run = run_id(number)
            number += 1
            told = journal.begin(self._folders, run, b"{}")
            tell({"line": "begun", "run": run})
            version = save(store, self._content(dice), dice.choice("abc"), run=run)
            tell({"version": str(version.ref)})
            told.write("published", id=str(version.ref))
            tell({"line": "published", "run": run})
            key = record_key(run)

            def sealed(link: Link, run: str = run) -> bytes:
                return statement(run, link)

            def before(link: Link, digest: Digest) -> None:
                told.write("record", digest=digest, seq=link.seq)  # noqa: B023  (called at once)

            notary.seal(key, sealed, before)
            tell({"record": key})
            told.close()
            tell({"line": "closed", "run": run})

    def _content(self, dice: Random) -> Path:
        """A small tree outside of that disk; now and then one of many files, which takes the other way to be synced."""
        folder = Path(f"/dev/shm/mirage-cut-{os.getpid()}")
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        for number in range(dice.choice([1, 3, 25])):
            (folder / str(number)).write_bytes(os.urandom(dice.randrange(1, 20_000)))
        return folder

    def _look(self, acked: list[dict[str, str]], late: list[dict[str, str]]) -> None:
        for path in (self._store / "blobs").rglob("*"):
            if path.is_file():
                with path.open("rb") as source:
                    self._counts.unless(
                        of_file(source) == f"sha256:{path.name}", "corrupt", f"blob {path.name}"
                    )
        store = self._reopened()
        if store is None:
            return
        for ref in every(store):
            self._harm("corrupt", f"version {ref}", lambda ref=ref: whole(store, str(ref)))  # type: ignore[misc]
        for each in acked:
            self._counts.unless(self._is_there(store, each), "lost", str(each))
        self.late_lost += [str(each) for each in late if not self._is_there(store, each)]
        self._harm("corrupt", "the log of records", lambda: _log_is_whole(store))

    def _is_there(self, store: FolderStore, told: dict[str, str]) -> bool:
        if "version" in told:
            kind, name, version = told["version"].split(":")
            return version in versions(store, kind, name)
        if "record" in told:
            return bool(store.read(told["record"]))
        return told["line"] in {line["event"] for line in journal.read(self._folders, RunId(told["run"]))}

    def _reopened(self) -> FolderStore | None:
        made: list[FolderStore] = []
        self._harm("corrupt", "the store", lambda: made.append(FolderStore.open_at(self._store)))
        return made[0] if made else None

    def _harm(self, harm: str, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever a damaged store makes the code say
            self._counts.found(harm, f"{what}: {error!r}"[:300])


def _log_is_whole(store: FolderStore) -> None:
    """A last entry whose record a dead process did not come to is no fault: the next to append completes it."""
    faults = [fault for fault in walk(store, Trust()).faults if fault.kind != "unsealed"]
    assert faults == [], faults


def _forget_to_sync() -> None:
    """What the code would be without a single sync: the control, which must lose."""

    def nothing(*_: object) -> None:
        return None

    os.fsync = nothing  # type: ignore[assignment]
    disk._sync_file_system = nothing  # type: ignore[assignment]
