"""Another engine: podman by Docker's interface (tests/test_engines.py has a newer Docker)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import engine_checks


@pytest.mark.stress
def test_podman_has_the_same_image_and_run(tmp_path: Path) -> None:
    engine_checks.check("podman", tmp_path)
