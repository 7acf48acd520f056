"""Running git safely: the settings and environment of every call, and what a repository's config may not start."""

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

# Given on the command line, so they win over whatever a repository's own config says. No command that is used
# here draws a diff, signs, opens an editor or reads an alias, so those programs cannot start.
# `safe.directory`: other people's repositories (a mounted tree) are read, since nothing in them is executed.
_SETTINGS = (
    "safe.directory=*",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
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
    "GIT_LITERAL_PATHSPECS": "1",
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
_FOREIGN_SCOPES = ("local", "worktree")
_ASKED = r"^(filter\..*|lfs\.extension\..*|remote\.origin\.url)$"
# What `git lfs install` writes; `git lfs install --local` (as CI does) must go on working.
_LFS = {"clean": "git-lfs clean -- %f", "process": "git-lfs filter-process", "required": "true"}


@dataclass(frozen=True)
class Settings:
    """What a repository's config says that matters here.

    ``overrides`` are further settings (``name=value``) for calls that could run a filter; ``inert`` names the
    filters that they switch off, because the repository's own config defines them.
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
    except ProgramMissing as error:
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
        raise SourceError(f"`git {words[0]}` failed in {folder} (code {done.code}): {done.complaint}")
    return done.stdout


def settings(folder: Path) -> Settings:
    """Read a repository's config and switch off the filters that it defines itself.

    A `filter.<name>.clean` is a program that `git status` and `git update-index` start. The user's own (global
    or system config) are kept; the repository's own are not run, except that `lfs` is put back to what
    `git lfs install` writes. Raises SourceError for a filter that cannot be switched off.
    """
    done = run(folder, "config", "--null", "--show-scope", "--get-regexp", _ASKED)
    if done.code not in (0, 1):  # 1: nothing found
        raise SourceError(
            f"git cannot read the config of {folder}: {done.complaint}", hint="Mirage needs git 2.26 or newer"
        )
    remote: str | None = None
    local: set[str] = set()
    extended = False
    fields = done.stdout.decode("utf-8", "surrogateescape").split("\0")
    for scope, item in zip(fields[0::2], fields[1::2], strict=False):
        key, _, value = item.partition("\n")
        if key == "remote.origin.url":
            remote = remote or public_url(value)
        elif scope in _FOREIGN_SCOPES:
            if key.startswith("lfs.extension."):
                extended = True
            else:
                local.add(key[len("filter.") : key.rindex(".")] if key.count(".") > 1 else "")
    local.discard("")
    if extended:
        local.add("lfs")
    overrides: list[str] = []
    for name in sorted(local):
        if "=" in name:
            raise SourceError(
                f"the repository's config defines a filter with a `=` in its name: {name!r}",
                hint="remove it with: git config --remove-section",
            )
        values = _LFS if name == "lfs" and not extended else {}
        overrides += (f"filter.{name}.clean={values.get('clean', '')}", f"filter.{name}.smudge=")
        overrides += (f"filter.{name}.process={values.get('process', '')}",)
        overrides += (f"filter.{name}.required={values.get('required', 'false')}",)
    inert = tuple(sorted(name for name in local if name != "lfs" or extended))
    return Settings(remote, tuple(overrides), inert)


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
