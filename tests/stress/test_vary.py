"""Each way in which a build is varied is a real one: a package that writes it down comes out otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_image_verify import check_found_out, telling


@pytest.mark.stress
def test_each_circumstance_reaches_a_build_that_writes_it_down(tmp_path: Path) -> None:
    with telling(tmp_path) as verify:
        same = verify(code=0)
        assert same["equal"] and same["compiled"] == ["telling"]
        for way in ("time", "umask", "locale", "user", "cores"):
            check_found_out(verify, way)
        assert verify("--vary", "order", code=0)["equal"]
