"""`mirage artifact push` and `pull`: between this machine and a store in a bucket, by hand or what was left waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli import events
from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from orchestrator.artifacts.version import Version
    from orchestrator.canonical import Json
    from orchestrator.digest import Digest
    from orchestrator.ports import Store
    from orchestrator.store.s3 import S3Store

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command("push", context_settings=_HELP)
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--pending", is_flag=True, help="Finish what waits because the store was away.")
@_JSON
@events.OPTION
def push(ids: tuple[str, ...], pending: bool, as_json: bool) -> None:
    """Put what this machine has of an artifact into the bucket, where it is not there whole.

    A run pushes what it saves by itself. With --pending: publish what ended runs saved while the store was away,
    write their records, and push what else waits here.
    """
    from orchestrator.errors import ConfigError

    if bool(ids) == pending:
        raise ConfigError("push what? Name one or more artifacts, or --pending", hint="mirage artifact ls")
    place = Workplace.here()
    if pending:
        _push_pending(place, as_json)
        return
    store = _bucket(place.store)
    found = [_push(place.store, store, id) for id in ids]
    _tell(found, "in the store", as_json)


@click.command("pull", context_settings=_HELP)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@_JSON
@events.OPTION
def pull(ids: tuple[str, ...], as_json: bool) -> None:
    """Bring artifacts to this machine's cache, verified; a run that has them as inputs then fetches nothing."""
    from orchestrator.artifacts import version
    from orchestrator.progress import Meter

    place = Workplace.here()
    store = place.store
    found = []
    for id in ids:
        each = version.resolve(store, id)
        with Meter(place.reporter, "fetch", each.manifest.size) as meter:
            store.fetch(_blobs(store, each), meter.add)
        found.append(each)
    _tell(found, "on this machine", as_json)


def _bucket(store: Store) -> S3Store | None:
    """The store where it is in a bucket; a folder has nothing to push to."""
    from orchestrator.store.folder import FolderStore

    if isinstance(store, FolderStore):
        return None
    from orchestrator.store.s3 import S3Store

    assert isinstance(store, S3Store)
    return store


def _blobs(store: Store, found: Version) -> list[Digest]:
    from orchestrator.artifacts import tree, version

    entries = tree.parse(version.read_verified(store, found.manifest.tree))
    files = dict.fromkeys(entry.digest for entry in entries if entry.digest is not None)
    return [found.digest, found.manifest.tree, *files]


def _push(store: Store, bucket: S3Store | None, id: str) -> Version:
    from orchestrator.artifacts import version
    from orchestrator.errors import StoreError

    found = version.resolve(store, id)
    blobs = _blobs(store, found)
    if bucket is not None:
        bucket.push(blobs)
    missing = [digest for digest in blobs if not store.has(digest)]
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(blobs)} blobs of {found.ref} are neither in {store.location} nor on this machine",
            hint="push it from the machine that made it, or publish its content again",
        )
    return found


def _tell(found: list[Version], where: str, as_json: bool) -> None:
    if as_json:
        told: list[Json] = [
            {"id": str(each.ref), "digest": each.digest, "size": each.manifest.size} for each in found
        ]
        print_json({"artifacts": told})
        return
    for each in found:
        print(f"{each.ref}  {readable_size(each.manifest.size)} in {each.manifest.files} file(s) are {where}")


def _push_pending(place: Workplace, as_json: bool) -> None:
    """Raises StoreError where something still waits."""
    from orchestrator.errors import StoreError
    from orchestrator.recover import Recovered
    from orchestrator.store.sessions import writing

    store = _bucket(place.store)
    waiting = store.waiting() if store is not None else 0
    found = place.recovery.recover(place.recovery.orphans()[1]) if place.folders.unfinished() else []
    if store is not None:
        with writing(store) as kept:
            kept.flush()
    sealed = [each for each in found if isinstance(each, Recovered)]
    left = [each for each in found if not isinstance(each, Recovered) and not each.alive]
    if as_json:
        print_json(
            {
                "runs": [each.plan.run_id for each in sealed],
                "pushed": waiting,
                "left": [{"run_id": each.run_id, "reason": each.reason} for each in left],
            }
        )
    else:
        for each in sealed:
            print(f"{each.plan.run_id} {each.sealed.result.status}: its record is in the store")
            for output in each.sealed.result.outputs:
                print(f"  saved  {output.id}")
        if waiting:
            print(f"pushed what else waited here ({waiting} blobs and keys)")
        if not (sealed or waiting or left):
            print("nothing waits on this machine")
    if left:
        raise StoreError(
            "; ".join(f"{each.run_id} still waits: {each.reason}" for each in left),
            hint="try again when what kept it is mended; nothing of it is lost",
        )
