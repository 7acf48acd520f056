"""The long share of the fuzzing: MIRAGE_FUZZ inputs for each target (default 60,000), and MIRAGE_FUZZ_SECONDS of a
coverage-guided fuzzer for each (default 60), where it can be installed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing import targets
from tests.test_fuzz import ROOT, fuzz

COUNT = int(os.environ.get("MIRAGE_FUZZ", "60000"))
SECONDS = int(os.environ.get("MIRAGE_FUZZ_SECONDS", "60"))
NAMES = sorted(targets())


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_hypothesis(name: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    found = json.loads(fuzz(name, COUNT, seed))
    print(f"{found['tried']} inputs in {found['seconds']} s, seed {seed}")
    assert found["finding"] is None, found


@pytest.mark.stress
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_coverage_guided(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.guided", name, str(tmp_path), f"-max_total_time={SECONDS}",
         "-max_len=65536", "-timeout=5", "-rss_limit_mb=1024", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    kept = sorted(
        path.name for path in tmp_path.glob("*-*") if path.is_file() and not path.name.startswith("seed-")
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{kept}"
    print(done.stderr.strip().splitlines()[-1])
