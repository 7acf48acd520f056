"""Small pieces that sections share: badges, tables, pairs, numbers and times as the report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.report.account import Account
from orchestrator.report.chart import COLOURS
from orchestrator.report.markup import Child, Markup, element, shortened

_LOOKS = {
    "succeeded": "good",
    "failed": "bad",
    "lost": "bad",
    "interrupted": "fair",
    "IDENTICAL": "good",
    "WITHIN-TOLERANCE": "good",
    "DIFFERS": "bad",
    "FAILED": "bad",
}
NONE = element("span", "-", class_="none")


def badge(word: str, look: str | None = None) -> Markup:
    """A word that is seen first, in the colour of its meaning."""
    return element("span", word, class_=f"badge {look or _LOOKS.get(word, '')}".strip())


def verdict_badge(run: Account) -> Markup | None:
    """What came of making the run again, where somebody did."""
    if run.told.get("reproduces"):
        return badge(f"made {run.told['reproduces']} again", "fair")
    word = str(run.verdicts[-1].summary if run.verdicts else run.told.get("verdict") or "")
    return badge(f"made again: {word.lower()}", _LOOKS.get(word, "fair")) if word else None


def chip(run: Account) -> Markup:
    """The letter that stands for a run."""
    return element("span", run.letter, class_=f"chip c{run.colour % COLOURS}")


def number(value: object) -> str:
    """A number with six digits; what was not a number says so."""
    if value is None:
        return "not a number"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15:
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def took(seconds: object) -> str:
    """A length of time for people."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(stamp: object) -> str:
    """A record's time stamp; the report is read anywhere, so it stays UTC."""
    return str(stamp).replace("T", " ").removesuffix("Z")[:16] + " UTC"


def code(value: object) -> Markup:
    """A digest, a path, an id."""
    return element("code", shortened(str(value)))


def pairs(items: Iterable[tuple[str, Child]]) -> Markup:
    """Names with what they stand for."""
    found = [
        element("dt", name) + element("dd", NONE if value in (None, "") else value) for name, value in items
    ]
    return element("dl", [Markup(each) for each in found], class_="pairs")


def table(head: Sequence[Child], bodies: Iterable[Markup], label: str, look: str = "") -> Markup:
    """A table that scrolls by itself where it is wider than the page, by keys too."""
    top = element("thead", element("tr", [element("th", each, scope="col") for each in head]))
    inner = element("table", element("caption", label, class_="away"), top, list(bodies), class_=look or None)
    return element("div", inner, class_="wide", tabindex=0, role="region", aria_label=label)


def section(anchor: str, title: str, *inner: Child) -> Markup:
    """A part of the page with its heading."""
    return element(
        "section",
        element("h2", title, id=f"{anchor}-title"),
        *inner,
        id=anchor,
        aria_labelledby=f"{anchor}-title",
    )
