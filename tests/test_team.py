"""docs/team.md to the letter: its commands, on a machine with the services and two others with own homes and engines."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.engine_tools import SecondEngine
from tests.run_tools import BIN, GIT, wait_for

TOP = Path(__file__).resolve().parent.parent
PAGE = (TOP / "docs" / "team.md").read_text("utf-8")
NOT_IN_GIT = shutil.ignore_patterns(".env", "cache", "runs", "open", "artifacts", "__pycache__")


def commands(heading: str) -> list[str]:
    """The blocks of commands below a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    assert blocks, f"docs/team.md has no commands below {heading!r}"
    return blocks


def free_port() -> int:
    """A port of loopback that nobody has at this moment."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


class Machine:
    """Its own home, so own caches and no keys, and its own engine; what is typed there is typed into one shell."""

    def __init__(self, home: Path, start: Path, words: Mapping[str, str], env: Mapping[str, str]) -> None:
        home.mkdir(exist_ok=True)
        self.home = home
        self.words = {**words}
        self._state = home / ".shell"
        self._state.write_text(f"cd {shlex.quote(str(start))}\n")
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "XDG_", "MIRAGE_"))
        }
        self._env = {**kept, **GIT, "HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", **env}

    def do(self, block: str) -> str:
        """Run a block, and give its stdout. Fails the test where a command of it fails."""
        for said, meant in self.words.items():
            block = block.replace(said, meant)
        script = f'set -eu\n. "$HOME/.shell"\n{block}\n{{ export -p; echo "cd $(printf %q "$PWD")"; }} >"$HOME/.shell"\n'
        done = subprocess.run(
            ["bash", "-c", script], env=self._env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{block}\nended with {done.returncode}\n{done.stderr}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The services, started as the page says, at ports of their own; taken away with their volumes."""
    home = tmp_path_factory.mktemp("team")
    checkout = home / "mirage"
    subprocess.run(["git", "clone", "--quiet", str(TOP), str(checkout)], check=True)
    shutil.copytree(TOP / "compose", checkout / "compose", dirs_exist_ok=True, ignore=NOT_IN_GIT)
    ports = {"8333": str(free_port()), "5000": str(free_port())}
    machine = Machine(
        home,
        checkout,
        {
            "192.168.1.10": "127.0.0.1",
            # What the target of the Makefile runs, without making a second virtual environment first.
            "make services": "compose/prepare.sh && printf 'MIRAGE_STORE_PORT=%s\\nMIRAGE_REGISTRY_PORT=%s\\n' "
            f"{ports['8333']} {ports['5000']} >>compose/.env",
        },
        {"COMPOSE_PROJECT_NAME": f"mirage-test-{os.getpid()}", "XDG_CACHE_HOME": str(Path.home() / ".cache")},
    )
    machine.words["git@192.168.1.10:digits.git"] = str(home / "digits.git")
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(home / "digits.git")], check=True)
    try:
        for block in commands("The machine with the services"):
            machine.do(block)
        wait_for(lambda: machine.do("docker-compose -f compose/services.yaml ps").count("(healthy)") == 2, 90)
        env = (checkout / "compose" / ".env").read_text()
        secret = re.search(r"^MIRAGE_STORE_SECRET=([0-9a-f]{40})$", env, re.M)
        assert secret is not None
        machine.words |= {
            "AWS_SECRET_ACCESS_KEY=...": f"AWS_SECRET_ACCESS_KEY={secret[1]}",
            "192.168.1.10:8333": f"127.0.0.1:{ports['8333']}",
            "127.0.0.1:5000": f"127.0.0.1:{ports['5000']}",
        }
        machine.words = dict(sorted(machine.words.items(), key=lambda pair: -len(pair[0])))
        yield machine
    finally:
        machine.do("docker-compose -f compose/services.yaml down --volumes")


@pytest.mark.timeout(900)
def test_the_page_to_the_letter(services: Machine, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", TOP, services.words, {})
    for block in commands("The first machine"):
        first.do(block)
    runs = json.loads(first.do("mirage ls --json"))["runs"]
    assert [run["status"] for run in runs] == ["succeeded", "succeeded"]
    with SecondEngine(tmp_path / "engine") as engine:
        second = Machine(tmp_path / "b", tmp_path, services.words, engine.env)
        shown = [second.do(block) for block in commands("The second machine")]
        assert all(run["run_id"] in shown[0] for run in runs)
        assert "IDENTICAL" in shown[0] and "DIFFERS" not in shown[0]
        assert len(engine.api().images()) >= 1
    seen = json.loads(first.do("mirage ls --json"))["runs"]
    assert len(seen) == 4, "the first machine sees what the second ran: a run made again, and a new one"
    key = (
        (services.home / "mirage" / "compose" / ".env")
        .read_text()
        .split("MIRAGE_STORE_SECRET=")[1]
        .split()[0]
    )
    for folder in (first.home / "digits", second.home / "digits"):
        held = subprocess.run(["grep", "-rlF", key, str(folder)], capture_output=True, text=True).stdout
        assert held == "", "the key was written down"
