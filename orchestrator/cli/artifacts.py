"""`mirage artifact`: look at artifacts, add files as one, take one out; what changes or compares them is artifact_care.py's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.artifact_care import diff, lineage, rm, tag
from orchestrator.cli.listing import plain
from orchestrator.cli.terminal import print_json, print_table
from orchestrator.cli.transfers import pull, push
from orchestrator.cli.wiring import Workplace
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from orchestrator.artifacts.version import Version
    from orchestrator.canonical import Json

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_WIDE = 60


@click.group(context_settings=_HELP)
def artifact() -> None:
    """Look at artifacts, add files as one, take one out. An id is KIND:NAME:VERSION, or KIND:NAME:ALIAS."""


@artifact.command("ls", context_settings=_HELP)
@click.argument("pattern", metavar="[PATTERN]", default="*")
@_JSON
def ls(pattern: str, as_json: bool) -> None:
    """List the versions in the store; PATTERN is a part of the id, or a shell pattern ('model:*')."""
    from fnmatch import fnmatchcase

    from orchestrator.artifacts import alias, version

    store = Workplace.here().store
    found = [
        version.load(store, ref)
        for ref in version.standing(store)
        if fnmatchcase(str(ref), pattern) or pattern in str(ref)
    ]
    found.sort(key=lambda each: (each.created, str(each.ref)), reverse=True)
    names = alias.every(store)

    def aliases(each: Version) -> list[str]:
        here = names.get((each.ref.kind, each.ref.name), {})
        return sorted(name for name, target in here.items() if target == each.ref.version)

    if as_json:
        print_json({"artifacts": [_json(each, aliases(each)) for each in found]})
        return
    if not found:
        print("no artifacts" if pattern == "*" else f"no artifact fits {pattern!r}", file=sys.stderr)
        return
    rows = [
        (
            str(v.ref),
            readable_size(v.manifest.size),
            str(v.manifest.files),
            v.created,
            v.run or "-",
            ", ".join(aliases(v)) or "-",
            plain(v.manifest.description)[:_WIDE] or "-",
        )
        for v in found
    ]
    print_table(("id", "size", "files", "created", "run", "aliases", "description"), rows)


@artifact.command("show", context_settings=_HELP)
@click.argument("id")
@_JSON
def show(id: str, as_json: bool) -> None:
    """Show one artifact: digest, aliases, files, metadata, the run that made it."""
    from orchestrator import canonical
    from orchestrator.artifacts import alias, code, tree, version

    store = Workplace.here().store
    found = version.resolve(store, id)
    entries = tree.parse(version.read_verified(store, found.manifest.tree))
    carriers = code.carriers(store, entries)
    kind, name = found.ref.kind, found.ref.name
    here = alias.of_artifact(store, kind, name)
    aliases = sorted(each for each, target in here.items() if target == found.ref.version)
    asked = id.rpartition(":")[2]
    moves = alias.history(store, kind, name, asked) if asked != found.ref.version else []
    if as_json:
        dangers: list[Json] = [{"path": each.path, "why": each.why} for each in carriers]
        told = {**_json(found, aliases), "carries_code": dangers}
        told["tree"] = [entry.to_json() for entry in entries]
        print_json({**told, "history": [move.to_json() for move in moves]})
        return
    print(f"{found.ref}")
    manifest = found.manifest
    for name, value in (
        ("digest", found.digest),
        ("format", manifest.format),
        ("size", f"{readable_size(manifest.size)} in {manifest.files} file(s)"),
        ("created", found.created),
        ("run", found.run or "-"),
        ("aliases", ", ".join(aliases) or "-"),
        ("metadata", canonical.encode(canonical.decode(manifest.metadata)).decode()),
    ):
        print(f"  {name:<9}{value}")
    for move in moves:
        why = f": {plain(move.reason)}" if move.reason else ""
        print(f"  {asked} -> {move.version or 'nothing'}  {move.at} by {move.by}{why}")
    for entry in entries[:50]:
        print(f"    {entry.path}{'/' if entry.kind == 'd' else ''}  {readable_size(entry.size)}")
    if len(entries) > 50:
        print(f"    and {len(entries) - 50} more (--json lists all)")
    for each in carriers[:20]:
        print(f"  caution  {each.path} is {each.why}: loading it runs whatever code it carries")
    if len(carriers) > 20:
        print(f"  caution  {len(carriers) - 20} more files like that (--json lists all)")
    if carriers:
        print(
            "  -> load it only where you trust who made it, or ask for safetensors, .npz or Parquet instead"
        )


@artifact.command("add", context_settings=_HELP)
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--as", "target", required=True, metavar="KIND:NAME[:VERSION]", help="What it becomes.")
@click.option(
    "--description", default="", metavar="TEXT", help="What it is, in a line; part of its metadata."
)
@click.option("--link", is_flag=True, help="Keep the files as they lie, by hard link: they become read-only.")
@_JSON
def add(path: Path, target: str, description: str, link: bool, as_json: bool) -> None:
    """Publish a file or folder of this machine as an artifact; without VERSION it gets the next vN."""
    from orchestrator.artifacts import by_hand
    from orchestrator.errors import ArtifactError
    from orchestrator.image.library import cache_folder
    from orchestrator.reference import parse_artifact

    parts = target.split(":")
    if len(parts) not in (2, 3):
        raise ArtifactError(f"not an artifact: {target!r} (expected kind:name or kind:name:version)")
    ref = parse_artifact(target if len(parts) == 3 else f"{target}:v1")
    made = by_hand.add(
        Workplace.here().store,
        path,
        kind=ref.kind,
        name=ref.name,
        version=ref.version if len(parts) == 3 else None,
        description=description,
        link=link,
        cache=cache_folder(),
    )
    if as_json:
        print_json(_json(made))
    else:
        print(f"{made.ref}  {made.digest}  {readable_size(made.manifest.size)}")


@artifact.command("get", context_settings=_HELP)
@click.argument("id")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to (default: its file's name, or NAME-VERSION, here).",
)
@_JSON
def get(id: str, output: Path | None, as_json: bool) -> None:
    """Copy an artifact's files out of the store, verified; never over something that exists."""
    from orchestrator.artifacts import copying_out, version

    store = Workplace.here().store
    found = version.resolve(store, id)
    target = output or copying_out.default_target(found)
    copying_out.copy_out(store, found, target)
    if as_json:
        print_json({**_json(found), "path": str(target)})
    else:
        print(target)


def _json(found: Version, aliases: list[str] | None = None) -> dict[str, Json]:
    from orchestrator import canonical

    manifest = found.manifest
    more: dict[str, Json] = {} if aliases is None else {"aliases": list(aliases)}
    return {
        "id": str(found.ref),
        "digest": found.digest,
        "format": manifest.format,
        "entry": manifest.entry,
        "size": manifest.size,
        "files": manifest.files,
        "created": found.created,
        "run": found.run,
        "metadata": canonical.decode(manifest.metadata),
        **more,
    }


for _command in (push, pull, tag, rm, diff, lineage):
    artifact.add_command(_command)
