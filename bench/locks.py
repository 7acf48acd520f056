"""Locks of real packages on three engines: one digest, and seconds cold, warm and cached, beside uv and docker build.

Cold: no cache at all. Warm: the installer's cache is full, nothing is built. Cached: all is known. The base is there in
each case. Verified: after every cache was removed, `mirage image verify` with all that can be varied. Locks are written
now by their tools; the private index asks for a password on the loopback.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench import _projects
from scripts import engines
from tests.base_tools import own_base
from tests.image_tools import Index, wheel

LOGIN = "me:pass-word-1"
SETTINGS = "project: bench\nworkflow: workflows.main\nbuild: {network: host}\n"
_CALL = (
    "import sys; from orchestrator.image import builder; builder.CACHE_VOLUME = sys.argv.pop(1);"
    "from orchestrator.cli.main import main; main()"
)
_POETRY = ("poetry.lock", "pyproject.toml")
_UV = str(_projects.BIN / "uv")
# PyTorch's CPU wheels are not on PyPI: the file of one, which is served on the loopback as their index would
_TORCH = tuple(filter(None, (os.environ.get("BENCH_TORCH_WHEEL", ""),)))
_FLOOR = "numpy pandas scikit-learn"  # is built by uv and by docker too
Env = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A project's lock: what it is called, the tool's words that write it, and what they start from."""

    name: str
    files: dict[str, str]
    commands: tuple[tuple[str, ...], ...] = ()


def _compiled(name: str, *packages: str) -> Case:
    words = (_UV, "pip", "compile", "-q", "--generate-hashes", "--python-version", "3.11", "in.txt")
    return Case(name, {"in.txt": "\n".join(packages) + "\n"}, ((*words, "-o", "requirements.txt"),))


def _project(*packages: str) -> str:
    told = ", ".join(f'"{each}"' for each in packages)
    return (
        f'[project]\nname = "demo"\nversion = "0.1.0"\nrequires-python = ">=3.11,<4"\ndependencies = [{told}]\n'
        "[tool.uv]\npackage = false\n"
    )


def _cases(login: str, torch: str) -> list[Case]:
    """The projects; ``login`` is the lock of the private index, ``torch`` an index with a CPU wheel, if there is one."""
    poetry = _projects.ROOT / "tests" / "locks" / "poetry21"
    # without a source, pipenv takes its own
    pipfile = '[packages]\nflask = "*"\nsqlalchemy = "*"\n[requires]\npython_version = "3.11"\n'
    run = (_UV, "tool", "run", "-q")
    export = (_UV, "export", "-q", "--format", "pylock.toml", "-o", "pylock.toml")
    return [
        # Poetry asks PyPI's JSON interface, which mirrors may lack: a lock that it wrote before
        Case("Poetry: click urllib3[socks]", {name: (poetry / name).read_text() for name in _POETRY}),
        Case("Pipenv: flask sqlalchemy", {"Pipfile": pipfile}, ((*run, "pipenv", "lock", "-q"),)),
        _compiled("an sdist: docopt", "docopt", "requests"),
        Case("a private index with a password", {"requirements.txt": login}),
        _compiled("numpy pandas scikit-learn", "numpy", "pandas", "scikit-learn"),
        Case(
            "pylock: xarray scipy",
            {"pyproject.toml": _project("xarray", "scipy")},
            ((_UV, "lock", "-q"), export, ("rm", "uv.lock")),
        ),
        Case("uv: polars pyarrow", {"pyproject.toml": _project("polars", "pyarrow")}, ((_UV, "lock", "-q"),)),
        *([_torch(torch)] if torch else []),
    ]


def _torch(index: str) -> Case:
    """PyTorch for CPUs, from the index that has such wheels beside the public one."""
    words = (_UV, "pip", "compile", "-q", "--generate-hashes", "--python-version", "3.11", "in.txt")
    written = ("sed", "-i", f"1i --extra-index-url {index}", "requirements.txt")
    return Case(
        "torch (CPU)",
        {"in.txt": f"--extra-index-url {index}\ntorch\n"},
        ((*words, "-o", "requirements.txt"), written),
    )


def main() -> None:
    """Print the table, and what uv and docker build need for the first lock."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as name:
        top = Path(name)
        private = Index(wheel("private", {"private.py": b"x = 1\n"}), login=LOGIN)
        torch = Index(*((path.name, path.read_bytes()) for path in map(Path, _TORCH)))
        with private, torch:
            env = {"UV_INDEX": private.url.replace("//", f"//{LOGIN}@"), "PIP_FIND_LINKS": ""}
            text = f"private==1.0 --hash={private.hash('private')}\nsix==1.17.0 --hash=sha256:"
            text += "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
            cases = _chosen(
                "LOCKS", {each.name: each for each in _cases(text, torch.url if _TORCH else "")}
            ).values()
            made = [_made(top / "projects" / str(number), case) for number, case in enumerate(cases)]
            with contextlib.ExitStack() as stack:
                hosts = {
                    name: stack.enter_context(opened())
                    for name, opened in _chosen("ENGINES", _ENGINES).items()
                }
                print("  engines: " + ", ".join(f"{name} {_version(host)}" for name, host in hosts.items()))
                print(f"  load of this machine: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
                head = f"{'cold':>6} {'warm':>6} {'cached':>7}  verified"
                print(f"  {'lock':<32} {'engine':<11} {'digest':<13} {head}", flush=True)
                for name, project in made:
                    _on_all(name, project, top, hosts, env)
        for project in (each for name, each in made if name == _FLOOR):
            _floors(project, top)


_Named = TypeVar("_Named")


def _chosen(what: str, known: dict[str, _Named]) -> dict[str, _Named]:
    """Those whose names begin with a word of $BENCH_LOCKS or $BENCH_ENGINES (words parted by commas), or all."""
    words = tuple(filter(None, os.environ.get(f"BENCH_{what}", "").split(",")))
    return {name: each for name, each in known.items() if not words or name.startswith(words)}


def _on_all(name: str, project: Path, top: Path, hosts: dict[str, str], env: Env) -> None:
    """One lock's lines of the table; a build that fails is one of them."""
    seen = set()
    for engine, host in hosts.items():
        told = {**env, **({"DOCKER_HOST": host} if host else {})}
        try:
            digest, seconds, verified = _measured(project, top / "caches", told)
        except Failed as error:
            digest, seconds, verified = "failed:", [], str(error)
        seen.add(digest)
        figures = "{:>6.1f} {:>6.1f} {:>7.2f}".format(*seconds) if seconds else ""
        print(f"  {name:<32} {engine:<11} {digest[7:19]:<13} {figures}  {verified}", flush=True)
    print(f"  {name:<32} {'the same on all' if len(seen) == 1 else 'DIFFERENT DIGESTS'}", flush=True)


class Failed(Exception):
    """A build that ended with an error, and what it said."""


def _version(host: str) -> str:
    env = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    words = ["docker", "version", "--format", "{{.Server.Version}}"]
    return subprocess.run(words, env=env, capture_output=True, text=True).stdout.strip()


@contextmanager
def _here() -> Iterator[str]:
    yield ""


_ENGINES: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "here": _here,
    "containerd": lambda: engines.engine("containerd"),
    "podman": lambda: engines.engine("podman"),
}


def _made(folder: Path, case: Case) -> tuple[str, Path]:
    """A committed project with a lock that its tool wrote now."""
    folder.mkdir(parents=True)
    for name, text in case.files.items():
        (folder / name).write_text(text)
    for command in case.commands:
        clean = {n: v for n, v in os.environ.items() if n not in ("PIP_FIND_LINKS", "VIRTUAL_ENV")}
        # pipenv counts the indexes of pip.conf into its hash where a Pipfile names none
        clean |= {"PIPENV_VENV_IN_PROJECT": "1", "PIP_CONFIG_FILE": os.devnull}
        subprocess.run(
            command, cwd=folder, env=clean, check=True, stdin=subprocess.DEVNULL, capture_output=True
        )
    for name, text in {
        ".mirage/project.yaml": SETTINGS,
        ".gitignore": ".mirage/cache/\n.mirage/runs/\n.mirage/open/\n.mirage/artifacts/\n.venv/\n",
        "configs/a.yaml": "a: 1\n",
        "workflows/main.py": "print(1)\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    own_base(folder / ".mirage" / "artifacts", folder)
    _projects.commit(folder)
    return case.name, folder


def _measured(project: Path, caches: Path, env: Env) -> tuple[str, list[float], str]:
    """The digest, seconds cold, warm and cached, and what a build from nothing under other circumstances gave."""
    volume, seconds, digests = f"mirage-bench-{secrets.token_hex(4)}", [], set()
    store, kept = project / ".mirage" / "artifacts", project.parent / f"{project.name}.store"
    shutil.copytree(store, kept)  # the base alone: each build starts from it
    cache = caches / secrets.token_hex(4)
    try:
        _build(project, volume + "-base", {**env, "MIRAGE_CACHE": str(cache)}, base=True)
        for state in ("cold", "warm", "cached"):
            if state != "cached":
                shutil.rmtree(cache, ignore_errors=True)
                shutil.rmtree(store)
                shutil.copytree(kept, store)
            took, digest = _build(project, volume, {**env, "MIRAGE_CACHE": str(cache)})
            seconds.append(took)
            digests.add(digest)
        shutil.rmtree(cache, ignore_errors=True)
        subprocess.run(
            ["docker", "volume", "rm", "-f", volume], env={**os.environ, **env}, capture_output=True
        )
        verified = _verified(project, volume, {**env, "MIRAGE_CACHE": str(cache)})
    finally:
        shutil.rmtree(store)
        kept.rename(store)
        shutil.rmtree(cache, ignore_errors=True)
        client = {**os.environ, **env}
        for each in (volume, volume + "-base"):
            subprocess.run(["docker", "volume", "rm", "-f", each], env=client, capture_output=True)
    assert len(digests) == 1, digests
    return digests.pop(), seconds, verified


def _verified(project: Path, volume: str, env: Env) -> str:
    """What `mirage image verify --vary all` says; an image that differs is told with its first file."""
    words = ["image", "verify", "--config", "configs/a.yaml", "--vary", "all", "--json"]
    started = time.perf_counter()
    done = _mirage(project, volume, env, words)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 9):
        return f"failed: {done.stderr.strip()[:300]}"
    told = json.loads(done.stdout)
    return f"{'equal' if done.returncode == 0 else 'DIFFERS'} ({', '.join(told['varied'])}; {seconds:.0f} s)"


def _mirage(project: Path, volume: str, env: Env, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _CALL, volume, *words]
    return subprocess.run(command, cwd=project, env={**os.environ, **env}, capture_output=True, text=True)


def _build(project: Path, volume: str, env: Env, *, base: bool = False) -> tuple[float, str]:
    words = ["base", "show", "--json"] if base else ["image", "build", "--config", "configs/a.yaml", "--json"]
    started = time.perf_counter()
    done = _mirage(project, volume, env, words)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise Failed(done.stderr.strip()[-600:])
    return seconds, str(json.loads(done.stdout)["digest"])


def _floors(project: Path, top: Path) -> None:
    """One lock by uv on the host, and by pip in a docker build."""
    cache = top / "uv"
    for state in ("cold", "warm"):
        venv = top / f"venv-{state}"
        env = {**os.environ, "UV_CACHE_DIR": str(cache), "VIRTUAL_ENV": str(venv), "UV_NO_CONFIG": "1"}
        env.pop("PIP_FIND_LINKS", None)
        subprocess.run([_UV, "venv", "-q", str(venv)], check=True, env=env)
        started = time.perf_counter()
        words = [
            _UV,
            "pip",
            "install",
            "-q",
            "--compile-bytecode",
            "--require-hashes",
            "-r",
            "requirements.txt",
        ]
        subprocess.run(words, cwd=project, env=env, check=True)
        print(
            f"  uv pip install --compile-bytecode on the host, {state}: {time.perf_counter() - started:.1f} s"
        )
    context = top / "context"
    context.mkdir()
    shutil.copy(project / "requirements.txt", context)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(context), "pip"]
    subprocess.run(pip, check=True)
    bundle = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(bundle, context / "ca.crt")
    pin = json.loads((project / ".mirage" / "base.lock.json").read_text())
    (platform,) = pin["bases"]["python-3.11"].values()
    (context / "Dockerfile").write_text(
        f"FROM mirage/base:{platform['digest'][7:31]}\nCOPY . /x\n"
        "RUN PIP_CERT=/x/ca.crt PYTHONPATH=$(echo /x/pip-*.whl) python3 -m pip install -q --no-cache-dir "
        "--break-system-packages --target /opt/p --require-hashes -r /x/requirements.txt\n"
    )
    started = time.perf_counter()
    command = [
        "docker",
        "build",
        "-q",
        "--no-cache",
        "--network",
        "host",
        "-t",
        "mirage-bench-pip",
        str(context),
    ]
    done = subprocess.run(command, env={**os.environ, "DOCKER_BUILDKIT": "0"}, capture_output=True, text=True)
    told = f"{time.perf_counter() - started:.1f} s" if done.returncode == 0 else done.stderr.strip()[-300:]
    print(f"  docker build with pip (classic builder, no cache): {told}", flush=True)
    subprocess.run(["docker", "image", "rm", "-f", "mirage-bench-pip"], capture_output=True)
