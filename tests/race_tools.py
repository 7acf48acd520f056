"""Publishers, readers and builders at once, round after round: one winner each, no torn read, one build."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.artifacts.version import VersionExists, every, publish, versions
from orchestrator.reference import ArtifactRef
from orchestrator.store.folder import FolderStore
from tests.figures import Counts
from tests.run_tools import Project
from tests.store_tools import check_store, manifest, staged, whole

RACES = "T7 publish: the same version by many"
BUILDS = "T7 build: the same key by many"
_fork = multiprocessing.get_context("fork")


def races(root: Path, counts: Counts, *, publishers: int, rounds: int, readers: int) -> None:
    """In each round all publish other content under one name of their choice, and under the next `vN`."""
    FolderStore.open_at(root)
    gate = _fork.Barrier(publishers)
    told: multiprocessing.SimpleQueue[list[str]] = _fork.SimpleQueue()

    def work(number: int) -> None:
        won, store = [], FolderStore.open_at(root)
        for turn in range(rounds):
            mine = manifest(store, text=f"{number} in {turn}")
            gate.wait(120)
            try:
                publish(store, mine, f"exp{turn:03}", f"run-{number}")
                won.append(f"exp{turn:03}")
            except VersionExists:
                pass
            won.append(publish(store, manifest(store, "counted", f"{number} {turn}"), None, None).ref.version)
        told.put(won)

    with readers_beside(root, readers, ("data", "counted")) as torn:
        workers = _started(work, publishers)
        found = [told.get() for _ in workers]
        for each in workers:
            each.join()
            assert each.exitcode == 0
    for harm in torn():
        counts.found("corrupt", harm)
    judge(root, counts, [version for each in found for version in each], publishers, rounds)


@contextmanager
def readers_beside(root: Path, readers: int, names: Sequence[str]) -> Iterator[Callable[[], list[str]]]:
    """Processes that read the newest versions of datasets until this is left; gives what tells, then, what was torn."""
    over = _fork.Event()
    told: multiprocessing.SimpleQueue[list[str]] = _fork.SimpleQueue()
    found: list[str] = []

    def look(number: int) -> None:
        del number
        torn, store = [], FolderStore.open_at(root)
        while not over.is_set():
            for ref in _newest(store, names):
                try:
                    whole(store, str(ref))
                except Exception as error:  # whatever a torn version makes the code say
                    torn.append(f"{ref}: {error!r}")
        told.put(torn)

    lookers = _started(look, readers)
    try:
        yield lambda: found
    finally:
        over.set()
    for _ in lookers:
        found += told.get()
    for each in lookers:
        each.join()
        assert each.exitcode == 0


def _started(action: Callable[[int], None], count: int) -> list[multiprocessing.process.BaseProcess]:
    made = [_fork.Process(target=action, args=(number,), daemon=True) for number in range(count)]
    for each in made:
        each.start()
    return list(made)


def _newest(store: FolderStore, names: Sequence[str]) -> list[ArtifactRef]:
    """The last few of each name: all of them would take longer each time."""
    return [
        ArtifactRef("dataset", name, version)
        for name in names
        for version in versions(store, "dataset", name)[-3:]
    ]


def judge(root: Path, counts: Counts, won: Sequence[str], publishers: int, rounds: int) -> None:
    """The store after a race, and the versions that its publishers say they won: `expNNN` by round, `vN` each."""
    counts.trials += rounds
    for turn in range(rounds):
        winners = won.count(f"exp{turn:03}")
        counts.unless(winners >= 1, "lost", f"round {turn}: no winner")
        counts.unless(winners <= 1, "duplicates", f"round {turn}: {winners} winners")
    numbered = [version for version in won if version.startswith("v")]
    counts.unless(len(set(numbered)) == len(numbered), "duplicates", "a vN was given to two")
    wanted = {f"v{number}" for number in range(1, publishers * rounds + 1)}
    counts.unless(set(numbered) == wanted, "lost", f"not all of v1 to v{publishers * rounds}")
    counts.unless(len(every(FolderStore.open_at(root))) == rounds * (publishers + 1), "lost", "versions")
    counts.unless(staged(root) == [], "orphans", "something is under staging/")
    check_store(root)


def builds(project: Project, counts: Counts, *, builders: int, rounds: int) -> None:
    """In each round the same new commit is built by many at once: one builds, and all have the same image."""
    for turn in range(rounds):
        project.write("workflows/main.py", f"print({turn}, {os.urandom(8).hex()!r})\n")
        project.commit()
        counts.trials += 1
        words = ("image", "build", "--config", "configs/a.yaml", "--json")
        processes = [project.start(*words, program="mirage") for _ in range(builders)]
        ends = [project.ended(process) for process in processes]
        assert [code for _, _, code in ends] == [0] * builders, ends
        images = [json.loads(out) for out, _, _ in ends]
        made = [image for image in images if not image["cached"]]
        counts.unless(len({image["digest"] for image in images}) == 1, "corrupt", f"{images}")
        counts.unless(len(made) >= 1, "lost", f"round {turn}: nobody built")
        counts.unless(len(made) <= 1, "duplicates", f"round {turn}: {len(made)} built")
