"""The scripts that prepare a machine: which engine they find, what they refuse, what they leave alone."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from scripts import endpoints

ROOT = Path(__file__).resolve().parent.parent
ENGINE = [sys.executable, str(ROOT / "scripts" / "engine.py")]


class _Handler(BaseHTTPRequestHandler):
    """The two answers of the engine API that the scripts ask for."""

    def do_GET(self) -> None:
        body = b"OK" if self.path == "/_ping" else b'{"Version": "99.1"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test's output is its own."""


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    def get_request(self) -> tuple[object, tuple[str, int]]:  # type: ignore[override]  # a unix peer has no address
        return super().get_request()[0], ("unix", 0)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[str]:
    """A small server that answers as an engine does, on a unix socket."""
    path = str(tmp_path / "engine.sock")
    with _UnixServer(path, _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"unix://{path}"
        server.shutdown()
        thread.join()


def clean_env(home: Path, **more: str) -> dict[str, str]:
    names = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "HOME": str(home), **more}


def engine(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ENGINE, *words], env=env, capture_output=True, text=True, timeout=60)


def context(home: Path, name: str, host: str, current: bool = True) -> None:
    folder = home / ".docker"
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    endpoint = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoint}))
    if current:
        (folder / "config.json").write_text(json.dumps({"currentContext": name}))


def test_docker_host_is_used_and_handed_on(tmp_path: Path, listener: str) -> None:
    env = clean_env(tmp_path, DOCKER_HOST=listener)
    assert engine(env, "status").stdout == f"engine 99.1 at {listener} (DOCKER_HOST)\n"
    assert engine(env, "exec", "--", "sh", "-c", "echo $DOCKER_HOST").stdout == f"{listener}\n"


def test_a_docker_host_that_does_not_answer_is_an_error_and_no_other_engine_is_taken(tmp_path: Path) -> None:
    env = clean_env(tmp_path, DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    for words in (["status"], ["up"], ["exec", "--", "true"]):
        done = engine(env, *words)
        assert done.returncode == 8
        assert "DOCKER_HOST" in done.stderr
        assert f"unix://{tmp_path}/nothing.sock: no such socket" in done.stderr
        assert done.stdout == ""


def test_the_current_context_is_used_without_the_docker_cli(tmp_path: Path, listener: str) -> None:
    context(tmp_path, "team", listener)
    done = engine(clean_env(tmp_path, PATH="/usr/bin:/bin"), "exec", "--", "sh", "-c", "echo $DOCKER_HOST")
    assert (done.returncode, done.stdout) == (0, f"{listener}\n")


def test_docker_context_in_the_environment_goes_before_the_configured_one(
    tmp_path: Path, listener: str
) -> None:
    context(tmp_path, "other", "unix:///nowhere.sock", current=True)
    context(tmp_path, "team", listener, current=False)
    assert "docker context 'team'" in engine(clean_env(tmp_path, DOCKER_CONTEXT="team"), "status").stdout


@pytest.mark.parametrize("broken", ["", "[]", '{"Endpoints": {}}'])
def test_a_context_that_cannot_be_read_is_an_error(tmp_path: Path, broken: str) -> None:
    context(tmp_path, "team", "unix:///nowhere.sock")
    next((tmp_path / ".docker" / "contexts" / "meta").glob("*/meta.json")).write_text(broken)
    done = engine(clean_env(tmp_path), "up")
    assert done.returncode == 8
    assert "docker context 'team' cannot be read" in done.stderr


def test_a_socket_where_nobody_listens_is_told_apart_from_none(tmp_path: Path, listener: str) -> None:
    place = listener.removeprefix("unix://")
    assert endpoints.ask(endpoints.Endpoint(listener, "test")).version == "99.1"
    dead = Path(place).with_name("dead.sock")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead))
    assert endpoints.ask(endpoints.Endpoint(f"unix://{dead}", "test")).reason == "nothing listens there"
    assert endpoints.ask(endpoints.Endpoint("unix:///no/such", "test")).reason == "no such socket"
    assert "not an engine's address" in endpoints.ask(endpoints.Endpoint("banana", "test")).reason


def test_the_places_are_asked_in_the_docker_clis_order(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path / "none"), "XDG_RUNTIME_DIR": "/run/user/7"}
    assert [each.url for each in endpoints.candidates(env)] == [
        "unix:///var/run/docker.sock",
        "unix:///run/user/7/docker.sock",
    ]
    chosen = endpoints.candidates({**env, "DOCKER_HOST": "tcp://far:2376", "DOCKER_TLS_VERIFY": "1"})
    assert [(each.url, each.chosen, each.tls) for each in chosen] == [("tcp://far:2376", True, True)]


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143)])
def test_exec_ends_as_the_command_ends(tmp_path: Path, listener: str, script: str, code: int) -> None:
    env = clean_env(tmp_path, DOCKER_HOST=listener)
    assert engine(env, "exec", "--", "sh", "-c", script).returncode == code


def test_exec_says_when_there_is_no_such_command(tmp_path: Path, listener: str) -> None:
    done = engine(clean_env(tmp_path, DOCKER_HOST=listener), "exec", "--", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_a_termination_signal_reaches_the_command(tmp_path: Path, listener: str) -> None:
    script = f"trap 'echo told > {tmp_path}/told; exit 3' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    env = clean_env(tmp_path, DOCKER_HOST=listener)
    child = subprocess.Popen([*ENGINE, "exec", "--", "sh", "-c", script], env=env)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 3
    assert (tmp_path / "told").read_text() == "told\n"


def test_an_engine_that_was_there_before_is_still_there_afterwards() -> None:
    before = subprocess.run([*ENGINE, "status"], capture_output=True, text=True)
    assert before.returncode == 0
    assert subprocess.run([*ENGINE, "exec", "--", "true"]).returncode == 0
    assert subprocess.run([*ENGINE, "status"], capture_output=True, text=True).stdout == before.stdout


def test_a_wrong_use_prints_the_usage() -> None:
    done = subprocess.run([*ENGINE, "exec"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "engine.py exec -- CMD..." in done.stderr


def test_installed_tools_are_left_as_they_are() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "packages.py")]
    done = subprocess.run([*script, "git", "mmdebstrap"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert subprocess.run([*script, "gitt"], capture_output=True, text=True).returncode == 2


def test_without_the_rights_the_message_names_packages_and_command() -> None:
    # A user who can become nobody else, in earnest: sudo refuses under no_new_privs.
    who = ["--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    code = (ROOT / "scripts" / "packages.py").read_text().partition("\nif __name__")[0]
    code += "\ntry:\n    install(['docker.io', 'iptables'], 'a container engine')\n"
    code += "except Missing as error:\n    print(error, error.hint, sep='\\n')\n"
    done = subprocess.run(
        ["setpriv", "--no-new-privs", *who, "/usr/bin/python3", "-c", code],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.stdout.splitlines() == [
        "a container engine needs docker.io iptables, and you are neither root nor have sudo without a password",
        "ask for: sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends docker.io iptables'",
    ]


def test_make_lists_its_targets_and_the_scripts_need_no_installed_package() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True)
    assert {"demo", "test", "lint", "engine", "clean"} <= {
        line.split()[1] for line in done.stdout.splitlines()
    }
    for script in ("engine.py", "packages.py", "venv.py"):
        isolated = subprocess.run(
            [sys.executable, "-S", "-c", f"import runpy; runpy.run_path({str(ROOT / 'scripts' / script)!r})"],
            capture_output=True,
            text=True,
        )
        assert isolated.returncode == 0, isolated.stderr
