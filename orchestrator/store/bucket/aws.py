"""AWS's own library at its one door: who we are, where the bucket answers, and the calls that are not about bytes.

The chain of credentials is botocore's, which is that of boto3 and of the AWS command line: environment, profiles, single
sign-on, web identity, container and instance.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.errors import StoreError
from orchestrator.store.bucket.failures import (
    BucketError,
    ExpiredCredentials,
    expired,
    garbled,
    no_credentials,
    refusal,
    unreachable,
)
from orchestrator.store.bucket.place import Place


@cache
def _loader() -> Any:
    """The description of S3's API, read once for a process; it is most of the time that a client costs."""
    import botocore.session

    return botocore.session.Session().get_component("data_loader")


# bytes of an answer that says something; those with an object's bytes have a bound of their own
ANSWER = 16 << 20
_PIECE = 1 << 20
# What botocore's parsers let through of what they stumble over.
_ODD = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RuntimeError)


@dataclass(frozen=True)
class Timeouts:
    """Seconds: until a connection stands, and of silence on one."""

    connect: float = 5.0
    read: float = 30.0


class Account:
    """One identity at one bucket. Made without asking the network; safe for threads."""

    def __init__(self, place: Place, timeouts: Timeouts) -> None:
        self.place = place
        self.timeouts = timeouts
        self._lock = threading.RLock()
        self._pool: Any = None  # connections of its calls
        self._begin()

    def _begin(self) -> None:
        """Read configuration and credentials. Raises StoreError."""
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        place = self.place
        try:
            # not boto3's, which is the same with a layer that takes a fifth of a command's start
            session = botocore.session.Session(profile=place.profile)
            session.register_component("data_loader", _loader())
            self.region = place.region or session.get_config_variable("region") or "us-east-1"
            config = Config(
                signature_version="s3v4",
                s3={"addressing_style": place.addressing_style},
                # botocore's default adds trailers that OSS, Ceph and older servers refuse
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={
                    "mode": "standard",
                    "total_max_attempts": 1,
                },  # retry.py tries again, within one limit
                connect_timeout=self.timeouts.connect,
                read_timeout=self.timeouts.read,
                max_pool_connections=32,
            )
            client = session.create_client(
                "s3", region_name=self.region, endpoint_url=place.endpoint_url, config=config
            )
            provider = session.get_credentials()
            if provider is None:
                raise no_credentials(place)
            # The public way to learn the address of an object, with all of botocore's rules behind it.
            signed = client.generate_presigned_url("get_object", Params={"Bucket": place.bucket, "Key": "k"})
        except (BotoCoreError, ValueError) as error:
            raise self._told(error) from None
        client.meta.events.register("before-send.s3", self._bounded)
        self.base_url = signed.partition("?")[0].removesuffix("k")
        self._session, self._client, self._provider = session, client, provider

    def credentials(self) -> Any:
        """What to sign the next request with; renewed where its source renews. Raises StoreError."""
        from botocore.exceptions import BotoCoreError

        try:
            frozen = self._provider.get_frozen_credentials()
        except BotoCoreError as error:
            raise self._told(error) from None
        if not frozen.access_key or not frozen.secret_key:
            raise no_credentials(self.place)
        return frozen

    def renew(self, used: Any) -> bool:
        """After the server called credentials expired: look for new ones; True where there are others now."""
        with self._lock:
            if self.credentials() != used:
                return True  # another thread was here
            self._begin()
            return bool(self.credentials() != used)

    def transport(self) -> Any:
        """A pool of connections as botocore makes it: with the proxies and certificates that its clients use."""
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        bundle = self._session.get_config_variable("ca_bundle")
        return URLLib3Session(
            verify=bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True,
            proxies=get_environ_proxies(self.base_url),
            timeout=(self.timeouts.connect, self.timeouts.read),
            max_pool_connections=32,
            # headers and body are two writes: without this the second waits 40 ms for a delayed acknowledgement
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )

    def _bounded(self, request: Any, **_: Any) -> Any:
        """Send what botocore's client would send, and read no more of the answer than it may have."""
        with self._lock:
            if self._pool is None:
                self._pool = self.transport()
        request.stream_output = True
        found = self._pool.send(request)
        found._content = at_most(self.place, found, request.method, ANSWER)
        return found

    def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """One call of botocore's client on the bucket. Raises BucketError; ``what`` is for its message."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        for last in (False, True):
            client, used = self._client, self.credentials()
            try:
                answer = getattr(client, operation)(Bucket=self.place.bucket, **parameters)
            except ClientError as error:
                found = self._refusal(error, what)
                if isinstance(found, ExpiredCredentials) and not last and self.renew(used):
                    continue
                raise found from None
            except BotoCoreError as error:
                raise self._told(error) from None
            except (ResponseParserError, *_ODD) as error:
                # an answer that its parser did not expect
                raise garbled(self.place, f"it cannot be read ({type(error).__name__})") from error
            return dict(answer)
        raise AssertionError("unreachable")

    def _refusal(self, error: Any, what: str) -> BucketError:
        told = error.response.get("Error", {})
        about = error.response.get("ResponseMetadata", {})
        headers = {**about.get("HTTPHeaders", {})}
        region = told.get("Region") or told.get("BucketRegion")
        if region:
            headers.setdefault("x-amz-bucket-region", region)
        return refusal(
            self.place,
            what,
            int(about.get("HTTPStatusCode", 0)),
            str(told.get("Code", "")),
            str(told.get("Message", "")),
            headers,
        )

    def _told(self, error: Exception) -> StoreError:
        """The error for what botocore itself raises."""
        from botocore import exceptions as known

        place = self.place
        if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
            return no_credentials(place)
        if isinstance(error, known.ProfileNotFound):
            return StoreError(
                f"there is no profile {place.profile or os.environ.get('AWS_PROFILE')!r} "
                "in ~/.aws/config or ~/.aws/credentials",
                hint="`aws configure --profile NAME` makes one; or correct `s3: profile` in project.yaml",
            )
        if isinstance(
            error,
            known.UnauthorizedSSOTokenError | known.SSOTokenLoadError | known.TokenRetrievalError,
        ):
            return expired(place)
        if isinstance(error, known.CredentialRetrievalError):
            return no_credentials(place)
        if isinstance(error, known.HTTPClientError | known.ConnectionError):
            return silence(place, getattr(self, "base_url", place.endpoint_url or "https://s3"), error)
        if isinstance(error, known.ResponseStreamingError) or type(error).__name__ == "ResponseParserError":
            return garbled(place, "it is not XML that can be read")
        return StoreError(f"{place.uri} cannot be used: {error}")


def silence(place: Place, url: str, error: Exception) -> StoreError:
    """The error for no answer; its cause is an OSError, which tells the outbox that waiting may help."""
    from botocore import exceptions as known

    if isinstance(error, known.SSLError):
        return StoreError(
            f"{url} cannot prove who it is: {error.kwargs.get('error')}",
            hint="name your organisation's certificates in AWS_CA_BUNDLE",
        )
    why = {
        known.ReadTimeoutError: "silence on the connection",
        known.ConnectTimeoutError: "no connection in time",
        known.ConnectionClosedError: "the connection broke",
    }.get(type(error)) or str(getattr(error, "kwargs", {}).get("error", error))[:200]
    found = unreachable(place, url, why)
    found.__cause__ = ConnectionError(why)
    return found


def at_most(place: Place, answer: Any, method: str, most: int) -> bytes:
    """The body of botocore's answer, which was not read yet. Raises Garbled where it is longer, and BotoCoreError."""
    promised = "" if method == "HEAD" else answer.headers.get("content-length", "")
    if promised.isdigit() and int(promised) <= most:
        with _reading(answer):
            return bytes(answer.raw.read())  # in one piece: it has no more than it promised
    if promised.isdigit():
        answer.raw.close()
        raise _too_long(place, most)
    pieces: list[bytes] = []
    drain(place, answer, most, lambda: pieces.append)
    return b"".join(pieces)


def drain(place: Place, answer: Any, most: int, begin: Callable[[], Callable[[bytes], object]]) -> int:
    """Hand the body of botocore's answer on, piece by piece as it comes, to what ``begin`` gives; gives its size.

    Raises as ``at_most``, and whatever those raise; its connection is not used again then.
    """
    size = 0
    pieces = answer.raw.stream(_PIECE)
    try:
        write = begin()
        while True:
            with _reading(answer):
                piece = next(pieces, b"")
            if not piece:
                return size
            size += len(piece)
            if size > most:
                raise _too_long(place, most)
            write(piece)
    except BaseException:
        answer.raw.close()
        raise


def _too_long(place: Place, most: int) -> BucketError:
    return garbled(place, f"more than {most} bytes where that cannot be")


@contextmanager
def _reading(answer: Any) -> Iterator[None]:
    from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
    from urllib3.exceptions import HTTPError
    from urllib3.exceptions import ReadTimeoutError as Silence

    try:
        yield
    except Silence as error:
        raise ReadTimeoutError(endpoint_url=answer.url, error=error) from error
    except (HTTPError, OSError) as error:
        raise ConnectionClosedError(endpoint_url=answer.url, error=error) from error
