"""The docs against the code: commands, options, exit codes, settings, variables, JSON and record fields, links."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import click
import pytest

from orchestrator import canonical, definition, errors, hardware, provenance, run, settings, yamlcore
from orchestrator.artifacts.audit import Audit
from orchestrator.canonical import Json
from orchestrator.catalog import Row
from orchestrator.cli import commands as all_commands
from orchestrator.cli import following
from orchestrator.config import Config
from orchestrator.digest import Digest, of_bytes
from orchestrator.engine_values import EngineInfo
from orchestrator.executors import secret_delivery
from orchestrator.image import assemble
from orchestrator.image.belief import HERE
from orchestrator.life import Sealed
from orchestrator.plan import Plan
from orchestrator.ports import InputMount, Sandbox
from orchestrator.prepare import Prepared, Request
from orchestrator.provenance import Byproduct, Result, ResultOutput
from orchestrator.reference import RunId
from orchestrator.setting_values import Unfit
from orchestrator.settings import Layer, ProjectSettings
from orchestrator.store.folder import FolderStore
from orchestrator.trust.chain import Link

TOP = Path(__file__).resolve().parent.parent
DOCS = sorted([TOP / "README.md", TOP / "CHANGELOG.md", *(TOP / "docs").rglob("*.md")])
PAGES = sorted(
    path
    for path in TOP.rglob("*.md")
    if not any(part.startswith(".") for part in path.relative_to(TOP).parts)
)
DIGEST = of_bytes(b"")
RUN_ID = RunId("20261125-022642-163276")
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_CODE = re.compile(r"`([^`\n]+)`")


def text_of(path: str) -> str:
    return (TOP / path).read_text("utf-8")


def section(path: str, heading: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(
        rf"^{re.escape(heading)}$\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text_of(path), re.M | re.S
    )
    assert found, f"{path} has no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a text's tables, without their heads."""
    found = []
    for line, after in zip(text.splitlines(), [*text.splitlines()[1:], ""], strict=True):
        if (
            line.startswith("|")
            and not re.fullmatch(r"[|\- ]+", line)
            and not re.fullmatch(r"\|[|\-]+", after)
        ):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def names(cell: str) -> list[str]:
    return _CODE.findall(cell)


def first_names(text: str) -> set[str]:
    """All that the first columns of a text's tables name."""
    return {name for row in rows(text) for name in names(row[0])}


# Commands and options


def commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        found[name] = command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for inner in command.list_commands(context):
                below = command.get_command(context, inner)
                assert below is not None
                walk(f"{name} {inner}", below)

    walk("mirage", all_commands.mirage)
    return found


COMMANDS = commands()


def options(command: click.Command) -> set[str]:
    return {
        word
        for parameter in command.params
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts
        for word in (*parameter.opts, *parameter.secondary_opts)
    }


def test_the_commands_of_the_page_are_the_commands_that_there_are() -> None:
    assert set(re.findall(r"^### (mirage.*)$", text_of("docs/cli.md"), re.M)) == set(COMMANDS)
    readme = " ".join(" ".join(names(row[0])) for row in rows(section("README.md", "## Commands")))
    missing = {word for name in COMMANDS for word in name.split()} - set(re.findall(r"[a-z]+", readme))
    assert not missing


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_are_the_options_that_it_has(name: str) -> None:
    text = section("docs/cli.md", f"### {name}")
    told = {word.split()[0] for row in rows(text) for word in names(row[0]) if word.startswith("-")}
    assert told == options(COMMANDS[name])
    usage = names(text)[0] if not isinstance(COMMANDS[name], click.Group) else ""
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Argument):
            assert parameter.make_metavar(click.Context(COMMANDS[name])).strip("[].") in usage.upper()


def command_lines(text: str) -> Iterator[str]:
    """Calls of Mirage in code: spans, and lines of blocks with or without a prompt."""
    yield from (span for span in _CODE.findall(_FENCE.sub("", text)))
    for block in _FENCE.findall(text):
        yield from (
            line.strip().removeprefix("$ ") for line in block.splitlines() if not line.startswith(" ")
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_every_call_that_a_page_shows_is_possible(page: Path) -> None:
    for line in command_lines(page.read_text("utf-8")):
        if not re.match(r"mirage(-run)? ", line):
            continue
        words = shlex.split(line.partition(" && ")[0], comments=True)
        name = {"mirage-run": "mirage run"}.get(words[0], words[0])
        arguments = words[1:]
        while arguments and isinstance(COMMANDS[name], click.Group) and re.match("[a-z]", arguments[0]):
            name = f"{name} {arguments.pop(0)}"
            assert name in COMMANDS, f"{page}: {line}"
        try:
            COMMANDS[name].make_parser(click.Context(COMMANDS[name])).parse_args(arguments)
        except click.UsageError as error:
            pytest.fail(f"{page}: {line}: {error.message}")


# Exit codes


def test_every_exit_code_is_told_with_its_meaning() -> None:
    classes = {
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, errors.MirageError) and each is not errors.MirageError
    }
    codes = {each.exit_code: each.__name__ for each in classes}
    assert len(codes) == len(classes), "two errors have one exit code"
    table = rows(section("docs/cli.md", "## Exit codes"))
    assert all(meaning for _, meaning, _ in table)
    assert {int(code): error.strip("`") for code, _, error in table} == {0: "", **codes}
    assert set(following.EXIT.values()) <= {0, *codes}
    readme = re.search(r"^Exit codes: (.*?)\n\n", section("README.md", "## Commands"), re.M | re.S)
    assert readme and {int(code) for code in re.findall(r"\d+", readme[1])} == {0, *codes}


# Settings


def leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for each in fields(section):
        value = getattr(section, each.name)
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", each.metadata["reader"]


LEAVES = dict(leaves(ProjectSettings()))


@cache
def settings_table() -> dict[str, list[str]]:
    return {names(row[0])[0]: row for row in rows(section("docs/project.md", "## project.yaml"))}


def test_the_settings_of_the_page_are_the_settings_that_there_are() -> None:
    assert set(settings_table()) == set(LEAVES)


@pytest.mark.parametrize("key", LEAVES)
def test_a_setting_has_the_default_and_takes_the_words_that_the_page_says(key: str) -> None:
    _, kind, default, meaning = settings_table()[key]
    assert meaning

    def applied(text: str) -> ProjectSettings:
        value: Json = yamlcore.parse(text.encode(), "the page").value
        for part in reversed(key.split(".")):
            value = {part: value}
        return settings.apply(other(key), [Layer(value, lambda _: "the page")])

    if key == "project":
        assert default == "the folder's name"
        return
    assert applied(names(default)[0]) == ProjectSettings(), f"{key}: the default is not {default}"
    for word in names(kind):
        applied(word)  # raises ConfigError for a word that it does not take
    reader = LEAVES[key]
    if reader.__qualname__.startswith("one_of."):
        with pytest.raises(Unfit) as refused:
            reader("?")
        assert names(kind) == refused.value.expected.split(" or ")


def other(key: str) -> ProjectSettings:
    """The defaults, but for one setting that holds what no default is; merged ones cannot be taken back."""
    if key in ("run.env", "tolerance"):
        return ProjectSettings()

    def changed(section: Any, path: list[str]) -> Any:
        value = changed(getattr(section, path[0]), path[1:]) if path[1:] else "another"
        return replace(section, **{path[0]: value})

    return cast("ProjectSettings", changed(ProjectSettings(), key.split(".")))


# A run in words, made of what the code makes them of, without an engine


def a_config() -> Config:
    used = replace(ProjectSettings(), project="project")
    return Config("configs/a.yaml", b"", b"", b"{}", DIGEST, ("dataset:a:latest",), used, used)


def a_prepared() -> Prepared:
    found = InputMount("dataset:a:latest", "dataset:a:v1", DIGEST, DIGEST, None, "directory", 1, 1, "{}")
    made = SimpleNamespace(
        snapshot=SimpleNamespace(
            commit="c",
            base_commit="c",
            tree="t",
            prefix="",
            commit_time=0,
            branch="main",
            remote=None,
            dirty=False,
            shallow=False,
            submodules=(SimpleNamespace(path="<path>", url=None, commit="c"),),
        ),
        lock=SimpleNamespace(kind="requirements", path="requirements.txt", digest=DIGEST),
        base=SimpleNamespace(
            name="b",
            digest=DIGEST,
            source="recipe:b",
            platform="linux/amd64",
            python=SimpleNamespace(version="3.11.2"),
            env=(),
        ),
        environment=SimpleNamespace(key=DIGEST, installed=DIGEST, sbom=DIGEST, origin=HERE),
        image=SimpleNamespace(
            image=SimpleNamespace(digest=DIGEST, config_digest=DIGEST, diff_ids=(DIGEST,)),
            key=SimpleNamespace(digest=DIGEST),
            engine_id="sha256:e",
            cached=True,
        ),
        inputs=(found,),
        argv=("python", "-m", "workflows.training_pipeline", "--config", "configs/a.yaml"),
        run_key=SimpleNamespace(digest=DIGEST),
    )
    return cast("Prepared", made)


def a_plan() -> Plan:
    info = EngineInfo(
        "docker", "", "", "classic", "linux", "amd64", "", "", False, False, "2", True, "", 1, 1
    )
    sandbox = Sandbox("1:1", True, True, True, "none", 1, None, None, 1, "default", True, True)
    executor = cast("Any", SimpleNamespace(id="local-docker", info=lambda: info, sandbox=lambda _: sandbox))
    spec = definition.spec_of(RUN_ID, Request(a_config()), a_prepared())
    return definition.plan_of(spec, Request(a_config()), a_prepared(), executor, "store")


def a_result() -> Result:
    stamp = "2026-11-25T02:26:42Z"
    output = ResultOutput("model:a:v1", DIGEST, 1, 1, "json")
    byproduct = Byproduct("log", DIGEST, (("bytes", 1), ("droppedBytes", 0)))
    noted = Audit()
    noted.see(b'{"kind": "python", "name": "3.11.2"}')
    return Result(
        "succeeded", 0, None, None, False, stamp, stamp, 1.0, (output,), (), (byproduct,), (), False,
        canonical.encode(noted.summary({})).decode(),
    )  # fmt: skip


def a_record(run_json: Digest) -> bytes:
    plan = a_plan()
    return provenance.statement(
        RUN_ID,
        plan.definition(),
        plan.builder(),
        cast("Json", hardware.describe()),
        a_result(),
        run_json,
        Link("l", 0, None).to_json(),
    )


def test_the_variables_of_the_page_are_those_of_a_run() -> None:
    table = rows(section("docs/contract.md", "## Environment variables"))
    told = {name: row[1] for row in table for name in names(row[0])}
    of_run = dict(definition.spec_of(RUN_ID, Request(a_config()), a_prepared()).env)
    recipe = SimpleNamespace(title="p", config=a_config(), **vars(a_prepared_parts()))
    key = SimpleNamespace(digest=DIGEST)
    of_image = dict(assemble._run_config(cast("Any", recipe), cast("Any", key)).env)
    of_secrets = {*secret_delivery.variables(["NAME"])}
    assert set(told) == {*of_run, *of_image, *of_secrets}
    differing = {"MIRAGE_RUN_ID", "MIRAGE_CONFIG", "MIRAGE_SEED", "SOURCE_DATE_EPOCH", "PATH"}
    for name, value in {**of_image, **of_run}.items():
        if name not in differing and not name.endswith("_NUM_THREADS"):
            assert value in names(told[name]), f"{name} is {value}"


def a_prepared_parts() -> SimpleNamespace:
    made = a_prepared()
    return SimpleNamespace(
        snapshot=made.snapshot, lock=made.lock, base=made.base, environment=made.environment
    )


def test_the_fields_of_the_json_are_told(tmp_path: Path) -> None:
    result = run.to_json(run.Finished(a_plan(), Sealed(a_result(), DIGEST), ()))
    text = section("docs/cli.md", "### mirage run").partition("JSON:")[2]
    assert first_names(text) == set(result)
    for row in rows(text):
        inner = result[names(row[0])[0]]
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if isinstance(inner, dict) and names(row[0])[0] not in ("metrics", "timing"):
            assert set(names(row[1])) >= set(inner), row[0]
    store = FolderStore.open_at(tmp_path / "store")
    listed_run = Row(RUN_ID, a_record(store.put(a_result().run_json(RUN_ID))), store)
    listed = section("docs/cli.md", "### mirage ls").partition("\nFields:")[2]
    assert set(names(listed)) - {"--set"} == set(listed_run.summary())


# The record

PAGE = "docs" + urlsplit(provenance.BUILD_TYPE).path + ".md"


def record() -> dict[str, Any]:
    found = yamlcore.parse(a_record(DIGEST), "record").value
    assert isinstance(found, dict)
    return cast("dict[str, Any]", found)


def test_the_build_type_has_its_page() -> None:
    assert provenance.BUILD_TYPE in text_of(PAGE).splitlines()[0]
    assert provenance.STATEMENT_TYPE.startswith("https://in-toto.io/") and provenance.PREDICATE_TYPE
    assert record()["predicate"]["buildDefinition"]["buildType"] == provenance.BUILD_TYPE


def test_the_parameters_of_the_page_are_those_of_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAGE_USER", "alice")  # without it there is no `user`
    built = record()["predicate"]["buildDefinition"]
    assert first_names(section(PAGE, "## buildDefinition.externalParameters")) == set(
        built["externalParameters"]
    )
    internal = section(PAGE, "## buildDefinition.internalParameters")
    assert first_names(internal) == set(built["internalParameters"])
    assert set(built["internalParameters"]["sandbox"]) <= set(names(internal))


def test_the_dependencies_of_the_page_are_those_of_a_record() -> None:
    table = {names(row[0])[0]: row for row in rows(section(PAGE, "## buildDefinition.resolvedDependencies"))}
    found = {
        re.sub("^input:.*", "input:<id as written>", item["name"]): item
        for item in record()["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert set(table) == set(found)
    for name, item in found.items():
        assert set(item["digest"]) <= set(names(table[name][2])), name
        assert set(names(table[name][3])) - {"gitCommit"} == set(item.get("annotations", {})), name


def test_what_a_run_left_is_told() -> None:
    details, text = record()["predicate"]["runDetails"], section(PAGE, "## runDetails")
    assert details["builder"]["id"] in first_names(text)
    assert {*details["builder"]["version"], *details["metadata"]} <= set(names(text))
    made: dict[str, set[str]] = {}
    for path in (TOP / "orchestrator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Byproduct":
                words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
                made[str(words[0])] = {word for word in words[1:] if isinstance(word, str)}
    byproducts = {names(row[0])[0]: set(names(row[1])) for row in rows(text) if "https" not in row[0]}
    assert byproducts == made
    extensions = {
        names(row[0])[0]: set(names(row[1])) for row in rows(section(PAGE, "## Extensions")) if names(row[0])
    }
    assert set(extensions) == {name for name in details if "_" in name}
    for name, told in extensions.items():
        assert {*details[name], *details[name].get("cpu", {})} <= told


def test_subjects_and_the_result_are_told() -> None:
    text = section(PAGE, "## subject")
    first, output = record()["subject"]
    assert first["name"] == "run.json" and set(output["annotations"]) <= set(names(text))
    result = yamlcore.parse(a_result().run_json(RUN_ID), "run.json").value
    assert isinstance(result, dict) and set(result) <= set(names(text))


# Links, and what is typed into a shell


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(TOP)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = _CODE.sub("code", _FENCE.sub("", page.read_text("utf-8")))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlsplit(link).scheme:
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / target).resolve() if target else page
        assert place.exists() and place.is_relative_to(TOP), f"{page}: {link}"
        assert not anchor or anchor in anchors(place), f"{page}: {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [TOP / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or not page.is_file() or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+)", page.read_text("utf-8"))
        todo += [(page.parent / link).resolve() for link in links if not urlsplit(link).scheme]
    assert set(DOCS) <= seen


def test_every_target_of_make_that_the_docs_name_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.M))
    told = {
        line.split()[1]
        for page in DOCS
        for line in command_lines(page.read_text("utf-8"))
        if line.startswith("make ")
    }
    assert {"demo", "test"} <= told <= targets
    assert first_block(section("README.md", "## Try it")).split() == ["make", "demo", "make", "test"]


def first_block(text: str) -> str:
    return str(_FENCE.findall(text)[0]).strip("`\n")
