"""`mirage gc` and `mirage fsck`: what can go from the store and this machine, and what is damaged in the store."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import ConfigError
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.digest import Digest
    from orchestrator.store.bounding import KeptBlob
    from orchestrator.upkeep.machine import Image
    from orchestrator.upkeep.trees import Tree

_HELP = {"help_option_names": ["-h", "--help"]}
_AGE = re.compile(r"([0-9]+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _age(context: click.Context, parameter: click.Parameter, text: str) -> float:
    found = _AGE.fullmatch(text)
    if found is None:
        raise ConfigError(f"not an age: {text!r}", hint="a number and s, m, h or d: 12h, 30d")
    return float(found[1]) * _SECONDS[found[2]]


@click.command(context_settings=_HELP)
@click.option(
    "--older-than",
    default="1d",
    show_default=True,
    metavar="AGE",
    callback=_age,
    help="Leave what is younger (12h, 30d).",
)
@click.option(
    "--machine",
    is_flag=True,
    help="Also images, cached layers and installer caches of this machine that no kept run needs.",
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and how much; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--wait",
    default="10m",
    show_default=True,
    metavar="AGE",
    callback=_age,
    help="How long to wait for writers that are at work.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gc(older_than: float, machine: bool, dry_run: bool, yes: bool, wait: float, as_json: bool) -> int:
    """Remove from the store what no version, alias, record, key or open run needs.

    It says first what and how much, and asks; runs and uploads may go on meanwhile.
    """
    from orchestrator.upkeep import collect

    place = Workplace.here()
    found = collect.look(place.store, older_than)
    images, layers, volumes = _machine(place, older_than) if machine else ([], [], [])
    fetched = _Fetched.of(place, older_than) if machine else _Fetched()
    told: dict[str, Json] = {
        "live": {"blobs": found.live, "bytes": found.live_bytes},
        "young": {"blobs": found.young, "bytes": found.young_bytes},
        "packed": {"blobs": found.packed, "bytes": found.packed_bytes},
        "garbage": {"blobs": len(found.garbage), "bytes": sum(each.size for each in found.garbage)},
        "unfinished": {"files": found.unfinished[0], "bytes": found.unfinished[1]},
        "images": [{"name": each.name, "bytes": each.size} for each in images],
        "layers": {"blobs": len(layers), "bytes": sum(size for _, size in layers)},
        "volumes": [{"name": name, "bytes": size} for name, size in volumes],
        **fetched.told(),
        "removed": None,
    }
    if not as_json:
        _tell(place, told)
    if machine and yes and not dry_run:
        _forget()
    nothing = not (found.garbage or found.unfinished[0] or images or layers or volumes or fetched.any)
    if dry_run or nothing or not (yes or _agreed(as_json)):
        if as_json:
            print_json(told)
        return 0
    done = collect.collect(place.store, older_than, place.reporter, patience=wait)
    freed = _free(place, images, layers, volumes)
    fetched_gone = fetched.remove()
    told["removed"] = {
        "blobs": done.removed,
        "bytes": done.bytes,
        "rescued": done.rescued,
        "unfinished": done.unfinished[0],
        "images": freed[0],
        "layers": freed[1],
        "volumes": freed[2],
        "copies": fetched_gone[0],
        "trees": fetched_gone[1],
    }
    if as_json:
        print_json(told)
    else:
        print(f"removed {done.removed} blobs, {readable_size(done.bytes + done.unfinished[1])}", end="")
        print(f"; {done.rescued} were needed again meanwhile" if done.rescued else "")
        if machine:
            print(
                f"removed {freed[0]} images, {freed[1]} cached layers and {freed[2]} volumes of this machine"
            )
            print(f"removed {fetched_gone[0]} copies of buckets' blobs and {fetched_gone[1]} laid-out inputs")
    return 0


def _agreed(as_json: bool) -> bool:
    """Ask at a terminal; elsewhere nothing is removed without --yes."""
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        print("nothing was removed: --yes removes it", file=sys.stderr)
        return False
    return click.confirm("remove it?", err=True)


def _tell(place: Workplace, told: dict[str, Json]) -> None:
    print(f"{place.store.location}")
    for name, about in (
        ("live", "needed"),
        ("young", "not needed, but too young to be sure"),
        ("packed", "not needed, in packs with what is: goes when more of the pack can"),
        ("garbage", "can go"),
        ("unfinished", "left by writers that died: can go"),
        ("layers", "of this machine's cache: can go"),
        ("copies", "of buckets' blobs, on this machine: can go"),
        ("trees", "inputs as they were laid out in this project: can go"),
    ):
        counts = told[name]
        assert isinstance(counts, dict)
        count, size = counts.values()
        if count or name in ("live", "garbage"):
            assert isinstance(size, int)
            print(f"  {name:<11}{count!s:>8}  {readable_size(size):>10}  {about}")
    kept = told["kept"]
    assert isinstance(kept, dict)
    if kept["bytes"]:
        print(
            f"  kept of buckets on this machine: {readable_size(int(str(kept['bytes'])))}"
            f" of at most {readable_size(int(str(kept['limit'])))}"
        )
    images = told["images"]
    assert isinstance(images, list)
    for image in images:
        assert isinstance(image, dict)
        print(
            f"  image      {image['name']}  {readable_size(int(str(image['bytes'])))}, shared layers counted"
        )
    volumes = told["volumes"]
    assert isinstance(volumes, list)
    for volume in volumes:
        assert isinstance(volume, dict)
        print(
            f"  volume     {volume['name']}  {readable_size(int(str(volume['bytes'])))} of the installer's cache"
        )


def _machine(
    place: Workplace, older_than: float
) -> tuple[list[Image], list[tuple[Digest, int]], list[tuple[str, int]]]:
    from orchestrator.image.library import cache_folder
    from orchestrator.store.folder import FolderStore
    from orchestrator.upkeep import machine

    wanted = machine.needed(place.store)
    cached = machine.layers(FolderStore.open_at(cache_folder()), wanted, older_than)
    images = machine.images(place.engine, wanted, older_than, place.library.unused_for)
    volumes = machine.volumes(place.engine, older_than, place.library.unused_for)
    return list(images), list(cached), list(volumes)


@dataclass(frozen=True)
class _Fetched:
    """What came for runs and can go: copies of buckets' blobs, for all projects, and inputs laid out in this one."""

    copies: tuple[KeptBlob, ...] = ()
    trees: tuple[Tree, ...] = ()
    kept: int = 0
    limit: int = 0

    @classmethod
    def of(cls, place: Workplace, older_than: float) -> _Fetched:
        from orchestrator.store import bounding
        from orchestrator.store.cache import cache_folder
        from orchestrator.upkeep import trees

        stores = cache_folder() / "stores"
        found = list(bounding.copies(stores))
        laid = place.project.folder / ".mirage" / "cache" / "trees"
        wanted = trees.needed(place.folders.runs, place.folders.open)
        return cls(
            tuple(bounding.removable(found, older_than)),
            tuple(trees.unused(laid, wanted, older_than)),
            sum(each.size for each in found),
            bounding.limit(stores if stores.is_dir() else place.project.folder),
        )

    @property
    def any(self) -> bool:
        return bool(self.copies or self.trees)

    def told(self) -> dict[str, Json]:
        return {
            "copies": {"blobs": len(self.copies), "bytes": sum(each.size for each in self.copies)},
            "trees": {"trees": len(self.trees), "bytes": sum(each.size for each in self.trees)},
            "kept": {"bytes": self.kept, "limit": self.limit},
        }

    def remove(self) -> tuple[int, int]:
        """How many copies and trees went; the trees first, whose second names hold copies."""
        from orchestrator.store import bounding
        from orchestrator.upkeep import trees

        gone = sum(trees.remove(each) for each in self.trees)
        return bounding.remove(list(self.copies))[0], gone


def _free(
    place: Workplace,
    images: list[Image],
    layers: list[tuple[Digest, int]],
    volumes: list[tuple[str, int]],
) -> tuple[int, int, int]:
    from orchestrator.errors import EngineError
    from orchestrator.image.library import cache_folder
    from orchestrator.store.folder import FolderStore

    gone = 0
    for image in images:
        try:
            place.engine.remove_image(image.name)
            gone += 1
        except EngineError as error:  # a container still has it
            place.reporter.warn(f"{image.name} stays: {error.message}")
    removed = FolderStore.open_at(cache_folder()).remove(digest for digest, _ in layers) if layers else 0
    emptied = 0
    for name, _ in volumes:
        try:
            place.engine.remove_volume(name)
            emptied += 1
        except EngineError as error:  # a builder took it just now
            place.reporter.warn(f"{name} stays: {error.message}")
    return gone, removed, emptied


def _forget() -> None:
    from orchestrator.image.library import cache_folder
    from orchestrator.upkeep.machine import forget_added

    forget_added(cache_folder())


@click.command(context_settings=_HELP)
@click.option("--repair", is_flag=True, help="Mend what can be mended.")
@click.option(
    "--from", "copies", multiple=True, metavar="STORE", help="Another store that may have what is missing."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def fsck(repair: bool, copies: tuple[str, ...], as_json: bool) -> int:
    """Hash every blob of the store, look for everything that is named, and say whose is missing or damaged.

    The exit code is 0 where all is well or was mended, 9 where something is wrong, 7 where it could not be mended.
    """
    from orchestrator.image.library import cache_folder
    from orchestrator.store.folder import FolderStore
    from orchestrator.store.opening import open_store
    from orchestrator.upkeep.fsck import Check, Copy

    if copies and not repair:
        raise ConfigError("--from goes with --repair", hint="add --repair")
    place = Workplace.here()
    others = [open_store(text, place.project.folder) for text in copies]
    local: list[Copy] = [FolderStore.open_at(cache_folder())]
    if not isinstance(place.store, FolderStore):
        from orchestrator.store.s3 import S3Store

        assert isinstance(place.store, S3Store)
        local.insert(0, place.store.copy)
    report = Check(place.store, place.reporter, place.settings.bank).run(
        repair=repair, copies=[*others, *local]
    )
    if as_json:
        print_json(
            {
                "blobs": report.blobs,
                "bytes": report.bytes,
                "findings": [
                    {
                        "state": each.state,
                        "what": each.what,
                        "owners": list(each.owners),
                        "mended": each.mended or None,
                    }
                    for each in report.findings
                ],
            }
        )
    else:
        for each in report.findings:
            print(f"{'mended' if each.mended else each.state:<8} {each.told()}")
        state = f"{len(report.open)} finding(s)" if report.open else "all is well"
        print(f"{state}: {report.blobs} blobs, {readable_size(report.bytes)} hashed")
    if not report.open:
        return 0
    if repair:
        print("what is left needs another copy: --from STORE, or publish it again", file=sys.stderr)
    return 7 if repair else 9
