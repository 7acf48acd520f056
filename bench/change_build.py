"""A change of the code, or of the config, to an image in the engine: seconds and bytes sent, beside `docker build`.

`docker build` gets the environment's image as its base, so that all bring only what changed: once by the classic
builder, and once by BuildKit where a client on this machine speaks it. They take turns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench import _projects

ROUNDS = 5
CONFIG = "configs/data.yaml"
# the command line in a process of its own, which tells what it sent to the engine
_CALL = (
    "import sys\n"
    "from orchestrator.executors.docker_engine import DockerEngine\n"
    "target, load = sys.argv.pop(1), DockerEngine.load\n"
    "def counted(archive):\n"
    "    for piece in archive:\n"
    "        yield piece\n"
    "        print(len(piece), file=open(target, 'a'))\n"
    "DockerEngine.load = lambda self, archive: load(self, counted(archive))\n"
    "from orchestrator.cli.main import main\n"
    "main()\n"
)
_CONTEXT = re.compile(
    r"(?:Sending build context to Docker daemon|transferring context:)\s+([0-9.]+)\s?([kM]?B)"
)
_UNITS = {"B": 1, "kB": 1000, "MB": 1_000_000}


def main() -> None:
    """Print medians of both, and ratios."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as name:
        project = _projects.digits(Path(name) / "digits")
        print(f"  load of this machine: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
        _build(project)
        base = _environment(project)
        # not part of the project's commits
        dockerfile = Path(name) / "Dockerfile"
        dockerfile.write_text(f"FROM {base}\nCOPY . /workspace\n")
        (project / ".dockerignore").write_text(".git\n.mirage/cache\n.mirage/runs\n.mirage/artifacts\n")
        _projects.commit(project)
        _build(project)
        ways = [("docker", "0"), *((client, "1") for client in [_buildkit(project, dockerfile)] if client)]
        for way in ways:
            _docker(project, dockerfile, *way)
        seen: dict[str, list[tuple[float, int]]] = {}
        config, code = project / CONFIG, project / "src" / "part_000.py"
        for number in range(ROUNDS):
            config.write_text(config.read_text() + f"round_{number}: {number}\n")
            _each(project, dockerfile, ways, "config", seen)
            code.write_text(code.read_text() + f"ROUND = {number}\n")
            _each(project, dockerfile, ways, "code", seen)
        for what in ("config", "code"):
            ours = _middle(seen[f"{what} mirage"])
            print(f"  {what:<7} {'mirage image build':<26} {ours[0]:.2f} s, {ours[1] / 1000:.0f} kB sent")
            for _, kit in ways:
                theirs = _middle(seen[f"{what} {kit}"])
                name = "docker build, " + ("BuildKit" if kit == "1" else "classic")
                print(
                    f"  {what:<7} {name:<26} {theirs[0]:.2f} s, {theirs[1] / 1000:.0f} kB sent: ours takes "
                    f"{ours[0] / theirs[0]:.2f} of its time"
                )
        subprocess.run(["docker", "image", "rm", "-f", "mirage-bench-change"], capture_output=True)


def _middle(rows: list[tuple[float, int]]) -> tuple[float, float]:
    return median(seconds for seconds, _ in rows), median(size for _, size in rows)


def _each(
    project: Path,
    dockerfile: Path,
    ways: list[tuple[str, str]],
    what: str,
    seen: dict[str, list[tuple[float, int]]],
) -> None:
    _projects.commit(project)
    seen.setdefault(f"{what} mirage", []).append(_build(project))
    for client, kit in ways:
        seen.setdefault(f"{what} {kit}", []).append(_docker(project, dockerfile, client, kit))


def _buildkit(project: Path, dockerfile: Path) -> str | None:
    """The client on this machine that speaks BuildKit, if there is one: some of them need an extension for it."""
    for folder in os.get_exec_path():
        client = Path(folder) / "docker"
        if client.is_file():
            try:
                _docker(project, dockerfile, str(client), "1")
            except SystemExit:
                continue
            return str(client)
    return None


def _build(project: Path) -> tuple[float, int]:
    """Seconds of the whole command, and bytes loaded into the engine."""
    sent = project.parent / "sent"
    sent.write_text("")
    words = [sys.executable, "-c", _CALL, str(sent), "image", "build", "--config", CONFIG, "--json"]
    started = time.perf_counter()
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return seconds, sum(map(int, sent.read_text().split()))


def _docker(project: Path, dockerfile: Path, client: str, kit: str) -> tuple[float, int]:
    """Seconds of the whole command, and bytes of its context, as it says."""
    words = [client, "build", "-f", str(dockerfile), "-t", "mirage-bench-change"]
    words += ["--progress", "plain"] if kit == "1" else []
    started = time.perf_counter()
    done = subprocess.run(
        [*words, str(project)], env={**os.environ, "DOCKER_BUILDKIT": kit}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - started
    told = _CONTEXT.findall(done.stdout + done.stderr)
    if done.returncode != 0 or not told:
        raise SystemExit(done.stdout + done.stderr)
    return seconds, int(float(told[-1][0]) * _UNITS[told[-1][1]])


def _environment(project: Path) -> str:
    """The tag of the environment's image, which the first build left in the engine."""
    words = [sys.executable, "-m", "orchestrator.cli", "image", "build", "--config", CONFIG, "--json"]
    told = json.loads(subprocess.run(words, cwd=project, capture_output=True, check=True).stdout)
    wanted = [layer["digest"] for layer in told["layers"] if "environment" in layer["of"]]
    listed = ["docker", "image", "ls", "mirage/env", "--format", "{{.Repository}}:{{.Tag}}"]
    for tag in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split():
        inspect = ["docker", "image", "inspect", tag, "--format", "{{json .RootFS.Layers}}"]
        layers = json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)
        if layers[-1:] == wanted:
            return tag
    raise SystemExit(f"no environment image with {wanted}")
