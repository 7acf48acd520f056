"""Outputs that are huge, or very many: what one takes in time and in mirage-run's memory, and that all of it is there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.figures import Counts
from tests.run_tools import BIN, Project
from tests.test_run_log import peak

SIZES = "outputs: one huge file, and very many small ones"
MIB = 1 << 20
# By hand, in the words of docs/contract.md: whoever saves a file under its path has it on the disk once more.
WORKFLOW = """
import json, os, random, time
from mirage import artifact, config

OUT = "/mirage/out/artifacts/7"


def announced(kind, name, entry, form):
    ready = {"schema": "mirage-ready/1", "n": 7, "kind": kind, "name": name, "version": None, "format": form,
             "entry": entry, "metadata": {}}
    with open(OUT + ".tmp", "w") as sink:
        json.dump(ready, sink)
    os.sync()
    os.rename(OUT + ".tmp", OUT + ".ready.json")
    while not os.path.exists(OUT + ".done.json"):
        time.sleep(0.05)
    print(json.load(open(OUT + ".done.json")), flush=True)


def huge(mib, by_hand):
    place = OUT if by_hand else "/mirage/out/mine"
    os.mkdir(place)
    rest = random.Random(1).randbytes((1 << 20) - 8)
    with open(place + "/huge.bin", "wb", buffering=0) as sink:
        for number in range(mib):
            sink.write(number.to_bytes(8, "big") + rest)
    print("written", flush=True)
    if by_hand:
        announced("file", "huge", "huge.bin", "bytes")
    else:
        from pathlib import Path
        print(artifact.File.save(Path(place + "/huge.bin"), name="huge").id, flush=True)


def many(folders, by_hand):
    place = OUT if by_hand else "/mirage/out/mine"
    os.mkdir(place)
    for folder in range(folders):
        os.mkdir(f"{place}/{folder:03}")
        for number in range(1000):
            with open(f"{place}/{folder:03}/{number:03}.txt", "wb", buffering=0) as sink:
                sink.write(b"file %d of folder %d\\n" % (number, folder))
    print("written", flush=True)
    if by_hand:
        announced("dataset", "many", None, "directory")
    else:
        from pathlib import Path
        print(artifact.Dataset.save(Path(place), name="many").id, flush=True)


(huge if config.what == "huge" else many)(config.count, config.by_hand)
"""


def project(top: Path) -> Project:
    """A project whose workflow saves what `--set` says."""
    return Project(top, WORKFLOW, files={"configs/a.yaml": "what: huge\ncount: 1\nby_hand: false\n"})


def saved(
    made: Project, what: str, count: int, *, by_hand: bool = False
) -> tuple[dict[str, Any], str, int, float]:
    """A run that saves it: its object, what it said, the most memory that mirage-run had, and its seconds."""
    words = ("--set", f"what={what}", "--set", f"count={count}", "--set", f"by_hand={str(by_hand).lower()}")
    told = made.folder.parent / "told"
    began, most = time.monotonic(), 0
    with told.open("wb") as sink:
        process = subprocess.Popen(
            [str(BIN / "mirage-run"), "--config", "configs/a.yaml", "--json", *words],
            cwd=made.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            start_new_session=True,
        )
        while process.poll() is None:
            most = max(most, peak(process))
            time.sleep(0.02)
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    said = told.read_text(errors="replace")
    assert process.returncode == 0, said[-3000:]
    return json.loads(out), said, most, time.monotonic() - began


def huge(made: Project, mib: int, counts: Counts, *, by_hand: bool = False) -> tuple[str, int, float]:
    """One file of so many MiB: its record says it, and every byte of it is in the store."""
    told, said, most, seconds = saved(made, "huge", mib, by_hand=by_hand)
    counts.trials += 1
    output = _recorded(made, told["run_id"])
    counts.unless(output == ("file:huge:v1", mib * MIB, 1), "lost", str(output))
    (entry,) = _tree(made, told)
    hasher, rest = hashlib.sha256(), random.Random(1).randbytes(MIB - 8)
    for number in range(mib):
        hasher.update(number.to_bytes(8, "big") + rest)
    counts.unless(entry["d"] == f"sha256:{hasher.hexdigest()}", "corrupt", f"its digest is {entry['d']}")
    name = entry["d"].removeprefix("sha256:")
    with (made.store / "blobs" / "sha256" / name[:2] / name).open("rb", buffering=0) as source:
        kept = _hash(source)
    counts.unless(kept == name, "corrupt", f"its bytes hash to {kept}")
    _nothing_left(made, counts)
    return said, most, seconds


def _recorded(made: Project, run_id: str) -> tuple[str, int, int]:
    """The one output in a record: its id, its bytes and its files."""
    _, output = made.record(run_id)["subject"]
    return output["name"], output["annotations"]["size"], output["annotations"]["files"]


def _tree(made: Project, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of the one output's tree, as the store has them."""
    (output,) = told["outputs"]
    tree = json.loads(made.blob(output["digest"]))["tree"]
    return map(json.loads, made.blob(tree).splitlines())


def _hash(source: Any) -> str:
    hasher = hashlib.sha256()
    while piece := source.read(MIB):
        hasher.update(piece)
    return hasher.hexdigest()


def many(made: Project, folders: int, counts: Counts, *, by_hand: bool = False) -> tuple[str, int, float]:
    """A thousand files in each of so many folders: its record says them, and every one of them is in the store."""
    told, said, most, seconds = saved(made, "many", folders, by_hand=by_hand)
    counts.trials += 1
    name, _, files = _recorded(made, told["run_id"])
    counts.unless((name, files) == ("dataset:many:v1", folders * 1000), "lost", f"{name}: {files} files")
    blobs = {path.name for path in (made.store / "blobs" / "sha256").glob("*/*")}
    there = 0
    for at, entry in enumerate(_tree(made, told)):
        folder, number = divmod(at, 1000)
        digest = hashlib.sha256(b"file %d of folder %d\n" % (number, folder)).hexdigest()
        good = (entry["p"], entry["d"]) == (f"{folder:03}/{number:03}.txt", f"sha256:{digest}")
        counts.unless(good, "corrupt", str(entry))
        counts.unless(digest in blobs, "lost", entry["p"])
        there += 1
    counts.unless(there == folders * 1000, "lost", f"{there} files in the tree")
    _nothing_left(made, counts)
    return said, most, seconds


def _nothing_left(made: Project, counts: Counts) -> None:
    counts.unless(made.containers() == [], "orphans", "a container")
    left = os.listdir(made.store / "staging")
    counts.unless(left == [], "orphans", f"{len(left)} under staging/")
    outboxes = list((made.folder / ".mirage" / "runs").glob("*/out/artifacts"))
    counts.unless(outboxes == [], "orphans", f"an outbox: {outboxes}")
