"""`mirage artifact tag`, `rm`, `diff` and `lineage`: what is said of artifacts after they were published."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.listing import plain
from orchestrator.cli.relations import lineage as lineage
from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import ArtifactError, MirageError
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from orchestrator.artifacts.version import Version
    from orchestrator.questions.artifact_diff import Change

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_SHOWN = 10


@click.command(context_settings=_HELP)
@click.argument("id")
@click.argument("alias")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the alias's history.")
@click.option("--remove", is_flag=True, help="Let ALIAS mean nothing from now on; its history stays.")
@_JSON
def tag(id: str, alias: str, reason: str, remove: bool, as_json: bool) -> None:
    """Let ALIAS (best, prod) mean the version ID from now on: KIND:NAME:ALIAS then stands for it.

    Every move is kept. A run's record holds both, the alias and the version that it meant.
    """
    from orchestrator.artifacts import alias as aliases
    from orchestrator.artifacts import version
    from orchestrator.reference import parse_artifact

    store = Workplace.here().store
    ref = parse_artifact(id) if remove else version.resolve(store, id).ref
    aliases.point(store, ref, alias, reason=reason, away=remove)
    moves = aliases.history(store, ref.kind, ref.name, alias)
    if as_json:
        print_json(
            {
                "alias": f"{ref.kind}:{ref.name}:{alias}",
                "version": moves[-1].version if moves else None,
                "history": [move.to_json() for move in moves],
            }
        )
        return
    for move in moves[-_SHOWN:]:
        why = f": {plain(move.reason)}" if move.reason else ""
        print(f"{ref.kind}:{ref.name}:{alias} -> {move.version or 'nothing'}  {move.at} by {move.by}{why}")


@click.command(context_settings=_HELP)
@click.argument("id")
@click.option("--reason", required=True, metavar="TEXT", help="Why; whoever asks for the version is told.")
@click.option(
    "--force",
    is_flag=True,
    help="Also where records of runs name it: they stay, and cannot be verified any more.",
)
@_JSON
def rm(id: str, reason: str, force: bool, as_json: bool) -> None:
    """Give a version up: its id can no longer be used, and is never given again; `mirage gc` frees the space.

    Refused where an alias leads to it, and where a run made or used it.
    """
    from orchestrator.artifacts import tombstone, version

    place = Workplace.here()
    found = version.resolve(place.store, id)
    if id.rpartition(":")[2] != found.ref.version:
        raise ArtifactError(f"{id} is an alias of {found.ref}", hint="name the version that is to be removed")
    runs = _runs_of(place, found)
    if runs and not force:
        shown = ", ".join(f"{run} {how}" for run, how in list(runs.items())[:_SHOWN])
        raise ArtifactError(
            f"{found.ref} cannot be removed: {shown}" + (" and others" if len(runs) > _SHOWN else ""),
            hint="with --force the records stay, and those runs can no longer be verified or made again",
        )
    made = tombstone.bury(place.store, found.ref, found.digest, reason, tuple(runs))
    if as_json:
        print_json(
            {
                "id": str(made.ref),
                "digest": made.digest,
                "by": made.by,
                "at": made.at,
                "reason": made.reason,
                "given_up": list(made.given_up),
            }
        )
    else:
        print(f"{made}\n  the space is freed by `mirage gc`: at most {readable_size(found.manifest.size)}")


def _runs_of(place: Workplace, found: Version) -> dict[str, str]:
    """The runs that name a version, sealed or open, each with how."""
    from orchestrator import plan as plans
    from orchestrator.catalog import ask

    id = str(found.ref)
    runs: dict[str, str] = {}
    for field, how in (("outputs", "made it"), ("inputs", "used it")):
        for run in place.catalog.asking(lambda index, field=field: ask.runs_with(index, field, id)):  # type: ignore[misc]
            runs.setdefault(run, how)
    if found.run not in (None, "plain"):
        runs.setdefault(str(found.run), "made it")  # its record may still be to come
    for run_id, _ in place.catalog.open_runs():
        try:
            inputs = (
                plans.parse((place.folders.of(run_id) / "plan.json").read_bytes()).summary().get("inputs")
            )
        except (OSError, MirageError):
            continue  # it died before it had begun, or `mirage recover` tells of it
        if isinstance(inputs, list) and any(isinstance(item, dict) and item["id"] == id for item in inputs):
            runs.setdefault(run_id, "uses it now")
    return runs


@click.command(context_settings=_HELP)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@_JSON
def diff(left: str, right: str, as_json: bool) -> None:
    """What differs between the artifacts A and B: files, sizes, metadata, the run that made each."""
    from orchestrator.artifacts import version
    from orchestrator.questions import artifact_diff

    store = Workplace.here().store
    one, two = version.resolve(store, left), version.resolve(store, right)
    found = artifact_diff.compare(store, one, two)
    if as_json:
        print_json(artifact_diff.to_json(one, two, found))
        return
    print(f"a {one.ref}  {one.digest}\nb {two.ref}  {two.digest}")
    if one.digest == two.digest:
        print("the same content")
    for name, (a, b) in found.about.items():
        print(f"{name:<9} {plain(str(a))} -> {plain(str(b))}")
    for change in found.files:
        print(_line(change))
    if found.files:
        counts = found.counts()
        print(", ".join(f"{count} {what}" for what, count in counts.items() if count))


def _line(change: Change) -> str:
    mark = {"added": "+", "removed": "-", "changed": "~"}[change.how]
    sizes = " -> ".join(readable_size(size) for size in (change.before, change.after) if size is not None)
    return f"{mark} {plain(change.path)}  {sizes}" + (f"  ({change.what})" if change.what else "")
