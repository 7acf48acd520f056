"""What a run used against what it declared: the audit hook, the record, and what people are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import hints
from orchestrator.artifacts.audit import Audit
from orchestrator.redaction import Secrets
from tests.run_tools import Project

STARTUP = Path(__file__).parent.parent / "mirage" / "startup.py"
MAKES = """
from mirage import artifact
for name in ("opened", "asked", "left"):
    artifact.Dataset.save({"name": name}, name=name)
"""
USES = """
import os, socket, subprocess, sys, urllib.request
from mirage import artifact, config, flow

@flow
def main():
    with open("/mirage/in/trees/0/data.json") as source:
        source.read()
    artifact.load(config.asked).path
    open("/proc/cpuinfo").close()
    subprocess.run(["true", "SECRET-ARGUMENT"], env={"TOKEN": "SECRET-VALUE"})
    os.environ.get("DATA_DIR")
    for path in ("data/train.csv", "/data/x.csv"):
        try:
            open(path)
        except OSError as error:
            print(error)
    try:
        open("/workspace/out.txt", "w")
    except OSError as error:
        print(error)
    subprocess.run([sys.executable, "-c", "open('/nowhere/by-a-child')"], stderr=subprocess.DEVNULL)
    urllib.request.urlopen("http://example.org/path?token=SECRET-QUERY")

if __name__ == "__main__":
    main()
"""
CAREFUL = """
import urllib.request
try:
    urllib.request.urlopen("http://example.org/")
except OSError:
    pass
print("x" * 8192)
raise ValueError("for another reason")
"""
CONFIG = 'data: {opened: "dataset:opened:v1"}\nasked: "dataset:asked:latest"\nleft: "dataset:left:v1"\n'


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(
        tmp_path_factory.mktemp("audit"),
        USES,
        files={
            "configs/b.yaml": CONFIG,
            "workflows/makes.py": MAKES,
            "workflows/careful.py": CAREFUL,
            "workflows/quiet.py": "from mirage import artifact, config\nartifact.load(config.asked)\n",
            "configs/off.yaml": f"{CONFIG}mirage: {{run: {{audit: false}}}}\n",
        },
    )
    made.run("--workflow", "workflows.makes")
    return made


@pytest.fixture(scope="module")
def failed(project: Project) -> dict[str, Any]:
    return project.run(config="configs/b.yaml", code=1)


def test_the_record_says_what_was_used_of_what_was_declared(project: Project, failed: dict[str, Any]) -> None:
    details = project.record(failed["run_id"])["predicate"]["runDetails"]
    assert details["mirage_audit"] == failed["audit"]
    audit = failed["audit"]
    assert audit["inputsUsed"] == ["dataset:opened:v1", "dataset:asked:latest"]
    assert audit["inputsUnused"] == ["dataset:left:v1"]
    assert audit["missing"] == ["/workspace/data/train.csv", "/data/x.csv", "/nowhere/by-a-child"]
    assert audit["writes"] == ["/workspace/out.txt"]
    assert audit["connections"] == ["example.org:80"]
    assert audit["programs"][0] == "true"
    assert audit["host"] == ["/proc/cpuinfo"]
    assert audit["more"] == 0
    [kept] = [item for item in details["byproducts"] if item["name"] == "audit.jsonl"]
    noted = project.blob(kept["digest"]["sha256"]).decode()
    assert {"kind": "environment", "name": "DATA_DIR"} in [json.loads(line) for line in noted.splitlines()]
    assert "SECRET" not in noted
    project.mirage("verify", failed["run_id"])
    shown = project.mirage("show", failed["run_id"])
    assert "connected to: example.org:80" in shown
    [line] = [line for line in shown.splitlines() if "dataset:left:v1" in line]
    assert line.endswith("(not seen used)")


def test_a_run_that_wanted_a_network_ends_with_the_line_that_allows_it(failed: dict[str, Any]) -> None:
    [network, train, other, write] = failed["hints"]
    assert "to example.org:80" in network
    assert "--network bridge" in network
    assert "run: {network: bridge}" in network
    assert train.startswith("data/train.csv is not in the commit")
    assert "mirage artifact add data/train.csv --as dataset:train\n" in train
    assert '"dataset:train:latest" in configs/b.yaml' in train
    assert other.startswith("/data/x.csv is neither in the image nor an input")
    assert write.startswith("out.txt cannot be written")


def test_people_are_told_at_the_end(project: Project) -> None:
    out, _, code = project.ended(project.start("--config", "configs/b.yaml"))
    assert code == 1
    assert "  -> it asked for a connection to example.org:80, and this run has no network" in out


def test_a_failure_for_another_reason_is_not_put_on_the_network(project: Project) -> None:
    made = project.run("--workflow", "workflows.careful", code=1)
    assert made["audit"]["connections"] == ["example.org:80"]
    assert made["hints"] == []


def test_a_run_that_left_an_input_alone_is_told_so(project: Project) -> None:
    made = project.run("--workflow", "workflows.quiet", config="configs/b.yaml")
    assert made["hints"] == [
        "declared and not seen used: dataset:opened:v1, dataset:left:v1 "
        "(an input belongs out of configs/b.yaml if the workflow does not need it)"
    ]


def test_switched_off_it_leaves_no_trace(project: Project) -> None:
    made = project.run("--workflow", "workflows.quiet", config="configs/off.yaml")
    assert made["audit"] is None
    assert made["hints"] == []
    assert made["fences"] == ["audit=false"]
    details = project.record(made["run_id"])["predicate"]["runDetails"]
    assert "mirage_audit" not in details
    assert "audit.jsonl" not in {item["name"] for item in details["byproducts"]}
    project.mirage("verify", made["run_id"])


# The hook by itself, in a process of this machine


def python(
    root: Path, program: str, *, paths: tuple[str, ...] = (), **env: str
) -> tuple[str, list[dict[str, str]]]:
    """Run a program with the hook; gives its output and what was noted."""
    sdk = root / "sdk"
    sdk.mkdir(parents=True, exist_ok=True)
    (sdk / "sitecustomize.py").write_bytes(STARTUP.read_bytes())
    (root / "out").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ":".join([str(sdk), *paths]),
            "MIRAGE_RUN_ID": "x",
            "MIRAGE_ROOT": str(root),
            **env,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    file = root / "out" / "audit.jsonl"
    return done.stdout, [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_sitecustomize_that_there_was_is_run_all_the_same(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import sys\nsys.theirs = __file__\n")
    for audit in ("1", "0"):
        out, _ = python(
            tmp_path / "root",
            "import sys, sitecustomize; print(sys.theirs, sitecustomize.__file__)",
            paths=(str(other),),
            MIRAGE_AUDIT=audit,
        )
        assert out.split() == [str(other / "sitecustomize.py")] * 2


def test_nothing_that_a_program_does_fails_for_it(tmp_path: Path) -> None:
    program = """
import copy, os, pickle, socket, subprocess, sys
for path in (b"/nowhere/\\xff", "/nowhere/\\udcff", "/nowhere/" + "x" * 5000, "\\n", "/nowhere/a\\x1b[2J"):
    try:
        open(path)
    except (OSError, ValueError):
        pass
os.fdopen(os.open(os.devnull, os.O_RDONLY)).close()
assert os.environ["PATH"] and os.environ.copy()["PATH"] and "PATH" in os.environ and os.getenv("NOT_THERE") is None
os.environ["NEW"] = "1"
assert os.environ.pop("NEW") == "1" and (os.environ | {"A": "b"})["A"] == "b" and repr(os.environ).startswith("environ(")
assert type(os.environ).__name__ == "_Environ" and isinstance(os.environ, os._Environ)
assert pickle.loads(pickle.dumps(dict(os.environ)))["PATH"]
try:
    os.environ["NOT_THERE"]
except KeyError as error:
    assert error.args == ("NOT_THERE",) and error.__suppress_context__
a, b = socket.socketpair()
try:
    socket.create_connection(("127.0.0.1", 1), timeout=1)
except OSError:
    pass
os.system("exit 0")
pid = os.fork()
if pid == 0:
    os.environ.get("IN_A_CHILD")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("whole")
"""
    out, noted = python(tmp_path, program)
    assert out == "whole\n"
    assert {"kind": "connect", "name": "127.0.0.1:1"} in noted
    assert {"kind": "program", "name": "/bin/sh"} in noted
    assert {"kind": "environment", "name": "IN_A_CHILD"} in noted
    assert all(len(item["name"]) <= 300 for item in noted)


def test_it_is_bounded_and_notes_each_thing_once(tmp_path: Path) -> None:
    program = """
import os
for number in range(6000):
    for _ in range(2):
        try:
            open(f"/nowhere/{number}")
        except OSError:
            pass
"""
    _, noted = python(tmp_path, program)
    assert len(noted) == 2000
    assert len({item["name"] for item in noted}) == 2000
    before = 1 << 20
    (tmp_path / "out" / "audit.jsonl").write_bytes(b"\n" * before)
    done = subprocess.run(
        [sys.executable, "-c", "pass"],
        env={"PYTHONPATH": str(tmp_path / "sdk"), "MIRAGE_RUN_ID": "x", "MIRAGE_ROOT": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    assert done.stderr == b""
    assert (tmp_path / "out" / "audit.jsonl").stat().st_size == before


def test_without_a_run_or_an_outbox_it_is_silent(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.jsonl").mkdir()  # cannot be written
    sdk = tmp_path / "sdk"
    sdk.mkdir()
    (sdk / "sitecustomize.py").write_bytes(STARTUP.read_bytes())
    for env in ({}, {"MIRAGE_RUN_ID": "x", "MIRAGE_ROOT": str(tmp_path)}):
        done = subprocess.run(
            [sys.executable, "-c", "open('/dev/null'); print('whole')"],
            env={"PYTHONPATH": str(sdk), **env},
            capture_output=True,
            text=True,
        )
        assert (done.stdout, done.stderr) == ("whole\n", "")


def test_lines_that_a_workflow_forged_are_bounded_and_no_more_than_names() -> None:
    audit = Audit()
    for line in (b"", b"{}", b"[]", b"7", b"[" * 100_000, b"\xff", b'{"kind": ["missing"], "name": "x"}'):
        audit.see(line)
    assert audit.summary({}) is None
    audit.see(b'{"kind": "python", "name": "3"}')
    for number in range(1000):
        audit.see(json.dumps({"kind": "missing", "name": f"/{number}"}).encode())
    audit.see(json.dumps({"kind": "connect", "name": "\ud800\0" + "x" * 1000}).encode())
    audit.see(b'{"kind": "input", "name": "1"}')
    found: Any = audit.summary({"a": 0, "b": 1, "c": 1})
    assert len(found["missing"]) == 50
    assert found["more"] == 950
    assert len(found["connections"][0]) < 320
    found["connections"][0].encode()
    assert (found["inputsUsed"], found["inputsUnused"]) == (["b", "c"], ["a"])


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"requests.exceptions.ConnectionError: [Errno -3] Temporary failure in name resolution\n", 1),
        (b"OSError: [Errno 101] Network is unreachable\n", 1),
        (b"curl: (6) Could not resolve host: example.org\n", 1),
        (b"Network is unreachable\n" + b"x" * 5000 + b"\nKeyError: 'a'\n", 0),
        (b"KeyError: 'network'\n", 0),
    ],
)
def test_the_network_is_named_only_where_the_end_of_the_log_does(tail: bytes, expected: int) -> None:
    definition = {"externalParameters": {"network": "none", "configPath": "configs/a.yaml"}}
    assert len(hints.of("failed", definition, None, tail)) == expected
    assert hints.of("succeeded", definition, None, tail) == []
    allowed = {"externalParameters": {"network": "bridge", "configPath": "configs/a.yaml"}}
    assert hints.of("failed", allowed, None, tail) == []


def test_no_name_is_cut_before_it_is_cleaned_of_secrets(tmp_path: Path) -> None:
    """A name that is cut in the middle of a secret would be kept with its first half."""
    secret = "sesame-" + "0123456789abcdef" * 8
    (tmp_path / "out").mkdir()
    program = f"""
import runpy, os
runpy.run_path({str(STARTUP)!r})["begin"]()
for length in (10, 250, 290, 3900):
    try:
        open("/nowhere/" + "x" * length + {secret!r})
    except OSError:
        pass
try:
    open("/nowhere/" + "y" * 5000 + {secret!r})
except OSError:
    pass
"""
    env = {"MIRAGE_RUN_ID": "x", "MIRAGE_ROOT": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-I", "-c", program], env=env, check=True)
    noted = (tmp_path / "out" / "audit.jsonl").read_bytes()
    assert noted.count(secret.encode()) == 4 and b"(a name of " in noted
    redactor = Secrets((("TOKEN", secret.encode()),)).redactor
    audit = Audit()
    for line in redactor.clean(noted).splitlines():
        audit.see(line)
    assert b"sesame" not in redactor.clean(noted)
    assert "sesame" not in json.dumps(audit.summary({}))
