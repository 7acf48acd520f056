"""The parts of a report, each from the accounts of its runs: overview, metrics, differences, pictures, lineage."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.questions.lineage import Edge, Graph, tree
from orchestrator.report import drawing
from orchestrator.report.account import Account
from orchestrator.report.chart import COLOURS, Curve, draw
from orchestrator.report.comparison import Group, groups
from orchestrator.report.markup import Markup, breakable, element, join, middle, shortened
from orchestrator.report.pictures import Picture
from orchestrator.report.words import (
    NONE,
    badge,
    chip,
    code,
    moment,
    number,
    section,
    table,
    took,
    verdict_badge,
)
from orchestrator.sizes import readable_size

MOST_CHARTS = 60
MOST_LINES = 1000  # of one table
_TILES = 8


def overview(runs: Sequence[Account]) -> Markup:
    """What was run, and how it ended."""
    return _facts(runs[0]) if len(runs) == 1 else _list(runs)


def _facts(run: Account) -> Markup:
    told = run.told
    where = str(told["branch"] or "no branch")
    facts: list[tuple[str, Markup | str, str]] = [
        ("Status", join([badge(told["status"]), " ", verdict_badge(run)]), ""),
        ("Started", moment(told["started"]), ""),
        ("Took", took(told["seconds"]), ""),
        ("Config", shortened(str(told["config"]), 80), ""),
        ("Commit", join([code(str(told["commit"])[:10]), f" on {shortened(where, 60)}"]), ""),
    ]
    if told["tags"]:
        facts.append(("Tags", join(badge(str(each)) for each in told["tags"]), ""))
    facts += [
        (middle(name, 60), number(value), "figure") for name, value in list(told["metrics"].items())[:_TILES]
    ]
    return element(
        "dl",
        [
            element("div", element("dt", name), element("dd", value, class_=look or None))
            for name, value, look in facts
        ],
        class_="facts",
    )


def _list(runs: Sequence[Account]) -> Markup:
    tagged = any(run.told["tags"] for run in runs)
    lines = [
        element(
            "tr",
            element("td", chip(run)),
            element("th", element("a", run.run_id, href=f"#run-{run.letter}"), scope="row", class_="id"),
            element("td", join([badge(run.told["status"]), " ", verdict_badge(run)])),
            element("td", shortened(str(run.told["config"]), 80)),
            element(
                "td", code(str(run.told["commit"])[:10]), f" {shortened(str(run.told['branch'] or ''), 40)}"
            ),
            element("td", moment(run.told["started"]), class_="id"),
            element("td", took(run.told["seconds"]), class_="number"),
            element("td", [[badge(str(each)), " "] for each in run.told["tags"]]) if tagged else None,
        )
        for run in runs
    ]
    head = ("", "Run", "Status", "Config", "Commit", "Started", "Took", *(("Tags",) if tagged else ()))
    return section("runs", "Runs", table(head, [element("tbody", lines)], "Runs", "runs"))


def metrics(runs: Sequence[Account]) -> Markup | None:
    """The curves, then every number."""
    names = list(
        dict.fromkeys(name for run in runs for name in (*run.told["metrics"], *(s.name for s in run.series)))
    )
    if not names:
        return None
    drawn = [name for name in names if any(_has_course(run, name) for run in runs)]
    charts = [_chart(name, runs) for name in drawn[:MOST_CHARTS]]
    left = len(drawn) - len(charts)
    return section(
        "metrics",
        "Metrics",
        _legend(runs) if charts and len(runs) > 1 else None,
        element("div", charts, class_="charts") if charts else None,
        element("p", f"{left} more metrics have curves; the table below has their values.", class_="aside")
        if left
        else None,
        element("h3", "Values"),
        _numbers(names, runs),
    )


def _has_course(run: Account, name: str) -> bool:
    found = run.curve(name)
    return found is not None and sum(1 for _, y in found.points if y is not None) > 1


def _chart(name: str, runs: Sequence[Account]) -> Markup:
    curves = [
        Curve(run.letter, run.colour, found)
        for run in runs
        if (found := run.curve(name)) is not None and any(y is not None for _, y in found.points)
    ]
    along = "by step" if all(curve.series.by_step for curve in curves) else "in the order of logging"
    return element(
        "figure",
        element("figcaption", element("div", middle(name, 80)), element("span", along, class_="about")),
        draw(name, curves),
    )


def _legend(runs: Sequence[Account]) -> Markup:
    items = [
        element("li", chip(run), " ", run.run_id, " (dashed)" if run.colour >= COLOURS else None)
        for run in runs
    ]
    return element("ul", items, class_="legend")


def _numbers(names: Sequence[str], runs: Sequence[Account]) -> Markup:
    if len(runs) == 1:
        head: tuple[str | Markup, ...] = ("Metric", "Last", "Lowest", "Highest", "Values")
        lines = [_course_of(name, runs[0]) for name in names[:MOST_LINES]]
    else:
        head = ("Metric", *(chip(run) for run in runs))
        lines = [
            element(
                "tr",
                element("th", breakable(middle(name, 120)), scope="row"),
                [_last(run, name) for run in runs],
            )
            for name in names[:MOST_LINES]
        ]
    return join(
        [
            table(head, [element("tbody", lines)], "Values of the metrics", "compare figures"),
            _more(len(names) - MOST_LINES, "metrics", "`mirage ls --csv` has all"),
        ]
    )


def _last(run: Account, name: str) -> Markup:
    there = name in run.told["metrics"]
    return element("td", number(run.told["metrics"][name]) if there else NONE, class_="number")


def _course_of(name: str, run: Account) -> Markup:
    course = run.curve(name)
    real = [y for _, y in course.points if y is not None] if course else []
    cells = (
        number(run.told["metrics"].get(name)),
        number(min(real)) if real else "-",
        number(max(real)) if real else "-",
        f"{course.count:,}" if course else "1",
    )
    return element(
        "tr",
        element("th", breakable(middle(name, 120)), scope="row"),
        [element("td", cell, class_="number") for cell in cells],
    )


def _more(count: int, what: str, where: str) -> Markup | None:
    return (
        element("p", f"{count:,} more {what} are not shown; {where}.", class_="aside") if count > 0 else None
    )


def differences(runs: Sequence[Account]) -> Markup | None:
    """What differs between the runs, each value beside the others."""
    if len(runs) < 2:
        return None
    found = groups(runs)
    if not found:
        return section(
            "differences",
            "What differs",
            element(
                "p",
                "Nothing but the time: source, config, inputs, packages, settings and machine are the same.",
            ),
        )
    bodies = [_group(group, len(runs)) for group in found]
    alike = sum(group.alike for group in found)
    return section(
        "differences",
        "What differs",
        table(("", *(chip(run) for run in runs)), bodies, "What differs between the runs", "compare"),
        element("p", f"{alike:,} other names in these groups are the same in all runs.", class_="aside")
        if alike
        else None,
    )


def _group(group: Group, count: int) -> Markup:
    title = element("tr", element("th", group.title, scope="rowgroup", colspan=count + 1), class_="group")
    lines = [
        element(
            "tr",
            element("th", breakable(middle(line.name, 120)), scope="row"),
            [element("td", NONE if value is None else _value(value)) for value in line.values],
        )
        for line in group.lines[:MOST_LINES]
    ]
    left = len(group.lines) - len(lines)
    note = element("tr", element("td", f"{left:,} more", colspan=count + 1)) if left else None
    return element("tbody", title, lines, note)


def _value(value: str) -> Markup:
    short = value if not value.startswith("sha256:") else value[:19]
    return element("span", shortened(short, 160), class_="code")


def pictures(runs: Sequence[Account]) -> Markup | None:
    """The pictures among the outputs."""
    shown = [(run, picture) for run in runs for picture in run.pictures]
    if not shown:
        return None
    figures = [_figure(run, picture, len(runs) > 1) for run, picture in shown if picture.source]
    refused = [(run, picture) for run, picture in shown if not picture.source]
    names = [
        element(
            "li", code(f"{middle(picture.artifact, 120)} {middle(picture.path, 120)}"), f": {picture.reason}"
        )
        for _, picture in refused[:50]
    ]
    return section(
        "pictures",
        "Pictures",
        element("div", figures, class_="pictures") if figures else None,
        element("p", "Not shown:", class_="aside") if names else None,
        element("ul", names, class_="aside") if names else None,
        _more(len(refused) - 50, "pictures", "`mirage artifact get` takes them out"),
    )


def _figure(run: Account, picture: Picture, several: bool) -> Markup:
    name = middle(picture.path, 80)
    about = f"{picture.artifact}, {picture.width} x {picture.height}, {readable_size(picture.size)}"
    return element(
        "figure",
        element(
            "img",
            src=picture.source,
            alt=f"{name} of {picture.artifact}",
            width=picture.width,
            height=picture.height,
        ),
        element(
            "figcaption",
            chip(run) if several else None,
            " " if several else None,
            name,
            element("span", about, class_="about"),
        ),
    )


def lineage(runs: Sequence[Account]) -> Markup:
    """Where the runs come from and what they saved, drawn and as text."""
    letters = {run.run_id: run.letter for run in runs}
    nodes, edges = drawing.union([run.graph for run in runs], [run.run_id for run in runs])
    drawn = drawing.draw(nodes, edges, letters)
    box = element("div", drawn.picture, class_="wide", tabindex=0, role="region", aria_label="Lineage, drawn")
    text = "\n\n".join(_as_text(run.graph) for run in runs)
    return section(
        "lineage",
        "Lineage",
        element("p", "Data goes from left to right: runs are boxes, artifacts are rounded.", class_="aside"),
        box,
        _more(drawn.left_out, "nodes", "`mirage lineage` has all"),
        element(
            "details",
            element("summary", "The same as text"),
            element("div", element("pre", text), class_="inside"),
        ),
    )


def _as_text(graph: Graph) -> str:
    saved: tuple[Edge, ...] = tuple(edge for edge in graph.down if edge.source == graph.root)
    below = Graph(graph.root, graph.nodes, graph.up, saved)
    above, after = tree(below, up=True), tree(below, up=False)
    lines = [
        "comes from",
        *(f"  {each}" for each in above[:200]),
        "saved",
        *(f"  {each}" for each in after[:200]),
    ]
    return "\n".join(middle(line, 300) for line in lines)
