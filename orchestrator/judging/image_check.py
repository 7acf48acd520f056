"""Whether an image comes out the same from nothing: built again without caches, perhaps under other circumstances, and
compared layer by layer.

The base is taken as it is known, by digest: what its packages are today is another question (`mirage base build
--fresh`). Whatever is made for the check is gone afterwards.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest
from orchestrator.errors import MirageError
from orchestrator.image import layer_diff
from orchestrator.image.base_image import from_json
from orchestrator.image.layer_diff import Difference
from orchestrator.image.library import Library
from orchestrator.image.loading import tag_of
from orchestrator.image.variation import Manner
from orchestrator.prepare import Prepared, Services
from orchestrator.store.folder import FolderStore

SHOWN = 20  # differing files of a layer that are told; the rest is counted


@dataclass(frozen=True)
class Compared:
    """A layer of the original and what it came out as; ``differences`` is None where the original's bytes are gone."""

    of: str
    wanted: Digest | None
    got: Digest | None
    differences: tuple[Difference, ...] | None = ()


@dataclass(frozen=True)
class Checked:
    """The image that was expected and the one that came out; ``compiled`` packages are equal by luck elsewhere."""

    wanted: Digest
    got: Digest
    layers: tuple[Compared, ...]
    compiled: tuple[str, ...]
    varied: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Bit for bit."""
        return self.wanted == self.got

    def to_json(self) -> dict[str, Json]:
        """What `mirage image verify --json` prints."""
        return {
            "wanted": self.wanted,
            "digest": self.got,
            "equal": self.equal,
            "layers": [_layer_json(each) for each in self.layers],
            "compiled": list(self.compiled),
            "varied": list(self.varied),
        }


def _layer_json(layer: Compared) -> dict[str, Json]:
    found: dict[str, Json] = {
        "of": layer.of,
        "wanted": layer.wanted,
        "digest": layer.got,
        "equal": layer.wanted == layer.got,
        "differences": None,
    }
    if layer.differences is not None:
        found["differences"] = [
            {"file": each.file, "what": each.what, "reason": each.reason} for each in layer.differences
        ]
    return found


def check(
    services: Services,
    wanted: Digest,
    diff_ids: tuple[Digest, ...],
    make: Callable[[Services], Prepared],
    vary: frozenset[str],
) -> Checked:
    """Build with ``make`` in a library that knows bases alone, and compare with the image that is ``wanted``.

    Raises what building raises.
    """
    with _from_nothing(services, vary) as anew:
        made = make(anew)
        image = made.image.image
        try:
            installed = _installed(anew.library, made.environment.installed)
            layers = tuple(_compared(services.library, anew.library, diff_ids, made, installed))
        finally:
            if image.digest != wanted:
                with suppress(MirageError):
                    services.engine.remove_image(tag_of("run", image))
    compiled = tuple(str(each["name"]) for each in installed if (each.get("built") or {}).get("compiled"))
    return Checked(wanted, image.digest, layers, compiled, tuple(sorted(vary)))


@contextmanager
def _from_nothing(services: Services, vary: frozenset[str]) -> Iterator[Services]:
    """The same services with a library that knows bases alone, and a cache volume of its own."""
    volume = f"mirage-verify-{secrets.token_hex(6)}"
    top = Path(tempfile.mkdtemp(prefix="verify-", dir=services.library.folder))
    try:
        empty = FolderStore.open_at(top / "cache")
        services.library.lend_bases(empty, _layers_of)
        library = Library(empty, FolderStore.open_at(top / "bank"))
        yield replace(services, library=library, manner=Manner(volume, vary))
    finally:
        shutil.rmtree(top, ignore_errors=True)
        services.engine.remove_volume(volume)


def _layers_of(base: dict[str, Any]) -> tuple[Digest, ...]:
    return from_json(base).image.diff_ids


def _installed(library: Library, digest: Digest) -> list[dict[str, Any]]:
    found: Any = canonical.decode(b"".join(library.read(digest)))
    return list(found)


def _compared(
    known: Library,
    anew: Library,
    diff_ids: tuple[Digest, ...],
    made: Prepared,
    installed: list[dict[str, Any]],
) -> Iterator[Compared]:
    layers = made.image.image.layers
    for number in range(max(len(layers), len(diff_ids))):
        now = layers[number] if number < len(layers) else None
        before = diff_ids[number] if number < len(diff_ids) else None
        of = now.created_by.removeprefix("mirage ") if now is not None else "(no such layer)"
        if now is None or before is None or now.digest == before:
            yield Compared(of, before, now.digest if now is not None else None)
            continue
        if not known.has(before):
            yield Compared(of, before, now.digest, None)
            continue
        built = layer_diff.built_files(installed, anew.read(now.digest)) if of == "environment" else {}
        found = layer_diff.compare(known.read(before), anew.read(now.digest), built)
        yield Compared(of, before, now.digest, tuple(found))
