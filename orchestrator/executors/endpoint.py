"""Where a Docker-compatible engine may listen: DOCKER_HOST, the docker CLI's context, the usual sockets.

Reads the docker CLI's own files, needs neither that CLI nor the SDK; standard library only, since the
repository's engine script reads it before there is a virtual environment.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import EngineError

DEFAULT = "unix:///var/run/docker.sock"


@dataclass(frozen=True)
class Endpoint:
    """An address of an engine, and where we have it from; ``chosen``: a person asked for exactly this one."""

    url: str
    origin: str
    chosen: bool = False
    tls: bool = False
    certificates: str | None = None


def candidates(env: Mapping[str, str]) -> list[Endpoint]:
    """Where to look, in the docker CLI's own order: DOCKER_HOST, the context, then the usual sockets.

    A choice that a person made stands alone: no other engine is ever taken in its place.
    Raises EngineError.
    """
    if env.get("DOCKER_HOST"):
        tls = bool(env.get("DOCKER_TLS_VERIFY"))
        folder = env.get("DOCKER_CERT_PATH") or (str(Path.home() / ".docker") if tls else None)
        return [Endpoint(env["DOCKER_HOST"], "DOCKER_HOST", True, tls, folder)]
    chosen = current_context(env)
    if chosen is not None:
        return [chosen]
    runtime = env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [
        Endpoint(DEFAULT, "the default socket"),
        Endpoint(f"unix://{runtime}/docker.sock", "the rootless socket"),
    ]


def current_context(env: Mapping[str, str]) -> Endpoint | None:
    """The docker CLI's current context as an endpoint, or None where it is the default one.

    Layout: ~/.docker/contexts/meta/<sha256 of the name>/meta.json. Raises EngineError.
    """
    folder = Path(env.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = env.get("DOCKER_CONTEXT")
    if not name:
        try:
            config = json.loads((folder / "config.json").read_bytes())
            name = config.get("currentContext") if isinstance(config, dict) else None
        except (OSError, ValueError):
            return None  # no CLI was ever set up here, or not in a way that chooses an engine
    if not name or name == "default":
        return None
    key = hashlib.sha256(name.encode()).hexdigest()
    try:
        meta = json.loads((folder / "contexts" / "meta" / key / "meta.json").read_bytes())
        docker = meta["Endpoints"]["docker"]
        url = str(docker["Host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"docker context {name!r} cannot be read: {error}",
            hint="choose another: docker context use default, or set DOCKER_HOST",
        ) from error
    secrets = folder / "contexts" / "tls" / key / "docker"
    return Endpoint(
        url, f"docker context {name!r}", True, secrets.is_dir(), str(secrets) if secrets.is_dir() else None
    )


def choose(env: Mapping[str, str]) -> Endpoint:
    """The endpoint to connect to: what a person chose, else the first usual socket that is there.

    Raises EngineError where there is none.
    """
    places = candidates(env)
    for place in places:
        if place.chosen or Path(place.url.removeprefix("unix://")).exists():
            return place
    raise EngineError(
        f"no container engine was found (looked at DOCKER_HOST, docker's context, {DEFAULT} and the rootless socket)",
        hint="install Docker and start it, or set DOCKER_HOST; in Mirage's repository `make engine` does both",
    )
