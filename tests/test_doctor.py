"""`mirage doctor` on real states: a dead run, a full disk, another clock, an open key, an engine that is not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from orchestrator.checks import clock, disk, leftovers, network
from orchestrator.checks.holes import HOLES, holes
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.place import parse_uri
from orchestrator.store.folder import FolderStore
from orchestrator.store.s3 import S3Store
from tests.run_tools import Project, engine, wait_for

SLEEPS = """
import time
from mirage import artifact

artifact.File.save(b"here", name="begun")
time.sleep(600)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("repository"), SLEEPS)


def findings(project: Project, env: dict[str, str] | None = None, *, code: int = 0) -> list[dict[str, Any]]:
    """What it says, with its exit code."""
    found: list[dict[str, Any]] = json.loads(project.mirage("doctor", "--json", code=code, env=env or {}))[
        "findings"
    ]
    assert all(each["hint"] for each in found if each["state"] != "ok"), "a finding without what to do"
    return found


def told(found: list[dict[str, Any]], check: str, *states: str) -> str:
    """The texts and hints of a check's findings in these states (all, without one)."""
    return "\n".join(
        f"{each['text']} -> {each['hint']}"
        for each in found
        if each["check"] == check and (not states or each["state"] in states)
    )


def test_a_ready_machine_is_told_what_it_has(project: Project) -> None:
    found = findings(project)
    assert {each["state"] for each in found} <= {"ok", "warn"}
    wanted = {
        "git",
        "python",
        "engine",
        "base",
        "store",
        "disk",
        "clock",
        "runs",
        "containers",
        "keys",
        "network",
    }
    assert wanted <= {each["check"] for each in found}
    info = engine().info()
    assert info["Driver"] in told(found, "engine") and f"cgroup v{info['CgroupVersion']}" in told(
        found, "engine"
    )
    assert "creates once by link(2)" in told(found, "store")
    assert "the engine's data" in told(found, "disk") and "used here" in told(found, "disk")
    assert "as that of the engine" in told(found, "clock") and "as that of the store's server" in told(
        found, "clock"
    )


def test_without_a_project_the_rest_is_looked_at(tmp_path: Path) -> None:
    there = Project.__new__(Project)
    there.root = there.folder = tmp_path
    found = findings(there)
    assert "no project here" in told(found, "project", "warn") and told(found, "engine", "ok")


def test_an_engine_that_is_not_there_is_told_once(project: Project) -> None:
    found = findings(project, {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}, code=8)
    assert len([each for each in found if each["state"] == "fail"]) == 1
    assert "DOCKER_HOST" in told(found, "engine", "fail")
    assert told(found, "store", "ok") and told(found, "keys", "ok"), "the rest is looked at all the same"


def test_a_dead_run_is_named_and_recovered(project: Project) -> None:
    process = project.start("--config", "configs/a.yaml")
    opened = project.folder / ".mirage" / "open"
    wait_for(
        lambda: bool([*opened.glob("[!.]*")]), 120
    )  # a name with a dot is a marker that is being written
    (run_id,) = (each.name for each in opened.glob("[!.]*"))
    label = {"label": f"flow.mirage.run={run_id}"}
    wait_for(lambda: bool(engine().containers(filters=label)), 120)
    assert "1 going on" in told(findings(project), "runs", "ok")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = findings(project)
    assert run_id in told(found, "runs", "warn") and "mirage recover" in told(found, "runs", "warn")
    assert "not open" not in told(found, "containers"), "its container is still its own"
    project.mirage("cancel", run_id)
    assert "none going on" in told(findings(project), "runs", "ok")


def test_a_container_that_nobody_comes_back_for_is_named(project: Project) -> None:
    image = next(each["Id"] for each in engine().images(name="mirage/base") if each["RepoTags"])
    run_id = "20260101-000000-abcdef"
    journal = project.folder / ".mirage" / "runs" / run_id / "journal"
    made = engine().create_container(
        image, ["true"], labels={"flow.mirage.run": run_id, "flow.mirage.journal": str(journal)}
    )["Id"]
    try:
        assert f"docker rm -f {made[:12]}" in told(findings(project), "containers", "warn")
    finally:
        engine().remove_container(made, force=True)
    assert made[:12] not in told(findings(project), "containers")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 80 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_fails_and_a_small_one_warns(small: Path, tmp_path: Path) -> None:
    store = small / "store"
    project = Project(
        tmp_path / "p", files={".mirage/project.yaml": f"project: p\nworkflow: w.main\nstore: {store}\n"}
    )
    found = findings(project)
    assert "free of 80.0 MiB" in told(found, "disk", "warn") and "mirage gc" in told(found, "disk", "warn")
    assert "on tmpfs" in told(found, "store", "ok")
    (small / "filled").write_bytes(bytes(40 << 20))
    found = findings(project, code=7)
    assert f"({store})" in told(found, "disk", "fail")


def test_what_is_used_is_counted_once_and_not_beyond_the_file_system(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "used"
    folder.mkdir()
    (folder / "one").write_bytes(bytes(3 << 20))
    os.link(folder / "one", folder / "two")
    (finding,) = disk.examine([("it", folder, "free some space")])
    assert ", 3.0 MiB used here" in finding.text
    (small / "large").write_bytes(bytes(9 << 20))
    (finding,) = disk.examine([("it", tmp_path, "free some space")])
    assert ", 3.0 MiB used here" in finding.text, "another file system is mounted below"
    assert list(disk.examine([("it", tmp_path / "nothing", "")])) == []


@pytest.mark.parametrize(("span", "state", "code"), [("+20s", "warn", 0), ("-40m", "fail", 8)])
def test_another_clock_than_the_engines_and_the_stores_is_told(
    project: Project, span: str, state: str, code: int
) -> None:
    """Under libfaketime this process has another clock than the engine, and than the kernel that stamps files."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "doctor", "--json"],
        cwd=project.folder,
        env={**os.environ, "LD_PRELOAD": str(library), "FAKETIME": span, "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout)["findings"]
    text = told(found, "clock", state)
    word = "behind" if span.startswith("+") else "ahead of"
    assert "that of the engine is" in text and "that of the store's server is" in text and word in text
    assert "timedatectl" in text


def test_the_clock_of_a_buckets_server_is_its_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"format":"mirage-store/1","id":"00"}'
            self.send_response_only(200)
            date = datetime.now(timezone.utc) + timedelta(minutes=7)
            for name, value in (
                ("Date", format_datetime(date, usegmt=True)),
                ("Content-Length", str(len(body))),
                ("ETag", '"x"'),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        place = parse_uri(
            "s3://bucket/x", endpoint_url=f"http://127.0.0.1:{server.server_port}", region="us-east-1"
        )
        store = S3Store(Bucket(place), tmp_path)
        (finding,) = clock.of_store(store)
    finally:
        server.shutdown()
        server.server_close()
    assert finding.state == "warn" and "7 minutes ahead" in finding.text


def test_sessions_and_files_of_dead_writers_are_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "import sys, time; from pathlib import Path\n"
        "from orchestrator.store.folder import FolderStore; from orchestrator.store.sessions import writing\n"
        "with writing(FolderStore.open_at(Path(sys.argv[1]))) as store, store.writer() as writer:\n"
        "    store.put(b'of nobody'); writer.write(bytes(1 << 20)); print('in', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", words, str(project.store)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "in\n"
        store = FolderStore.open_at(project.store)
        assert [each.check for each in leftovers.of_store(store)] == [], "it lives"
        writer.kill()
    assert "mirage gc" in told(findings(project), "sessions", "warn")
    monkeypatch.setattr(leftovers, "_STALE", 0.0)  # a day later
    assert "1 file(s), " in next(each.text for each in leftovers.of_store(store) if each.check == "staging")
    project.mirage("gc", "--yes", "--older-than", "0s")
    assert told(findings(project), "sessions", "warn") == ""


def test_a_key_that_others_may_read_is_told(project: Project, tmp_path: Path) -> None:
    key = tmp_path / "sign.pem"
    project.mirage("key", "new", "--out", str(key))
    env = {"MIRAGE_SIGN_KEY": str(key)}
    found = findings(project, env)
    assert "believed by nobody" in told(found, "keys", "warn") and "chmod" not in told(found, "keys")
    key.chmod(0o644)
    found = findings(project, env)
    assert f"mode 0644) -> chmod 600 {key}" in told(found, "keys", "warn")
    project.mirage(
        "key",
        "trust",
        f"{key}.pub" if Path(f"{key}.pub").exists() else str(key.with_suffix(".pub")),
        "--name",
        "me",
    )
    trust = project.folder / ".mirage" / "keys.yaml"
    try:
        assert "believed by nobody" not in told(findings(project, env), "keys")
        trust.write_text("keys: 3\n")
        assert "keys.yaml" in told(findings(project, env, code=2), "keys", "fail")
    finally:
        trust.unlink()
    key.write_text("nothing\n")
    assert "is no private key" in told(findings(project, env, code=2), "keys", "fail")
    assert "cannot be read" in told(
        findings(project, {"MIRAGE_SIGN_KEY": str(tmp_path / "no")}, code=2), "keys", "fail"
    )


def test_proxies_and_certificates_are_named_without_their_values(project: Project) -> None:
    env = {"HTTPS_PROXY": "http://me:hunter2@proxy.example:3128", "https_proxy": "http://other.example:1"}
    text = project.mirage("doctor", env=env)
    assert "HTTPS_PROXY" in text and "HTTPS_PROXY and https_proxy differ" in text
    assert "hunter2" not in text and "proxy.example" not in text and "other.example" not in text
    (finding,) = network.examine("/nonexistent/ca.pem", "none", {})
    assert (finding.state, finding.exit_code) == ("fail", 2) and "/nonexistent/ca.pem" in finding.text


@pytest.mark.parametrize(
    ("program", "version", "names"),
    [
        ("runc", "1.1.5+ds1", ["CVE-2024-21626", "CVE-2025-31133", "CVE-2026-41579"]),
        ("runc", "1.1.12", ["CVE-2025-31133", "CVE-2026-41579"]),
        ("runc", "1.2.7", ["CVE-2025-31133", "CVE-2026-41579"]),
        ("runc", "1.2.8", ["CVE-2026-41579"]),
        ("runc", "1.3.6", []),
        ("runc", "1.4.2", ["CVE-2026-41579"]),
        ("runc", "1.5.0", []),
        ("containerd", "1.6.20~ds1", ["CVE-2024-25621"]),
        ("containerd", "v2.1.4", ["CVE-2024-25621"]),
        ("containerd", "v1.7.29", []),
        ("docker", "20.10.24+dfsg1", ["CVE-2024-23651", "CVE-2026-41567"]),
        ("docker", "24.0.9", ["CVE-2024-23651", "CVE-2026-41567"]),
        ("docker", "29.5.0", ["CVE-2026-41567"]),
        ("docker", "29.5.1", []),
        ("docker with an authorization plugin", "20.10.24+dfsg1", ["CVE-2024-41110", "CVE-2026-34040"]),
        ("docker with an authorization plugin", "24.0.9", ["CVE-2024-41110", "CVE-2026-34040"]),
        ("docker with an authorization plugin", "26.1.5", ["CVE-2026-34040"]),
        ("docker with an authorization plugin", "18.09.1", ["CVE-2026-34040"]),
        ("docker with an authorization plugin", "29.3.1", []),
        ("podman", "3.0.1", ["CVE-2024-9675", "CVE-2025-11395"]),
        ("podman", "4.3.1", ["CVE-2024-1753", "CVE-2024-9675", "CVE-2025-11395"]),
        ("podman", "5.4.0", ["CVE-2025-11395"]),
        ("podman", "6.1.2", []),
        ("podman", "6.2.0", []),
        ("git", "git version 2.39.5", ["CVE-2025-48384"]),
        ("git", "git version 2.30.2", ["CVE-2024-32002", "CVE-2025-48384"]),
        ("git", "git version 2.52.0", []),
        ("nvidia-container-toolkit", "NVIDIA Container Toolkit CLI version 1.17.7", ["CVE-2025-23266"]),
        ("nvidia-container-toolkit", "1.17.3", ["CVE-2025-23359", "CVE-2025-23266"]),
        ("runc", "", []),
    ],
)
def test_versions_with_known_holes(program: str, version: str, names: list[str]) -> None:
    assert [hole.names.partition(",")[0] for hole in holes(program, version)] == names


def test_every_hole_has_a_source_and_its_lines_are_in_order() -> None:
    for hole in HOLES:
        assert hole.source.startswith("https://") and hole.names.startswith("CVE-")
        assert list(hole.mended) == sorted(hole.mended)
