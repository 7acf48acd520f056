"""Locks of real packages on three engines: one digest, and seconds cold, warm and cached, beside uv and docker build.

Cold: no cache at all. Warm: the installer's cache is full, nothing is built. Cached: all is known. The base is there in
each case. Locks are written now by their tools; the private index asks for a password on the loopback.
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


def _cases() -> list[Case]:
    poetry = _projects.ROOT / "tests" / "locks" / "poetry21"
    # without a source, pipenv takes its own
    pipfile = '[packages]\nflask = "*"\nsqlalchemy = "*"\n[requires]\npython_version = "3.11"\n'
    run = (_UV, "tool", "run", "-q")
    export = (_UV, "export", "-q", "--format", "pylock.toml", "-o", "pylock.toml")
    return [
        _compiled("numpy pandas scikit-learn", "numpy", "pandas", "scikit-learn"),
        _compiled("jax (CPU) optax", "jax", "optax"),
        _compiled("matplotlib pillow", "matplotlib", "pillow"),
        # Poetry asks PyPI's JSON interface, which mirrors may lack: a lock that it wrote before
        Case("Poetry: click urllib3[socks]", {name: (poetry / name).read_text() for name in _POETRY}),
        Case("Pipenv: flask sqlalchemy", {"Pipfile": pipfile}, ((*run, "pipenv", "lock", "-q"),)),
        Case("uv: polars pyarrow", {"pyproject.toml": _project("polars", "pyarrow")}, ((_UV, "lock", "-q"),)),
        Case(
            "pylock: xarray scipy",
            {"pyproject.toml": _project("xarray", "scipy")},
            ((_UV, "lock", "-q"), export, ("rm", "uv.lock")),
        ),
        _compiled("an sdist: docopt", "docopt", "requests"),
    ]


def main() -> None:
    """Print the table, and what uv and docker build need for the first lock."""
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as name:
        top = Path(name)
        private = Index(wheel("private", {"private.py": b"x = 1\n"}), login=LOGIN)
        with private:
            env = {"UV_INDEX": private.url.replace("//", f"//{LOGIN}@"), "PIP_FIND_LINKS": ""}
            made = [_made(top / "projects" / str(number), case, env) for number, case in enumerate(_cases())]
            text = f"private==1.0 --hash={private.hash('private')}\nsix==1.17.0 --hash=sha256:"
            text += "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274\n"
            login = Case("a private index with a password", {"requirements.txt": text})
            made.append(_made(top / "projects" / "private", login, env))
            seen: dict[str, set[str]] = {}
            print(f"  {'lock':<32} {'engine':<11} {'digest':<13} {'cold':>6} {'warm':>6} {'cached':>7}")
            for engine, opened in _ENGINES.items():
                with opened() as host:
                    for name, project in made:
                        told = {**env, **({"DOCKER_HOST": host} if host else {})}
                        digest, seconds = _measured(project, top / "caches", told)
                        seen.setdefault(name, set()).add(digest)
                        figures = "{:>6.1f} {:>6.1f} {:>7.2f}".format(*seconds)
                        print(f"  {name:<32} {engine:<11} {digest[7:19]:<13} {figures}", flush=True)
        for name, digests in seen.items():
            print(f"  {name:<32} {'the same on all' if len(digests) == 1 else 'DIFFERENT DIGESTS'}")
        _floors(made[0][1], top)


@contextmanager
def _here() -> Iterator[str]:
    yield ""


_ENGINES: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "here": _here,
    "containerd": lambda: engines.engine("containerd"),
    "podman": lambda: engines.engine("podman"),
}


def _made(folder: Path, case: Case, env: Env) -> tuple[str, Path]:
    """A committed project with a lock that its tool wrote now."""
    folder.mkdir(parents=True)
    for name, text in case.files.items():
        (folder / name).write_text(text)
    for command in case.commands:
        clean = {n: v for n, v in os.environ.items() if n not in ("PIP_FIND_LINKS", "VIRTUAL_ENV")}
        clean["PIPENV_VENV_IN_PROJECT"] = "1"
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


def _measured(project: Path, caches: Path, env: Env) -> tuple[str, list[float]]:
    """The digest, and seconds cold, warm and cached."""
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
    finally:
        shutil.rmtree(store)
        kept.rename(store)
        shutil.rmtree(cache, ignore_errors=True)
        client = {**os.environ, **env}
        for each in (volume, volume + "-base"):
            subprocess.run(["docker", "volume", "rm", "-f", each], env=client, capture_output=True)
    assert len(digests) == 1, digests
    return digests.pop(), seconds


def _build(project: Path, volume: str, env: Env, *, base: bool = False) -> tuple[float, str]:
    command = [sys.executable, "-c", _CALL, volume]
    command += (
        ["base", "show", "--json"] if base else ["image", "build", "--config", "configs/a.yaml", "--json"]
    )
    started = time.perf_counter()
    done = subprocess.run(command, cwd=project, env={**os.environ, **env}, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return seconds, str(json.loads(done.stdout)["digest"])


def _floors(project: Path, top: Path) -> None:
    """The first lock by uv on the host, and by pip in a docker build."""
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
    print(f"  docker build with pip (classic builder, no cache): {told}")
    subprocess.run(["docker", "image", "rm", "-f", "mirage-bench-pip"], capture_output=True)
