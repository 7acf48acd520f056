"""The design's import order (section 4), held: one direction, foreign libraries at one door each, small files."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Each may import its own line and those above it.
LAYERS = (
    "errors",
    "digest canonical reference sizes redaction engine_values image.layer image.oci",
    "ports ports_upkeep",
    "process secret_sources source journal hardware logtimes logspool logreading interrupts ends plan "
    "cancelling retrying single_flight progress rounding where locks skeleton "
    "yamlschema yamlcore setting_values settings overrides project_folder config store artifacts executors",
    "key image",
    "provenance compare trust fences",
    "catalog",
    "life prepare definition hints attempts run",
    "questions judging upkeep",
    "recover plain report exports checks resume",
    "cli",
)
RANK = {f"orchestrator.{name}": rank for rank, names in enumerate(LAYERS) for name in names.split()}
DOORS = {
    "docker": {"orchestrator.executors.docker_engine", "orchestrator.executors.registry"},
    "requests": {"orchestrator.executors.docker_engine", "orchestrator.executors.registry"},
    "urllib3": {"orchestrator.executors.docker_engine", "orchestrator.store.bucket.aws"},
    "yaml": {"orchestrator.yamlcore", "orchestrator.yamlschema"},
    "subprocess": {"orchestrator.process"},
    "cryptography": {"orchestrator.trust.keys"},
    "botocore": {"orchestrator.store.bucket.aws", "orchestrator.store.bucket.wire"},
    "tenacity": {"orchestrator.store.retry"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("orchestrator", "mirage")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "template" not in path.parts
}


def imports(node: ast.AST, *, late: bool) -> Iterator[str]:
    """What is imported below ``node`` when it runs, also inside functions where ``late``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "write imports out in full"
            names = (f"{child.module}.{alias.name}" for alias in child.names)
            yield from (name if name in MODULES else str(child.module) for name in names)
        elif late or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(child, late=late)


def graph(*, late: bool) -> dict[str, set[str]]:
    return {name: set(imports(ast.parse(path.read_text()), late=late)) for name, path in MODULES.items()}


def rank(module: str) -> int:
    """The place of a module: its own, or that of the folder that it lies in."""
    parts = module.split(".")
    return next((RANK[name] for n in (3, 2) if (name := ".".join(parts[:n])) in RANK), -1)


def test_every_module_has_a_place_in_the_order() -> None:
    ours = [name for name in MODULES if name.startswith("orchestrator.")]
    assert [name for name in ours if rank(name) < 0] == []


def test_imports_go_in_one_direction() -> None:
    upward = {
        f"{name} -> {other}"
        for name, found in graph(late=True).items()
        for other in found
        if name.startswith("orchestrator.") and rank(other) > rank(name)
    }
    assert upward == set()


def test_no_module_imports_itself_by_a_detour() -> None:
    TopologicalSorter(graph(late=False)).prepare()  # raises CycleError, which names the modules
    late = {name: found for name, found in graph(late=True).items() if name.startswith("orchestrator")}
    TopologicalSorter(late).prepare()


def test_foreign_libraries_come_in_at_one_door_each() -> None:
    for library, doors in DOORS.items():
        users = {
            name
            for name, found in graph(late=True).items()
            if any(other.partition(".")[0] == library for other in found)
        }
        assert users <= doors, library
    users = {name for name, found in graph(late=True).items() if "click" in found}
    assert {".".join(name.split(".")[:2]) for name in users} == {"orchestrator.cli"}


def test_the_sdk_needs_the_standard_library_alone() -> None:
    known = {*sys.stdlib_module_names, "mirage"}
    for name, found in graph(late=True).items():
        if name.partition(".")[0] == "mirage":
            assert {other.partition(".")[0] for other in found} <= known, name
    named = {
        name
        for name, path in MODULES.items()
        if name.startswith("mirage") and '"orchestrator' in path.read_text()
    }
    assert named == {"mirage.plain"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_is_long(name: str) -> None:
    assert len(MODULES[name].read_text().splitlines()) <= 400


@pytest.mark.parametrize("call", ["main(['--help'])", "run_main(['--help'])", "main(['--version'])"])
def test_help_is_light(call: str) -> None:
    function, _, words = call.partition("(")
    program = (
        f"import os, sys, json\nsys.argv = ['x', *{words[:-1]}]\nfrom orchestrator.cli.main import {function}\n"
        "leave = os._exit\n"
        "def tell(code):\n    print(json.dumps(sorted(sys.modules)), flush=True)\n    leave(code)\n"
        f"os._exit = tell\n{function}()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "click" in loaded
    assert (
        loaded & {"docker", "botocore", "yaml", "requests", "urllib3", "cryptography", "orchestrator.run"}
        == set()
    )
