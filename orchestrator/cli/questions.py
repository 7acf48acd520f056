"""The questions about one run: `mirage show`, and what people say of it: `mirage tag`, `mirage note`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.listing import committed_as, number, plain
from orchestrator.cli.terminal import print_json
from orchestrator.cli.wiring import Workplace
from orchestrator.sizes import readable_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.canonical import Json
    from orchestrator.catalog import Row
    from orchestrator.catalog.marks import Mark

_HELP = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--json", "as_json", is_flag=True, help="Print summary, result, config and record as one object."
)
def show(run_id: str, as_json: bool) -> None:
    """Show one run: RUN is an id, the beginning of one, or `latest`."""
    from orchestrator.trust import dsse, trusted

    place = Workplace.here()
    row = place.catalog.find(run_id)
    told = row.summary()
    later = committed_as(place, [told]).get(row.run_id)
    trust = trusted.load(place.project.folder)
    state, words = trust.told(dsse.unseal(row.record), str(row.details["builder"]["id"]))
    later_runs = _later_runs(place, row)
    if as_json:
        print_json(
            {
                **told,
                "committed_as": later,
                **later_runs,
                "signature": state,
                "result": row.result,
                "config_values": row.config,
                "statement": row.statement,
            }
        )
        return
    _show(row, told, later, words, trust.name_of, later_runs)


def _later_runs(place: Workplace, row: Row) -> dict[str, list[Json]]:
    """The runs that made this one again since the engine had ended it, and those that resumed it."""
    from orchestrator.catalog import ask

    if row.recorded()["status"] == "succeeded":  # nothing was left to do
        return {"retried_by": [], "resumed_by": []}
    return place.catalog.asking(
        lambda index: {
            "retried_by": [*ask.runs_with(index, "retry_of", row.run_id)],
            "resumed_by": [*ask.runs_with(index, "resume_of", row.run_id)],
        }
    )


def _origin(row: Row, name_of: Callable[[str | None], str | None]) -> list[tuple[str, str]]:
    """Where the environment came from, as far as the record says."""
    found = row.definition["internalParameters"].get("environment")
    if found is None:
        return []
    from orchestrator.image.belief import Origin

    name = name_of(found["keyid"]) or ""
    return [("packages", Origin(found["from"], found["because"], found["keyid"], name).told())]


def _show(
    row: Row,
    told: dict[str, Json],
    later: str | None,
    signed: str,
    name_of: Callable[[str | None], str | None],
    later_runs: dict[str, list[Json]],
) -> None:
    from orchestrator import fences
    from orchestrator.catalog import local_time

    details = row.details
    reason = f" ({told['reason']})" if told["reason"] else ""
    snapshot = ", a snapshot of uncommitted work" if told["dirty"] else ""
    snapshot += f"; committed since as {later}" if later else ""
    source = row.dependency("source")
    base = row.dependency("base-image")
    lines: list[tuple[str, str]] = [
        ("status", f"{told['status']}{reason}"),
        ("started", f"{local_time(str(told['started']))}, took {told['seconds']} s"),
        *([("user", plain(str(told["user"])))] if told["user"] else []),
        ("project", f"{told['project']} ({source.get('uri', '')})"),
        ("commit", f"{told['commit']} on {told['branch'] or 'no branch'}{snapshot}"),
        ("tree", str(told["tree"])),
        ("config", f"{told['config']} {told['config_digest']}"),
        ("set", " ".join(str(each) for each in told["overrides"] or ()) or "-"),  # type: ignore[union-attr]
        ("workflow", " ".join(row.definition["externalParameters"]["entrypoint"])),
        ("lock", f"{row.dependency('lock').get('uri', '').rpartition('#')[2]} {told['lock']}"),
        ("base", f"{base.get('annotations', {}).get('name', '')} {told['base']}"),
        *_origin(row, name_of),
        ("image", str(told["image"])),
        ("run key", str(told["run_key"])),
        ("builder", str(details["builder"]["id"])),
        ("fences", ", ".join(fences.changed(row.definition)) or "as by default"),
        ("record", str(told["record"])),
        ("signed", signed),
        (
            "verdict",
            f"makes {told['reproduces']} again" if told["reproduces"] else str(told["verdict"] or "-"),
        ),
    ]
    print(f"run {row.run_id}")
    for name, value in (*lines, *_links(row, later_runs)):
        print(f"  {name:<9}{value}")
    for title, items in (("inputs", _inputs(row)), ("outputs", _outputs(row)), ("metrics", _metrics(row))):
        print(f"  {title}" if items else f"  {title:<9}-")
        for item in items:
            print(f"    {item}")
    for line in _used(row):
        print(f"  {line}")
    for problem in row.result.get("unpublished", []):
        print(f"  not published: {problem}")
    tags, notes = told["tags"], told["notes"]
    if isinstance(tags, list) and tags:
        print(f"  tags     {' '.join(map(str, tags))}")
    for note in notes if isinstance(notes, list) else ():
        print(f"  note     {plain(str(note))}")


def _links(row: Row, later: dict[str, list[Json]]) -> list[tuple[str, str]]:
    """The runs of which this one is another attempt, or goes on with; and those that are so of this one."""
    internal = row.definition["internalParameters"]
    before, first = internal.get("retryOf"), internal.get("resumeOf")
    found = []
    if before:
        found.append(("again", f"after {before['run']}, which the engine or the machine ended"))
    if first:
        found.append(("resumes", f"{first['run']}, from {', '.join(first['artifacts'])}"))
    found += [("retried", f"as {run}") for run in later["retried_by"]]
    found += [("resumed", f"by {run}") for run in later["resumed_by"]]
    return found


def _used(row: Row) -> list[str]:
    """What the run's audit noted beside its inputs."""
    audit = row.details.get("mirage_audit") or {}
    words = {
        "missing": "looked for",
        "writes": "tried to write",
        "connections": "connected to",
        "programs": "started",
        "host": "read of the machine",
    }
    return [f"{text}: {', '.join(audit[name])}" for name, text in words.items() if audit.get(name)]


def _inputs(row: Row) -> list[str]:
    unused = (row.details.get("mirage_audit") or {}).get("inputsUnused", ())
    resumed = row.resumed
    return [
        f"{item['annotations']['id']}  sha256:{item['digest']['sha256']}"
        + ("  (resumed)" if item["annotations"]["id"] in resumed else "")
        + ("  (not seen used)" if item["name"].removeprefix("input:") in unused else "")
        for item in row.definition["resolvedDependencies"]
        if item["name"].startswith("input:")
    ]


def _outputs(row: Row) -> list[str]:
    return [
        f"{o['id']}  {o['digest']}  {readable_size(o['size'])}, {o['format']}" for o in row.result["outputs"]
    ]


def _metrics(row: Row) -> list[str]:
    return [f"{name} = {number(value)}" for name, value in row.result["metrics"].items()]


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take these tags away; that they were there is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's tags as one JSON object.")
def tag(run_id: str, tags: tuple[str, ...], remove: bool, as_json: bool) -> None:
    """Tag a run: `mirage ls --where 'tags = best'` finds it. RUN is an id, the beginning of one, or `latest`."""
    from orchestrator.catalog import marks
    from orchestrator.errors import ConfigError

    place = Workplace.here()
    row = place.catalog.find(run_id)
    if remove:
        there = row.summary()["tags"]
        missing = [each for each in tags if not isinstance(there, list) or each not in there]
        if missing:
            known = " ".join(map(str, there)) if isinstance(there, list) and there else "none"
            raise ConfigError(f"{row.run_id} has no tag {missing[0]!r}", hint=f"its tags: {known}")
    _said(row, marks.add(place.store, row.run_id, "untag" if remove else "tag", tags), as_json)


@click.command(context_settings=_HELP)
@click.argument("run_id", metavar="RUN")
@click.argument("text", metavar="TEXT")
@click.option("--json", "as_json", is_flag=True, help="Print the run's notes as one JSON object.")
def note(run_id: str, text: str, as_json: bool) -> None:
    """Write a note beside a run; earlier ones stay. RUN is an id, the beginning of one, or `latest`."""
    from orchestrator.catalog import marks

    place = Workplace.here()
    row = place.catalog.find(run_id)
    _said(row, marks.add(place.store, row.run_id, "note", [text]), as_json)


def _said(row: Row, said: list[Mark], as_json: bool) -> None:
    from orchestrator.catalog import marks

    told = marks.fold(said)
    if as_json:
        history: list[Json] = [{"kind": each.kind, "text": each.text, "at": each.at} for each in said]
        print_json({"run_id": row.run_id, **told, "history": history})
        return
    tags, notes = told["tags"], told["notes"]
    print(f"{row.run_id}  tags: {' '.join(map(str, tags)) if isinstance(tags, list) and tags else '-'}")
    for each in notes if isinstance(notes, list) else ():
        print(f"  note  {plain(str(each))}")
