"""What libraries ask of a machine works in a container that has no user of theirs: account, home, caches, shared memory.

The calls are those of PyTorch (getpass for inductor's folder, DataLoader's workers), matplotlib (its config and cache
folders), joblib and pip (caches below HOME), as their sources make them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import Project

ASKS = """
import getpass, json, multiprocessing, os, pathlib, pwd, grp, re, subprocess, sys, tempfile
from multiprocessing import shared_memory
from mirage import artifact

def fill(name, size):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:size] = b"x" * size
    block.close()

def inductor():
    # torch/_inductor/runtime/cache_dir_utils.py, default_cache_dir
    user = re.sub(r'[\\\\/:*?"<>|]', "_", getpass.getuser())
    return os.path.join(tempfile.gettempdir(), "torchinductor_" + user)

def writable(folder):
    folder = os.path.expanduser(str(folder))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * (1 << 20))
    return folder

def executes(folder):
    # what inductor, numba and ctypes do with what they compiled
    program = os.path.join(folder, "compiled")
    with open(program, "wb") as sink, open("/bin/true", "rb") as source:
        sink.write(source.read())
    os.chmod(program, 0o755)
    return subprocess.run([program]).returncode

if __name__ == "__main__":
    found = {
        "uid": os.getuid(),
        "account": list(pwd.getpwuid(os.getuid())),
        "group": grp.getgrgid(os.getgid()).gr_name,
        "by_name": pwd.getpwnam(getpass.getuser()).pw_uid,
        "home": writable(pathlib.Path.home()),
        "inductor": writable(inductor()),
        "runs": executes(writable(inductor())),
        "matplotlib": writable(os.environ["MPLCONFIGDIR"]),
        "cache": writable(os.environ.get("XDG_CACHE_HOME", "~/.cache") + "/pip"),
        "config": writable("~/.config/any"),
        "tmp": writable(tempfile.gettempdir()),
        "umask": os.umask(0o022),
    }
    size = 96 << 20
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        block = shared_memory.SharedMemory(create=True, size=size)
        workers = [context.Process(target=fill, args=(block.name, size)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        found[method] = [[worker.exitcode for worker in workers], bytes(block.buf[size - 2 : size]).decode()]
        block.close()
        block.unlink()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found["pool"] = pool.map(abs, [-1, -2])
    artifact.File.save(found, name="found")
"""


def asked(project: Project, env: Mapping[str, str]) -> dict[str, Any]:
    made = project.run(env=env)
    files = project.asked("artifact", "show", made["outputs"][-1]["id"])["tree"]
    found: dict[str, Any] = json.loads(project.blob(files[0]["d"]))
    return found


@pytest.mark.parametrize("uid", ["2000000000"])
def test_a_user_that_no_image_knows_has_all_that_libraries_want(tmp_path: Path, uid: str) -> None:
    project = Project(tmp_path, ASKS)
    found = asked(project, {"SUDO_UID": uid, "SUDO_GID": uid} if os.geteuid() == 0 else {})
    if os.geteuid() == 0:
        assert found["uid"] == int(uid)
    assert found["account"][0] == "mirage"
    assert found["by_name"] == found["uid"]
    assert found["account"][5] == found["home"] == "/mirage/tmp"
    assert found["inductor"] == "/mirage/tmp/torchinductor_mirage"
    assert found["runs"] == 0
    assert found["fork"] == found["spawn"] == [[0, 0], "xx"]
    assert found["pool"] == [1, 2]
