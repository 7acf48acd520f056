"""How a build may be done otherwise, so that equal results mean something: clock, umask, locale, order, user, cores.

Each is a real change of what the builder's programs meet; none may change the environment's layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ConfigError, ImageError, did_you_mean

WAYS = ("time", "umask", "locale", "order", "user", "cores")
SHIFT = "+36h"  # another day and hour, and certificates stay valid
_FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
)
_IN_BUILDER = "/build/libfaketime.so"
_USER = 12345
# argv: umask in octal (or -), number of cores (or -), and the program with its words
_WRAP = (
    "import os, sys; umask, cores, *argv = sys.argv[1:];"
    "umask == '-' or os.umask(int(umask, 8));"
    "cores == '-' or os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(cores)]);"
    "os.execv(argv[0], argv)"
)
# everything that the other user must write to or read; run by root before anything else
_OPEN = (
    "import os; opened = ('/opt/venv', '/build', '/cache');"
    "[os.makedirs(p, exist_ok=True) for p in opened]; [os.chmod(p, 0o777) for p in opened];"
    "[os.chmod(os.path.join(t, n), 0o755) for t, _, f in os.walk('/build') for n in f]"
)

Env = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Manner:
    """How an environment is built: with which cache volume (None: the machine's), and what is done otherwise."""

    volume: str | None = None
    vary: frozenset[str] = frozenset()

    @property
    def user(self) -> str:
        """As whom the builder's commands run."""
        return f"{_USER}:{_USER}" if "user" in self.vary else "0:0"

    @property
    def memory_folders(self) -> tuple[str, ...]:
        """Folders that are kept in memory: another file system, which lists names in another order."""
        return ("/opt/venv",) if "order" in self.vary else ()

    @property
    def backwards(self) -> bool:
        """Whether the installer gets its packages the other way round."""
        return "order" in self.vary

    def prologue(self, python: str) -> tuple[str, ...]:
        """What root runs in the builder first, or nothing."""
        return (python, "-I", "-c", _OPEN) if "user" in self.vary else ()

    def files(self) -> Iterator[tuple[str, bytes, int]]:
        """What the builder needs for it."""
        if "time" in self.vary:
            yield _IN_BUILDER[1:], Path(_library()).read_bytes(), 0o755

    def argv(self, python: str, argv: tuple[str, ...]) -> tuple[str, ...]:
        """A command of the builder as it is run."""
        umask = "077" if "umask" in self.vary and "user" not in self.vary else "-"
        umask = "002" if umask == "-" and "umask" in self.vary else umask
        cores = "1" if "cores" in self.vary else "-"
        return argv if (umask, cores) == ("-", "-") else (python, "-I", "-c", _WRAP, umask, cores, *argv)

    def env(self, env: Env) -> Env:
        """The command's environment."""
        told = dict(env)
        if "time" in self.vary:
            told |= {"LD_PRELOAD": _IN_BUILDER, "FAKETIME": SHIFT, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        if "locale" in self.vary:
            told |= {"LC_ALL": "C", "LANG": "tr_TR.UTF-8", "TZ": "AAA-13:45"}
        if "user" in self.vary:
            told |= {"USER": "somebody", "LOGNAME": "somebody", "HOME": "/build"}
        return tuple(sorted(told.items()))


USUAL = Manner()


def read(words: Iterable[str]) -> frozenset[str]:
    """The ways that a command line names, `all` for all; raises ConfigError for another one, and for one that this
    machine cannot do.
    """
    chosen: set[str] = set()
    for word in words:
        if word == "all":
            chosen |= {*WAYS}
        elif word in WAYS:
            chosen.add(word)
        else:
            raise ConfigError(
                f"--vary: unknown word {word!r} (known: {', '.join(WAYS)}, all)",
                hint=did_you_mean(word, [*WAYS]),
            )
    if "time" in chosen:
        _library()
    if "cores" in chosen and (os.cpu_count() or 1) < 2:
        raise ImageError("--vary cores: this machine has one core only", hint="leave `cores` out here")
    return frozenset(chosen)


def _library() -> str:
    for place in _FAKETIME:
        if os.path.exists(place):
            return place
    raise ImageError(
        "--vary time needs libfaketime, which is not installed", hint="apt-get install libfaketime"
    )
