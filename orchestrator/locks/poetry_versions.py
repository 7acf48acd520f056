"""Poetry's own words for versions, in those of PEP 440: `^1.2`, `~1.2`, `1.*`, `>=1,<2 || >3`."""

from __future__ import annotations

import re

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from orchestrator.errors import LockError

_TERM = re.compile(r"(\^|~=|~|===|==|!=|<=|>=|<|>)?\s*((?:[0-9]+!)?[A-Za-z0-9.*+_-]+)")


def allows(versions: str, version: str) -> bool:
    """Whether a constraint allows a version. Raises LockError where it is no constraint."""
    return any(each.contains(version, prereleases=True) for each in _alternatives(versions))


def pythons(versions: str) -> str:
    """A constraint on Python as it stands in the lock; kept in Poetry's words (see ``allows``), `*` made empty."""
    return "" if versions.strip() == "*" else versions


def python_marker(versions: str) -> str:
    """A constraint on Python as a marker (PEP 508)."""
    found = []
    for each in _alternatives(versions):
        terms = [f'python_full_version {term.operator} "{term.version}"' for term in each]
        found.append(" and ".join(sorted(terms)))
    return " or ".join(f"({each})" for each in found) if all(found) else ""


def _alternatives(versions: str) -> list[SpecifierSet]:
    try:
        return [_all_of(part) for part in re.split(r"\s*\|\|?\s*", versions.strip())]
    except (InvalidSpecifier, InvalidVersion) as error:
        raise LockError(
            f"not a version constraint of Poetry's: {versions!r}", hint="`poetry check`"
        ) from error


def _all_of(part: str) -> SpecifierSet:
    found: list[str] = []
    for operator, version in _TERM.findall(part):
        if version == "*":
            continue
        if operator == "^":
            found += [f">={version}", f"<{_above(version, caret=True)}"]
        elif operator == "~":
            found += [f">={version}", f"<{_above(version, caret=False)}"]
        elif operator in ("", "==", "!="):
            found.append(f"{operator or '=='}{version}")
        else:
            found.append(f"{operator}{version.removesuffix('.*')}")
    return SpecifierSet(",".join(found))


def _above(version: str, *, caret: bool) -> str:
    """The first version that `^` or `~` leaves out."""
    release = Version(version).release
    if not caret:
        at = min(1, len(release) - 1)
    else:
        at = next((place for place, number in enumerate(release) if number), len(release) - 1)
    return ".".join(str(number) for number in (*release[:at], release[at] + 1))
