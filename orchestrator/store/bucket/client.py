"""Objects in a bucket: read, put, created at most once, listed, deleted; each tried again where that may help."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import StoreError
from orchestrator.store.bucket.aws import ANSWER, Account, Timeouts
from orchestrator.store.bucket.failures import BucketError, ServerFailed, UnknownUpload, Unreachable, garbled
from orchestrator.store.bucket.place import Place
from orchestrator.store.bucket.wire import Answer, Wire, is_error
from orchestrator.store.retry import Patience

_NONCE, _HASH = "x-amz-meta-mirage-nonce", "x-amz-meta-mirage-sha256"
_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)")
OBJECT = 64 << 20  # bytes; records, keys and the state of a collection are far smaller
_LARGEST = 1 << 50  # bytes; what any make takes as one object is far smaller
_TOKEN = 4096  # characters of what a server names the next page by
_STALE_PAGES = 20  # pages without anything new
_ONCE = Patience(tries=1)
_SILENT = 30.0  # seconds for which a server that never answered is not waited for again
_T = TypeVar("_T")
# How a bucket is asked to create an object unless it exists.
CONDITIONS = {"if-none-match": {"If-None-Match": "*"}, "oss": {"x-oss-forbid-overwrite": "true"}}


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun, so many seconds ago by the server's clock, and not ended."""

    key: str
    id: str
    age: float


class Listed(NamedTuple):
    """An object as a listing has it: bytes, and seconds since it was written, by the server's clock."""

    key: str
    size: int
    age: float


class Bucket:
    """One bucket below one prefix; keys are relative to that. Safe for threads. All calls raise BucketError."""

    def __init__(
        self, place: Place, *, timeouts: Timeouts | None = None, patience: Patience | None = None
    ) -> None:
        self.place = place
        self.patience = patience or Patience()
        self._account = Account(place, timeouts or Timeouts())
        self._wire = Wire(self._account)
        self._silence: tuple[float, Unreachable] | None = None  # until when it is not asked, and why
        self.maker = (
            ""  # what the server that answers calls itself (RFC 9110, Server), once an object was read
        )

    @property
    def server(self) -> str:
        """The address of the bucket alone."""
        return str(self._account.base_url)

    @property
    def address(self) -> str:
        """Where it is, settings of every origin included: equal for the same bucket and prefix, and only then."""
        return f"{self._account.base_url}{self.place.prefix}"

    def retried(self, action: Callable[[], _T]) -> _T:
        """The action's result, tried again where that may help.

        A server that was silent to the end is not asked for a while, and then once: no command waits for it twice.
        """
        silent = self._silence
        if silent is not None and time.monotonic() < silent[0]:
            raise silent[1]
        try:
            found = (self.patience if silent is None else _ONCE).retried(action)
        except Unreachable as error:
            self._silence = time.monotonic() + _SILENT, error
            raise
        self._silence = None
        return found

    def send(self, method: str, key: str, what: str, **more: Any) -> Answer:
        """One request, tried once (Wire.send)."""
        return self._wire.send(method, self.place.prefix + key, what, **more)

    def call(self, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """One call of botocore's client on the bucket, tried again where that may help."""
        return self.retried(lambda: self._account.call(operation, what, **parameters))

    def full(self, key: str) -> str:
        """A key as botocore's calls need it."""
        return self.place.prefix + key

    def read(self, key: str, most: int = OBJECT) -> bytes | None:
        """A small object's bytes, at most so many, or None. What `create` made is checked against the hash kept with it."""

        def once() -> bytes | None:
            answer = self.send("GET", key, f"read {key}", accept=(200, 404), most=most)
            if answer.status == 404:
                self.check_absent(answer, f"read {key}")
            else:
                kept = answer.headers.get(_HASH)
                if is_error(answer.body) if kept is None else kept != hex_of(of_bytes(answer.body)):
                    raise garbled(self.place, f"the bytes of {key} are not what was stored")
            self.maker = answer.headers.get("server", "")[:200]
            return None if answer.status == 404 else answer.body

        return self.retried(once)

    def check_absent(self, answer: Answer, what: str) -> None:
        """A 404 must be about the object, not about the bucket."""
        if answer.code not in ("", "NoSuchKey", "NotFound", "404"):
            from orchestrator.store.bucket.failures import refusal

            raise refusal(self.place, what, 404, answer.code, "", answer.headers)

    def size(self, key: str) -> int | None:
        """How many bytes an object has, or None where there is none."""
        answer = self._head(key)
        return None if answer is None else int(answer.headers["content-length"])

    def _head(self, key: str) -> Answer | None:
        def once() -> Answer | None:
            what = f"look for {key}"
            answer = self.send("HEAD", key, what, accept=(200, 404, 400, 401, 403, 301, 307, 412))
            if answer.status == 404:
                return None
            if answer.status != 200:  # such an answer has no body, so no reason: a GET has
                self.send("GET", key, what, headers={"Range": "bytes=0-0"}, accept=(200, 206, 404))
                raise garbled(self.place, f"status {answer.status} for {key}, which can be read")
            if "etag" not in answer.headers or not is_size(answer.headers.get("content-length", "")):
                raise garbled(self.place, f"{key} without its ETag and length")
            return answer

        return self.retried(once)

    def part(self, key: str, start: int, length: int) -> tuple[bytes, int] | None:
        """At most ``length`` bytes of an object from ``start`` on, and the size of all of it; None where it is not."""

        def once() -> tuple[bytes, int] | None:
            wanted = {"Range": f"bytes={start}-{start + length - 1}"}
            answer = self.send(
                "GET",
                key,
                f"read {key}",
                headers=wanted,
                accept=(200, 206, 404, 416),
                most=max(length, ANSWER),
            )
            if answer.status == 404:
                self.check_absent(answer, f"read {key}")
                return None
            if answer.status == 416:
                return b"", 0
            if answer.status == 200:  # a server without ranges, or an error under a success
                if "etag" not in answer.headers or start:
                    raise garbled(self.place, f"no range of {key}")
                return answer.body, len(answer.body)
            found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
            if (
                found is None
                or not is_size(found[1])
                or len(answer.body) != min(length, int(found[1]) - start)
            ):
                raise garbled(self.place, f"another range of {key} than was asked for")
            return answer.body, int(found[1])

        return self.retried(once)

    def put(self, key: str, data: bytes | memoryview, digest: Digest, integrity: str) -> bool:
        """Put an object whose bytes its key decides; whatever is there is replaced.

        Gives whether the first request was answered: where not, the server may carry it out later once more.
        """
        headers, sure = proof(integrity, data, digest), True

        def once() -> None:
            nonlocal sure
            try:
                done = self.send("PUT", key, f"write {key}", headers=headers, body=data, sha256=digest)
                self.check_done(done, key)
            except BucketError as error:
                sure = sure and not error.passing
                raise

        self.retried(once)
        return sure

    def check_done(self, answer: Answer, key: str) -> str:
        """The ETag of what was put; every make sends one, and nothing else under status 200."""
        if is_error(answer.body) or not answer.headers.get("etag"):
            raise garbled(self.place, f"a success without an ETag for {key}")
        return answer.headers["etag"]

    def create(self, key: str, data: bytes, condition: str) -> bool:
        """Create an object unless it exists; True if this call made it. ``condition`` is one of CONDITIONS.

        An answer that was lost is found again by a nonce that is kept with the object.
        """
        nonce, digest = secrets.token_hex(16), of_bytes(data)
        headers = {**CONDITIONS[condition], _NONCE: nonce, _HASH: hex_of(digest)}
        unsure = False

        def once() -> bool:
            nonlocal unsure
            try:
                answer = self.send(
                    "PUT",
                    key,
                    f"create {key}",
                    headers=headers,
                    body=data,
                    sha256=digest,
                    accept=(200, 409, 412),
                )
                if answer.status == 200:
                    self.check_done(answer, key)
                    return True
            except BucketError as error:
                unsure = unsure or error.passing
                raise
            if answer.status == 409 and answer.code != "FileAlreadyExists":
                raise ServerFailed(f"{key} is being written by somebody else ({answer.code})")
            if not unsure:
                return False
            there = self._head(key)
            if there is None:
                raise garbled(self.place, f"{key} exists, and does not")
            return there.headers.get(_NONCE) == nonce

        return self.retried(once)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys and sizes below a prefix, all pages of them, in the server's order."""
        for found in self.listed(prefix):
            yield found.key, found.size

    def listed(self, prefix: str) -> Iterator[Listed]:
        """The objects below a prefix, all pages of them, in the server's order, each once."""
        pages, below = Pages(self.place, prefix), self.full(prefix)
        more: dict[str, str] = {}
        while True:

            def once(more: dict[str, str] = more) -> dict[str, Any]:
                page = self._account.call(
                    "list_objects_v2", f"list {prefix}", Prefix=self.full(prefix), **more
                )
                if "IsTruncated" not in page or (
                    page["IsTruncated"] and not page.get("NextContinuationToken")
                ):
                    raise garbled(self.place, f"a listing of {prefix} without its end")
                return page

            page = self.retried(once)
            now = _moment(page)
            for item in page.get("Contents", ()):
                key = str(item["Key"])
                if not key.startswith(below) or not pages.is_new(key):
                    continue
                if not is_size(str(item["Size"])):
                    raise garbled(self.place, f"a listing of {prefix} with a size that cannot be")
                yield Listed(
                    key[len(self.place.prefix) :], int(item["Size"]), _age(now, item["LastModified"])
                )
            if not page["IsTruncated"]:
                return
            more = {"ContinuationToken": str(page["NextContinuationToken"])}
            pages.go_on(more["ContinuationToken"])

    def delete(self, keys: Iterable[str]) -> bool:
        """Delete objects; missing ones are fine. Gives whether each first request was answered.

        Where one was not, the server may have it still, and carry it out later.
        """
        sure = True
        for key in keys:

            def once(key: str = key) -> None:
                nonlocal sure
                try:
                    self.send("DELETE", key, f"delete {key}", accept=(200, 204, 404))
                except BucketError as error:
                    sure = sure and not error.passing
                    raise

            self.retried(once)
        return sure

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """The multipart uploads below a prefix that were begun and not ended."""
        pages = Pages(self.place, prefix)
        more: dict[str, str] = {}
        while True:
            page = self.call(
                "list_multipart_uploads", "list its unfinished uploads", Prefix=self.full(prefix), **more
            )
            for item in page.get("Uploads", ()):
                key = str(item["Key"])
                if key.startswith(self.full(prefix)) and pages.is_new(f"{key} {item['UploadId']}"):
                    age = _age(_moment(page), item["Initiated"])
                    yield Upload(key[len(self.place.prefix) :], str(item["UploadId"]), age)
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return
            more = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page.get("NextUploadIdMarker", ""),
            }
            pages.go_on(" ".join(more.values()))

    def abort(self, key: str, upload: str) -> None:
        """End a multipart upload, and free what it took; unknown is fine."""
        try:
            self.call("abort_multipart_upload", "abort an upload", Key=self.full(key), UploadId=upload)
        except UnknownUpload:
            return


class Pages:
    """A listing page by page, of a server that may not mean to end it."""

    def __init__(self, place: Place, what: str) -> None:
        self._place = place
        self._what = what
        self._last = ""
        self._seen: set[str] = set()  # of the page before and of this one: what comes twice comes soon
        self._now: set[str] = set()
        self._tokens: set[str] = set()
        self._stale = 0
        self._grew = False

    def is_new(self, key: str) -> bool:
        """Whether this key was not among the last."""
        if key in self._now or key in self._seen:
            return False
        self._now.add(key)
        self._grew = self._grew or key > self._last
        self._last = max(self._last, key)
        return True

    def go_on(self, token: str) -> None:
        """Before the next page. Raises Garbled where it goes round in circles, or nowhere."""
        self._stale = 0 if self._grew else self._stale + 1
        if token in self._tokens or len(token) > _TOKEN or self._stale >= _STALE_PAGES:
            raise garbled(self._place, f"a listing of {self._what} that does not come to an end")
        self._tokens.add(token)
        self._seen, self._now, self._grew = self._now, set(), False


def is_size(text: str) -> bool:
    """Whether this may be a number of bytes that one object has."""
    return text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST


def _age(now: datetime, then: object) -> float:
    """Seconds since then; none for what is still to come."""
    if not isinstance(then, datetime):
        return 0.0
    then = then if then.tzinfo is not None else then.replace(tzinfo=timezone.utc)
    return max(0.0, (now - then).total_seconds())


def proof(integrity: str, data: bytes | memoryview, digest: Digest) -> dict[str, str]:
    """The headers by which a server sees that a body arrived whole; the signed payload hash needs none."""
    if integrity == "sha256":
        return {"x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(hex_of(digest))).decode()}
    if integrity == "md5":
        # RFC 1864; against damage on the way, not against people
        return {"Content-MD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}
    return {}


def _moment(answer: dict[str, Any]) -> datetime:
    """What time it was for the server when it answered (RFC 9110, Date); for this machine, where it does not say."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        found = parsedate_to_datetime(said)
    except (TypeError, ValueError):
        return datetime.now(timezone.utc)
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def quietly(action: Callable[[], object]) -> None:
    """Do what is only tidying up: its failure is nobody's business now."""
    from contextlib import suppress

    with suppress(StoreError):
        action()
