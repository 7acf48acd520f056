"""`mirage base` and `mirage image`: the kitchen without the cooking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orchestrator.cli import events
from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import EngineSoon, Workplace
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.config import Config
    from orchestrator.digest import Digest
    from orchestrator.image.base import Base
    from orchestrator.image.oci import Image
    from orchestrator.judging.image_check import Checked

_Command = TypeVar("_Command", bound=Callable[..., Any])

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(context_settings=_HELP)
def base() -> None:
    """The image below the environment, always known by digest."""


@base.command("build", context_settings=_HELP)
@click.argument("name", required=False)
@click.option("--fresh", is_flag=True, help="Build it even where it is known already, and compare.")
@_JSON
@events.OPTION
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


def _config_options(required: bool) -> Callable[[_Command], _Command]:
    """The options that choose a config."""

    def add(command: _Command) -> _Command:
        for option in (
            click.option("--snapshot", is_flag=True, help="Take a dirty tree as a snapshot commit."),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="A.B=V",
                help="Change a value of the config (+A.B=V adds one).",
            ),
            click.option(
                "--config",
                "config_file",
                required=required,
                type=click.Path(path_type=Path),
                help="The config." if required else "The image of this config, built if need be.",
            ),
        ):
            command = option(command)
        return command

    return add


def _request(config_file: Path, overrides: tuple[str, ...], snapshot: bool) -> tuple[Workplace, Config]:
    """The project that a config lies in, and the config."""
    engine = EngineSoon()
    from orchestrator.config import find_project, load_config, load_project

    start = config_file.resolve().parent
    project = load_project(find_project(start if start.is_dir() else Path.cwd()))
    flags: dict[str, Json] = {"dirty": "snapshot"} if snapshot else {}
    config = load_config(project, config_file, overrides, flags)
    return Workplace(project, config.settings, engine), config


@image.command("build", context_settings=_HELP)
@_config_options(required=True)
@click.option("--no-cache", is_flag=True, help="Build base, environment and image anew, and compare.")
@_JSON
@events.OPTION
def build_image(
    config_file: Path, overrides: tuple[str, ...], snapshot: bool, no_cache: bool, as_json: bool
) -> None:
    """Build the image that a run of this config would use, and load it into the engine."""
    from orchestrator.prepare import Request, Stages, prepare

    chosen, config = _request(config_file, overrides, snapshot)
    with chosen.writing() as place:
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


@dataclass(frozen=True)
class _Chosen:
    """An image, whole in the library, with its key and its project."""

    image: Image
    key: Digest
    place: Workplace


def _chosen(
    run_id: str | None, config_file: Path | None, overrides: tuple[str, ...], snapshot: bool
) -> _Chosen:
    """The image of a run, restored, or of a config, built; with all layers in the library."""
    from orchestrator.errors import ConfigError, ImageError

    if (run_id is None) == (config_file is None):
        raise ConfigError("expected a RUN or --config FILE, one of them", hint="RUN may be `latest`")
    if config_file is not None:
        from orchestrator.prepare import Request, Stages, prepare

        place, config = _request(config_file, overrides, snapshot)
        with place.writing() as within:
            built = prepare(Request(config, overrides), within.services(), Stages()).image
        if not all(map(place.library.has, built.image.diff_ids)):
            raise ImageError(
                "this image is in the engine, but not all of its layers are kept any more",
                hint=f"`mirage image build --no-cache --config {config_file}` makes them anew",
            )
        return _Chosen(built.image, built.key.digest, place)
    if overrides or snapshot:
        raise ConfigError("--set and --snapshot go with --config", hint="a run's image is what it is")
    from orchestrator.image import restoring
    from orchestrator.judging.record import Record, wanted_image

    place = Workplace.here()
    assert run_id is not None
    row = place.catalog.find(run_id)
    wanted = wanted_image(Record(row.run_id, row.record))
    found, trouble = restoring.whole(place.store, place.library, wanted, place.reporter)
    if found is None:
        raise ImageError(
            f"the image of {row.run_id} cannot be had: {trouble}",
            hint=f"`mirage reproduce {row.run_id}` builds it again",
        )
    return _Chosen(found, wanted.key, place)


@image.command("export", context_settings=_HELP)
@click.argument("run_id", metavar="[RUN]", required=False)
@_config_options(required=False)
@click.option(
    "-o", "--output", "target", required=True, metavar="FILE|DIR", help="A tar, or a new folder (FOLDER/)."
)
@_JSON
def export(
    run_id: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    snapshot: bool,
    target: str,
    as_json: bool,
) -> None:
    """Write the image of a run or of a config as an OCI layout, which `docker load` reads too.

    A name that ends in / or is a folder becomes a folder, anything else a tar.
    """
    from orchestrator.image import exporting, loading

    chosen = _chosen(run_id, config_file, overrides, snapshot)
    path, tag = Path(target), loading.tag_of("run", chosen.image)
    write = exporting.to_folder if target.endswith("/") or path.is_dir() else exporting.to_file
    write(chosen.image, tag, path, chosen.place.library.read)
    if as_json:
        print_json({"digest": chosen.image.digest, "tag": tag, "path": str(path), "size": chosen.image.size})
    else:
        print(f"{chosen.image.digest}  {path} ({readable_size(chosen.image.size)}, as {tag})")


@image.command("push", context_settings=_HELP)
@click.argument("words", metavar="[RUN] REF", nargs=-1, required=True)
@_config_options(required=False)
@_JSON
@events.OPTION
def push(
    words: tuple[str, ...],
    config_file: Path | None,
    overrides: tuple[str, ...],
    snapshot: bool,
    as_json: bool,
) -> None:
    """Bring the image of a run or of a config into a registry, where it has the same digest.

    REF is REGISTRY/NAME[:TAG]. Logins are docker's (`docker login`). The store keeps where it went, so that
    `mirage reproduce` can restore it from there.
    """
    from orchestrator.errors import ConfigError
    from orchestrator.image import exporting

    if len(words) > 2:
        raise ConfigError(f"expected [RUN] REF, got {' '.join(words)}")
    run_id = words[0] if len(words) == 2 else None
    chosen = _chosen(run_id, config_file, overrides, snapshot)
    place = chosen.place
    exact = exporting.push(chosen.image, chosen.key, words[-1], place.library, place.reporter)
    if as_json:
        print_json({"digest": chosen.image.digest, "reference": exact})
    else:
        print(exact)


@image.command("verify", context_settings=_HELP)
@click.argument("run_id", metavar="[RUN]", required=False)
@_config_options(required=False)
@click.option(
    "--vary",
    "ways",
    default="",
    metavar="WAY,...",
    help="Build under other circumstances: time, umask, locale, order, user, cores, or all.",
)
@_JSON
def verify_image(
    run_id: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    snapshot: bool,
    ways: str,
    as_json: bool,
) -> int:
    """Build the image of a run or of a config again from nothing, and compare it layer by layer.

    Nothing that was built or downloaded before is used but the base, by its digest. The exit code is 0 where all is
    equal bit for bit, and 9 where something differs.
    """
    from orchestrator.image import variation
    from orchestrator.judging import image_check

    vary = variation.read(word.strip() for word in ways.split(",") if word.strip())
    found = _built_again(run_id, config_file, overrides, snapshot, vary)
    if as_json:
        print_json(found.to_json())
    else:
        _tell_checked(found, image_check.SHOWN)
    return 0 if found.equal else 9


def _built_again(
    run_id: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    snapshot: bool,
    vary: frozenset[str],
) -> Checked:
    from orchestrator.errors import ConfigError
    from orchestrator.judging import image_check
    from orchestrator.prepare import Request, Stages, prepare

    if (run_id is None) == (config_file is None):
        raise ConfigError("expected a RUN or --config FILE, one of them", hint="RUN may be `latest`")
    if config_file is not None:
        place, config = _request(config_file, overrides, snapshot)
        services, request = place.services(), Request(config, overrides)
        with place.writing() as within:
            image = prepare(request, within.services(), Stages()).image.image
        return image_check.check(
            services, image.digest, image.diff_ids, lambda anew: prepare(request, anew, Stages()), vary
        )
    if overrides or snapshot:
        raise ConfigError("--set and --snapshot go with --config", hint="a run's image is what it is")
    from orchestrator.judging.rebuild import prepare_again
    from orchestrator.judging.record import Record, wanted_image

    place = Workplace.here()
    assert run_id is not None
    row = place.catalog.find(run_id)
    record = Record(row.run_id, row.record)
    wanted = wanted_image(record)
    return image_check.check(
        place.services(),
        wanted.digest,
        wanted.diff_ids,
        lambda anew: prepare_again(anew, record, anew=False),
        vary,
    )


def _tell_checked(found: Checked, shown: int) -> None:
    varied = f" (with another {', '.join(found.varied)})" if found.varied else ""
    print(f"{found.got}: {'equal' if found.equal else f'differs from {found.wanted}'}{varied}")
    for layer in found.layers:
        equal = layer.wanted == layer.got
        print(f"  {'equal' if equal else 'differs':<8} {layer.got}  {layer.of}")
        if layer.differences is None:
            print("           the bytes that it had before are kept nowhere, so they cannot be compared")
        for each in (layer.differences or ())[:shown]:
            print(f"           {each.file}: {each.what}{f' ({each.reason})' if each.reason else ''}")
        if layer.differences is not None and len(layer.differences) > shown:
            print(f"           and {len(layer.differences) - shown} more (--json has all)")
    if found.compiled:
        print(
            f"  compiled on the spot: {', '.join(found.compiled)}; another machine's compiler may give other bytes"
            " (the store keeps the wheel that was used)"
        )
