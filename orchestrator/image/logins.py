"""The part of a netrc that a builder needs: logins of the indexes in use, and of no other host.

What runs in a builder may be a package's own code (a source distribution's build): it could read all of the file.
Format: GNU inetutils, "The .netrc file".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from urllib.parse import urlsplit

from orchestrator.locks.pinned import Lock

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|\S+')
_COMMENT = re.compile(rb"^\s*#.*$", re.MULTILINE)
_MACRO = re.compile(rb"^\s*macdef\b.*?(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)
_URLS = re.compile(r"https?://[^\s,]+")


def hosts_of(env: Mapping[str, str], lock: Lock) -> frozenset[str]:
    """The hosts that packages come from: those of the index settings, and those that the lock names."""
    indexes = [lock.index, *lock.more_indexes, *(package.index for package in lock.packages)]
    told = [value for name, value in env.items() if name.startswith("UV_")]
    told += [index.url for index in indexes if index is not None]
    told += [url for each in lock.packages for url in (each.url, *(file.url for file in each.files))]
    urls = (url for text in told for url in _URLS.findall(text))
    return frozenset(host for url in urls if (host := _host(url)))


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def narrowed(netrc: bytes | None, hosts: Collection[str]) -> bytes | None:
    """The entries of these hosts; None where there are none. An entry for all others (`default`) is left out."""
    kept = [line for host, line in _entries(netrc or b"") if host.decode("utf-8", "replace").lower() in hosts]
    return b"".join(kept) or None


def _entries(netrc: bytes) -> Iterator[tuple[bytes, bytes]]:
    tokens = _TOKEN.findall(_MACRO.sub(b"\n", _COMMENT.sub(b"", netrc)))
    starts = [at for at, token in enumerate(tokens) if token in (b"machine", b"default")]
    # a word after `login`, `password` or `account` is a value, whatever it says
    starts = [at for at in starts if at == 0 or tokens[at - 1] not in (b"login", b"password", b"account")]
    for start, end in pairwise([*starts, len(tokens)]):
        if tokens[start] == b"machine" and end - start > 1:
            yield tokens[start + 1].strip(b'"'), b" ".join(tokens[start:end]) + b"\n"
