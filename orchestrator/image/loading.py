"""Bringing an image into the engine: send only the layers it lacks, then believe nothing but its inspection.

A load's success is not trusted: the containerd store answers success for a broken image. Layers, architecture
and id are checked after every load, and a load with omitted layers that fails is tried once more whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.engine_values import LoadedImage
from orchestrator.errors import EngineError, ImageError
from orchestrator.image.oci import Image, archive
from orchestrator.ports import Engine, Reporter
from orchestrator.progress import measured


@dataclass(frozen=True)
class Parent:
    """An image that may be in the engine already and shares its layers with the one to load."""

    tag: str
    image: Image


def tag_of(kind: str, image: Image) -> str:
    """The one tag of an image: by content, so that it never moves (a moved tag orphans the old image)."""
    return f"mirage/{kind}:{hex_of(image.digest)[:24]}"


def find(engine: Engine, tag: str, image: Image) -> str | None:
    """The engine's id of the image, where the engine has it whole."""
    found = engine.image(tag)
    return found.id if found is not None and matches(found, image) else None


def matches(found: LoadedImage, image: Image) -> bool:
    """Whether what the engine has is this image: layers, architecture, and one of the two ids it may have.

    A classic store calls an image by its config's digest, the containerd store by its manifest's.
    """
    return (
        found.diff_ids == image.diff_ids
        and found.architecture != ""
        and found.id in (image.config_digest, image.digest)
    )


def chain_of(diff_ids: Sequence[Digest]) -> str:
    """A name for layers in their order: an engine has one of them for certain only above the same ones."""
    return hex_of(of_bytes("\n".join(diff_ids).encode()))


def _counted(
    read: Callable[[Digest], Iterator[bytes]], count: Callable[[int], object]
) -> Callable[[Digest], Iterator[bytes]]:
    def counted(digest: Digest) -> Iterator[bytes]:
        for piece in read(digest):
            yield piece
            count(len(piece))

    return counted


def ensure(
    engine: Engine,
    image: Image,
    tag: str,
    parents: Sequence[Parent],
    read: Callable[[Digest], Iterator[bytes]],
    *,
    beside: Iterable[tuple[int, str]] = (),
    reporter: Reporter | None = None,
) -> str:
    """The engine's id of the image, loaded first if need be.

    ``parents`` with the most layers come first. ``beside`` are images that may share more with it than they: how
    many of its layers, and the tag; most first. Raises ImageError where the engine ends up with anything but this image.
    """
    present = find(engine, tag, image)
    if present is not None:
        return present
    omit = _there(engine, image, beside) or _below(engine, image, parents)
    attempts = [omit, frozenset[Digest]()] if omit else [omit]
    trouble: EngineError | None = None
    for left_out in attempts:
        try:
            size = sum(layer.size for layer in image.layers if layer.digest not in left_out)
            with measured(reporter, "load the image", size) as count:
                engine.load(archive(image, tag, omit=left_out, read=_counted(read, count)))
            trouble = None
        except EngineError as error:
            trouble = error
        present = find(engine, tag, image)
        if present is not None:
            return present
    found = engine.image(tag)
    if found is not None:
        engine.remove_image(tag)
    if trouble is not None:
        raise trouble
    raise ImageError(
        f"the engine accepted the image {tag} but holds another one "
        f"(expected {image.config_digest} or {image.digest}, got {found.id if found else 'nothing'})",
        hint="the engine's image store may be damaged: restart it, or prune it, and run again",
    )


def _there(engine: Engine, image: Image, beside: Iterable[tuple[int, str]]) -> frozenset[Digest]:
    """The layers that an image with the same lower ones holds in the engine."""
    for count, tag in beside:
        found = engine.image(tag)
        shared = image.diff_ids[:count]
        if found is not None and found.architecture != "" and found.diff_ids[:count] == shared:
            return frozenset(shared)
    return frozenset()


def _below(engine: Engine, image: Image, parents: Sequence[Parent]) -> frozenset[Digest]:
    """The layers of the first of the parents that the engine has whole."""
    for parent in parents:
        shares = image.diff_ids[: len(parent.image.layers)] == parent.image.diff_ids
        if shares and find(engine, parent.tag, parent.image) is not None:
            return frozenset(parent.image.diff_ids)
    return frozenset()
