"""The page: one file that needs nothing else, asks for nothing and runs nothing, whatever the runs' names hold.

The policy in its head forbids scripts, requests and frames; the style is allowed by its digest (W3C CSP Level 3,
section 2.3.1). The same runs give the same bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

import orchestrator
from orchestrator.report import origin, sections
from orchestrator.report.account import Account
from orchestrator.report.markup import Markup, element, join, shortened

MOST_RUNS = 100
_NAV = (
    ("runs", "Runs"),
    ("metrics", "Metrics"),
    ("differences", "What differs"),
    ("pictures", "Pictures"),
    ("lineage", "Lineage"),
    ("provenance", "Provenance"),
)


def render(runs: Sequence[Account]) -> bytes:
    """The report's bytes, UTF-8."""
    style = files("orchestrator.report").joinpath("style.css").read_text("utf-8")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'"
    )
    title = _title(runs)
    parts = (
        sections.overview(runs),
        sections.metrics(runs),
        sections.differences(runs),
        sections.pictures(runs),
        sections.lineage(runs),
        origin.provenance(runs),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{title} - Mirage"),
        element("style", Markup(style)),
    )
    body = element(
        "body",
        element("header", _heading(runs, title), _navigation(parts)),
        element("main", parts),
        element(
            "footer",
            f"Made by Mirage {orchestrator.__version__} from the records of "
            f"{'this run' if len(runs) == 1 else f'these {len(runs)} runs'}. "
            "This page is for reading; the record in the store is what can be verified.",
        ),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n".encode("utf-8", "replace")


def _title(runs: Sequence[Account]) -> str:
    if len(runs) == 1:
        return runs[0].run_id
    return f"{len(runs)} runs of {shortened(str(runs[0].told['project']), 60)}"


def _heading(runs: Sequence[Account], title: str) -> Markup:
    run = runs[0]
    projects = dict.fromkeys(str(each.told["project"]) for each in runs)
    notes = [
        element("p", f"“{shortened(str(note), 2000)}”", class_="lead")
        for each in runs[:1]
        for note in each.told["notes"]
    ]
    lead = f"{run.told['workflow']} with {run.told['config']}" if len(runs) == 1 else _span(runs)
    return join(
        [
            element("p", f"Run report · {shortened(', '.join(projects), 120)}", class_="kicker"),
            element("h1", title),
            element("p", shortened(lead, 200), class_="lead"),
            notes if len(runs) == 1 else None,
        ]
    )


def _span(runs: Sequence[Account]) -> str:
    days = sorted(str(run.told["started"])[:10] for run in runs)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    ended = sum(run.told["status"] == "succeeded" for run in runs)
    return f"{when}; {ended} of {len(runs)} succeeded"


def _navigation(parts: Sequence[Markup | None]) -> Markup:
    there = [
        (anchor, name)
        for anchor, name in _NAV
        if any(part and f'id="{anchor}"' in part[:60] for part in parts)
    ]
    links = [element("li", element("a", name, href=f"#{anchor}")) for anchor, name in there]
    return element("nav", element("ul", links), aria_label="Parts of this report")
