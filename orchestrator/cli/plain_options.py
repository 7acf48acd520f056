"""The options of `mirage ls` without click: loading that takes longer than the answer to a question.

Only what is beyond doubt is read here. Everything else (help, mistakes, what click alone can say) is left to click,
which has the same options in ls_command.py; a test holds both to the same answers.
"""

from __future__ import annotations

import re
from typing import Any

VALUES = {
    "--where": "where",
    "--branch": "branch",
    "--sort": "sort",
    "--limit": "limit",
    "--columns": "columns",
}
FLAGS = {"--rebuild": "rebuild", "--csv": "as_csv", "--json": "as_json"}
_LIMIT = re.compile("[1-9][0-9]{0,8}")


def options_of_ls(arguments: list[str]) -> dict[str, Any] | None:
    """The parameters of ``list_runs`` that these arguments stand for; None where click has to look at them."""
    found: dict[str, Any] = {**dict.fromkeys(VALUES.values()), **dict.fromkeys(FLAGS.values(), False)}
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in FLAGS and not equals:
            found[FLAGS[name]] = True
        elif name in VALUES:
            given = value if equals else next(rest, None)
            if given is None:
                return None
            found[VALUES[name]] = given
        else:
            return None
    if found["limit"] is not None:
        if not _LIMIT.fullmatch(found["limit"]):
            return None
        found["limit"] = int(found["limit"])
    return found
