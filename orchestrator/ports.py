"""The seams: Store, Engine, Executor, Reporter. Each says its contract, failure included; no code.

No host path crosses the executor seam: it speaks in digests and streams, so that a cluster fits behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from orchestrator.canonical import Json
from orchestrator.digest import Digest
from orchestrator.engine_values import (
    BuildSpec,
    ContainerSpec,
    ContainerState,
    EngineInfo,
    LoadedImage,
    Pairs,
)
from orchestrator.ports_upkeep import Upkeep
from orchestrator.redaction import NONE, Secrets

_Made = TypeVar("_Made", covariant=True)


class BlobWriter(Protocol):
    """A blob being written; nothing of it is visible in the store before ``commit``."""

    def write(self, piece: bytes) -> object:
        """Add bytes; raises StoreError where they cannot be kept (no space, for one)."""

    def commit(self) -> tuple[Digest, int]:
        """Make the blob durable and visible; gives its digest and size in bytes."""


class Helper(Protocol[_Made]):
    """A process that works on open files; messages are answered in order."""

    @property
    def sent(self) -> int:
        """How many messages have no answer yet."""

    def send(self, files: Sequence[tuple[Sequence[int], int]]) -> None:
        """Give it files: what is open of each, and how many bytes it has."""

    def answered(self) -> bool:
        """Whether an answer is there."""

    def answer(self) -> Sequence[_Made | None]:
        """The oldest one, waited for: for each file what it made of it, or None; fewer where it died."""

    def close(self) -> None:
        """End it."""


# What a helper made of a file: digest, size, where it is staged unless the store has it, its stamp where that is a link.
Ahead = tuple[Digest, int, "str | None", "tuple[int, int] | None"]


class Intake(Protocol):
    """Many files on their way into the store; visible and durable, all of them, when the intake is left."""

    def helper(self) -> Helper[Ahead] | None:
        """Start a process that reads files for this intake, if one can be had; to be closed before it."""

    @property
    def sealed(self) -> Mapping[tuple[int, int], Digest]:
        """Device and inode of the files that became blobs where they lie, and were given a blob's time stamp by that."""

    def add(self, descriptor: int, size: int, ahead: Ahead | None = None) -> tuple[Digest, int]:
        """Take an open file from its position on, at most ``size`` bytes; gives digest and size of what was taken.

        ``ahead``: what a helper made of it.

        What is hashed is what is kept, whoever writes to the file meanwhile. Raises StoreError where the store
        cannot take it, ArtifactError where the file cannot be read.
        """


class Store(Upkeep, Protocol):
    """Two primitives, on every backend: blobs named by digest, and objects created at most once.

    Artifact versions, aliases, records and keys are built from these. What is read back is verified by the reader.
    All calls raise StoreError and leave the store readable.
    """

    @property
    def location(self) -> str:
        """The URI or folder as the user wrote it, for messages."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is there."""

    def open(self, digest: Digest) -> BinaryIO:
        """Open a blob for reading; the bytes are not verified yet. StoreError where it is missing."""

    def put(self, data: bytes) -> Digest:
        """Keep small bytes as a blob."""

    def writer(self) -> AbstractContextManager[BlobWriter]:
        """Write a blob of any size; without a commit nothing stays behind."""

    def intake(self, *, link: bool = False) -> AbstractContextManager[Intake]:
        """Take many files at once; after an error nothing is promised of any. ``link``: they may be taken as they lie."""

    def put_file(self, path: Path, *, digest: Digest, link: bool) -> None:
        """Keep a file whose digest is known, by hard link where ``link`` allows and the disk can."""

    def materialise(self, digest: Digest, target: Path, *, executable: bool) -> None:
        """Make the blob's bytes appear at ``target``, read-only, verified, by hard link where possible."""

    def fetch(self, digests: Iterable[Digest], count: Callable[[int], object] = lambda size: None) -> None:
        """Bring many blobs near, in parallel, before they are opened one by one; a folder has nothing to do.

        ``count`` is told of the bytes that came, as they come.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Create an object unless it exists: True if this call made it. Durable when it returns."""

    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None."""

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a prefix (which ends with ``/``), in bytewise order."""


class Engine(Protocol):
    """A Docker-compatible daemon. Every call raises EngineError; none retries by itself."""

    def info(self) -> EngineInfo:
        """Ask once, then remember."""

    def image(self, reference: str) -> LoadedImage | None:
        """The image, or None where the engine does not have it."""

    def load(self, archive: Iterable[bytes]) -> None:
        """Load a layout archive; EngineError also where the stream reports a failure under HTTP 200."""

    def save(self, reference: str) -> Iterator[bytes]:
        """The image as an archive."""

    def pull(self, reference: str, platform: str | None, reporter: Reporter | None = None) -> None:
        """Pull from a registry; ``reporter`` is told how far it is."""

    def build(self, context: BinaryIO, spec: BuildSpec, reporter: Reporter) -> str:
        """Build a Dockerfile from a context, a plain tar; its output goes to ``reporter``; gives the image's id.

        The image has no name. ``fresh`` reuses no step of an earlier build. Raises BuildFailed where a step fails.
        """

    def export(self, container: str) -> Iterator[bytes]:
        """The file system of a container, running or not, as a tar."""

    def tag(self, image_id: str, reference: str) -> None:
        """Give an image a name."""

    def tags(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The images' names that begin so, each with its image's bytes, shared layers included."""

    def remove_image(self, reference: str) -> None:
        """Remove a name, and the image with its last one; missing is fine."""

    def create(self, spec: ContainerSpec) -> str:
        """Create a container; gives its id."""

    def start(self, container: str, stdin: bytes | None = None) -> None:
        """Start a created container; ``stdin`` is all that it reads there, where its spec says that it reads."""

    def attach(self, container: str) -> Iterator[tuple[str, bytes]]:
        """Follow a created container's output to its end as ("stdout" | "stderr", bytes); call before ``start``."""

    def logs(
        self, container: str, *, follow: bool, since: float | None = None
    ) -> Iterator[tuple[str, bytes]]:
        """All output that the engine kept so far, as ``attach`` gives it; ``follow``: and what comes while it runs.

        ``since``: only what came from that time on (seconds since the epoch).
        """

    def wait(self, container: str) -> bool:
        """True when the container is no longer running, False when the connection broke: inspect, whichever it is."""

    def ping(self) -> None:
        """Raise EngineError unless the engine takes a new connection and answers within seconds."""

    def listening_since(self) -> float | None:
        """When it began to listen (seconds since the epoch), or None where that cannot be told."""

    def inspect(self, container: str) -> ContainerState | None:
        """The state, or None where there is no such container."""

    def stop(self, container: str, grace: float) -> None:
        """SIGTERM, then SIGKILL after ``grace`` seconds."""

    def kill(self, container: str) -> None:
        """SIGKILL now."""

    def remove(self, container: str) -> None:
        """Remove a container whatever its state, with its anonymous volumes; missing is fine."""

    def find(self, label: str) -> tuple[ContainerState, ...]:
        """The containers that carry the label ``name`` or ``name=value``."""

    def run_in(
        self, container: str, argv: tuple[str, ...], env: Pairs, reporter: Reporter, user: str = "0:0"
    ) -> tuple[int, str]:
        """Run a command in a running container; its output goes to ``reporter``; gives code and output."""

    def received(self, container: str) -> int | None:
        """Bytes that came to a running container over networks of its own, or None where that cannot be told."""

    def put(self, container: str, folder: str, files: Iterable[tuple[str, bytes, int]]) -> None:
        """Put files (name, bytes, mode) into a folder that exists in the container."""

    def get(self, container: str, path: str) -> Iterator[bytes]:
        """The bytes of one file in the container."""

    def idle_volumes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """The named volumes with this prefix that no container has, and their bytes."""

    def remove_volume(self, name: str) -> None:
        """Remove a named volume; missing is fine."""


@dataclass(frozen=True)
class InputMount:
    """An input of a run: the id as written in the config, what it resolved to, and its tree."""

    written: str
    id: str
    digest: Digest
    tree: Digest
    entry: str | None
    format: str
    size: int
    files: int
    metadata: str  # canonical JSON


@dataclass(frozen=True)
class RunSpec:
    """What an executor is told of one run, in digests and values."""

    run_id: str
    project: str
    image_id: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    inputs: tuple[InputMount, ...]
    network: str
    memory: int | None
    cpus: float | None
    gpus: tuple[str, ...]
    shm_size: int
    pids: int = 4096
    runtime: str | None = None  # the engine's name of an OCI runtime, such as runsc; None: its default
    secrets: tuple[str, ...] = ()  # names; the values are handed over at the start
    resumed: tuple[
        InputMount, ...
    ] = ()  # what an earlier run had saved that this one goes on from, oldest first


@dataclass(frozen=True)
class Sandbox:
    """The effective limits and permissions of a run, as they were asked of the engine and recorded."""

    user: str
    read_only_rootfs: bool
    capabilities_dropped: bool
    no_new_privileges: bool
    network: str
    pids: int
    memory: int | None
    cpus: float | None
    shm_size: int
    seccomp: str
    init: bool
    limits_enforced: bool
    runtime: str | None = None
    devices: tuple[str, ...] = ()  # device requests, as text


@dataclass(frozen=True)
class Ended:
    """How the container ended, as the engine tells it."""

    exit_code: int | None
    oom_killed: bool
    error: str
    started_at: str
    finished_at: str


class Executor(Protocol):
    """What places a container somewhere and follows it. Handles are container ids on an engine."""

    @property
    def id(self) -> str:
        """The builder id's last part, e.g. ``local-docker``."""

    def info(self) -> EngineInfo:
        """The engine behind it."""

    def check_gpus(self, gpus: tuple[str, ...], image_env: tuple[tuple[str, str], ...] = ()) -> None:
        """Whether GPUs can be given, as far as that can be told now; raises EngineError, ImageError where not."""

    def sandbox(self, spec: RunSpec) -> Sandbox:
        """What a run's container will be allowed to do here."""

    def submit(self, spec: RunSpec) -> str:
        """Create, but do not start, the container of a run; gives its handle."""

    def start(self, handle: str, secrets: Secrets = NONE) -> None:
        """Start it, with the values of the secrets that its spec names. They are written down nowhere."""

    def follow(self, handle: str) -> Iterator[tuple[str, bytes]]:
        """Its output to its end, through broken connections; called before ``start``, so that nothing is missed."""

    def replay(self, handle: str, *, follow: bool) -> Iterator[tuple[str, bytes]]:
        """The output that was kept so far, for a follower that was not there from the start."""

    def wait(self, handle: str) -> Ended | None:
        """Block until it has ended, through broken connections; None where the container is gone.

        One that the engine's own restart ended has the error ``daemon_restart``, whatever its exit code says.
        """

    def ping(self) -> None:
        """Raise EngineError unless what runs it answers."""

    def state(self, handle: str) -> ContainerState | None:
        """Its state now, or None where it is gone."""

    def cancel(self, handle: str, grace: float) -> None:
        """Ask it to end; after ``grace`` seconds make it end."""

    def kill(self, handle: str) -> None:
        """End it at once."""

    def outbox(self, run_id: str) -> Path:
        """A local folder that shows the run's outbox (a remote executor brings it here)."""

    def changed_inputs(self, run_id: str) -> tuple[str, ...]:
        """The ids of a run's inputs that somebody wrote to while it went on."""

    def find(self, run_id: str) -> str | None:
        """The handle of a run's container, by its label."""

    def cleanup(self, handle: str | None, run_id: str) -> None:
        """Remove container and outbox; only after the record is sealed."""


class Reporter(Protocol):
    """Where progress goes; the command line draws it, the core only says it."""

    def stage(self, name: str, detail: str = "") -> None:
        """A stage of the run begins."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def warn(self, text: str) -> None:
        """Something the user should know and may want to change."""

    def detail(self, text: str) -> None:
        """A line of a long step (an installer's output); may be dropped or folded."""

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None:
        """How many bytes of a long step are done; ``ended``: it is over, whole or not. May be dropped."""

    def event(self, name: str, fields: Mapping[str, Json]) -> None:
        """Something that only programs want to know; docs/cli.md has the list."""

    def log(self, stream: str, data: bytes) -> None:
        """Output of the workflow itself."""
