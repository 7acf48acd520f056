"""A bucket whose server lies, and packs that others wrote: typed errors, in bounded time and memory, and nothing elsewhere.

The liar is a small real HTTP server that speaks S3, of which each answer can be exchanged for another one.
"""

from __future__ import annotations

import gc
import hashlib
import random
import resource
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import StoreError
from orchestrator.store import fetching, packs
from orchestrator.store.bucket.aws import Timeouts
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.failures import AccessDenied
from orchestrator.store.bucket.place import parse_uri
from orchestrator.store.bucket.probe import Promises, probe
from orchestrator.store.retry import Patience
from orchestrator.store.s3 import S3Store
from tests.s3_tools import credentials, environment

MIB = 1 << 20
DATE = "Wed, 25 Nov 2026 18:00:00 GMT"
Answer = tuple[int, dict[str, str], "bytes | Iterator[bytes]"]
Lie = Callable[["Liar", str, str, dict[str, str]], "Answer | None"]
TOP = "/bkt/store/"


class Liar(ThreadingHTTPServer):
    """Keeps objects as S3 does; ``lie`` is asked for another answer first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.lie: Lie = lambda liar, method, path, query: None
        self.asked = 0
        self.parts: list[int] = []  # where those began that were asked for of a large object

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self, *entries: str, truncated: str = "") -> Answer:
        """A page of a listing with these entries as XML; ``truncated`` is the token of the next one."""
        more = f"<NextContinuationToken>{truncated}</NextContinuationToken>" if truncated else ""
        flag = "true" if truncated else "false"
        text = f"<ListBucketResult><Name>bkt</Name><IsTruncated>{flag}</IsTruncated>{more}{''.join(entries)}"
        return 200, {"Content-Type": "application/xml"}, f"{text}</ListBucketResult>".encode()


def entry(key: str, size: object = 1, when: str = "2026-11-25T17:00:00.000Z") -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified><Size>{size}</Size></Contents>"
    )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Liar

    def _any(self) -> None:
        liar = self.server
        liar.asked += 1
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        query["range"] = self.headers.get("Range", "")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code, headers, answer = liar.lie(liar, self.command, path, query) or self._true(path, query, body)
        self.send_response_only(code)
        said = {"Date": DATE, **({"Content-Length": str(len(answer))} if isinstance(answer, bytes) else {})}
        for name, value in {**said, **headers}.items():
            self.send_header(name, value)
        if not isinstance(answer, bytes):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        with suppress(OSError):
            for piece in () if self.command == "HEAD" else [answer] if isinstance(answer, bytes) else answer:
                self.wfile.write(piece)

    def _true(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        objects = self.server.objects
        if "list-type" in query:
            top = query.get("prefix", "")
            found = [key for key in sorted(objects) if key.removeprefix("/bkt/").startswith(top)]
            return self.server.listing(
                *(entry(key.removeprefix("/bkt/"), len(objects[key][0])) for key in found)
            )
        if self.command == "PUT":
            if self.headers.get("If-None-Match") and path in objects:
                return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
            kept = {name: value for name, value in self.headers.items() if name.startswith("x-amz-meta-")}
            objects[path] = body, kept
            return 200, {"ETag": '"x"'}, b""
        if self.command == "DELETE":
            objects.pop(path, None)
            return 204, {}, b""
        if path not in objects:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        data, kept = objects[path]
        asked = self.headers.get("Range", "")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1]
            end = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            return (206, {"ETag": '"x"', "Content-Range": end, **kept}, part) if part else (416, {}, b"")
        return 200, {"ETag": '"x"', **kept}, data

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def connected() -> Iterator[tuple[Liar, Bucket, Promises]]:
    """One server and one client for all tests: making a client costs more than most of them."""
    server = Liar()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with environment({**credentials(server.url), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}):
        place = parse_uri("s3://bkt/store", endpoint_url=server.url, region="us-east-1")
        bucket = Bucket(place, patience=Patience(tries=1), timeouts=Timeouts(2, 5))
        yield server, bucket, probe(bucket)
    server.shutdown()
    server.server_close()


@pytest.fixture
def liar(connected: tuple[Liar, Bucket, Promises]) -> Liar:
    server, bucket, _ = connected
    server.objects, server.asked, server.parts = {}, 0, []
    server.lie = lambda liar, method, path, query: None
    bucket._silence = None
    return server


@pytest.fixture
def bucket(liar: Liar, connected: tuple[Liar, Bucket, Promises]) -> Bucket:
    return connected[1]


@pytest.fixture
def store(bucket: Bucket, connected: tuple[Liar, Bucket, Promises], tmp_path: Path) -> Iterator[S3Store]:
    opened = S3Store.open_at(bucket, tmp_path / "stores")
    opened._promises = connected[2]
    yield opened
    opened.close()


@contextmanager
def bounded(seconds: float = 2.0) -> Iterator[None]:
    """At most a second and 256 MiB, whatever the machine does beside: in time of this process's own, which is the liar's
    too, so that another second is his.

    What the tests before have left in memory is not looked through by the garbage collector meanwhile.
    """
    gc.collect()
    gc.freeze()
    try:
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        yield
        took = time.process_time() - began
    finally:
        gc.unfreeze()
    assert took < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def refused(action: Callable[[], Any], words: str | None = None) -> StoreError:
    with bounded(), pytest.raises(StoreError, match=words) as caught:
        action()
    return caught.value


def flood(size: int, piece: bytes = b"x" * MIB) -> Iterator[bytes]:
    for _ in range(0, size, len(piece)):
        yield piece


def lists(*pages: Answer) -> Lie:
    """Answers listings with these pages, the last of them for ever."""
    rest = list(pages)

    def lie(liar: Liar, method: str, path: str, query: dict[str, str]) -> Answer | None:
        if "list-type" not in query and "uploads" not in query:
            return None
        return rest.pop(0) if len(rest) > 1 else rest[0]

    return lie


def test_the_liar_is_an_honest_bucket_where_it_does_not_lie(store: S3Store, tmp_path: Path) -> None:
    digest = store.put(b"hello")
    assert store.create("keys/env/one", b"{}") and not store.create("keys/env/one", b"{}")
    assert list(store.keys("keys/")) == ["keys/env/one"] and store.read("keys/env/one") == b"{}"
    assert digest in {held.digest for held in store.blobs()}


# --- listings ---------------------------------------------------------------------------------------------


def test_keys_that_escape_come_twice_or_were_not_asked_for_are_passed_over(
    store: S3Store, liar: Liar, tmp_path: Path
) -> None:
    names = [
        "keys/a",
        "keys/a",
        "keys/../../etc/passwd",
        "keys//x",
        "keys/.hidden",
        "keys/" + "k" * 900,
    ]
    told = [*(f"store/{name}" for name in names), "other/keys/a", "/etc/passwd", "keys/b", "", "store/runs/x"]
    liar.lie = lists(liar.listing(*map(entry, told)))
    with bounded():
        assert list(store.keys("keys/")) == ["keys/a"]
    before = sorted(tmp_path.rglob("*"))
    refs = store.bucket.listed("keys/")
    assert all(found.key.startswith("keys/") for found in refs)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param(lambda liar: [liar.listing(truncated="again")], id="the same token"),
        pytest.param(
            lambda liar: [liar.listing(entry("store/keys/a"), truncated="again")], id="the same page"
        ),
        pytest.param(
            lambda liar: [liar.listing(entry("store/keys/a"), truncated="t" * 100_000)], id="a long token"
        ),
        pytest.param(
            lambda liar: [liar.listing(entry(f"store/keys/{n}"), truncated=str(n)) for n in (1, 2, 1, 2)],
            id="in a circle",
        ),
        pytest.param(lambda liar: [liar.listing(truncated=str(n)) for n in range(200)], id="empty pages"),
        pytest.param(
            lambda liar: [liar.listing(entry(f"store/keys/{900 - n}"), truncated=str(n)) for n in range(200)],
            id="backwards",
        ),
    ],
)
def test_a_listing_without_an_end(liar: Liar, bucket: Bucket, pages: Callable[[Liar], list[Answer]]) -> None:
    liar.lie = lists(*pages(liar))
    refused(lambda: list(bucket.listed("keys/")), "does not come to an end")
    assert liar.asked < 40


@pytest.mark.parametrize("size", ["-1", "9" * 40, str(1 << 60), "1e9", "", "many"])
def test_a_listing_with_sizes_that_cannot_be(liar: Liar, bucket: Bucket, size: str) -> None:
    liar.lie = lists(liar.listing(entry("store/blobs/a", size)))
    refused(lambda: list(bucket.listed("blobs/")), "cannot")


@pytest.mark.parametrize(
    ("when", "age"),
    [
        ("2999-01-01T00:00:00.000Z", 0.0),
        ("2026-11-25T17:00:00", 3600.0),
        ("2026-11-25T18:00:00+00:00", 0.0),
    ],
)
def test_times_that_are_odd(liar: Liar, bucket: Bucket, when: str, age: float) -> None:
    liar.lie = lists(liar.listing(entry("store/blobs/a", 1, when)))
    with bounded():
        assert [found.age for found in bucket.listed("blobs/")] == [age]


@pytest.mark.parametrize(
    "when", ["", "tomorrow", "99999-01-01T00:00:00Z", "1e400", "-1e20", "2026-13-45T99:99:99Z", "0" * 5000]
)
def test_times_that_are_none(liar: Liar, bucket: Bucket, when: str) -> None:
    liar.lie = lists(liar.listing(entry("store/blobs/a", 1, when)))
    with bounded(), suppress(StoreError):
        assert all(found.age >= 0 for found in bucket.listed("blobs/"))


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "' + b"a" * 1000 + b'">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 50) for n in range(8))
    + b"]><ListBucketResult><IsTruncated>false</IsTruncated><Name>&i;</Name></ListBucketResult>"
)  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((200, {}, b""), id="nothing"),
        pytest.param((200, {}, b"<"), id="no XML"),
        pytest.param((200, {}, b"\xff\xfe\x00"), id="no text"),
        pytest.param((200, {}, b"<Error><Code>InternalError</Code></Error>"), id="an error"),
        pytest.param((200, {}, b"<ListBucketResult/>"), id="no end"),
        pytest.param((200, {}, b"<a>" * 200_000), id="depth"),
        pytest.param((200, {}, b"<ListBucketResult>" + b"<a>" * 100_000 + b"</a>" * 100_000), id="depth and back"),
        pytest.param((200, {}, BOMB), id="entities"),
        pytest.param((200, {}, b"<ListBucketResult><Name>\x07</Name></ListBucketResult>"), id="no character"),
        pytest.param((200, {"Content-Length": str(1 << 40)}, iter([b"x"])), id="a terabyte, promised"),
        pytest.param((200, {}, flood(4 << 30)), id="gigabytes"),
        pytest.param((200, {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08\x00"), id="packed"),
        pytest.param((500, {}, flood(4 << 30)), id="an error of gigabytes"),
        pytest.param((301, {"Location": "http://169.254.169.254/x"}, b""), id="sent away"),
        pytest.param(
            (307, {"Location": "http://127.0.0.1:1/x", "x-amz-bucket-region": "evil.example/#"}, b""), id="a region"
        ),
        pytest.param((200, {"Date": "Mon, 99 Foo 99999 99:99:99 +9999"}, b"<ListBucketResult/>"), id="a date"),
    ],
)  # fmt: skip
def test_a_listing_that_is_none(liar: Liar, bucket: Bucket, answer: Answer) -> None:
    liar.lie = lists(answer)
    refused(lambda: list(bucket.listed("keys/")))


def test_uploads_without_an_end(liar: Liar, bucket: Bucket) -> None:
    text = (
        "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker>"
        "<Upload><Key>store/blobs/a</Key><UploadId>u</UploadId><Initiated>2999-01-01T00:00:00</Initiated></Upload>"
        "</ListMultipartUploadsResult>"
    )
    liar.lie = lists((200, {}, text.encode()))
    refused(lambda: list(bucket.uploads("blobs/")), "does not come to an end")


# --- objects ----------------------------------------------------------------------------------------------


def says(*answers: Answer, method: str = "GET") -> Lie:
    return lambda liar, asked, path, query: (
        answers[0] if asked == method and "list-type" not in query else None
    )


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            (200, {"ETag": '"x"'}, b"<Error><Code>InternalError</Code></Error>"), id="an error under 200"
        ),
        pytest.param((200, {}, flood(4 << 30)), id="gigabytes"),
        pytest.param((200, {"Content-Length": str(1 << 50)}, iter([b"x"])), id="a petabyte, promised"),
        pytest.param((200, {"x-amz-meta-mirage-sha256": "0" * 64}, b"{}"), id="other bytes"),
        pytest.param((206, {"Content-Range": "bytes 0-1/9"}, b"{}"), id="a part"),
        pytest.param((404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"), id="no bucket"),
    ],
)
def test_an_object_that_is_not_what_was_kept(liar: Liar, bucket: Bucket, answer: Answer) -> None:
    liar.lie = says(answer)
    refused(lambda: bucket.read("keys/x"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((200, {"ETag": '"x"'}, flood(4 << 30)), id="gigabytes for a range"),
        pytest.param((206, {"Content-Range": "bytes 0-9/10"}, flood(4 << 30)), id="gigabytes, and a range"),
        pytest.param(
            (206, {"Content-Range": f"bytes 0-9/{'9' * 40}"}, b"0123456789"), id="a size that cannot be"
        ),
        pytest.param((206, {"Content-Range": "bytes 5-14/100"}, b"01234"), id="fewer"),
        pytest.param((206, {}, b"0123456789"), id="no range"),
    ],
)
def test_a_part_that_is_another(liar: Liar, bucket: Bucket, answer: Answer) -> None:
    liar.lie = says(answer)
    refused(lambda: bucket.part("blobs/x", 0, 10))


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"x"', "Content-Length": "-1"},
        {"ETag": '"x"', "Content-Length": "9" * 40},
        {"ETag": '"x"', "Content-Length": str(1 << 60)},
        {"Content-Length": "5"},
        {"ETag": '"x"', "Content-Length": "x"},
    ],
)
def test_a_size_that_cannot_be(liar: Liar, bucket: Bucket, headers: dict[str, str]) -> None:
    liar.lie = says((200, headers, iter(())), method="HEAD")
    refused(lambda: bucket.size("blobs/x"))


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {"ETag": '"x"'}, b"<Error><Code>InternalError</Code></Error>"),
        (200, {"ETag": ""}, b""),
        (200, {"ETag": '"x"'}, flood(4 << 30)),
        (409, {}, b"<Error><Code>ConditionalRequestConflict</Code></Error>"),
    ],
)
def test_a_success_that_is_none(liar: Liar, bucket: Bucket, answer: Answer) -> None:
    liar.lie = says(answer, method="PUT")
    refused(lambda: bucket.create("keys/x", b"{}", "if-none-match"))


def test_an_etag_that_lies_is_no_proof(store: S3Store, liar: Liar) -> None:
    """What is read is verified by its digest, whatever the server calls it."""
    digest = store.put(b"the truth")
    store.flush()
    path = next(path for path in liar.objects if path.endswith(digest.removeprefix("sha256:")))
    liar.objects[path] = (b"the other", {"ETag": f'"{hashlib.md5(b"the truth").hexdigest()}"'})
    store.local.remove([digest])
    refused(lambda: store.open(digest), "damaged bytes")
    assert not store.local.has(digest)


# --- packs ------------------------------------------------------------------------------------------------


def index(*lines: str) -> bytes:
    return b"mirage-pack/1\n" + "".join(f"{line}\n" for line in lines).encode()


NAMES = [of_bytes(str(number).encode()).removeprefix("sha256:") for number in range(8)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(index(f"{NAMES[0]} 0 99999999"), id="a blob that is too large for a pack"),
        pytest.param(index(f"{NAMES[0]} 999999999999 10"), id="beyond the end"),
        pytest.param(index(f"{NAMES[0]} 0 10", f"{NAMES[1]} 5 10"), id="one over the other"),
        pytest.param(index(f"{NAMES[0]} 0 10", f"{NAMES[0]} 10 10"), id="a name twice"),
        pytest.param(index(f"{NAMES[0]} 0 10", f"{NAMES[1]} 12 10"), id="a gap"),
        pytest.param(index(f"{NAMES[0]} -1 10"), id="before the beginning"),
        pytest.param(index(f"{NAMES[0]} 0 1e3"), id="no number"),
        pytest.param(index("../../etc/passwd 0 1"), id="no digest"),
        pytest.param(index(f"{NAMES[0].upper()} 0 1"), id="another digest's spelling"),
        pytest.param(index(*(f"{NAMES[n]} {n << 20} {1 << 20}" for n in range(8)) , *(
            f"{of_bytes(str(n).encode()).removeprefix('sha256:')} {n << 20} {1 << 20}" for n in range(8, 40))),
            id="more than a pack holds"),
        pytest.param(b"mirage-pack/2\n", id="another format"),
    ],
)  # fmt: skip
def test_an_index_of_a_pack_that_nobody_could_have_written(store: S3Store, liar: Liar, data: bytes) -> None:
    pack = f"{TOP}packs/sha256/{'ab' * 32}"
    liar.objects |= {pack: (b"x" * 64, {}), f"{pack}.idx": (data, {})}
    refused(lambda: list(store.blobs()), "pack")


@pytest.mark.parametrize("size", [1 << 34, 20 << 20])
def test_a_huge_index(store: S3Store, liar: Liar, size: int) -> None:
    pack = f"{TOP}packs/sha256/{'ab' * 32}"
    liar.objects |= {pack: (b"x", {}), f"{pack}.idx": (b"", {})}
    line = f"{NAMES[0]} 0 1\n".encode() * 10_000
    liar.lie = lambda liar, method, path, query: (
        (200, {"ETag": '"x"'}, flood(size, line)) if path.endswith(".idx") and method == "GET" else None
    )
    refused(lambda: list(store.blobs()))


def test_a_pack_with_other_bytes_than_its_index_says(store: S3Store, liar: Liar) -> None:
    pack = f"{TOP}packs/sha256/{'ab' * 32}"
    wanted = Digest(f"sha256:{NAMES[0]}")
    liar.objects |= {pack: (b"y", {}), f"{pack}.idx": (index(f"{NAMES[0]} 0 1"), {})}
    refused(lambda: store.open(wanted), "damaged bytes")
    for data in (b"y" * 64, b""):
        liar.objects[pack] = (data, {})
        refused(lambda: store.open(wanted), "is not what its index says")
    assert [whole for _, whole in store.hashed()] == [False]
    assert not store.local.has(wanted)


# --- large objects ----------------------------------------------------------------------------------------

_LARGE = random.Random(1).randbytes(16 * MIB + 100)  # in extents of 4 MiB; the last one is short
_NAMED = of_bytes(_LARGE)
Part = Callable[[int, int], Answer]


def _part(start: int, end: int, total: int = len(_LARGE)) -> Answer:
    """Bytes from ``start`` to before ``end``, as they are."""
    return 206, {"ETag": '"x"', "Content-Range": f"bytes {start}-{end - 1}/{total}"}, _LARGE[start:end]


def parts(lie: Part, begin: Part = _part) -> Lie:
    """The first piece of the large object is given by ``begin``, what is asked for after it by ``lie``."""

    def answer(liar: Liar, method: str, path: str, query: dict[str, str]) -> Answer | None:
        if method != "GET" or not query["range"]:
            return None
        first, _, last = query["range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, len(_LARGE))
        liar.parts.append(start)
        return lie(start, end) if start else begin(start, end)

    return answer


def test_a_large_object_that_is_honest(store: S3Store, liar: Liar) -> None:
    liar.lie = parts(_part)
    store.fetch([_NAMED])
    with store.open(_NAMED) as source:
        assert source.read() == _LARGE


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda start, end: (*_part(start, end)[:2], b""), id="nothing"),
        pytest.param(
            lambda start, end: (*_part(start, end)[:2], b"<Error><Code>SlowDown</Code></Error>"),
            id="an error under 206",
        ),
        pytest.param(lambda start, end: (*_part(start, end)[:2], _LARGE[start : start + 1]), id="a byte"),
        pytest.param(
            lambda start, end: (*_part(start, end)[:2], iter([_LARGE[start : start + 1]])), id="a byte each"
        ),
        pytest.param(lambda start, end: _part(start, start + (end - start) // 2), id="half of it"),
        pytest.param(lambda start, end: _part(start - 1, end - 1), id="another place"),
        pytest.param(lambda start, end: _part(start, end, 1 << 40), id="of another object"),
        pytest.param(
            lambda start, end: (*_part(start, end)[:2], _LARGE[end:start:-1] + b"x"), id="backwards"
        ),
        pytest.param(lambda start, end: (*_part(start, end)[:2], flood(4 << 30)), id="gigabytes"),
        pytest.param(lambda start, end: (200, {"ETag": '"x"'}, _LARGE), id="all of it"),
        pytest.param(lambda start, end: (416, {}, b""), id="no such place"),
        pytest.param(lambda start, end: (404, {}, b"<Error><Code>NoSuchKey</Code></Error>"), id="gone"),
    ],
)
def test_a_large_object_that_lies(store: S3Store, liar: Liar, lie: Part) -> None:
    liar.lie = parts(lie)
    refused(lambda: store.fetch([_NAMED]))
    assert not store.local.has(_NAMED)
    assert len(liar.parts) <= 5


@pytest.mark.parametrize("total", [15 << 40, 1 << 50])
def test_a_large_object_that_no_disk_holds(store: S3Store, liar: Liar, total: int) -> None:
    liar.lie = parts(
        lambda start, end: (403, {}, b"<Error><Code>AccessDenied</Code></Error>"),
        lambda start, end: _part(start, end, total),
    )
    refused(lambda: store.fetch([_NAMED]))
    assert not store.local.has(_NAMED)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "does not let you"),
        (404, "NoSuchBucket", "no bucket"),
        (404, "NoSuchKey", "any longer"),
    ],
)
def test_a_refusal_that_is_longer_than_what_was_asked_for(
    store: S3Store, liar: Liar, status: int, code: str, words: str
) -> None:
    liar.lie = parts(
        lambda start, end: (
            (status, {}, f"<Error><Code>{code}</Code></Error>".encode().ljust(500))
            if end == len(_LARGE)
            else _part(start, end)
        )
    )
    refused(lambda: store.fetch([_NAMED]), words)


def test_credentials_that_run_out_at_the_end_are_renewed(
    store: S3Store, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[object] = []

    def renew(used: object) -> bool:
        renewed.append(used)
        return True

    monkeypatch.setattr(store.bucket._account, "renew", renew)
    liar.lie = parts(
        lambda start, end: (
            _part(start, end)
            if renewed or end < len(_LARGE)
            else (403, {}, b"<Error><Code>ExpiredToken</Code></Error>".ljust(500))
        )
    )
    store.fetch([_NAMED])
    assert len(renewed) == 1 and store.local.has(_NAMED)


def test_a_stream_that_cannot_be_started_ends_the_others(
    store: S3Store, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit of processes, or Ctrl-C: not all of the object comes before it is told."""
    begun: list[object] = []

    class Pool(ThreadPoolExecutor):
        def submit(self, *words: Any, **more: Any) -> Any:
            begun.append(words)
            if len(begun) == 2:
                raise RuntimeError("can't start new thread")
            return super().submit(*words, **more)

    def trickle(start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, 1 << 16):
            time.sleep(0.02)
            yield _LARGE[at : min(at + (1 << 16), end)]

    def slowly(start: int, end: int) -> Answer:
        return (*_part(start, end)[:2], trickle(start, end))

    liar.lie = parts(slowly)
    monkeypatch.setattr(fetching, "_STREAMS", 3)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(fetching, "ThreadPoolExecutor", Pool)
        fetching._large(store.bucket, store.local, _NAMED, _LARGE[: 4 * MIB], len(_LARGE), lambda size: None)
    assert len(liar.parts) == 1


def test_a_stream_ends_where_another_one_failed(store: S3Store, liar: Liar) -> None:
    """It is asked for no more once one was refused for good, though it may be tried again itself."""
    bucket = Bucket(store.bucket.place, patience=Patience(), timeouts=Timeouts(2, 5))
    patient = S3Store.open_at(bucket, Path(store.local.location).with_name("patient"))
    refusal: Answer = (403, {}, b"<Error><Code>AccessDenied</Code></Error>")
    liar.lie = parts(
        lambda start, end: refusal if start < 8 * MIB else (503, {}, b"<Error><Code>SlowDown</Code></Error>")
    )
    with pytest.raises(AccessDenied):
        patient.fetch([_NAMED])
    patient.close()
    assert len(liar.parts) < 12


def test_what_we_write_is_what_we_take(store: S3Store, liar: Liar) -> None:
    blobs = [str(number).encode() * 50 for number in range(packs.LEAST + 6)]
    digests = [store.put(blob) for blob in [b"", *blobs]]
    store.flush()
    assert any(path.endswith(".idx") for path in liar.objects)
    store.local.remove(digests)
    store._packs.forget()
    store.fetch(digests)
    assert all(store.local.has(digest) for digest in digests)
    assert store.remove(digests[:3]) == 3
    assert {held.digest for held in store.blobs()} == set(digests[3:])
