"""The disk of the engine is full while an image is loaded, and while a base is built."""

from __future__ import annotations

import pytest

from tests.figures import Counted
from tests.test_engine_disk import FULL, Place, place

__all__ = ["place"]
pytestmark = pytest.mark.stress
DOCKERFILE = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN head -c 2G /dev/zero > /filler\n"


def test_while_an_image_is_loaded(place: Place, counted: Counted) -> None:
    counts = counted(FULL)
    counts.trials += 1
    with place.filled(leave=60 << 20):
        err = place.refused("--config", "configs/a.yaml", "--workflow", "workflows.quick")
    assert "the engine could not load the image" in err
    assert place.project.run_ids() == [], "nothing was run"
    place.works(counts)


def test_while_a_base_is_built(place: Place, counted: Counted) -> None:
    counts = counted(FULL)
    counts.trials += 1
    place.works(counts)
    place.project.write("Dockerfile.base", DOCKERFILE)
    place.project.write("configs/built.yaml", "mirage: {base: ./Dockerfile.base, build: {network: none}}\n")
    place.project.commit()
    before = place.project.run_ids()
    err = place.refused("--config", "configs/built.yaml", "--workflow", "workflows.quick")
    assert "Dockerfile.base" in err
    assert place.project.run_ids() == before, "nothing was run"
    place.works(counts)
