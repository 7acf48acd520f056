"""Where a bucket is: `s3://bucket/prefix` and what `s3:` in project.yaml adds to it. Never credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.errors import StoreError

# Names of general purpose buckets (Amazon S3 User Guide, "Bucket naming rules"); other makes allow no more over HTTP.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True)
class Place:
    """A bucket and a prefix in it (empty, or ending with `/`); None leaves a setting to AWS's own configuration."""

    bucket: str
    prefix: str
    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing_style: str = "auto"

    @property
    def uri(self) -> str:
        """As the user wrote it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def parse_uri(
    uri: str,
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    profile: str | None = None,
    addressing_style: str = "auto",
) -> Place:
    """Read `s3://bucket/prefix`. Raises StoreError where it names no bucket, or has other characters than keys have."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    parts = [part for part in prefix.rstrip("/").split("/") if prefix]
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or not all(map(_PART.fullmatch, parts)):
        raise StoreError(
            f"not the URI of a bucket: {uri[:200]!r}",
            hint="write s3://bucket or s3://bucket/prefix; a prefix has a-z A-Z 0-9 . _ - between its slashes",
        )
    return Place(bucket, "/".join([*parts, ""]), endpoint_url, region, profile, addressing_style)
