"""What a file system that an engine built has and a base should not: traces of the build, of today, of a machine.

Measured: without these, two builds of one Dockerfile from the same packages are the same bytes.
"""

from __future__ import annotations

import re

# Where the build finds what the host hands over, whichever folder a `COPY --from` may have put a copy into.
HANDED_OVER = ".mirage-build"

# A path and everything below it.
_GONE = re.compile(
    rf"""
      (?:.*/)?{re.escape(HANDED_OVER)}
    | \.dockerenv | run/\.containerenv                 # the engine's marks on a container
    | etc/(?:resolv\.conf|hostname|hosts|mtab)         # each container gets its own
    | etc/machine-id | var/lib/dbus/machine-id
    | etc/(?:passwd|shadow|group|gshadow|subuid|subgid)- | etc/\.pwd\.lock
    | (?:dev|proc|sys|tmp|var/tmp)/.+
    | var/cache/ldconfig/aux-cache                     # holds inode numbers and times
    | var/cache/debconf/[^/]+-old | var/lib/dpkg/[^/]+-old
    | var/lib/dpkg/(?:available|lock|lock-frontend|triggers/Lock) | var/lib/apt/daily_lock
    | root/\.(?:cache|bash_history|python_history|wget-hsts|lesshst)
    """,
    re.VERBOSE,
)
# Folders that keep their form and lose their files: programs expect them to be there.
_EMPTIED = re.compile(
    r"(?:run|var/log|var/lib/apt/lists|var/cache/(?:apt|debconf/tmp\.ci|fontconfig|ldconfig|man))/.+"
)


def unwanted(path: str, is_folder: bool) -> bool:
    """Whether sealing leaves this path out; ``path`` is relative to the root."""
    if not is_folder and _EMPTIED.fullmatch(path):
        return True
    step = path
    while step:
        if _GONE.fullmatch(step):
            return True
        step = step.rpartition("/")[0]
    return False
