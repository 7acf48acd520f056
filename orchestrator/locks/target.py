"""What a lock is installed on: a platform and a Python, as markers (PEP 508) and wheel tags (PEP 425) see them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.tags import Tag

_MACHINES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i686",
    "arm": "armv7l",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_OLD_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600, "Legacy manylinux tags"
_OLD_MACHINES = ("x86_64", "i686")  # others begin with glibc 2.17
_MUSL = 2  # 1.2 is what Alpine has had since 3.13; Python does not tell which musl it runs on


@dataclass(frozen=True)
class Target:
    """A Linux machine by the engine's name for its architecture, and the Python of a base."""

    architecture: str
    implementation: str
    python: str
    libc: str

    def __str__(self) -> str:
        return f"{self.implementation} {self.python}, {self.machine}, {self.libc or 'musl'}"

    @property
    def machine(self) -> str:
        """As the kernel names it."""
        return _MACHINES.get(self.architecture, self.architecture)

    def environment(self) -> dict[str, str]:
        """What markers see. The kernel's own version is the host's, so no marker can ask for it."""
        major, minor, *_ = self.python.split(".")
        return {
            "implementation_name": self.implementation.lower(),
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": self.implementation,
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.python,
            "python_version": f"{major}.{minor}",
            "sys_platform": "linux",
        }

    def rank(self, tags: frozenset[Tag]) -> int | None:
        """How good a wheel's tags fit, less is better; None where they do not."""
        return min((place for tag in tags if (place := _places(self).get(tag)) is not None), default=None)

    def platforms(self) -> list[str]:
        """The platform tags, best first, in packaging's order (PEP 600, PEP 656)."""
        found = [f"linux_{self.machine}"]
        name, _, version = self.libc.partition(" ")
        glibc = re.match(r"2\.(\d+)", version)
        if name == "glibc" and glibc:
            lowest = 5 if self.machine in _OLD_MACHINES else 17
            for minor in range(int(glibc[1]), lowest - 1, -1):
                found.append(f"manylinux_2_{minor}_{self.machine}")
                if minor in _OLD_NAMES:
                    found.append(f"{_OLD_NAMES[minor]}_{self.machine}")
        elif name != "glibc":
            found += [f"musllinux_1_{minor}_{self.machine}" for minor in range(_MUSL, -1, -1)]
        return found


@cache
def _places(target: Target) -> dict[Tag, int]:
    from packaging.tags import compatible_tags, cpython_tags, generic_tags  # most locks need none of it

    major, minor, *_ = (int(part) for part in re.findall(r"\d+", target.python)[:2])
    platforms = target.platforms()
    nodot = f"{major}{minor}"
    if target.implementation == "CPython":
        own = cpython_tags((major, minor), [f"cp{nodot}"], platforms)
        interpreter = f"cp{nodot}"
    else:
        interpreter = f"pp{nodot}" if target.implementation == "PyPy" else target.implementation.lower()
        own = generic_tags(interpreter, [f"pypy{nodot}_pp73"], platforms)
    found: dict[Tag, int] = {}
    for tag in (*own, *compatible_tags((major, minor), interpreter, platforms)):
        found.setdefault(tag, len(found))
    return found
