"""What a bucket's refusals mean: one error type each, with what to do next, and whether it may pass by itself.

Codes: Amazon S3 API Reference, "Error responses". No credential is ever part of a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from orchestrator.store.bucket.place import Place


class BucketError(StoreError):
    """A bucket could not be asked, or said no. ``passing``: the same request may be granted a moment later."""

    away = True
    passing = False


class NoCredentials(BucketError):
    """Nothing in AWS's chain of credentials."""


class ExpiredCredentials(BucketError):
    """The credentials were good once."""


class AccessDenied(BucketError):
    """The credentials are wrong, or may not do this."""


class NoSuchBucket(BucketError):
    """The server has no such bucket."""


class WrongPlace(BucketError):
    """The bucket is in another region, or the endpoint is not its own."""


class ClockSkew(BucketError):
    """This machine's clock differs too much from the server's."""


class Throttled(BucketError):
    """The server asks to go slower."""

    passing = True


class Unreachable(BucketError):
    """No answer: no connection, a connection that broke, or silence."""

    passing = True


class Garbled(BucketError):
    """An answer that cannot be right: cut short, or an error under the status of a success."""

    passing = True


class ServerFailed(BucketError):
    """The server failed inside (5xx), or asks for the same request again (409)."""

    passing = True


class UnknownUpload(BucketError):
    """The server does not know this multipart upload: it was completed, or aborted."""


class Refused(BucketError):
    """Any other refusal."""


_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_DENIED = {
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "Forbidden",
    "403",
}
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"}
_ELSEWHERE = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "Redirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "301",
}
_AGAIN = {
    "BadDigest",  # the body was damaged on its way
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "ConditionalRequestConflict",
    "RequestTimeout",
    "ServiceUnavailable",
}


def no_credentials(place: Place) -> NoCredentials:
    """Nothing to sign with."""
    named = f" in the profile {place.profile!r}" if place.profile else ""
    return NoCredentials(
        f"no credentials for {place.uri}{named}",
        hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials "
        "(and name its profile in project.yaml: `s3: {profile: NAME}`)",
    )


def expired(place: Place) -> ExpiredCredentials:
    """The server takes them no longer."""
    return ExpiredCredentials(
        f"the credentials for {place.uri} have expired",
        hint="get new ones (`aws sso login`, or whatever gave you these), then run the command again; "
        "what was transferred is kept",
    )


def unreachable(place: Place, url: str, why: str) -> Unreachable:
    """No answer."""
    host = url.split("/")[2] if url.count("/") >= 2 else url
    return Unreachable(
        f"{host} does not answer for {place.uri}: {why}",
        hint="check the network, and `s3: endpoint_url` in project.yaml",
    )


def garbled(place: Place, what: str) -> Garbled:
    """An answer that cannot be right."""
    return Garbled(
        f"the server of {place.uri} gave an answer that cannot be right: {what}",
        hint="run the command again; if it stays, look at the server's log and at proxies before it",
    )


def refusal(
    place: Place, what: str, status: int, code: str, message: str, headers: Mapping[str, str]
) -> BucketError:
    """The error for an answer with an error's status; ``what`` is what was asked for, for the message."""
    said = f"{code}: {message}"[:300] if message else code or f"HTTP status {status}"
    if code in _EXPIRED or (code == "AccessDenied" and "expired" in message.lower()):
        return expired(place)
    if code == "RequestTimeTooSkewed":
        return ClockSkew(
            f"this machine's clock is wrong: {_skew(headers)}the server of {place.uri} takes requests within 15 minutes",
            hint="set the clock (`timedatectl set-ntp true`), then run the command again",
        )
    if code == "NoSuchBucket":
        endpoint = f" --endpoint-url {place.endpoint_url}" if place.endpoint_url else ""
        return NoSuchBucket(
            f"there is no bucket {place.bucket}",
            hint=f"make it: aws s3 mb s3://{place.bucket}{endpoint}; or correct `store:` in project.yaml",
        )
    if code == "NoSuchUpload":
        return UnknownUpload(f"{what}: the server does not know this upload any more")
    if code in _ELSEWHERE or status in (301, 307, 308):
        region = headers.get("x-amz-bucket-region")
        return WrongPlace(
            f"the bucket {place.bucket} is not at this endpoint or in this region ({said})",
            hint=f"write `s3: {{region: {region}}}` in project.yaml"
            if region
            else "correct `s3: region` or `s3: endpoint_url` in project.yaml",
        )
    if code in _THROTTLED or status in (429, 503):
        return Throttled(
            f"the server of {place.uri} asks to go slower ({said})",
            hint="run the command again in a while; what was transferred is kept",
        )
    if code in _AGAIN or status >= 500 or status == 408:
        return ServerFailed(
            f"the server of {place.uri} failed while it was asked to {what} ({said})",
            hint="run the command again; if it stays, look at the server's log",
        )
    if code in _DENIED or status in (401, 403):
        return AccessDenied(
            f"the server of {place.uri} does not let you {what} ({said})",
            hint="check which credentials are used (`s3: profile`, AWS_PROFILE, AWS_ACCESS_KEY_ID) and what they may do: "
            "docs/store.md lists the permissions",
        )
    return Refused(f"the server of {place.uri} refused to {what} ({said}, status {status})")


def _skew(headers: Mapping[str, str]) -> str:
    import time

    try:
        there = parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return ""
    return f"it differs by {abs(time.time() - there.timestamp()) / 60:.0f} minutes, and "
