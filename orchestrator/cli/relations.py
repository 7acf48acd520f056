"""Questions about more than one run: `mirage diff`, `mirage lineage`, `mirage explain`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.listing import number, plain
from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.canonical import Json
    from orchestrator.catalog.index import Index
    from orchestrator.questions.diff import Section
    from orchestrator.questions.explain import Candidate, Difference, Explained
    from orchestrator.questions.inside import Inside, Part
    from orchestrator.questions.lineage import Graph
    from orchestrator.reference import RunId

_HELP = {"help_option_names": ["-h", "--help"]}
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_LONG = 60
_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")
_BEFORE = 12  # of what two long values have in common, how much is shown before the place where they part


@click.command(context_settings=_HELP)
@click.argument("left", metavar="A")
@click.argument("right", metavar="B")
@_JSON
def diff(left: str, right: str, as_json: bool) -> None:
    """What differs between the runs A and B, in the order in which it matters."""
    from orchestrator.questions import diff as differences

    place = Workplace.here()
    one, two = place.catalog.find(left), place.catalog.find(right)
    sections = differences.compare(one, two, place.project.folder)
    if as_json:
        print_json(differences.to_json(one, two, sections))
        return
    print(f"a {one.run_id}\nb {two.run_id}")
    if not sections:
        print("no difference")
    for section in sections:
        print(section.title + (f"  ({section.note})" if section.note else ""))
        for line in _lines(section):
            print(f"  {line}")


def _lines(section: Section) -> Iterable[str]:
    width = min(40, max((len(change.name) for change in section.changes), default=0))
    for change in section.changes:
        left, right = change.values()
        if section.title == "commits" and change.name != "commit":
            subject = left if right is None else right
            yield f"{'a' if right is None else 'b'} {change.name[:10]} {plain(str(subject))}"
        elif section.title == "files" and change.name != "tree":
            mark = "+" if left is None else "-" if right is None else "~"
            yield f"{mark} {plain(change.name)}"
        else:
            a, b = _both(left, right, change.left, change.right)
            yield f"{plain(change.name).ljust(width)}  {a} -> {b}"


def _both(left: Json, right: Json, left_text: str | None, right_text: str | None) -> tuple[str, str]:
    """Two values that differ, on one line: of long ones the part where they do."""
    a, b = _shown(left, left_text), _shown(right, right_text)
    if max(len(a), len(b)) > _LONG:
        same = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        if same > _LONG // 2:
            a, b = (f"...{text[same - _BEFORE :]}" for text in (a, b))
    return _cut(a), _cut(b)


def _shown(value: Json, text: str | None) -> str:
    if text is None:
        return "(none)"
    if type(value) is float:
        return number(value)
    return _DIGEST.sub(r"\1", plain(value if isinstance(value, str) else text))


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."


@click.command(context_settings=_HELP)
@click.argument("root", metavar="ID|RUN")
@click.option("--up", is_flag=True, help="Only where it comes from.")
@click.option("--down", is_flag=True, help="Only what was made of it.")
@click.option("--dot", is_flag=True, help="Print the graph for Graphviz.")
@_JSON
def lineage(root: str, up: bool, down: bool, dot: bool, as_json: bool) -> None:
    """Where an artifact or a run comes from, and what was made of it: runs and artifacts, all the way."""
    from orchestrator.catalog import ask
    from orchestrator.questions import lineage as lines

    if dot and as_json:
        raise ConfigError("--dot and --json are two answers", hint="leave one out")
    place = Workplace.here()
    catalog = place.catalog
    name = root if ":" in root else str(catalog.find(root).run_id)
    both = up == down

    def walk(index: Index) -> Graph:
        known = lines.Walk(
            place.store,
            lines.finder(catalog.find),
            lambda id: ask.runs_with(index, "inputs", id),
            lambda run: ask.runs_with(index, "retry_of", run),
        )
        return known.around(name, up=up or both, down=down or both)

    graph = catalog.asking(walk)
    if as_json:
        print_json(lines.to_json(graph))
    elif dot:
        print(lines.to_dot(graph))
    else:
        for upward in (True, False):
            if (up if upward else down) or both:
                print("comes from" if upward else "led to")
                for line in lines.tree(graph, up=upward):
                    print(f"  {plain(line)}")


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="A config, not run yet.")
@click.option("--set", "overrides", multiple=True, metavar="A.B=V", help="Change a value of the config.")
@click.option("--snapshot", is_flag=True, help="Take a dirty tree as a snapshot commit.")
@_JSON
def explain(
    run_id: str | None, config_file: Path | None, overrides: tuple[str, ...], snapshot: bool, as_json: bool
) -> None:
    """What decided each key: hit or miss, and for a miss the nearest earlier key and what differs.

    Of RUN, or of a config that was not run yet; nothing is built then.
    """
    if (run_id is None) == (config_file is None):
        raise ConfigError(
            "give a run, or --config FILE",
            hint="for example: mirage explain latest, mirage explain --config F",
        )
    if config_file is None and (overrides or snapshot):
        raise ConfigError("--set and --snapshot go with --config", hint="the run has its own config")
    if config_file is not None:
        about, found, inside = _of_config(config_file, overrides, snapshot)
    else:
        about, found, inside = _of_run(str(run_id))
    if as_json:
        from orchestrator.questions import explain as explaining
        from orchestrator.questions.inside import to_json

        print_json({**about, "keys": explaining.to_json(found, lambda one: to_json(inside(one)))})
        return
    print(" ".join(str(value) for value in about.values()))
    for each in found:
        _tell(each, inside)


def _of_run(text: str) -> tuple[dict[str, Json], tuple[Explained, ...], Inside]:
    from orchestrator.questions import explain as explaining
    from orchestrator.questions.inside import reader

    place = Workplace.here()
    row = place.catalog.find(text)
    known = _Known(place)
    found = explaining.of_run(row, known.keys, known.first_with, known.earlier)
    return {"run": row.run_id}, found, reader(place.store, place.folder, {})


def _of_config(
    config_file: Path, overrides: tuple[str, ...], snapshot: bool
) -> tuple[dict[str, Json], tuple[Explained, ...], Inside]:
    from orchestrator.config import find_project, load_config, load_project
    from orchestrator.questions import foresee
    from orchestrator.questions.inside import reader

    start = config_file.resolve().parent
    project = load_project(find_project(start if start.is_dir() else Path.cwd()))
    config = load_config(project, config_file, overrides, {"dirty": "snapshot"} if snapshot else {})
    place = Workplace(project, config.settings)
    foreseen = foresee.foresee(
        project,
        config,
        (),
        store=place.store,
        engine=place.engine,
        library=place.library,
        reporter=place.reporter,
    )
    known = _Known(place)
    explained = foresee.explain(foreseen, known.keys, place.library, known.first_with, known.earlier)
    inside = reader(place.store, place.folder, {config.digest: config.canonical})
    return {"config": config.path}, explained, inside


class _Known:
    """What the index and the kept manifests know of keys."""

    def __init__(self, place: Workplace) -> None:
        from orchestrator.image.library import cache_folder
        from orchestrator.questions.explain import Keys
        from orchestrator.questions.lineage import finder
        from orchestrator.store.folder import FolderStore

        self._catalog = place.catalog
        self.keys = Keys((FolderStore(cache_folder()), place.store), finder(place.catalog.find))

    def first_with(self, kind: str, key: str) -> RunId | None:
        """The first run with a key."""
        from orchestrator.catalog import ask

        found = self._catalog.asking(lambda index: ask.runs_with(index, f"{kind}_key", key))
        return found[0] if found else None

    def earlier(self, kind: str) -> list[Candidate]:
        """The keys of the newest runs, each with the first run that had it."""
        from orchestrator.catalog import ask
        from orchestrator.digest import Digest
        from orchestrator.questions.explain import CANDIDATES, Candidate

        rows = self._catalog.asking(lambda index: ask.newest_values(index, f"{kind}_key", CANDIDATES))
        return [Candidate(Digest(value), first) for value, first in rows]


def _tell(each: Explained, inside: Inside) -> None:
    first = f", first in {each.first_run}" if each.first_run else ""
    print(f"{each.kind:<6}{each.state:<8}{each.key or ''}\n      {each.reason}{first}")
    if len(each.led_to) == 1:
        print(f"      led to {each.led_to[0]}")
    elif each.led_to:
        print(f"      drift: it led to {' and '.join(each.led_to)}")
    nearest = each.nearest
    if nearest is None:
        return
    print(f"      nearest: {f'that of {nearest.run}' if nearest.run else nearest.key}; what differs:")
    width = min(40, max((len(one.component) for one in nearest.differences), default=0))
    for one in nearest.differences:
        before, now = _pair(one)
        print(f"        {plain(one.component).ljust(width)}  {before} -> {now}")
        for part in inside(one):
            print(f"          {_part(one.component, part)}")


def _part(component: str, part: Part) -> str:
    """A value of the config, or a file that differs."""
    from orchestrator import canonical

    values = [None if text is None else canonical.decode(text) for text in (part.before, part.now)]
    if component == "config":
        before, now = _both(values[0], values[1], part.before, part.now)
        return f"{plain(part.name)}  {before} -> {now}"
    return f"{'+' if part.before is None else '-' if part.now is None else '~'} {plain(part.name)}"


def _pair(one: Difference) -> tuple[str, str]:
    """Both values for people: of a package, its version where that differs."""
    from orchestrator import canonical

    values = [None if text is None else canonical.decode(text) for text in (one.before, one.now)]
    versions = [value.get("version") if isinstance(value, dict) else None for value in values]
    if versions[0] != versions[1] and any(versions):
        shown = [
            "(none)" if text is None else str(v)
            for text, v in zip((one.before, one.now), versions, strict=True)
        ]
        return shown[0], shown[1]
    return _both(values[0], values[1], one.before, one.now)
