"""One signed request and its whole answer: what carries the bytes of blobs and objects.

Signing and connections are botocore's own; its client in between costs three times the CPU of all the rest
(1.6 ms a request). Nothing here is tried again, apart from a request whose credentials had just run out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.store.bucket.aws import ANSWER, Account, at_most, drain, silence
from orchestrator.store.bucket.failures import ExpiredCredentials, garbled, refusal

Sink = Callable[[Mapping[str, str]], Callable[[bytes], object]]
_FIELD = re.compile(rb"<(Code|Message|Region)>([^<]*)</")


@dataclass(frozen=True)
class Answer:
    """A whole answer; the names of headers are in lower case. ``code``: of an error, as the server names it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    code: str = ""


class Wire:
    """Requests on the objects of one bucket; safe for threads."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._transport = account.transport()

    def send(
        self,
        method: str,
        key: str,
        what: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        sha256: Digest | None = None,
        accept: tuple[int, ...] = (200,),
        most: int = ANSWER,
        sink: Sink | None = None,
    ) -> Answer:
        """Ask once. ``key`` is that of the object in the bucket, ``sha256`` the body's digest where it is known, ``most``
        how many bytes an answer may have. ``sink`` is told the headers of a part (206) and gives what takes its body as it
        comes, of which the answer then has nothing.

        An answer with another status than those in ``accept`` is raised as the BucketError that it means.
        """
        for last in (False, True):
            used = self.account.credentials()
            answer = self._once(
                method, key, query, headers or {}, body, sha256 or of_bytes(body), used, most, sink
            )
            if answer.status in accept:
                return answer
            told = _fields(answer.body)
            found = refusal(
                self.account.place,
                what,
                answer.status,
                answer.code,
                told.get("Message", ""),
                {**({"x-amz-bucket-region": told["Region"]} if "Region" in told else {}), **answer.headers},
            )
            if not (isinstance(found, ExpiredCredentials) and not last and self.account.renew(used)):
                raise found
        raise AssertionError("unreachable")

    def _once(
        self,
        method: str,
        key: str,
        query: str,
        headers: Mapping[str, str],
        body: bytes | memoryview,
        sha256: Digest,
        credentials: Any,
        most: int,
        sink: Sink | None,
    ) -> Answer:
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        account = self.account
        url = account.base_url + key + (f"?{query}" if query else "")
        request = AWSRequest(
            method=method, url=url, headers=dict(headers), data=body or None, stream_output=True
        )
        _signer(credentials, account.region, hex_of(sha256)).add_auth(request)
        if method == "PUT" and not body:
            request.headers["Content-Length"] = "0"
        try:
            found = self._transport.send(request.prepare())
            names = {name.lower(): str(value) for name, value in found.headers.items()}
            if sink is not None and found.status_code == 206:
                whole, size = b"", drain(account.place, found, most, lambda: sink(names))
            else:
                # an error has its own length, however little was asked for
                whole = at_most(account.place, found, method, most if sink is None else max(most, ANSWER))
                size = len(whole)
        except BotoCoreError as error:
            raise silence(account.place, url, error) from ConnectionError(type(error).__name__)
        promised = names.get("content-length")
        if method != "HEAD" and promised is not None and promised != str(size):
            raise garbled(account.place, f"{size} bytes of {promised}")
        code = _fields(whole).get("Code", "") if found.status_code >= 300 else ""
        return Answer(found.status_code, names, whole, code)


def is_error(body: bytes) -> bool:
    """Whether a body is an S3 error document: AWS sends some of them under status 200."""
    head = body[:512].lstrip()
    return head.startswith(b"<") and b"<Error" in head


def _fields(body: bytes) -> dict[str, str]:
    """Code, message and region of an error; no XML parser for what an unknown server sends."""
    return {name.decode(): text.decode("utf-8", "replace") for name, text in _FIELD.findall(body[:65536])}


def _signer(credentials: Any, region: str, payload: str) -> Any:
    """AWS's signature, version 4, over a body whose hash is known, so that no byte is hashed twice."""
    signer = _signer_class()(credentials, "s3", region)
    signer.known = payload
    return signer


@cache
def _signer_class() -> Any:
    from botocore.auth import S3SigV4Auth

    class Signer(S3SigV4Auth):  # type: ignore[misc]  # botocore has no type information
        known = ""

        def payload(self, request: Any) -> str:
            return self.known

    return Signer
