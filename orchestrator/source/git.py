"""Running git safely: the settings and environment of every call, and what a repository's config may not start.

Also how names that git gives are shown. Not what git is asked: its callers know that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from orchestrator.errors import SourceError
from orchestrator.process import Completed, ProgramMissing
from orchestrator.process import run as run_program

# What to do where an object is missing.
REFETCH = "a partial or damaged clone: fetch it whole, `git fetch --refetch` or a new clone"
_SHOWN = 20

# Given on the command line, so they win over whatever a repository's own config says. No command that is used
# here draws a diff, signs, opens an editor or reads an alias, so those programs cannot start.
# `safe.directory`: other people's repositories (a mounted tree) are read, since nothing in them is executed.
_SETTINGS = (
    "safe.directory=*",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.splitIndex=false",  # an index of our own must not leave a `sharedindex.*` in the repository
    "protocol.allow=never",
    "protocol.ext.allow=never",
    "core.safecrlf=false",
    "i18n.commitEncoding=UTF-8",
)

# Never the network: a missing object of a partial clone is an error here, since fetching it would start what
# `core.sshCommand` or the remote's `uploadpack` name. No replacement objects: one commit id, one content.
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_TERMINAL_PROMPT": "0",
}

# What a caller's environment may say to git. Everything else that begins with GIT_ is taken out: a hook that
# calls Mirage hands down GIT_DIR and GIT_INDEX_FILE, and they name another repository's files.
_KEPT = (
    "GIT_CEILING_DIRECTORIES",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_EXEC_PATH",
)

# git-config(1), "SCOPES": `local` and `worktree` come with the repository, the others are the user's own.
_FOREIGN_SCOPES = (b"local", b"worktree")
_ASKED = r"^(filter\..*|hook\..*|lfs\.extension\..*|remote\.origin\.url)$"
# What `git lfs install` writes; `git lfs install --local` (as CI does) must go on working.
_LFS = {"clean": "git-lfs clean -- %f", "process": "git-lfs filter-process", "required": "true"}


@dataclass(frozen=True)
class Settings:
    """What a repository's config says that matters here.

    ``overrides`` are further settings (``name=value``) for calls that could run a filter or a hook; ``inert``
    names the filters that they switch off, because the repository's own config defines them.
    """

    remote: str | None
    overrides: tuple[str, ...]
    inert: tuple[str, ...]


def run(
    folder: Path,
    *words: str,
    settings: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> Completed:
    """Run one git command in a folder; a non-zero code is a value. Raises SourceError where git is missing."""
    argv = ["git", "-C", os.fspath(folder), "--no-pager"]
    for setting in (*_SETTINGS, *settings):
        argv += ("-c", setting)
    dropped = [name for name in os.environ if name.startswith("GIT_") and name not in _KEPT]
    try:
        return run_program([*argv, *words], env={**_ENVIRONMENT, **(env or {})}, without=dropped, stdin=stdin)
    except (ProgramMissing, PermissionError) as error:
        raise SourceError(
            "git is not installed", hint="install it, for example: apt-get install git"
        ) from error


def ask(
    folder: Path,
    *words: str,
    settings: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> bytes:
    """The output of one git command. Raises SourceError with git's own words where it fails."""
    done = run(folder, *words, settings=settings, env=env, stdin=stdin)
    if done.code != 0:
        raise SourceError(
            f"`git {words[0]}` failed in {folder} (code {done.code}): {done.complaint}",
            hint=_hint(done.complaint),
        )
    return done.stdout


def _hint(complaint: str) -> str | None:
    """The next step for the complaints that have one."""
    if "git-lfs" in complaint:
        return "a file has the attribute `filter=lfs`: install git-lfs"
    if "missing" in complaint or "promisor" in complaint or "unable to read" in complaint:
        return REFETCH
    return None


def settings(folder: Path) -> Settings:
    """Read a repository's config and switch off the filters that it defines itself, and every hook.

    A `filter.<name>.clean` is a program that `git status` and `git update-index` start. The user's own (global
    or system config) are kept; the repository's own are not run, except that `lfs` is put back to what
    `git lfs install` writes. `hook.<name>.command` (newer gits) is a hook that `core.hooksPath` does not turn
    off. Raises SourceError for a filter or hook that cannot be switched off.
    """
    done = run(folder, "config", "--null", "--show-scope", "--get-regexp", _ASKED)
    if done.code not in (0, 1):  # 1: nothing found
        raise SourceError(
            f"git cannot read the config of {folder}: {done.complaint}", hint="Mirage needs git 2.26 or newer"
        )
    remote: str | None = None
    filters: set[str] = set()
    hooks: set[str] = set()
    extended = False
    fields = done.stdout.split(b"\0")
    for scope, item in zip(fields[0::2], fields[1::2], strict=False):
        key, _, value = item.partition(b"\n")
        section, _, rest = os.fsdecode(key).partition(".")
        name, dotted, _ = rest.rpartition(".")  # `[filter ""]` is a filter too: its name is empty
        if section == "remote":
            remote = remote or public_url(printable(value))
        elif section == "hook" and dotted:
            hooks.add(name)
        elif scope not in _FOREIGN_SCOPES or not dotted:
            continue
        elif section == "lfs":
            extended = True
        else:
            filters.add(name)
    if extended:
        filters.add("lfs")
    for name in sorted(filters | hooks):
        if "=" in name:  # `-c name=value` ends the name at the first one
            raise SourceError(
                f"the config of {folder} defines a filter or hook with a `=` in its name: {name!r}",
                hint="take that section out of the config file",
            )
    overrides = [f"hook.{name}.enabled=false" for name in sorted(hooks)]
    for name in sorted(filters):
        values = _LFS if name == "lfs" and not extended else {}
        overrides += (f"filter.{name}.clean={values.get('clean', '')}", f"filter.{name}.smudge=")
        overrides += (f"filter.{name}.process={values.get('process', '')}",)
        overrides += (f"filter.{name}.required={values.get('required', 'false')}",)
    inert = tuple(sorted(name for name in filters if name != "lfs" or extended))
    return Settings(remote or None, tuple(overrides), inert)


def printable(name: bytes) -> str:
    """A name as text that any JSON can hold: bytes that are not UTF-8 become `\\xNN`."""
    return name.decode("utf-8", "backslashreplace")


def listed(names: Sequence[str]) -> str:
    """Names as lines of a message: the first ones, and how many more there are."""
    shown = "".join(f"\n  {name}" for name in names[:_SHOWN])
    return shown + (f"\n  and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def public_url(url: str) -> str:
    """A repository's address without user, password, query and fragment; `host:path` becomes `ssh://host/path`.

    Relative paths stay as they are (a submodule's address may be relative to its parent's).
    """
    scheme, found, rest = url.partition("://")
    if found:
        authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
        return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"
    if url.startswith("/"):
        return "file://" + quote(os.fsencode(url))
    short = re.fullmatch(r"(?:[^/]*@)?([^/:@]+):(?!:)/*(.+)", url)
    return f"ssh://{short[1]}/{short[2]}" if short else url
