"""Many and large objects in parallel: bounded bytes in flight, parts that are taken up again, ranges as they come."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from orchestrator.digest import Digest, hex_of, of_bytes, of_hasher
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import Bucket, Pages, proof, quietly
from orchestrator.store.bucket.failures import BucketError, UnknownUpload, garbled

WORKERS = 16
IN_FLIGHT = 96 << 20  # bytes, in memory at once
SINGLE = 64 << 20  # larger objects go in parts
PART = 16 << 20
RANGE = 4 << 20
_ENOUGH = 1 << 20  # bytes of a stream that show that it gets on
_MOST_PARTS = 9000  # the limit of all makes is 10,000

_T = TypeVar("_T")
_R = TypeVar("_R")


class Changed(StoreError):
    """An object is not what it was, or not there any longer."""


class Gone(Changed):
    """An object is not there."""


class Budget:
    """So many bytes at once, shared by threads; one that is larger than all of it waits until it is alone."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, wanted: int) -> Iterator[None]:
        """Hold ``wanted`` bytes."""
        wanted = min(wanted, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify_all()


def in_parallel(action: Callable[[_T], object], items: Iterable[_T], workers: int = WORKERS) -> None:
    """Do it for each, in threads; after a failure nothing new is begun, and the first one is raised."""
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future[object]] = set()
        for item in items:
            if len(running) >= 4 * workers:
                running = _settle(running)
            running.add(pool.submit(action, item))
        while running:
            running = _settle(running)


def _settle(running: set[Future[_R]]) -> set[Future[_R]]:
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for each in done:
        if each.exception() is not None:
            for other in left:
                other.cancel()
            each.result()
    return left


def ahead(
    pool: ThreadPoolExecutor, action: Callable[[_T], _R], items: Iterable[_T], most: int
) -> Iterator[tuple[_T, _R]]:
    """The action's results in order, ``most`` of them worked on ahead."""
    coming: deque[tuple[_T, Future[_R]]] = deque()
    rest = iter(items)
    try:
        while True:
            while len(coming) < most:
                try:
                    item = next(rest)
                except StopIteration:
                    break
                coming.append((item, pool.submit(action, item)))
            if not coming:
                return
            item, future = coming.popleft()
            yield item, future.result()
    finally:
        for _, future in coming:
            future.cancel()


def pour(
    bucket: Bucket,
    key: str,
    start: int,
    end: int,
    total: int,
    write: Callable[[bytes, int], object],
    check: Callable[[], object] = lambda: None,
) -> None:
    """Hand on the bytes of an object from ``start`` to before ``end``, each piece with its place, as they come.

    Where the connection breaks, it goes on from there, and as often as enough came since the last time; where little came
    it has the bucket's patience. ``check`` raises where nothing more is wanted. Raises Gone where the object is not there,
    Changed where it has not ``total`` bytes, and BucketError.
    """
    at = start

    def begin(headers: Mapping[str, str]) -> Callable[[bytes], None]:
        part, _, whole = headers.get("content-range", "").partition("/")
        if whole not in ("", str(total)):
            raise _changed(bucket, key)
        if (
            part != f"bytes {at}-{end - 1}"
            or not whole
            or headers.get("content-length", str(end - at)) != str(end - at)
        ):
            raise garbled(bucket.place, f"another range of {key} than was asked for")
        return into

    def into(piece: bytes) -> None:
        nonlocal at
        write(piece, at)
        at += len(piece)

    def once() -> None:
        check()
        before, what = at, f"read {key}"
        enough = min(_ENOUGH, (end - before) // 2 + 1)
        wanted = {"Range": f"bytes={at}-{end - 1}"}
        try:
            answer = bucket.send(
                "GET", key, what, headers=wanted, accept=(200, 206, 404, 416), most=end - at, sink=begin
            )
        except BucketError as error:
            if error.passing and at - before >= enough:
                return
            raise
        if answer.status == 404:
            bucket.check_absent(answer, what)
            raise Gone(f"{key} is not in {bucket.place.uri} any longer")
        if answer.status == 200:
            raise garbled(bucket.place, f"no range of {key}")
        if answer.status != 206:
            raise _changed(bucket, key)
        if at < end and at - before < enough:
            raise garbled(bucket.place, f"{at - before} bytes of {end - before} of {key}")

    while at < end:
        bucket.retried(once)


def _changed(bucket: Bucket, key: str) -> Changed:
    return Changed(f"{key} changed in {bucket.place.uri} while it was read")


class LargeUpload:
    """One file to one key in parts. ``notes`` remembers the parts that are there, so that another process goes on.

    A part counts as there if the server names the ETag for it that it had given us for our bytes.
    """

    def __init__(self, bucket: Bucket, key: str, source: Path, digest: Digest, integrity: str) -> None:
        self._bucket = bucket
        self._key = key
        self._source = source
        self._digest = digest
        # with parts, this kind of checksum is declared beforehand
        self._integrity = integrity
        self._size = source.stat().st_size
        self._count: Callable[[int], object] = lambda size: None
        self._part = max(PART, -(-self._size // _MOST_PARTS) + 1)

    def run(self, notes: Path, budget: Budget, count: Callable[[int], object] = lambda size: None) -> None:
        """Upload, and end it; a failure that will not pass aborts it. ``count`` hears of each part. Raises StoreError."""
        self._count = count
        with notes.open("a+") as book:
            try:
                fcntl.flock(book, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # another process uploads the same bytes: an upload of our own is always right
                with open(os.devnull, "a+") as nowhere:
                    self._run(nowhere, budget)
                return
            self._run(book, budget)
            notes.unlink(missing_ok=True)

    def _run(self, book: IO[str], budget: Budget) -> None:
        for last in (False, True):
            upload, there = self._resumed(book)
            try:
                parts = self._parts(upload, there, book, budget)
                self._complete(upload, parts)
                return
            except UnknownUpload:  # somebody swept it, or an answer was lost: is it whole, or gone?
                self._restart(book)
                if self._bucket.size(self._key) == self._size:
                    return
                if last:
                    raise
            except StoreError as error:
                if not isinstance(error, BucketError) or not error.passing:
                    self._restart(book)
                    quietly(lambda upload=upload: self._bucket.abort(self._key, upload))  # type: ignore[misc]
                raise

    def _resumed(self, book: IO[str]) -> tuple[str, dict[int, str]]:
        """The upload to go on with, and the ETags of its parts; a new one where there is none."""
        book.seek(0)
        upload, noted = _read_notes(book, self._part)
        if upload:
            try:
                there = self._listed(upload)
                return upload, {number: tag for number, tag in noted.items() if there.get(number) == tag}
            except UnknownUpload:
                self._restart(book)
        more = {"ChecksumAlgorithm": "SHA256"} if self._integrity == "sha256" else {}
        answer = self._bucket.call(
            "create_multipart_upload", f"write {self._key}", Key=self._bucket.full(self._key), **more
        )
        self._note(book, {"upload": answer["UploadId"], "part": self._part})
        return str(answer["UploadId"]), {}

    def _listed(self, upload: str) -> dict[int, str]:
        there: dict[int, str] = {}
        more: dict[str, Any] = {}
        pages = Pages(self._bucket.place, "the parts of an upload")
        while True:
            page = self._bucket.call(
                "list_parts",
                "list the parts of an upload",
                Key=self._bucket.full(self._key),
                UploadId=upload,
                **more,
            )
            there.update({int(each["PartNumber"]): str(each["ETag"]) for each in page.get("Parts", ())})
            if not page.get("IsTruncated"):
                return there
            more = {"PartNumberMarker": int(page.get("NextPartNumberMarker") or 0)}
            pages.go_on(str(more["PartNumberMarker"]))

    def _parts(
        self, upload: str, there: dict[int, str], book: IO[str], budget: Budget
    ) -> list[dict[str, Any]]:
        """Send what is missing; every byte is read and hashed, so that what is completed is what the digest says."""
        whole = hashlib.sha256()
        parts: dict[int, dict[str, Any]] = {}
        lock = threading.Lock()

        def send(number: int, data: bytes) -> None:
            digest = of_bytes(data)
            if self._integrity == "sha256":
                parts[number]["ChecksumSHA256"] = _checksum(digest)
            headers = proof(self._integrity, data, digest)
            query = f"partNumber={number}&uploadId={upload}"

            def once() -> str:
                what = f"write part {number} of {self._key}"
                answer = self._bucket.send(
                    "PUT", self._key, what, query=query, headers=headers, body=data, sha256=digest
                )
                return self._bucket.check_done(answer, self._key)

            tag = self._bucket.retried(once)
            with lock:
                parts[number]["ETag"] = tag
                self._note(book, {"n": number, "tag": tag})
            self._count(len(data))

        with self._source.open("rb", buffering=0) as source, ThreadPoolExecutor(8) as pool:
            running: set[Future[None]] = set()
            number = 0
            while data := _exactly(source, self._part):
                number += 1
                whole.update(data)
                parts[number] = {"PartNumber": number, "ETag": there.get(number, "")}
                if number in there:
                    if self._integrity == "sha256":
                        parts[number]["ChecksumSHA256"] = _checksum(of_bytes(data))
                    self._count(len(data))
                else:
                    while len(running) >= max(1, (IN_FLIGHT - PART) // self._part):
                        running = _settle(running)
                    running.add(pool.submit(_within, budget, len(data), send, number, data))
                del data
            while running:
                running = _settle(running)
        if of_hasher(whole) != self._digest:
            raise StoreError(f"{self._source} is damaged: its bytes are not those of {self._digest}")
        return [parts[number] for number in sorted(parts)]

    def _complete(self, upload: str, parts: list[dict[str, Any]]) -> None:
        self._bucket.call(
            "complete_multipart_upload",
            f"write {self._key}",
            Key=self._bucket.full(self._key),
            UploadId=upload,
            MultipartUpload={"Parts": parts},
        )
        if self._bucket.size(self._key) != self._size:
            raise UnknownUpload(f"{self._key} was completed and is not there whole")

    def _restart(self, book: IO[str]) -> None:
        if book.name != os.devnull:
            book.truncate(0)

    def _note(self, book: IO[str], line: dict[str, Any]) -> None:
        book.write(json.dumps(line) + "\n")
        book.flush()


def _within(
    budget: Budget,
    size: int,
    send: Callable[[int, bytes], None],
    number: int,
    data: bytes,
) -> None:
    with budget.taken(size):
        send(number, data)


def _checksum(digest: Digest) -> str:
    """As S3 wants it in the list of parts."""
    return base64.b64encode(bytes.fromhex(hex_of(digest))).decode()


def _exactly(source: Any, size: int) -> bytes:
    """The next ``size`` bytes, fewer at the end."""
    pieces: list[bytes] = []
    while size > 0 and (piece := source.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_notes(book: IO[str], part: int) -> tuple[str, dict[int, str]]:
    """The upload and its parts as an earlier process noted them; nothing where they were of another size."""
    upload = ""
    tags: dict[int, str] = {}
    try:
        for line in book:
            item = json.loads(line)
            if "upload" in item:
                upload, tags = (str(item["upload"]) if item["part"] == part else ""), {}
            else:
                tags[int(item["n"])] = str(item["tag"])
    except (ValueError, KeyError, TypeError):
        pass  # its last line was cut off
    return upload, tags
