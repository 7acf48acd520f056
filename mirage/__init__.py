"""Mirage's SDK: what a workflow imports. Owns the public names; imports the standard library only.

It lives inside the user's environment, so it can never conflict with the user's lock, and it is the
container's half of the contract with the host.
"""

from __future__ import annotations

from mirage import artifact, metrics
from mirage.artifact import Artifact
from mirage.configuration import Config, Section
from mirage.errors import ArtifactError, ConfigError, MirageError, MissingKey
from mirage.flows import flow, step
from mirage.secrets import secret

config = Config()

__all__ = [
    "Artifact",
    "ArtifactError",
    "Config",
    "ConfigError",
    "MirageError",
    "MissingKey",
    "Section",
    "artifact",
    "config",
    "flow",
    "metrics",
    "secret",
    "step",
]
