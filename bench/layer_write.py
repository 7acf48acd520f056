"""Writing a layer from files on disk, against its floor: one pass of sha256 and write over the same bytes."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from orchestrator.image import layer

FILES = 11_000  # the shape of numpy, pandas and scikit-learn together
BYTES = 350_000_000
ROUNDS = 5


def _make_tree(top: Path) -> None:
    """Many small files and a few large ones, as in an environment: half of the bytes are in a hundredth of the files."""
    luck = Random(1)
    pool = luck.randbytes(1 << 22)
    large = FILES // 100
    for number in range(FILES):
        folder = top / f"package_{number % 200:03}"
        folder.mkdir(exist_ok=True)
        mean = BYTES // 2 // (large if number < large else FILES - large)
        left = int(mean * luck.uniform(0.2, 1.8))
        with (folder / f"module_{number:05}.py").open("wb") as target:
            while left > 0:
                target.write(pool[: min(left, len(pool))])
                left -= len(pool)


def _floor(source: Path, target: Path) -> None:
    """Read one file, hash it, write it: what the layer's bytes cost at least."""
    hasher = hashlib.sha256()
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while piece := reader.read(1 << 20):
            hasher.update(piece)
            writer.write(piece)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print both, and their ratio; the two take turns, so that a busy machine slows both."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        top, tar, copy = Path(folder) / "tree", Path(folder) / "layer.tar", Path(folder) / "copy.tar"
        top.mkdir()
        _make_tree(top)

        def write() -> None:
            with tar.open("wb") as target:
                layer.to_file(layer.scan(os.fsencode(top), b"opt/venv"), target)

        write()
        size = tar.stat().st_size
        rounds = [(_seconds(write), _seconds(lambda: _floor(tar, copy))) for _ in range(ROUNDS)]
        ours, floor = (min(column) for column in zip(*rounds, strict=True))
        print(f"layer write: {size / 1e6:.0f} MB in {FILES} files, best of {ROUNDS}")
        print(f"  ours   {ours:6.3f} s  {size / 1e6 / ours:6.0f} MB/s")
        print(
            f"  floor  {floor:6.3f} s  {size / 1e6 / floor:6.0f} MB/s  (sha256 and write of the same bytes)"
        )
        print(f"  ratio  {ours / floor:.2f}")
