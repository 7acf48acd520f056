"""Markup that cannot be broken out of: elements are values, and whatever is not one is escaped text.

Owns escaping and how hostile or endless text is shown. Everything that a page says goes through here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import TypeAlias

LONGEST = 400  # characters of one value that are shown

# Elements without content (HTML, "Void elements"), and those of SVG that we use without any.
_VOID = frozenset({"img", "meta", "br", "wbr"})


class Markup(str):
    """Text that is markup already; only ``element`` and ``join`` make it."""

    __slots__ = ()


Child: TypeAlias = "Markup | str | int | float | None | Iterable[Child]"


def element(tag: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """An element. In attributes ``_`` stands for ``-`` and a last one is dropped: ``class_``, ``aria_label``."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    inner = join(children)
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{inner}</{tag}>")


def join(children: Iterable[Child]) -> Markup:
    """Children one after the other: markup as it is, the rest as text; None is nothing."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, str | int | float):
            parts.append(text(child))
        elif child is not None:
            parts.append(join(child))
    return Markup("".join(parts))


def text(value: object) -> str:
    """A value as escaped text that any page may hold."""
    return escape(visible(str(value)), quote=True)


def visible(value: str) -> str:
    """Text without what would be invisible or turn the line around: those characters by their numbers.

    Line breaks and tabs stay. HTML does not allow most of the others (HTML, "Text": noncharacters, controls, surrogates).
    """
    if value.isascii() and value.isprintable():
        return value
    return "".join(each if each.isprintable() or each in "\n\t" else f"\\u{ord(each):04x}" for each in value)


def shortened(value: str, longest: int = LONGEST) -> str:
    """The beginning of a long text, and how long it is."""
    if len(value) <= longest:
        return value
    return f"{value[:longest]}… ({len(value):,} characters)"


def middle(value: str, longest: int) -> str:
    """A long name without its middle: both ends tell names apart."""
    if len(value) <= longest:
        return value
    tail = (longest - 1) // 2
    return f"{value[: longest - 1 - tail]}…{value[-tail:]}"


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after its dots, slashes and the like."""
    pieces = re.split(r"(?<=[._/:-])", name)
    return join(
        piece for at, each in enumerate(pieces) for piece in ((element("wbr"), each) if at else (each,))
    )
