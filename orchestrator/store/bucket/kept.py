"""What buckets promise, as this machine found it: kept for a while, refusals too, and for the server that was tried."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import StoreError
from orchestrator.sizes import readable_age
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.probe import Promises, probe

_SCHEMA = "mirage-probe/2"
# Seconds for which a finding is believed: whoever changes a server's settings tells nobody.
GOOD_FOR = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Findings:
    """What was found, and when, in seconds since 1970."""

    promises: Promises
    at: float

    @property
    def age(self) -> float:
        """Seconds since then; 0 where the clock was set back."""
        return max(0.0, time.time() - self.at)


def promises_of(bucket: Bucket, kept: Path) -> Findings:
    """The findings for a bucket, from a file in ``kept`` where this machine probed it before. Raises StoreError.

    They are for one address and for the server that answers there, by the name and version that it gives itself: another
    one is probed, and so is the same one after 30 days.
    """
    found = _read(_path(bucket, kept), bucket)
    if found is None:
        found = Findings(probe(bucket), time.time())
        keep(bucket, kept, found)
    return found


def usable(bucket: Bucket, kept: Path) -> Promises:
    """What a store may rest on there. Raises StoreError where that is too little."""
    found = promises_of(bucket, kept)
    if found.promises.problem is not None:
        raise StoreError(
            f"no store can be kept in {bucket.place.uri}: its server {found.promises.problem}"
            + (f" (tried {readable_age(found.age)} ago)" if found.age > 1 else ""),
            hint="use a server that honours conditional writes (docs/store.md lists some), or a folder; "
            "where it was mended meanwhile, `mirage doctor` tries it again",
        )
    return found.promises


def keep(bucket: Bucket, kept: Path, found: Findings) -> None:
    """Write findings down; what cannot be written is found again the next time."""
    item = {
        "schema": _SCHEMA,
        "bucket": bucket.server,
        "server": bucket.maker,
        "at": found.at,
        **asdict(found.promises),
    }
    with suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
        new = kept / f".{os.getpid()}-{secrets.token_hex(4)}"
        new.write_text(json.dumps(item, indent=1))
        new.replace(_path(bucket, kept))


def forget(bucket: Bucket, kept: Path) -> None:
    """Forget what was found at a bucket's address, whoever answered there."""
    for path in kept.glob("*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if json.loads(path.read_text())["bucket"] == bucket.server:
                path.unlink()


def _path(bucket: Bucket, kept: Path) -> Path:
    return kept / f"{hashlib.sha256(f'{bucket.server} {bucket.maker}'.encode()).hexdigest()[:24]}.json"


def _read(path: Path, bucket: Bucket) -> Findings | None:
    try:
        item = json.loads(path.read_text())
        if (item.pop("schema"), item.pop("bucket"), item.pop("server")) != (
            _SCHEMA,
            bucket.server,
            bucket.maker,
        ):
            return None
        found = Findings(at=float(item.pop("at")), promises=Promises(**item))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found if found.age < GOOD_FOR else None
