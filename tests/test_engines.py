"""Another engine: a newer Docker with the containerd image store (tests/stress/test_podman.py is for podman)."""

from __future__ import annotations

from pathlib import Path

from tests import engine_checks


def test_the_containerd_store_of_a_newer_docker_has_the_same_image_and_run(tmp_path: Path) -> None:
    engine_checks.check("containerd", tmp_path)
