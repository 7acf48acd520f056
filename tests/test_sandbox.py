"""What a workflow finds inside its container: no root, no network, nothing to write but its outbox."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import Project, engine, wait_for

PROBE = """
import ctypes, errno, json, os, pwd, socket, getpass
from mirage import artifact

def refused(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def status():
    with open("/proc/self/status") as lines:
        return dict(line.rstrip("\\n").split(":\\t", 1) for line in lines if ":\\t" in line)

def write(path):
    return lambda: open(path, "w").write("x")

def connect(family, address):
    def action():
        with socket.socket(family, socket.SOCK_STREAM) as plug:
            plug.settimeout(2)
            plug.connect(address)
    return action

libc = ctypes.CDLL(None, use_errno=True)
PIDS = ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max")

def mount():
    if libc.mount(b"none", b"/mirage/tmp", b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")

found = status()
seen = {
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "user": pwd.getpwuid(os.getuid()).pw_name, "getuser": getpass.getuser(), "home": os.path.expanduser("~"),
    "capabilities": {name: found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "no_new_privileges": found["NoNewPrivs"], "seccomp": found["Seccomp"],
    "init": open("/proc/1/cmdline").read().split("\\0")[0],
    "write": {path: refused(write(path)) for path in (
        "/x", "/etc/x", "/usr/x", "/opt/venv/x", "/workspace/x", "/workspace/src/x", "/mirage/x", "/mirage/sdk/x",
        "/mirage/config.json", "/mirage/in/x", "/mirage/in/inputs.json", "/etc/passwd", "/sys/x", "/proc/sys/kernel/core_pattern",
        "/mirage/tmp/x", "/tmp/x", "/mirage/out/x", "/dev/shm/x")},
    "input": {name: refused(action) for name, action in {
        "write": write("/mirage/in/trees/0/data.json"),
        "remove": lambda: os.unlink("/mirage/in/trees/0/data.json"),
        "chmod": lambda: os.chmod("/mirage/in/trees/0/data.json", 0o666),
    }.items()},
    "chown": refused(lambda: os.chown("/mirage/out/x", 0, 0)),
    "setuid": refused(lambda: os.setuid(0)),
    "mount": refused(mount),
    "raw_socket": refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
    "internet": refused(connect(socket.AF_INET, ("192.0.2.1", 80))),
    "interfaces": sorted(open("/proc/net/route").read().split("\\n")[1:2] + open("/proc/net/if_inet6").read().split()[5:6]),
    "engine_socket": os.path.exists("/var/run/docker.sock"),
    "trees": sorted(os.listdir("/mirage/in/trees")),
    "in": sorted(os.listdir("/mirage/in")),
    "mounts": [line.split()[4] for line in open("/proc/self/mountinfo") if "/mirage/" in line.split()[4]],
    "pids": next(open(path).read().strip() for path in PIDS if os.path.exists(path)),
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "environment": dict(os.environ),
    "workdir": os.getcwd(),
    "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0],
}
os.symlink("/etc/shadow", "/mirage/out/link")
artifact.File.save(seen, name="probe")
"""
MAKES = """
from mirage import artifact
artifact.Dataset.save({"rows": []}, name="mine")
artifact.Dataset.save({"secret": 1}, name="other")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(
        tmp_path_factory.mktemp("sandbox"),
        PROBE,
        files={
            "workflows/makes.py": MAKES,
            "configs/b.yaml": 'data: "dataset:mine:v1"\nmirage: {run: {memory: 256m, cpus: 1.5, env: {GREETING: hello}}}\n',
        },
    )


@pytest.fixture(scope="module")
def seen(project: Project) -> dict[str, Any]:
    project.run("--workflow", "workflows.makes")
    made = project.run(config="configs/b.yaml")
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    found: dict[str, Any] = json.loads(project.blob(shown["tree"][0]["d"]))
    return {**found, "run_id": made["run_id"]}


def test_it_is_not_root_and_has_a_name(seen: dict[str, Any]) -> None:
    assert seen["uid"] != 0
    assert seen["gid"] != 0
    assert set(seen["groups"]) <= {seen["gid"]}
    if os.geteuid() != 0:
        assert (seen["uid"], seen["gid"]) == (os.getuid(), os.getgid())
    assert seen["user"] == seen["getuser"] == "mirage"
    assert seen["home"] == "/mirage/tmp"


def test_it_has_no_capability_and_gains_none(seen: dict[str, Any]) -> None:
    assert set(seen["capabilities"].values()) == {"0000000000000000"}
    assert seen["no_new_privileges"] == "1"
    assert seen["seccomp"] == "2"
    assert seen["setuid"] == "EPERM"
    assert seen["chown"] == "EPERM"
    assert seen["mount"] == "EPERM"
    assert seen["raw_socket"] == "EPERM"


def test_it_can_write_its_outbox_and_memory_and_nothing_else(seen: dict[str, Any]) -> None:
    writable = {path for path, answer in seen["write"].items() if answer == "done"}
    assert writable == {"/mirage/tmp/x", "/tmp/x", "/mirage/out/x", "/dev/shm/x"}
    assert set(seen["input"].values()) <= {"EROFS", "EPERM", "EACCES"}


def test_it_has_no_network(seen: dict[str, Any]) -> None:
    assert seen["internet"] == "ENETUNREACH"
    assert set(seen["interfaces"]) <= {"", "lo"}  # no route, and at most loopback has an address


def test_it_sees_its_inputs_and_no_more_of_the_store(seen: dict[str, Any]) -> None:
    assert seen["in"] == ["inputs.json", "trees"]
    assert seen["trees"] == ["0"]
    assert sorted(seen["mounts"]) == ["/mirage/in", "/mirage/in/trees/0", "/mirage/out", "/mirage/tmp"]
    assert seen["engine_socket"] is False


def test_its_environment_is_fixed(seen: dict[str, Any]) -> None:
    env = seen["environment"]
    for name, value in {
        "PYTHONHASHSEED": "0",
        "TZ": "UTC",
        "LC_ALL": "C.UTF-8",
        "SOURCE_DATE_EPOCH": "1767323045",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NUMEXPR_NUM_THREADS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "MIRAGE_SEED": "0",
        "GREETING": "hello",
        "HOME": "/mirage/tmp",
        "TMPDIR": "/mirage/tmp",
    }.items():
        assert env[name] == value, name
    ours = {name for name in env if name in os.environ and env[name] == os.environ[name]} - {
        "LC_ALL",
        "TZ",
        "LANG",
    }
    assert ours <= {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"}, (
        "the caller's environment leaked"
    )
    assert seen["workdir"] == "/workspace"


def test_its_limits_are_set_and_recorded(project: Project, seen: dict[str, Any]) -> None:
    assert seen["pids"] == "4096"
    assert seen["shm"] == 1 << 30
    assert seen["core"] == 0
    assert "init" in seen["init"] or "tini" in seen["init"]
    sandbox = project.record(seen["run_id"])["predicate"]["buildDefinition"]["internalParameters"]["sandbox"]
    assert sandbox["memory"] == 256 << 20
    assert sandbox["cpus"] == 1.5
    assert sandbox["network"] == "none"
    assert sandbox["user"] == f"{seen['uid']}:{seen['gid']}"
    assert sandbox["readOnlyRootfs"] is True
    assert sandbox["noNewPrivileges"] is True


def test_what_it_leaves_belongs_to_the_caller(project: Project, seen: dict[str, Any]) -> None:
    for top in (project.folder / ".mirage").iterdir():
        for path in [top, *top.rglob("*")]:
            assert path.lstat().st_uid == os.geteuid(), path
    assert not (project.folder / ".mirage" / "runs" / seen["run_id"] / "out").exists()


def test_the_engine_was_asked_for_all_of_it(project: Project) -> None:
    """The same, as the engine tells it of a container that waits."""
    project.write("workflows/waits.py", "import time\ntime.sleep(60)\n")
    project.commit()
    process = project.start("--config", "configs/b.yaml", "--workflow", "workflows.waits")
    try:
        run_id = _running(project)
        host = engine().inspect_container(f"mirage-{run_id}")
    finally:
        process.terminate()
        project.ended(process)
    config = host["HostConfig"]
    assert config["ReadonlyRootfs"] is True
    assert config["CapDrop"] == ["ALL"]
    assert config["CapAdd"] is None
    assert config["Privileged"] is False
    assert "no-new-privileges" in config["SecurityOpt"]
    assert config["NetworkMode"] == "none"
    assert config["PidsLimit"] == 4096
    assert config["Memory"] == config["MemorySwap"] == 256 << 20
    assert config["NanoCpus"] == 1_500_000_000
    assert config["Init"] is True
    assert config["AutoRemove"] is False
    assert config["ShmSize"] == 1 << 30
    assert config["Binds"] is None
    assert {mount["Target"]: mount.get("ReadOnly", False) for mount in config["Mounts"]} == {
        "/etc/passwd": True,
        "/etc/group": True,
        "/mirage/in": True,
        "/mirage/in/trees/0": True,
        "/mirage/out": False,
    }
    labels = host["Config"]["Labels"]
    assert labels["flow.mirage.run"] == run_id
    assert labels["flow.mirage.project"] == "probe"
    assert labels["flow.mirage.journal"].endswith(f"{run_id}/journal")


def _running(project: Project) -> str:
    before = set(project.run_ids())
    wait_for(lambda: bool(set(project.run_ids()) - before))
    # by difference: ids that two runs drew in one second sort by chance
    [run_id] = set(project.run_ids()) - before
    wait_for(lambda: bool(engine().containers(filters={"name": f"mirage-{run_id}"})))
    return run_id


def test_the_network_can_be_asked_for_and_is_recorded(project: Project) -> None:
    project.write(
        "workflows/online.py",
        "import socket\nfrom mirage import artifact\n"
        "artifact.File.save(sorted(name for _, name in socket.if_nameindex()), name='interfaces')\n",
    )
    project.commit()
    made = project.run("--workflow", "workflows.online", "--network", "bridge")
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    assert "eth0" in json.loads(project.blob(shown["tree"][0]["d"]))
    record = project.record(made["run_id"])["predicate"]["buildDefinition"]
    assert record["externalParameters"]["network"] == "bridge"


def test_gpus_are_asked_of_the_engine_and_a_missing_driver_is_told(project: Project) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.fail("this machine has a GPU: the test of a missing one cannot be made here")
    error = project.refused("--config", "configs/a.yaml", "--gpus", "all", code=8)
    assert "GPU" in error
    newest = project.asked("show", "latest")
    assert newest["status"] == "failed"
    assert newest["statement"]["predicate"]["buildDefinition"]["externalParameters"]["gpus"] == ["all"]
    assert project.containers() == []
