"""What the engine says, line by line, while it loads, pulls or builds: failures under HTTP 200, and how far it is.

The words are those of moby (`pkg/jsonmessage`), which podman speaks too, as far as it tells anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

from orchestrator.engine_values import BuildFailed, disk_full
from orchestrator.errors import EngineError
from orchestrator.ports import Reporter
from orchestrator.progress import Meter

_STEP = re.compile(r"step (\d+)/\d+ ?: ", re.I)  # docker's classic builder, and podman in capitals
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # the classic builder prints what comes from stderr in red
_LAST_LINES = 20
# What is said of a layer once all of it is there, whatever of its bytes was told before.
_WHOLE = ("Verifying Checksum", "Download complete", "Extracting", "Pull complete")

Lines = Iterable[Mapping[str, Any]]


def loaded(lines: Lines) -> None:
    """Read the answer to a load. Raises EngineError."""
    for line in lines:
        text = str(line.get("error") or line.get("stream") or "")
        if "error" in line or "Error unpacking" in text:
            raise EngineError(f"the engine could not load the image: {text.strip()}", hint=disk_full(text))


class Layers:
    """What has come of each layer of an image that is being pulled."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[int, int]] = {}  # by layer: bytes here, bytes in all

    def tell(self, line: Mapping[str, Any]) -> bool:
        """Take one line; gives whether it said anything new of bytes."""
        name, status = str(line.get("id", "")), str(line.get("status", ""))
        before = self._told.get(name)
        if status == "Downloading":
            detail = line.get("progressDetail") or {}
            here, whole = detail.get("current"), detail.get("total")
            if not isinstance(here, int) or not isinstance(whole, int) or whole <= 0:
                return False  # a registry need not say how large a layer is
            self._told[name] = min(max(here, 0), whole), whole
        elif status.startswith(_WHOLE) and before is not None:
            self._told[name] = before[1], before[1]
        return self._told.get(name) != before

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return sum(here for here, _ in self._told.values())

    @property
    def total(self) -> int:
        """Bytes of all layers whose size is known by now: it grows, since an engine begins a few at a time."""
        return sum(whole for _, whole in self._told.values())


def pulled(lines: Lines, reference: str, reporter: Reporter | None) -> None:
    """Read the answer to a pull, telling how far it is. Raises EngineError."""
    layers = Layers()
    with nullcontext() if reporter is None else Meter(reporter, f"pull {reference[:80]}") as meter:
        for line in lines:
            if "error" in line:
                reason = str(line["error"])
                raise EngineError(f"cannot pull {reference}: {reason}", hint=disk_full(reason))
            if layers.tell(line) and meter is not None:
                meter.at(layers.done, layers.total)


def built(lines: Lines, reporter: Reporter) -> str:
    """Read the answer to a build, telling its output; gives the image's id. Raises BuildFailed where a step fails."""
    step: int | None = None
    image_id = ""
    said: list[str] = []
    for answer in lines:
        if "error" in answer:
            raise BuildFailed(str(answer["error"]).strip(), step=step, output="\n".join(said[-_LAST_LINES:]))
        image_id = str((answer.get("aux") or {}).get("ID") or image_id)
        for line in _COLOUR.sub("", str(answer.get("stream") or "")).splitlines():
            if not line.strip():
                continue
            reporter.detail(line)
            begun = _STEP.match(line)
            if begun:
                step, said = int(begun[1]), []
            elif not line.startswith(("Removing intermediate container", " ---> ")):
                said.append(line)
    if not image_id:
        raise EngineError("the engine ended a build without telling the image's id")
    return image_id


def received(stats: Mapping[str, Any]) -> int | None:
    """Bytes that came to a container over networks of its own (`GET /containers/{id}/stats`); None where it has none."""
    networks = stats.get("networks")
    if not isinstance(networks, Mapping):
        return None
    return sum(int(each.get("rx_bytes") or 0) for each in networks.values())
