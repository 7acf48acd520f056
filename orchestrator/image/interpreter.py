"""Which Python an image has: asked of the interpreter itself, in a container without network or write access."""

from __future__ import annotations

import json

from orchestrator.engine_values import ContainerSpec
from orchestrator.errors import EngineError, ImageError
from orchestrator.image.base_image import Python
from orchestrator.ports import Engine

_PROBE = (
    "import json, platform, sys;"
    "print(json.dumps({'version': platform.python_version(), 'executable': sys.executable,"
    " 'implementation': platform.python_implementation(), 'libc': ' '.join(platform.libc_ver())}))"
)
_COMMANDS = ("python3", "python")
_FIELDS = {"version", "executable", "implementation", "libc"}


def ask(engine: Engine, name: str, image_id: str) -> Python:
    """The first of python3 and python on the image's PATH. Raises ImageError where neither works."""
    said: list[str] = []
    for command in _COMMANDS:
        try:
            text, complaint = _run(engine, image_id, command)
        except EngineError as error:
            # runc's own words, by way of the engine: `exec: "python3": executable file not found in $PATH`
            if "exec format error" in error.message:
                raise _not_emulated(name) from error
            if "not found" not in error.message and "no such file" not in error.message:
                raise
            said.append(f"{command}: not found")
            continue
        told = _parse(text)
        if told is not None:
            return told
        if b"exec format error" in (complaint + text).lower():
            raise _not_emulated(name)
        said.append(f"{command}: {(complaint or text).decode('utf-8', 'replace').strip()[-300:]!r}")
    raise ImageError(
        f"the base {name} has no working Python ({'; '.join(said)})",
        hint="use a base with Python 3, for example `base: python-3.11`, or install one in a Dockerfile",
    )


def _not_emulated(name: str) -> ImageError:
    return ImageError(
        f"the base {name} is for another processor, and the engine's machine does not emulate it",
        hint="there: `apt-get install qemu-user-static binfmt-support` (or take `platform: auto`)",
    )


def _parse(text: bytes) -> Python | None:
    try:
        told = json.loads(text)
    except ValueError:
        return None
    if not isinstance(told, dict) or set(told) != _FIELDS or not told["executable"]:
        return None
    return Python(**{field: str(value) for field, value in told.items()})


def _run(engine: Engine, image_id: str, command: str) -> tuple[bytes, bytes]:
    container = engine.create(
        ContainerSpec(
            image=image_id,
            argv=(command, "-I", "-c", _PROBE),
            labels=(("flow.mirage.builder", "probe"),),
            init=False,  # with an init the engine starts that, and a missing command is no error of its own
        )
    )
    said: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    try:
        output = engine.attach(container)  # before the start: attached later, its first words would be missed
        engine.start(container)
        for stream, piece in output:
            said[stream] += piece
    finally:
        engine.remove(container)
    return said["stdout"], said["stderr"]
