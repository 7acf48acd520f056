"""What a base is: its digest, layers, environment, interpreter and packages, and the form in which it is kept.

Makes nothing and asks nobody; where bases come from is said in base.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, parse_digest
from orchestrator.errors import ImageError, StoreError
from orchestrator.image.loading import tag_of
from orchestrator.image.oci import Image, Platform, parse

# What the history of a run image says of each of its base's layers. Always the same: a base can be known by one
# digest from a recipe here and from a registry there, and the images on it must not differ by that.
CREATED_BY = "mirage base"


@dataclass(frozen=True)
class Python:
    """The base's interpreter."""

    version: str
    executable: str
    implementation: str
    libc: str


@dataclass(frozen=True)
class Base:
    """A base by digest; ``image`` lists its layers uncompressed, ``source`` says where it came from."""

    name: str
    digest: Digest
    source: str
    image: Image
    env: tuple[tuple[str, str], ...]
    python: Python
    platform: Platform
    packages: tuple[tuple[str, str], ...]

    @property
    def tag(self) -> str:
        """Its tag in an engine."""
        return tag_of("base", self.image)

    def to_json(self) -> dict[str, Json]:
        """The form in which the library keeps it."""
        return {
            "schema": "mirage-base/1",
            "name": self.name,
            "digest": self.digest,
            "source": self.source,
            "config": self.image.config.decode(),
            "manifest": self.image.manifest.decode(),
            "env": [f"{name}={value}" for name, value in self.env],
            "python": {
                "version": self.python.version,
                "executable": self.python.executable,
                "implementation": self.python.implementation,
                "libc": self.python.libc,
            },
            "platform": str(self.platform),
            "packages": [[name, version] for name, version in self.packages],
        }


def pairs(env: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`NAME=value` lines as pairs."""
    split = (item.partition("=") for item in env)
    return tuple((name, value) for name, _, value in split)


def described(image: Image) -> tuple[tuple[tuple[str, str], ...], Platform]:
    """The environment and the platform that an image's own config says, which its digest holds fast."""
    config: Any = canonical.decode(image.config)
    settings = config.get("config") or {}
    env = pairs(tuple(map(str, settings.get("Env") or ())))
    return env, Platform(str(config["os"]), str(config["architecture"]))


def from_json(kept: dict[str, Json]) -> Base:
    """Read a base back as the library kept it. Raises ImageError where it is damaged."""
    try:
        python, env, packages = kept["python"], kept["env"], kept["packages"]
        if not (isinstance(python, dict) and isinstance(env, list) and isinstance(packages, list)):
            raise TypeError("python, env or packages has another form")
        system, _, architecture = str(kept["platform"]).partition("/")
        return Base(
            name=str(kept["name"]),
            digest=parse_digest(kept["digest"]),
            source=str(kept["source"]),
            image=parse(str(kept["config"]).encode(), str(kept["manifest"]).encode()),
            env=pairs(tuple(str(item) for item in env)),
            python=Python(**{field: str(value) for field, value in python.items()}),
            platform=Platform(system, architecture),
            packages=tuple(_package(item) for item in packages),
        )
    except (KeyError, TypeError, ValueError, StoreError) as error:
        raise ImageError(
            f"what was kept of a base is damaged: {error!r}", hint="`mirage base build` makes it anew"
        ) from error


def _package(item: Json) -> tuple[str, str]:
    if not isinstance(item, list) or len(item) != 2:
        raise TypeError(f"not a package: {item!r}")
    return str(item[0]), str(item[1])
