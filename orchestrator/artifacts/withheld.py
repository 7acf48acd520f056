"""The outbox of a run that is made again: what it saves is kept by digest and published under no version.

The workflow hears the ids that the original run got, in the order in which it got them, so that what it writes
about them is the same. In the record, content that the original did not have has an id that names no version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.artifacts.outbox import Outbox, unpublished
from orchestrator.artifacts.version import Manifest, Version, VersionExists, read_manifest, resolve
from orchestrator.digest import Digest
from orchestrator.errors import ArtifactError
from orchestrator.reference import ArtifactRef, auto_version, parse_artifact


def is_unpublished(ref: ArtifactRef, digest: Digest) -> bool:
    """Whether an id is the one that ``unpublished`` gives to a content."""
    return ref.version == unpublished(ref.kind, ref.name, digest).version


class WithheldOutbox(Outbox):
    """Keeps manifests, gives out no versions; ``original`` are the ids and digests of the original's outputs."""

    def __init__(self, *words: Any, original: Iterable[tuple[str, Digest]], **options: Any) -> None:
        super().__init__(*words, **options)
        self._left = [(parse_artifact(text), digest) for text, digest in original]
        self._heard: dict[int, ArtifactRef] = {}

    def _keep(self, n: int, manifest: Manifest, version: str | None) -> Version:
        digest = self._store.put(manifest.encode())
        heard, before = self._next(manifest, version)
        if before is None:
            heard = self._unheard(manifest, version, digest)
        self._heard[n] = heard
        ref = heard if before == digest else unpublished(manifest.kind, manifest.name, digest)
        return Version(ref, digest, manifest, "", self._run_id)

    def _next(self, manifest: Manifest, version: str | None) -> tuple[ArtifactRef, Digest | None]:
        """The original's next output of this name, and of this version where the workflow asks for one."""
        for at, (ref, digest) in enumerate(self._left):
            if (ref.kind, ref.name) == (manifest.kind, manifest.name) and _fits(ref.version, version):
                del self._left[at]
                return ref, digest
        return ArtifactRef(manifest.kind, manifest.name, version or "v1"), None

    def _unheard(self, manifest: Manifest, version: str | None, digest: Digest) -> ArtifactRef:
        """What the original did not save, or was refused: refused again where the version holds other content."""
        if version is None:
            return unpublished(manifest.kind, manifest.name, digest)
        ref = ArtifactRef(manifest.kind, manifest.name, version)
        try:
            there = resolve(self._store, str(ref))
        except ArtifactError:
            return ref
        if there.digest != digest:
            raise VersionExists(f"{ref} exists already with other content ({there.digest})")
        return ref

    def _named(self, n: int, version: Version) -> str:
        return str(self._heard.get(n, version.ref))

    def restore(self, lines: Iterable[dict[str, Any]]) -> None:
        """Take up what a process, now dead, had kept: it is answered again and not taken again."""
        for line in lines:
            ref, digest = parse_artifact(str(line["id"])), Digest(str(line["digest"]))
            manifest = read_manifest(self._store, digest)
            self._before[int(line["n"])] = Version(ref, digest, manifest, "", self._run_id)
            heard, _ = self._next(manifest, None if is_unpublished(ref, digest) else ref.version)
            self._heard[int(line["n"])] = heard


def _fits(there: str, asked: str | None) -> bool:
    return there == asked if asked is not None else auto_version(there) is not None
