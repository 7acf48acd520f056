"""Whatever Mirage reads that others wrote, fed with what nobody meant: each reader by name, seeds, and a runner.

`python -m tests.fuzzing TARGET COUNT SEED` runs one target in a process of its own, within 256 MiB beyond what the
process had at its start and 1 second for each input; it prints one JSON object and ends with 1 at a finding.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from mirage.errors import MirageError as SdkError
from mirage.names import check_id
from orchestrator import canonical, overrides, plan, where, yamlcore
from orchestrator import settings as project_settings
from orchestrator.artifacts import ready, tree, version
from orchestrator.artifacts.audit import Audit
from orchestrator.catalog import marks
from orchestrator.digest import parse_digest
from orchestrator.errors import MirageError
from orchestrator.image import dockerfile, oci
from orchestrator.journal import RunFolders
from orchestrator.journal import read as read_journal
from orchestrator.judging.record import Record
from orchestrator.judging.record_form import RECORD
from orchestrator.locks import lock
from orchestrator.locks.source import LockSource
from orchestrator.reference import ArtifactRef, RunId, check_name, parse_artifact, parse_run_id
from orchestrator.source import lfs, listing, objects
from orchestrator.store.folder import FolderStore
from tests import lock_tools
from tests.record_tools import Records

SECONDS = 1.0
MEMORY = 256 << 20
RUN_ID = RunId("20260102-030405-abcdef")
DIGEST = "sha256:" + "ab" * 32


class TooSlow(BaseException):
    """An input took longer than it may; no reader catches it."""


def text(data: bytes) -> str:
    """Bytes as a command line gives them: anything that is not UTF-8 as lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def config(data: bytes) -> None:
    """YAML, and project.yaml's settings in it."""
    found = yamlcore.parse(data, "fuzz.yaml").value
    layer = project_settings.Layer(found, lambda path: "fuzz.yaml")
    canonical.encode(found)
    project_settings.apply(project_settings.ProjectSettings(), [layer])


def override(data: bytes) -> None:
    """`--set`, applied to a config."""
    values: dict[str, Any] = {"training": {"lr": 0.1, "layers": [1, 2]}, "data": {"set": "dataset:a:v1"}}
    overrides.apply(values, overrides.parse(text(data)))


def names(data: bytes) -> None:
    """Names, ids, digests, run ids, paths in artifacts: each reader must refuse what would leave its folder."""
    word = text(data)
    for reader in (parse_artifact, parse_digest, parse_run_id, tree.check_path, check_id):
        _typed(lambda reader=reader: _within(reader(word)))  # type: ignore[misc]
    _typed(lambda: _within(check_name(word, "name")))
    _typed(lambda: tree.check_link("a/b/c", word))


def _typed(action: Callable[[], object]) -> None:
    with contextlib.suppress(MirageError, SdkError):
        action()


def _within(found: object) -> None:
    parts = str(found).split("/")
    assert ".." not in parts and "" not in parts and "\0" not in str(found), f"a path escaped: {found!r}"


def where_grammar(data: bytes) -> None:
    """`--where` and `--sort`."""
    _typed(lambda: where.parse_sort(text(data)))
    expression = where.parse(text(data))
    list(where.paths(expression))
    where.matches(expression, lambda path: 0.5 if "metric" in path else "text")


def tree_manifest(data: bytes) -> None:
    """A tree blob."""
    for entry in tree.parse(data):
        _within(entry.path)


def record(data: bytes) -> None:
    """A record, by its form."""
    found = Record(RUN_ID, data)
    list(RECORD(found.statement, ""))


def announcement(data: bytes) -> None:
    """ready.json, a line of metrics, a line of the audit: what a workflow writes."""
    audit = Audit()
    audit.see(data)
    audit.see(b'{"kind": "python", "name": "3"}')
    found = audit.summary({"a": 0})
    canonical.encode(found)
    try:
        item = json.loads(data)
    except (ValueError, RecursionError):
        return
    ready.parse(item)


def dockerfile_text(data: bytes) -> None:
    """A Dockerfile's instructions, its bases and what it copies."""
    found = dockerfile.parse("Dockerfile", data)
    list(dockerfile.froms(found, {}))
    list(dockerfile.sources(found))


def git_listing(data: bytes) -> None:
    """What git prints of a tree, of a commit; LFS pointers."""
    lfs.parse_pointer(data)
    _typed(lambda: objects.commit_time(data, "c"))
    for _, _, _, _, path in listing.entries(data):
        assert b".." not in path.split(b"/"), "a path escaped"


def _lock(name: str, others: dict[str, bytes] | None = None) -> Callable[[bytes], None]:
    files = others or {}

    def read(data: bytes) -> None:
        lock.read(LockSource(name, data, ("main",), "refuse", files.get, [name, *files]))

    return read


class _Disk:
    """Readers that need files: a journal, a plan, objects of a store."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="mirage-fuzz-"))
        self.store = FolderStore.open_at(self.top / "store")
        self.run = self.top / "runs" / RUN_ID
        self.run.mkdir(parents=True)
        self.folders = RunFolders(self.top / "runs", self.top / "open")
        self.ref = ArtifactRef("file", "a", "v1")
        self.pointer = self.top / "store" / "refs" / "file" / "a" / "v1.json"
        self.pointer.parent.mkdir(parents=True, exist_ok=True)

    def journal(self, data: bytes) -> None:
        """A journal and a plan, as a dead process or a bad disk left them."""
        (self.run / "journal").write_bytes(data)
        list(read_journal(self.folders, RUN_ID))
        plan.parse(data)

    def manifest(self, data: bytes) -> None:
        """A version's pointer and an artifact's manifest, from a store that others wrote."""
        self.pointer.write_bytes(data)
        _typed(lambda: version.load(self.store, self.ref))
        _typed(lambda: marks.parse("0", data))
        digest = self.store.put(data)
        try:
            version.read_manifest(self.store, digest)
        finally:
            name = digest.removeprefix("sha256:")
            path = self.top / "store" / "blobs" / "sha256" / name[:2] / name
            path.unlink(missing_ok=True)

    def image(self, data: bytes) -> None:
        """An image's config and manifest, as a store or a registry has them."""
        for pair in ((data, b"{}"), (b'{"rootfs":{"diff_ids":[]}}', data)):
            with suppress(ValueError):  # its contract: the caller says which image it is
                oci.parse(*pair)


def targets() -> dict[str, tuple[Callable[[bytes], None], list[bytes]]]:
    """Each reader with seeds that it takes, to begin from."""
    disk = _Disk()
    poetry, pipenv = lock_tools.files_of("poetry21"), lock_tools.files_of("pipenv")
    pylock = lock_tools.files_of("pylock")
    record_bytes = Records(disk.top / "records").add(RUN_ID, metrics={"a": 1.5}, inputs=["dataset:a:v1"])
    entry = b'{"d":"' + DIGEST.encode() + b'","p":"a/b","s":3,"t":"f","x":0}\n'
    ready = (
        b'{"schema":"mirage-ready/1","n":0,"kind":"file","name":"a","version":null,"format":"json","entry":"data.json",'
        b'"metadata":{"k":[1,{"a":null}]}}'
    )
    yaml = (
        b'project: x\nstore: s3://bucket/prefix\nrun: {network: none, memory: 8g, timeout: 2h, env: {A: "b"}, gpus: [0]}\n'
        b"anchors: &a {b: [1, 2.5, ~, yes]}\nagain: *a\ntext: |\n  line\n  line\n"
    )
    hashes = (
        b"numpy==2.0.0 \\\n    --hash=sha256:"
        + b"ab" * 32
        + b"\n-r other.txt\nfoo[bar]==1.0; python_version < '3.12'\n"
    )
    listed = (
        b"100644 blob "
        + b"ab" * 20
        + b"       7\tsrc/a.py\x00160000 commit "
        + b"cd" * 20
        + b"       -\tsub\x00"
    )
    journal = (
        b'{"event":"begun","at":1}\n{"event":"published","n":0,"id":"file:a:v1","digest":"'
        + DIGEST.encode()
        + b'"}\n'
    )
    manifest = (
        b'{"schema":"mirage-artifact/1","kind":"file","name":"a","format":"json","entry":"data.json","tree":"'
        + DIGEST.encode()
        + b'","size":3,"files":1,"metadata":{}}'
    )
    return {
        "config": (config, [yaml]),
        "override": (override, [b"training.lr=0.01", b"+a.b=[1, 2]", b"training.layers.0=3"]),
        "names": (
            names,
            [b"dataset:a:v1", DIGEST.encode(), RUN_ID.encode(), b"a/b/c", b"../../x", b"a%2f..%2f"],
        ),
        "where": (
            where_grammar,
            [b"metrics.accuracy >= 0.89 and not (tags = 'best' or branch ~ 'x*')", b"-metrics.a"],
        ),
        "tree": (tree_manifest, [entry, entry + b'{"d":"b","p":"l","t":"l"}\n{"p":"z","t":"d"}\n']),
        "record": (record, [record_bytes]),
        "announcement": (
            announcement,
            [ready, b'{"kind": "missing", "name": "/x"}', b'{"values": {"a": 1}}'],
        ),
        "journal": (disk.journal, [journal, b'{"schema":"mirage-plan/1","run_id":"x"}']),
        "manifest": (
            disk.manifest,
            [manifest, b'{"digest":"' + DIGEST.encode() + b'","created":"x","run":null}'],
        ),
        "image": (
            disk.image,
            [b'{"rootfs":{"diff_ids":["' + DIGEST.encode() + b'"]},"layers":[{"size":1}],"config":{}}'],
        ),
        "dockerfile": (
            dockerfile_text,
            [b"# syntax=x\nARG A=1\nFROM debian:12 AS b\nCOPY --from=b a b\nRUN <<E\nx\nE\n"],
        ),
        "git": (git_listing, [listed, b"tree x\ncommitter A <a@b> 1700000000 +0000\n\nmessage"]),
        "requirements": (_lock("requirements.txt", {"other.txt": b"a==1\n"}), [hashes]),
        "poetry": (_lock("poetry.lock", _without(poetry, "poetry.lock")), [poetry["poetry.lock"]]),
        "pipfile": (_lock("Pipfile.lock", _without(pipenv, "Pipfile.lock")), [pipenv["Pipfile.lock"]]),
        "pylock": (_lock("pylock.toml"), [pylock["pylock.toml"]]),
    }


def _without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {each: data for each, data in files.items() if each != name}


# What is done to a seed, drawn by hypothesis: replace, insert, delete, repeat, nest
_TOKENS = [
    b"\0", b"\n", b"\r\n", b"'", b'"', b"\\", b"{", b"}", b"[", b"]", b"(", b")", b":", b",", b"../",
    b"/", b"-", b"1e999", b"NaN", b"-0", b"99999999999999999999", b"\xff", b"\xed\xa0\x80",
    b"\xef\xbb\xbf", b"\\ud800", b"null", b"true", b"\xe2\x80\xae", b"*a", b"&a ", b"!!python/object ",
    b"<<: ", b"${", b"%", b"\t", b"\x1b", b"==", b"#", b"\x80\x04", b"'''", b"[[", b"]]", b"=",
]  # fmt: skip
_OPERATION = st.tuples(
    st.sampled_from(["replace", "insert", "insert", "delete", "repeat", "nest"]),
    st.floats(0, 1),
    st.one_of(st.sampled_from(_TOKENS), st.binary(max_size=6)),
    st.integers(1, 64),
)


def mutated(seed: bytes, operations: list[tuple[str, float, bytes, int]]) -> bytes:
    """A seed after some operations."""
    for kind, place, piece, count in operations:
        at = int(place * len(seed))
        if kind == "replace":
            seed = seed[:at] + piece + seed[at + len(piece) :]
        elif kind == "insert":
            seed = seed[:at] + piece + seed[at:]
        elif kind == "delete":
            seed = seed[:at] + seed[at + count :]
        elif kind == "repeat":
            seed = seed[:at] + seed[at : at + count] * count + seed[at:]
        else:
            opening, closing = ((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"- ", b""))[count % 4]
            depth = count**2 * 4
            seed = seed[:at] + opening * depth + piece + closing * depth + seed[at:]
    return seed[: 1 << 20]


def guarded(action: Callable[[bytes], None], data: bytes) -> None:
    """Feed one input: only a typed error may come of it, in time."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        action(data)
    except (MirageError, SdkError):
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _late(number: int, frame: FrameType | None) -> None:
    raise TooSlow(f"longer than {SECONDS} s")


def limit() -> None:
    """One second for each input from here on, and MEMORY more than there is now."""
    signal.signal(signal.SIGALRM, _late)
    with open("/proc/self/statm") as source:
        now = int(source.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def run(name: str, count: int, seed: int) -> dict[str, Any]:
    """``count`` inputs for one target; the finding, where there is one, by its smallest input."""
    action, seeds = targets()[name]
    tried = 0
    last = b""

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from([*seeds, *seeds, b""]), st.lists(_OPERATION, max_size=5))
    def feed(start: bytes, operations: list[tuple[str, float, bytes, int]]) -> None:
        nonlocal tried, last
        tried += 1
        last = mutated(start, operations)
        guarded(action, last)

    for start in seeds:
        guarded(action, start)
    limit()
    begun = time.monotonic()
    found = None
    try:
        feed()
    except BaseException as error:
        found = {
            "error": f"{type(error).__name__}: {error}"[:500],
            "input": repr(last[:2000]),
            "size": len(last),
        }
        found["where"] = "".join(traceback.format_tb(error.__traceback__)[-3:])
    return {"target": name, "tried": tried, "seconds": round(time.monotonic() - begun, 2), "finding": found}


if __name__ == "__main__":
    result = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(result))
    sys.exit(1 if result["finding"] else 0)
