"""The keys of image and run: what must be equal for two of them to be the same (design section 7).

Each is the digest of a canonical manifest of named components; the manifest is kept beside what it led to.
Never in a key: time, host, executor, resources, values of secrets, paths of this machine. The environment's
key is made in image/environment.py, of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes

IMAGE_RECIPE = 1  # counts up when the same components would give another image


@dataclass(frozen=True)
class Key:
    """A key with the manifest that it is the digest of."""

    digest: Digest
    manifest: bytes


def _key(components: dict[str, Json]) -> Key:
    manifest = canonical.encode(components)
    return Key(of_bytes(manifest), manifest)


def image_key(
    *, env_key: Digest, commit: str, tree: str, path: str, sdk: Digest, config_path: str, config: Digest
) -> Key:
    """Inputs of the run image: commit, lock (through ``env_key``) and config, and how we build."""
    return _key(
        {
            "schema": "mirage-image-key/1",
            "env_key": env_key,
            "commit": commit,
            "tree": tree,
            "path": path,
            "sdk": sdk,
            "config_path": config_path,
            "config": config,
            "recipe": IMAGE_RECIPE,
        }
    )


def run_key(
    image: Key,
    *,
    argv: tuple[str, ...],
    inputs: tuple[tuple[str, Digest], ...],
    env: tuple[tuple[str, str], ...],
    secrets: tuple[str, ...],
    network: str,
    threads: int,
    seed: int,
) -> Key:
    """Inputs of the computation: two runs with the same key mean the same one, whatever commit held it."""
    components = canonical.decode(image.manifest)
    assert isinstance(components, dict)
    del components["commit"]
    return _key(
        {
            **components,
            "schema": "mirage-run-key/1",
            "argv": list(argv),
            "inputs": dict(inputs),
            "env": dict(env),
            "secrets": [*sorted(secrets)],
            "network": network,
            "threads": threads,
            "seed": seed,
        }
    )
