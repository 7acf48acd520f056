"""A rootless engine for real: a user who is nobody special starts one, builds and runs on it, and owns what comes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.base_tools import own_base
from tests.image_tools import Index, wheel
from tests.lock_tools import sdist
from tests.rootless_tools import RANGE, UID, RootlessEngine
from tests.run_tools import GIT, Project

WORK = """
import os, pwd, subprocess
import plain, rough
from mirage import artifact, secret
given = artifact.load("dataset:rows:v1").path
def tried(action):
    try:
        return repr(action())
    except OSError as error:
        return error.strerror
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
found = {
    "uid": os.getuid(), "map": open("/proc/self/uid_map").read().split(), "name": pwd.getpwuid(os.getuid()).pw_name,
    "capabilities": status["CapEff"].strip(), "filter": status["Seccomp"].strip(), "built": rough.built,
    "network": sorted(os.listdir("/sys/class/net")), "secret": len(secret("API_KEY")), "rows": open(given).read(),
    # the caller's own files: only the mount is between
    "write input": tried(lambda: os.chmod(given, 0o666)), "write root": tried(lambda: open("/usr/mine", "w")),
    "give away": tried(lambda: os.chown("/mirage/out/artifacts", 1, 1)),
    "home": tried(lambda: open(os.path.expanduser("~/x"), "w").write("x")),
}
artifact.Report.save(found, name="seen")
"""
VALUE = "sk-of-a-rootless-run-4711"


@pytest.fixture(scope="module")
def rootless() -> Iterator[RootlessEngine]:
    folder = Path(tempfile.mkdtemp(prefix="mirage-rootless-", dir="/var/tmp"))
    folder.chmod(0o755)
    os.chown(folder, UID, UID)
    with RootlessEngine(folder) as engine:
        yield engine


def give(place: Path) -> None:
    """A folder to the user; of files that this machine's cache has too, copies."""
    for top, names, others in os.walk(place):
        for name in (".", *names, *others):
            path = Path(top, name)
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink > 1:
                copy = path.with_name(f"{name}.copy")
                shutil.copy2(path, copy)
                copy.replace(path)
            os.chown(path, UID, UID, follow_symlinks=False)


def done(made: subprocess.CompletedProcess[str]) -> Any:
    assert made.returncode == 0, made.stderr + made.stdout
    return json.loads(made.stdout)


def test_a_user_builds_and_runs_on_an_engine_of_their_own(rootless: RootlessEngine) -> None:
    place = rootless.folder / "repository"
    with Index(wheel("plain", {"plain.py": b""}), sdist("rough")) as index:
        config = "data: 'dataset:rows:v1'\nmirage: {run: {secrets: [API_KEY]}}\n"
        files = {"requirements.txt": index.lock("plain", "rough").decode(), "configs/a.yaml": config}
        project = Project(place, WORK, files=files)
        own_base(project.store, project.folder)
        project.commit()
        (rootless.folder / "rows.csv").write_text("1,2,3")
        give(place)
        # where the user's network namespace has this machine's loopback (slirp4netns)
        env = {**GIT, "UV_DEFAULT_INDEX": index.url.replace("127.0.0.1", "10.0.2.2"), "API_KEY": VALUE}
        env["NO_PROXY"] = env["no_proxy"] = "10.0.2.2"
        add = ["mirage", "artifact", "add", "../rows.csv", "--as", "dataset:rows"]
        assert rootless.run(add, cwd=place, env=env).returncode == 0
        run = ["mirage-run", "--config", "configs/a.yaml", "--json"]
        made = done(rootless.run(run, cwd=place, env=env))
    outputs = {each["id"].split(":")[1]: each["id"] for each in made["outputs"]}
    shown = done(rootless.run(["mirage", "artifact", "show", outputs["seen"], "--json"], cwd=place))
    seen = json.loads(project.blob(shown["tree"][0]["d"]))
    assert seen == {
        "uid": 0,
        "map": ["0", str(UID), "1", "1", str(RANGE), "65536"],
        "name": "root",
        "capabilities": "0" * 16,
        "filter": "2",
        "built": True,
        "network": ["lo"],
        "secret": len(VALUE),
        "rows": "1,2,3",
        "write input": "Read-only file system",
        "write root": "Read-only file system",
        "give away": "Operation not permitted",
        "home": "1",
    }
    sandbox = project.record(made["run_id"])["predicate"]["buildDefinition"]["internalParameters"]["sandbox"]
    assert sandbox["user"] == "0:0" and not sandbox["limitsEnforced"]
    assert strangers(rootless.folder / "repository") == [] and strangers(rootless.folder / "home") == []
    assert VALUE not in json.dumps(rootless.api().containers(all=True)) + json.dumps(made)
    assert rootless.api().containers(all=True) == []
    again = done(rootless.run(["mirage", "verify", made["run_id"], "--json"], cwd=place))
    assert again["verdict"] == "ok", again


def strangers(top: Path) -> list[str]:
    """What belongs to somebody else than the user."""
    paths = [os.path.join(folder, each) for folder, names, files in os.walk(top) for each in (*names, *files)]
    return [path for path in paths if os.lstat(path).st_uid != UID]


def test_doctor_knows_it(rootless: RootlessEngine) -> None:
    told = rootless.run(["mirage", "doctor"])
    assert told.returncode == 0, told.stdout
    assert "(rootless, classic image store" in told.stdout and "FAIL" not in told.stdout.upper().split()
