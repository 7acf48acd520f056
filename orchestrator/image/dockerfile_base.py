"""Bases from a project's Dockerfile: the engine builds it, then its whole file system is sealed into one layer.

Owns what the engine gets to build it, and that nothing which the host hands over (proxies, CA bundle) is in the layer.
What the Dockerfile says about how a container starts (USER, CMD, ...) is left out: a run has its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from orchestrator.digest import of_bytes
from orchestrator.engine_values import BuildFailed, BuildSpec, ContainerSpec, disk_full
from orchestrator.errors import EngineError, ImageError, MirageError, at_line
from orchestrator.image import dockerfile, dpkg, layer, registry_base
from orchestrator.image.base_image import CREATED_BY, Base, pairs
from orchestrator.image.base_noise import HANDED_OVER, unwanted
from orchestrator.image.base_shelf import Shelf
from orchestrator.image.dockerfile_recipe import MIRAGE_BASE, Recipe, Start
from orchestrator.image.handover import Handover
from orchestrator.image.layer import MTIME, Entry
from orchestrator.image.library import Library
from orchestrator.image.loading import ensure, tag_of
from orchestrator.image.oci import Image, Layer, Platform, RunConfig, build
from orchestrator.image.sealing import seal
from orchestrator.ports import BlobWriter, Engine, Reporter

_SENT_AS = f"{HANDED_OVER}.Dockerfile"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_CA = f"/{HANDED_OVER}/ca.crt"
# Who reads which variable: OpenSSL and uv, curl, requests, pip, git, Node.js; apt has a file of settings.
_CA_READERS = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)
_NOT_FOR_RUNS = {"SOURCE_DATE_EPOCH", *_PROXIES, "FTP_PROXY", "ALL_PROXY"}
_NO_EFFECT = ("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "LABEL")


def make(
    recipe: Recipe,
    starts: tuple[Start, ...],
    platform: Platform,
    *,
    engine: Engine,
    library: Library,
    shelf: Shelf,
    reporter: Reporter,
    handover: Handover,
    network: str,
    fresh: bool,
) -> Base:
    """Build and seal. Raises ImageError with the line of the step that failed and the end of what it said."""
    reporter.stage("base", f"building {recipe.name} (once per machine)")
    for each in recipe.file.instructions:
        if each.word in _NO_EFFECT:
            reporter.note(f"{at_line(recipe.name, each.line)}: {each.word} has no effect in a base")
    for start in starts:
        if start.base is not None:
            ensure(engine, start.base.image, start.base.tag, (), library.read)
        else:
            registry_base.present(engine, reporter, start.reference, platform)
    inserted = _inserted(engine, platform, handover)
    exact = {s.line.line: f"FROM {s.line.flags}{s.reference}{s.line.stage}" for s in starts}
    text, steps = dockerfile.rewritten(recipe.file, exact, inserted)
    arguments = {name: value for name, value in handover.env if name.upper() in _PROXIES}
    arguments.update((s.line.image, s.reference) for s in starts if s.line.image == MIRAGE_BASE)
    spec = BuildSpec(
        dockerfile=_SENT_AS,
        arguments=tuple(sorted(arguments.items())),
        network=None if network == "default" else network,
        platform=str(platform),
        fresh=fresh,
    )
    with tempfile.TemporaryDirectory(prefix="mirage-base-") as folder:
        tar = Path(folder) / "root.tar"
        with _packed(recipe, text, Path(folder)) as context:
            try:
                built = engine.build(context, spec, reporter)
            except BuildFailed as error:
                raise _failed(recipe, steps, error) from error
        try:
            env = _env(engine, built)
            _export(engine, built, tar)
        finally:
            # A build elsewhere may be using the same image at this moment: then it is theirs to remove.
            with suppress(EngineError):
                engine.remove_image(built)
        packages = dpkg.installed(tar)
        with library.writer() as writer:
            seal(tar, _Guard(writer, _passwords(handover)).write, leave_out=unwanted)
            digest, size = writer.commit()
    created_by = CREATED_BY
    labels = (("flow.mirage.kind", "base"), ("org.opencontainers.image.title", recipe.name))
    image = build(platform, (Layer(digest, size, created_by),), RunConfig(env=env, labels=labels), MTIME)
    return shelf.take_in(recipe.name, image.digest, recipe.source, image, env, platform, packages)


def _inserted(engine: Engine, platform: Platform, handover: Handover) -> tuple[str, ...]:
    """Lines for after each FROM: ARGs, since they are neither in the result's environment nor in its files.

    The CA bundle comes in by an image of its own, not by the context: a `COPY . /app` must not catch it.
    """
    lines = [f"ARG SOURCE_DATE_EPOCH={MTIME}", "ARG PYTHONHASHSEED=0"]
    if handover.ca_bundle is None:
        return tuple(lines)
    image, files = handover_image(platform, handover.ca_bundle)
    tag = tag_of("handover", image)
    ensure(engine, image, tag, (), lambda _: iter((files,)))
    lines.append(f"COPY --from={tag} /{HANDED_OVER} /{HANDED_OVER}")
    lines += [f"ARG {name}={_CA}" for name in _CA_READERS]
    lines.append(f"ARG APT_CONFIG=/{HANDED_OVER}/apt.conf")
    return tuple(lines)


def handover_image(platform: Platform, ca_bundle: bytes) -> tuple[Image, bytes]:
    """An image with nothing but the CA bundle and apt's setting for it, and the bytes of its layer.

    It stays in the engine, since another build may be about to copy from it; nothing in it is secret.
    """
    contents = {"ca.crt": ca_bundle, "apt.conf": f'Acquire::https::CaInfo "{_CA}";\n'.encode()}
    files = layer.to_bytes(
        [Entry(f"{HANDED_OVER}/{name}".encode(), "file", data=data) for name, data in contents.items()]
    )
    only = Layer(of_bytes(files), len(files), "mirage handover")
    labels = (("flow.mirage.kind", "handover"),)
    return build(platform, (only,), RunConfig(labels=labels), MTIME), files


@contextmanager
def _packed(recipe: Recipe, text: bytes, folder: Path) -> Iterator[BinaryIO]:
    """The build's context. The ignore file names itself and the Dockerfile: the engine then takes both out of the
    context before the first COPY (moby, builder/remotecontext/detect.go, removeDockerfile).
    """
    ignore = f"{_SENT_AS}\n.dockerignore\n".encode()
    entries = [each for each in recipe.context if each.path != b".dockerignore"]
    entries += [Entry(_SENT_AS.encode(), "file", data=text), Entry(b".dockerignore", "file", data=ignore)]
    place = folder / "context.tar"
    with place.open("w+b") as target:
        layer.to_file(entries, target)
        target.seek(0)
        yield target


def _env(engine: Engine, built: str) -> tuple[tuple[str, str], ...]:
    found = engine.image(built)
    if found is None:
        raise ImageError("the image that the engine just built is gone", hint="run it again")
    return tuple((name, value) for name, value in pairs(found.env) if name.upper() not in _NOT_FOR_RUNS)


def _export(engine: Engine, built: str, tar: Path) -> None:
    """The file system of a container that is never started."""
    container = engine.create(
        ContainerSpec(image=built, argv=("true",), labels=(("flow.mirage.builder", "seal"),))
    )
    try:
        with tar.open("wb") as target:
            for piece in engine.export(container):
                target.write(piece)
    except OSError as error:
        raise ImageError(
            f"the built file system cannot be written to {tar.parent}: {error.strerror}",
            hint="free some space, or point TMPDIR at a larger disk",
        ) from error
    finally:
        engine.remove(container)


class _Guard:
    """A layer's writer that refuses the passwords which were handed over, also across pieces."""

    def __init__(self, writer: BlobWriter, secrets: tuple[bytes, ...]) -> None:
        self._writer = writer
        self._secrets = secrets
        self._overlap = max((len(secret) for secret in secrets), default=1) - 1
        self._before = b""

    def write(self, piece: bytes) -> None:
        if self._secrets:
            window = self._before + piece
            if any(secret in window for secret in self._secrets):
                raise ImageError(
                    "the password of this host's proxy was found in the base, which was not kept",
                    hint="a command in the Dockerfile wrote it down: remove that file in the same RUN",
                )
            self._before = window[-self._overlap :] if self._overlap else b""
        self._writer.write(piece)


def _passwords(handover: Handover) -> tuple[bytes, ...]:
    found: set[bytes] = set()
    for name, value in handover.env:
        password = urlsplit(value).password if name.upper() in _PROXIES and "://" in value else None
        if password and len(password) >= 4:  # a shorter one is in every system by chance
            found |= {password.encode(), unquote(password).encode()}
    return tuple(sorted(found))


def _failed(recipe: Recipe, steps: tuple[int, ...], error: BuildFailed) -> MirageError:
    line = steps[error.step - 1] if error.step is not None and error.step <= len(steps) else None
    text = "\n".join(f"  {each}" for each in error.output.splitlines())
    said = error.output.lower()
    hint = "mend that line, then run again"
    if "certificate" in said:
        hint = "name the host's CA bundle under `build: {ca_bundle: ...}` in .mirage/project.yaml"
    elif "could not resolve" in said or "temporary failure" in said or "could not connect" in said:
        hint = "check the engine's network and this host's proxy settings (HTTP_PROXY, HTTPS_PROXY)"
    message = f"{at_line(recipe.name, line)}: {error.reason}" + (f"\n{text}" if text else "")
    if (full := disk_full(f"{error.reason} {said}")) is not None:
        return EngineError(message, hint=full)
    return ImageError(message, hint=hint)
