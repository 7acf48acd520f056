"""An image out of Mirage: as an OCI layout that other tools read, or in a registry under the same digest; and back.

Where it was pushed to is kept in the store beside what its key led to, so that it can be restored from there.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import canonical
from orchestrator.canonical import Json
from orchestrator.digest import Digest, hex_of, of_bytes, parse_digest
from orchestrator.errors import ImageError, MirageError
from orchestrator.image.library import Library
from orchestrator.image.oci import MANIFEST_TYPE, Image, archive, files, parse
from orchestrator.image.registry_base import parse as parse_reference
from orchestrator.ports import Reporter, Store
from orchestrator.progress import Meter

if TYPE_CHECKING:
    from orchestrator.image.restoring import Wanted

Read = Callable[[Digest], Iterator[bytes]]

_CONFIG_LIMIT = 4 << 20  # bytes


def to_file(image: Image, tag: str, target: Path, read: Read) -> None:
    """Write the layout as one tar, which engines load too; the same image gives the same bytes.

    A file that is there is replaced once the new one is whole. Raises ImageError.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                for piece in archive(image, tag, omit=frozenset(), read=read):
                    out.write(piece)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(target)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise ImageError(f"{target} cannot be written: {error.strerror}") from error


def to_folder(image: Image, tag: str, target: Path, read: Read) -> None:
    """Write the layout as a folder, which must be new or empty. Raises ImageError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise ImageError(f"{target} is not empty", hint="name a new folder, or a file for a tar")
        last = target / "index.json"  # the layout is none before it is whole
        for name, pieces in files(image, tag, read):
            path = target / name if name != last.name else target / ".index.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as out:
                for piece in pieces:
                    out.write(piece)
        (target / ".index.json").replace(last)
    except OSError as error:
        raise ImageError(f"{target} cannot be written: {error.strerror}") from error


def push(image: Image, key: Digest, name: str, library: Library, reporter: Reporter) -> str:
    """Bring an image into a registry, what it lacks only; gives the exact reference, which the store keeps.

    ``name`` is a reference; without a tag it gets one by content. Raises ImageError where layers are gone, and
    where the registry refuses or has it under another digest.
    """
    from orchestrator.executors.registry import Registry

    reference = parse_reference(name)
    if reference.digest is not None:
        raise ImageError(
            f"{name} names a digest, which is not for the caller to choose", hint="leave @... out"
        )
    tagged = name.endswith(f":{reference.tag}")
    tag = reference.tag if tagged else hex_of(image.digest)[:24]
    registry = Registry(reference.repository)
    try:
        blobs = [(layer.digest, layer.size, layer.created_by) for layer in image.layers]
        for digest, size, what in dict.fromkeys(blobs):
            if not registry.has(digest):
                reporter.stage("push", f"{what} ({size >> 20} MiB)")
                with Meter(reporter, f"push {what}", size) as meter:
                    registry.put(digest, size, lambda d=digest, m=meter: m.counted(library.read(d)))  # type: ignore[misc]
        if not registry.has(image.config_digest):
            registry.put(image.config_digest, len(image.config), lambda: iter((image.config,)))
        registry.put_manifest(tag, image.manifest, MANIFEST_TYPE)
        found = registry.digest_of(tag)
    finally:
        registry.close()
    if found != image.digest:
        raise ImageError(
            f"the registry has {reference.repository}:{tag} as {found}, expected {image.digest}",
            hint="it changes what is pushed: use one that keeps manifests as they are",
        )
    exact = reference.exact(image.digest)
    library.keep_place(key, exact, canonical.encode(_place(exact, image.digest)))
    return exact


def _place(exact: str, digest: Digest) -> dict[str, Json]:
    return {"created": str(time.time_ns()), "digest": digest, "reference": exact}


def places(store: Store, key: Digest, digest: Digest) -> list[str]:
    """Where an image was pushed to, as exact references, the newest first."""
    found: list[tuple[str, str]] = []
    for name in store.keys(f"keys/image/{hex_of(key)}/places/"):
        with suppress(ValueError, MirageError):
            entry = canonical.decode(store.read(name) or b"")
            if isinstance(entry, dict) and entry.get("digest") == digest:
                found.append((str(entry["created"]), str(entry["reference"])))
    return [reference for _, reference in sorted(found, reverse=True)]


def there(reference: str) -> bool:
    """Whether the registry has the image of an exact reference now. Raises ImageError where it does not answer."""
    from orchestrator.executors.registry import Registry

    named = parse_reference(reference)
    registry = Registry(named.repository)
    try:
        return registry.digest_of(str(named.digest)) == named.digest
    finally:
        registry.close()


def fetch(reference: str, wanted: Wanted, library: Library, reporter: Reporter) -> Image:
    """Take an image from a registry by digest: its layers, those only that are not kept, into the library.

    Raises ImageError where it is another image, or not whole there.
    """
    from orchestrator.executors.registry import Registry

    reporter.stage("image", f"restoring {wanted.digest[:19]} from {reference.partition('@')[0]}")
    registry = Registry(parse_reference(reference).repository)
    try:
        manifest = registry.manifest(wanted.digest)
        if of_bytes(manifest) != wanted.digest:
            raise ImageError(f"{reference}: the registry sends another manifest, {of_bytes(manifest)}")
        config = b"".join(registry.blob(wanted.config_digest, _CONFIG_LIMIT))
        try:
            image = parse(config, manifest)
        except ValueError as error:
            raise ImageError(f"{reference} is not what the record says: {error}") from error
        for layer in image.layers:
            if library.has(layer.digest):
                continue
            with library.writer() as writer:
                for piece in registry.blob(layer.digest, layer.size):
                    writer.write(piece)
                got, _ = writer.commit()
            if got != parse_digest(layer.digest):
                raise ImageError(f"{reference}: the layer {layer.digest} came out as {got}")
        return image
    finally:
        registry.close()
