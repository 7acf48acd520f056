"""The host's side of a run's outbox: sees what the workflow saved, takes it, publishes it, answers.

The directory belongs to the workflow, which is not trusted: everything is opened by descriptor below one
directory that was opened once, links are never followed, sizes are bounded. Format: docs/contract.md.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator import canonical
from orchestrator.artifacts import taking, tree
from orchestrator.artifacts.declared import Ready, metrics_of, parse_ready
from orchestrator.artifacts.guard import NO_GUARD, Guard
from orchestrator.artifacts.outbox_files import read_json, size_of, write
from orchestrator.artifacts.version import Manifest, Version, publish
from orchestrator.canonical import Json
from orchestrator.digest import CHUNK, Digest, hex_of
from orchestrator.errors import ArtifactError, MirageError, StoreError
from orchestrator.ports import Reporter, Store
from orchestrator.progress import Meter
from orchestrator.reference import ArtifactRef
from orchestrator.sizes import readable_size
from orchestrator.store.sessions import StoreBusy, writing

_READY = re.compile(r"(0|[1-9][0-9]{0,8})\.ready\.json")
_PAYLOAD = re.compile(r"(0|[1-9][0-9]{0,8})")
# How often a save is taken again at once, where a collection of garbage took away what it was about to use.
_TRIES = 3
_LINE_LIMIT = 1 << 20
UNPUBLISHED = "unpublished-"
# A message may repeat what the workflow wrote, and goes into the record.
_MESSAGE_LIMIT = 2000
# So many refused saves are told in the record, and a tenth of them in warnings.
REFUSALS = 1000
_LINES_LIMIT = 1 << 30


@dataclass(frozen=True)
class Output:
    """One artifact of a run: published under an id, or kept by digest with the reason why it has none."""

    n: int
    version: Version | None
    problem: str | None


def unpublished(kind: str, name: str, digest: Digest) -> ArtifactRef:
    """The id of content that no version names."""
    return ArtifactRef(kind, name, f"{UNPUBLISHED}{hex_of(digest)[:12]}")


def prepare(folder: Path) -> None:
    """Make an empty outbox."""
    (folder / "artifacts").mkdir(parents=True)


class Outbox:
    """One run's outbox; ``poll`` may be called any number of times, by one process at a time.

    ``published`` is told of each version before the workflow is; ``before`` is what an earlier process,
    now dead, had been told: it is answered again and not taken again. What a run saves and a store that
    is away cannot take is kept on this machine, and published by ``settle``.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        run_id: str | None,
        reporter: Reporter,
        *,
        published: Callable[[int, Version], None] | None = None,
        before: Iterable[tuple[int, Version]] = (),
        guard: Guard = NO_GUARD,
    ) -> None:
        self._folder = folder
        self._store = store
        self._run_id = run_id
        self._reporter = reporter
        self._published = published
        self._before = dict(before)
        self.guard = guard
        self.again = False  # whether a save may have been tried before, by a dead process or by us, and not been told of
        self._seen: set[int] = set()
        self._unanswered: dict[int, bytes] = {}
        self._warned: set[str] = set()
        self._refusals = 0
        self._made: dict[int, tuple[Manifest, str | None]] = {}  # whole here, and not published
        self.outputs: list[Output] = []

    def poll(self, *, give_up: bool = False) -> int:
        """Take and answer everything that is ready; gives how many there were.

        StoreError where the store cannot take it (no space); it stays ready, and a later poll takes it,
        unless ``give_up`` says to tell the workflow that its save failed. What the workflow does to its own
        outbox is at most a warning: it never keeps a run from being sealed.
        """
        with self._opened() as top:
            if top is None:
                return 0
            for n in list(self._unanswered):
                self._answer(top, n)
            fresh = [n for n in self._numbers(top, _READY) if n not in self._seen]
            for n in fresh:
                self._take(top, n, give_up)
        return len(fresh)

    def within(self, store: Store) -> Outbox:
        """The same outbox, whose lines go to ``store``: the one of a session that outlasts them."""
        self._store = store
        return self

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The outbox's `artifacts/` as a descriptor, or None where the workflow took it away."""
        top: int | None = None
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                top = os.open("artifacts", flags, dir_fd=folder)
            finally:
                os.close(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._warn_once(f"the run's outbox cannot be read: {error.strerror}")
        try:
            yield top
        finally:
            if top is not None:
                os.close(top)

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._reporter.warn(text)

    def _numbers(self, top: int, grammar: re.Pattern[str]) -> list[int]:
        try:
            names = os.listdir(top)
        except OSError as error:
            self._warn_once(f"the run's outbox cannot be read: {error.strerror}")
            return []
        return sorted(int(match[1]) for match in map(grammar.fullmatch, names) if match)

    def _take(self, top: int, n: int, give_up: bool) -> None:
        answer: dict[str, Json] = {"schema": "mirage-done/1", "n": n}
        counted = self.guard.counted
        try:
            version = self._before.get(n) or self._publish(top, n)
            if self._published is not None and n not in self._before:
                self._published(n, version)
        except StoreError as error:
            if error.away and n in self._made and self._attempt(n):
                self._defer(answer, n, error)
            elif isinstance(error.__cause__, OSError) and not give_up:
                self.guard.counted, self.again = counted, True
                raise  # no space, or an I/O error of the store: not the workflow's fault, and may pass
            else:
                self.guard.counted = counted
                self._refuse(answer, n, error)
        except MirageError as error:
            self.guard.counted = counted
            self._refuse(answer, n, error)
        else:
            self.outputs.append(Output(n, version, None))
            answer.update(id=self._named(n, version), digest=version.digest, size=version.manifest.size)
            self._told(version)
        self._seen.add(n)
        self._unanswered[n] = canonical.encode(answer)
        self._answer(top, n)

    def _defer(self, answer: dict[str, Json], n: int, error: StoreError) -> None:
        """Answer a save whose store is away: the workflow goes on, with an id that says that it has no version yet."""
        manifest, _ = self._made[n]
        digest = self._store.put(manifest.encode())
        answer.update(
            id=str(unpublished(manifest.kind, manifest.name, digest)), digest=digest, size=manifest.size
        )
        self._warn_once(f"{error}\n  what the run saves is kept on this machine, and published at its end")
        self._reporter.note(f"kept {manifest.kind}:{manifest.name} ({readable_size(manifest.size)}) here")

    def settle(self) -> None:
        """Publish what was kept while the store was away. Raises StoreError where it still is."""
        for n, (manifest, version) in sorted(self._made.items()):
            try:
                made = self._keep(self._store, n, manifest, version)
                if self._published is not None:
                    self._published(n, made)
                self.outputs.append(Output(n, made, None))
                self._told(made)
            except StoreError:
                raise
            except MirageError as error:
                self._refuse({}, n, error)
            self._made.pop(n, None)
        self.outputs.sort(key=lambda output: output.n)

    def _told(self, made: Version) -> None:
        size = made.manifest.size
        self._reporter.note(f"saved {made.ref} ({readable_size(size)})")
        self._reporter.event("saved", {"id": str(made.ref), "digest": made.digest, "size": size})

    def _answer(self, top: int, n: int) -> None:
        """Tell the workflow; where its outbox does not let us, at the next poll."""
        try:
            write(top, f"{n}.done.json", self._unanswered[n])
            del self._unanswered[n]
        except OSError as error:
            self._warn_once(f"the workflow cannot be told that artifact {n} was taken: {error.strerror}")

    def _refuse(self, answer: dict[str, Json], n: int, error: MirageError) -> None:
        self._made.pop(n, None)
        code = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()
        message = self.guard.redactor.text(error.message)[:_MESSAGE_LIMIT]
        answer["error"] = {"code": code, "message": message, "hint": error.hint}
        self.outputs.append(Output(n, None, message))
        self._refusals += 1
        if self._refusals <= REFUSALS // 10:
            self._reporter.warn(f"an artifact was not published: {message}")

    def _publish(self, top: int, n: int) -> Version:
        ready = read_json(top, f"{n}.ready.json")
        manifest_of = parse_ready(ready)
        self.guard.check_text(canonical.encode(ready), "its name or metadata")
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            payload = os.open(str(n), flags, dir_fd=top)
        except OSError as error:
            raise ArtifactError(f"the files of artifact {n} are not there: {error.strerror}") from error
        try:
            for _ in range(_TRIES):
                with suppress(StoreBusy), writing(self._store) as store:
                    return self._collect(store, n, payload, manifest_of)
            with writing(self._store) as store:
                return self._collect(store, n, payload, manifest_of)
        finally:
            os.close(payload)

    def _collect(self, store: Store, n: int, payload: int, manifest_of: Ready) -> Version:
        total = None if manifest_of.entry is None else size_of(manifest_of.entry, payload)
        with Meter(self._reporter, f"collect {manifest_of.kind}:{manifest_of.name}", total) as meter:
            entries = taking.collect(store, payload, self.guard, meter=meter)
        files = [entry for entry in entries if entry.kind == "f"]
        if manifest_of.entry is not None and manifest_of.entry not in {entry.path for entry in files}:
            raise ArtifactError(f"artifact {n} names the file {manifest_of.entry!r}, which it does not have")
        manifest = Manifest(
            kind=manifest_of.kind,
            name=manifest_of.name,
            format=manifest_of.format,
            entry=manifest_of.entry,
            tree=store.put(tree.encode(entries)),
            size=sum(entry.size for entry in files),
            files=len(files),
            metadata=manifest_of.metadata,
        )
        self._made[n] = manifest, manifest_of.version
        version = self._keep(store, n, manifest, manifest_of.version)
        del self._made[n]
        return version

    def _keep(self, store: Store, n: int, manifest: Manifest, version: str | None) -> Version:
        """Give an artifact its id."""
        return publish(store, manifest, version, self._run_id, attempt=self._attempt(n), again=self.again)

    def _attempt(self, n: int) -> str | None:
        """What names a save of a run; plain sessions share one run id, so there a number names none."""
        return f"{self._run_id}/{n}" if self._run_id not in (None, "plain") else None

    def _named(self, n: int, version: Version) -> str:
        """The id that the workflow is told of an artifact."""
        return str(version.ref)

    def metrics(self) -> tuple[dict[str, float | None], Digest | None, int]:
        """The last value of each metric, the blob of all lines, and how many lines could not be read."""
        last: dict[str, float | None] = {}
        bad = 0
        redactor = self.guard.redactor

        def see(line: bytes) -> None:
            nonlocal bad
            try:
                found = metrics_of(line, last)
                last.update({redactor.text(name): value for name, value in found.items()})
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MirageError):
                bad += 1

        blob = self._keep_lines("metrics.jsonl", see)
        return last, blob, bad

    def events(self) -> Digest | None:
        """The blob of the run's events (flows and steps), where there are any."""
        return self._keep_lines("events.jsonl", lambda line: None)

    def audit(self, see: Callable[[bytes], None]) -> Digest | None:
        """The blob of what the run's audit noted, each line shown to ``see``."""
        redactor = self.guard.redactor
        return self._keep_lines("audit.jsonl", lambda line: see(redactor.clean(line)))

    def _keep_lines(self, name: str, see: Callable[[bytes], None]) -> Digest | None:
        """Keep a file's whole lines as a blob and show each; None where there are none.

        In memory is one piece and at most one line. An endless line, or more than the limit, ends it.
        """
        source = self._open_lines(name)
        if source is None:
            return None
        with source, self._store.writer() as writer:
            kept, rest, some = 0, b"", False
            clean = self.guard.redactor.stream()
            while kept < _LINES_LIMIT and len(rest) <= _LINE_LIMIT:
                try:
                    piece = source.read(CHUNK)
                except OSError as error:
                    self._reporter.warn(f"{name} was kept up to where it cannot be read: {error.strerror}")
                    break
                if not piece:
                    break
                lines, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    writer.write(clean.feed(lines + newline))
                    kept, some = kept + len(lines) + 1, True
                    for line in lines.split(b"\n"):
                        see(line)
            else:
                self._reporter.warn(
                    f"{name} was kept up to its first {kept} bytes: what follows is too long (at most "
                    f"{_LINE_LIMIT >> 20} MiB a line, {_LINES_LIMIT >> 30} GiB in all)"
                )
            writer.write(clean.end())
            return writer.commit()[0] if some else None

    def _open_lines(self, name: str) -> BinaryIO | None:
        try:
            descriptor = os.open(
                self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            self._reporter.warn(f"{name} cannot be read: {error.strerror}")
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            self._reporter.warn(f"{name} is not a regular file")
            return None
        return open(descriptor, "rb", buffering=0)

    def refused(self) -> tuple[str, ...]:
        """Why artifacts were not published, for the record: the first REFUSALS, and how many more."""
        problems = [each.problem for each in self.outputs if each.problem is not None]
        more = len(problems) - REFUSALS
        return (*problems[:REFUSALS], *((f"and {more} more",) if more > 0 else ()))

    def unfinished(self) -> int:
        """How many payloads were begun and never declared ready."""
        with self._opened() as top:
            if top is None:
                return 0
            return sum(1 for n in self._numbers(top, _PAYLOAD) if n not in self._seen)
