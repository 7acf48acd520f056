"""The run image: base + environment + SDK + code + config, keyed, assembled and brought into the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.config import Config
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError
from orchestrator.image import layer, loading
from orchestrator.image.base import Base
from orchestrator.image.environment import Environment
from orchestrator.image.environment import parent as environment_parent
from orchestrator.image.layer import Entry, LayerError
from orchestrator.image.library import Library
from orchestrator.image.oci import Image, Layer, RunConfig, build, parse, timestamp
from orchestrator.key import IMAGE_RECIPE, Key, image_key
from orchestrator.locks.lock import Lock
from orchestrator.ports import Engine, Reporter
from orchestrator.single_flight import single_flight
from orchestrator.source.content import read_blobs
from orchestrator.source.snapshot import Snapshot, SourceFile

CODE_LAYER, CONFIG_LAYER = 1, 1  # count up when the same files would give another layer
# What `User` says in the image; a run is started as the caller instead.
_IMAGE_USER = "10001:10001"
_CONFIG_SUFFIXES = (b".yaml", b".yml")


@dataclass(frozen=True)
class RunImage:
    """A run image in the engine: its bytes, its key, the engine's id, and whether it was there already."""

    image: Image
    key: Key
    engine_id: str
    cached: bool


@dataclass(frozen=True)
class Recipe:
    """Everything that a run image is made of; nothing in it depends on an option of the call.

    ``title`` is the project's name where project.yaml gives one.
    """

    title: str | None
    snapshot: Snapshot
    config: Config
    lock: Lock
    base: Base
    environment: Environment


def sdk_layer() -> bytes:
    """The SDK's layer: the `mirage` package as it is installed here, without byte code."""
    spec = find_spec("mirage")
    if spec is None or spec.origin is None:
        raise ImageError(
            "the package `mirage` is not installed beside the orchestrator", hint="pip install mirage-flow"
        )
    folder = Path(spec.origin).parent
    entries = [
        Entry(
            b"mirage/sdk/mirage/" + path.relative_to(folder).as_posix().encode(),
            "file",
            data=path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    ]
    # on PYTHONPATH, where every interpreter looks for it before a workflow's first line
    startup = (folder / "startup.py").read_bytes()
    entries.append(Entry(b"mirage/sdk/sitecustomize.py", "file", data=startup))
    return layer.to_bytes(entries)


def provide(
    recipe: Recipe, engine: Engine, library: Library, reporter: Reporter, *, fresh: bool = False
) -> RunImage:
    """The run image of a recipe, in the engine: known from before, or assembled now.

    Raises ImageError where it cannot be made, EngineError where the engine refuses it.
    """
    sdk = sdk_layer()
    key = image_key(
        env_key=recipe.environment.key,
        commit=recipe.snapshot.commit,
        tree=recipe.snapshot.tree,
        path=recipe.snapshot.prefix,
        sdk=of_bytes(sdk),
        config_path=recipe.config.path,
        config=recipe.config.digest,
    )
    for parent in (environment_parent(recipe.base, recipe.environment).tag, recipe.base.tag):
        library.used(parent)
    below = (*recipe.base.image.diff_ids, recipe.environment.layer.digest)
    present = None if fresh else _present(engine, library, key, below)
    if present is not None:
        return present
    with single_flight(library.lock_path(f"image-{hex_of(key.digest)}"), "this run image", reporter) as told:
        present = None if fresh else _present(engine, library, key, below)
        return present or _made(recipe, key, sdk, engine, library, told, fresh=fresh)


def _present(engine: Engine, library: Library, key: Key, below: tuple[Digest, ...]) -> RunImage | None:
    known = _known(library, key, below)
    if known is None:
        return None
    library.used(loading.tag_of("run", known))
    engine_id = loading.find(engine, loading.tag_of("run", known), known)
    return RunImage(known, key, engine_id, cached=True) if engine_id else None


def _made(
    recipe: Recipe, key: Key, sdk: bytes, engine: Engine, library: Library, reporter: Reporter, *, fresh: bool
) -> RunImage:
    environment = environment_parent(recipe.base, recipe.environment)
    known = None if fresh else _known(library, key, environment.image.diff_ids)
    image = known if known is not None and all(map(library.has, known.diff_ids)) else None
    if image is None:
        reporter.stage("image", "assembling the run image")
        image = _assemble(recipe, key, sdk, library, fresh=fresh)
        result: dict[str, Json] = {
            "digest": image.digest,
            "created": str(time.time_ns()),
            "config": image.config.decode(),
            "manifest": image.manifest.decode(),
        }
        others = library.keep("image", key.digest, key.manifest, result)
        if others:
            reporter.warn(
                f"drift: the image {key.digest} was built before with another digest than {image.digest}: {others}"
            )
    hold(recipe.base, recipe.environment, engine, library, reporter)
    base = loading.Parent(recipe.base.tag, recipe.base.image)
    tag = loading.tag_of("run", image)
    # from all layers down to the SDK's: the environment's own image holds what lies below
    chains = [
        (count, f"chains/{loading.chain_of(image.diff_ids[:count])}")
        for count in range(len(image.layers), len(environment.image.layers), -1)
    ]
    beside = ((count, other) for count, name in chains if (other := library.noted(name)))
    parents = (environment, base)
    engine_id = loading.ensure(engine, image, tag, parents, library.read, beside=beside, reporter=reporter)
    for _, name in chains:
        library.note(name, tag)
    return RunImage(image, key, engine_id, cached=False)


def hold(
    base: Base, environment: Environment, engine: Engine, library: Library, reporter: Reporter
) -> loading.Parent:
    """The environment's own image in the engine, which holds its layers there for all run images above it."""
    parent = environment_parent(base, environment)
    below = (loading.Parent(base.tag, base.image),)
    loading.ensure(engine, parent.image, parent.tag, below, library.read, reporter=reporter)
    return parent


def _known(library: Library, key: Key, below: tuple[Digest, ...]) -> Image | None:
    """The image that was assembled before; not one upon other layers than ``below``, those of base and environment."""
    found = library.find("image", key.digest)
    if found is None:
        return None
    try:
        image = parse(str(found["config"]).encode(), str(found["manifest"]).encode())
    except (KeyError, ValueError) as error:
        raise ImageError(
            f"what was kept of the image {key.digest} is damaged: {error}",
            hint="run with --no-cache: it is then built again",
        ) from error
    return image if image.diff_ids[: len(below)] == below and image.digest == found["digest"] else None


def _assemble(recipe: Recipe, key: Key, sdk: bytes, library: Library, *, fresh: bool) -> Image:
    code, config = _split(recipe.snapshot.files, recipe.config.path)
    try:
        code_layer = _noted(
            f"code/{CODE_LAYER}", "mirage code", _listed(code), lambda: _code(code), library, fresh=fresh
        )
        told: list[Json] = [
            _listed(config),
            recipe.config.path,
            recipe.config.digest,
            of_bytes(recipe.config.visible),
        ]
        config_layer = _noted(
            f"config/{CONFIG_LAYER}",
            "mirage config",
            told,
            lambda: _configuration(config, recipe.config),
            library,
            fresh=fresh,
        )
    except LayerError as error:
        raise ImageError(
            f"the project cannot be an image: {error}", hint="rename or remove that file"
        ) from error
    layers = (
        *recipe.base.image.layers,
        recipe.environment.layer,
        _keep(library, sdk, "mirage sdk"),
        code_layer,
        config_layer,
    )
    return build(recipe.base.platform, layers, _run_config(recipe, key), recipe.snapshot.commit_time)


def _keep(library: Library, data: bytes, created_by: str) -> Layer:
    digest = library.put(data, "layers")
    return Layer(digest, len(data), created_by)


def _noted(
    note: str,
    of: str,
    made_of: Json,
    entries: Callable[[], Iterable[Entry]],
    library: Library,
    *,
    fresh: bool,
) -> Layer:
    """A layer of the project's files: known by what it is made of (git's names of contents), or made now.

    Raises LayerError, SourceError.
    """
    note = f"{note}-{hex_of(of_bytes(canonical.encode(made_of)))}"
    digest, _, size = ("" if fresh else library.noted(note)).partition(" ")
    if digest and library.has(parse_digest(digest)):
        return Layer(parse_digest(digest), int(size), of)
    made = _keep(library, layer.to_bytes(entries()), of)
    library.note(note, f"{made.digest} {made.size}")
    return made


def _listed(files: Sequence[SourceFile]) -> list[Json]:
    return [[file.path.hex(), file.mode, file.oid, file.lfs] for file in files]


def _split(files: Iterable[SourceFile], config_path: str) -> tuple[list[SourceFile], list[SourceFile]]:
    """Code on one side, the YAML files of the config's folder on the other: editing a config, or choosing
    another one, leaves the code layer untouched."""
    own = config_path.encode()
    folder, slash, _ = own.rpartition(b"/")
    code: list[SourceFile] = []
    config: list[SourceFile] = []
    for file in files:
        beside = bool(slash) and file.path.startswith(folder + b"/") and file.path.endswith(_CONFIG_SUFFIXES)
        (config if file.path == own or beside else code).append(file)
    return code, config


def _entries(files: Iterable[SourceFile]) -> Iterable[Entry]:
    for file, data in read_blobs(files):
        path = b"workspace/" + file.path
        if file.mode == "120000":
            yield Entry(path, "link", data=data)
        else:
            yield Entry(path, "file", file.mode == "100755", data=data)


def _code(files: Iterable[SourceFile]) -> Iterable[Entry]:
    yield Entry(b"workspace", "dir")
    yield from _entries(files)


def _configuration(files: Iterable[SourceFile], config: Config) -> Iterable[Entry]:
    own = b"workspace/" + config.path.encode()
    yield Entry(b"mirage/config.json", "file", data=config.canonical)
    yield Entry(own, "file", data=config.visible)
    yield from _entries(file for file in files if file.path != config.path.encode())


def _run_config(recipe: Recipe, key: Key) -> RunConfig:
    env = dict(recipe.base.env)
    env["PATH"] = "/opt/venv/bin:" + env.get(
        "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )
    env.update(
        PYTHONDONTWRITEBYTECODE="1", PYTHONPATH="/mirage/sdk", PYTHONUNBUFFERED="1", VIRTUAL_ENV="/opt/venv"
    )
    # No org.opencontainers.image.source: a clone's remote differs from machine to machine, the digest must not.
    labels = {
        "flow.mirage.config": recipe.config.digest,
        "flow.mirage.env-key": recipe.environment.key,
        "flow.mirage.image-key": key.digest,
        "flow.mirage.kind": "run",
        "flow.mirage.lock": recipe.lock.digest,
        "flow.mirage.recipe": str(IMAGE_RECIPE),
        "flow.mirage.tree": recipe.snapshot.tree,
        "org.opencontainers.image.base.digest": recipe.base.digest,
        "org.opencontainers.image.created": timestamp(recipe.snapshot.commit_time),
        "org.opencontainers.image.revision": recipe.snapshot.commit,
    }
    if recipe.title is not None:
        labels["org.opencontainers.image.title"] = recipe.title
    return RunConfig(
        env=tuple(sorted(env.items())),
        cmd=("python", "-m", recipe.config.committed.workflow, "--config", recipe.config.path),
        working_dir="/workspace",
        user=_IMAGE_USER,
        labels=tuple(sorted(labels.items())),
    )
