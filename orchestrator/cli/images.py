"""`mirage base` and `mirage image`: the kitchen without the cooking."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.image.base import Base

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(context_settings=_HELP)
def base() -> None:
    """The image below the environment, always known by digest."""


@base.command("build", context_settings=_HELP)
@click.argument("name", required=False)
@click.option("--fresh", is_flag=True, help="Build it even where it is known already, and compare.")
@_JSON
def build(name: str | None, fresh: bool, as_json: bool) -> None:
    """Make the base NAME (default: the project's) and load it into the engine."""
    with Workplace.here().writing() as place:
        bases = place.bases
        wanted = name or place.settings.base
        build_anew = fresh and not any(mark in wanted for mark in ":/@")
        find = bases.from_recipe if build_anew else bases.resolve
        found = find(wanted, bases.platform(), fresh=fresh)
    _tell(found, as_json)


@base.command("pin", context_settings=_HELP)
@click.argument("name", required=False)
@_JSON
def pin(name: str | None, as_json: bool) -> None:
    """Write into .mirage/base.lock.json what the base NAME is now; commit that file.

    NAME is a recipe of images/, or a registry's image such as python:3.12-slim.
    """
    with Workplace.here().writing() as place:
        bases = place.bases
        found = bases.pin(name or place.settings.base, bases.platform())
    _tell(found, as_json)


@base.command("show", context_settings=_HELP)
@click.argument("name", required=False)
@click.option("--packages", is_flag=True, help="List the Debian packages in it too.")
@_JSON
def show(name: str | None, packages: bool, as_json: bool) -> None:
    """Show the base NAME (default: the project's), made first where it is not known yet."""
    with Workplace.here().writing() as place:
        bases = place.bases
        found = bases.resolve(name or place.settings.base, bases.platform())
    _tell(found, as_json)
    if packages and not as_json:
        for package, version in found.packages:
            print(f"    {package} {version}")


def _tell(found: Base, as_json: bool) -> None:
    if as_json:
        told: dict[str, Json] = {
            "name": found.name,
            "digest": found.digest,
            "source": found.source,
            "platform": str(found.platform),
            "python": found.python.version,
            "size": found.image.size,
            "layers": list(found.image.diff_ids),
            "packages": dict(found.packages),
        }
        print_json(told)
        return
    print(f"{found.name}  {found.digest}")
    for name, value in (
        ("source", found.source),
        (
            "platform",
            f"{found.platform}, {found.python.implementation} {found.python.version}, {found.python.libc}",
        ),
        ("size", f"{readable_size(found.image.size)} in {len(found.image.layers)} layer(s)"),
    ):
        print(f"  {name:<9}{value}")


@click.group(context_settings=_HELP)
def image() -> None:
    """The run image of a config, without the run."""


@image.command("build", context_settings=_HELP)
@click.option("--config", "config_file", required=True, type=click.Path(path_type=Path), help="The config.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=V",
    help="Change a value of the config (+A.B=V adds one).",
)
@click.option("--snapshot", is_flag=True, help="Take a dirty tree as a snapshot commit.")
@click.option("--no-cache", is_flag=True, help="Build base, environment and image anew, and compare.")
@_JSON
def build_image(
    config_file: Path, overrides: tuple[str, ...], snapshot: bool, no_cache: bool, as_json: bool
) -> None:
    """Build the image that a run of this config would use, and load it into the engine."""
    from orchestrator.config import find_project, load_config, load_project
    from orchestrator.prepare import Request, Stages, prepare

    start = config_file.resolve().parent
    project = load_project(find_project(start if start.is_dir() else Path.cwd()))
    flags: dict[str, Json] = {"dirty": "snapshot"} if snapshot else {}
    config = load_config(project, config_file, overrides, flags)
    with Workplace(project, config.settings).writing() as place:
        prepared = prepare(Request(config, overrides, no_cache=no_cache), place.services(), Stages())
    built = prepared.image
    if as_json:
        told: dict[str, Json] = {
            "digest": built.image.digest,
            "config_digest": built.image.config_digest,
            "engine_id": built.engine_id,
            "key": built.key.digest,
            "cached": built.cached,
            "size": built.image.size,
            "layers": [
                {"digest": layer.digest, "size": layer.size, "of": layer.created_by}
                for layer in built.image.layers
            ],
        }
        print_json(told)
        return
    print(f"{built.image.digest}{' (was there already)' if built.cached else ''}")
    for layer in built.image.layers:
        print(f"  {layer.digest}  {readable_size(layer.size):>10}  {layer.created_by}")
