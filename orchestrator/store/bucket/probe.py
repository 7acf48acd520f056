"""What a bucket promises, found out by trying: nothing of it is believed, since some servers ignore conditions."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.digest import of_bytes
from orchestrator.errors import StoreError
from orchestrator.store.bucket.client import CONDITIONS, Bucket, proof, quietly
from orchestrator.store.bucket.failures import BucketError, garbled

_WRITERS, _ROUNDS = 8, 3  # some servers wait for seconds where many ask at once


@dataclass(frozen=True)
class Promises:
    """What was found. ``condition``: how an object is created at most once (CONDITIONS), or "none".

    ``integrity``: by what the server sees a damaged body: "payload" (the signed hash), "sha256", "md5" or "none".
    """

    condition: str
    race: bool  # of several at once, one wins
    read_after_write: bool
    overwrite: bool
    list_after_write: bool
    delete: bool
    ranges: bool
    multipart_condition: bool
    integrity: str
    versioned: bool

    @property
    def problem(self) -> str | None:
        """Why no store can be kept there, or None."""
        if self.condition == "none":
            return "ignores If-None-Match: a second publisher could replace what a first one published"
        if not self.race:
            return "lets several publishers at once win one name"
        if not (self.read_after_write and self.overwrite and self.list_after_write):
            return "does not show at once what was written"
        return None

    def summary(self) -> str:
        """One line for a person."""
        return (
            f"creates once by {self.condition}{'' if self.race else ' (not when raced)'}, "
            f"{'also' if self.multipart_condition else 'not'} in multipart; bodies checked by {self.integrity}; "
            f"{'reads after writes' if self.read_after_write and self.list_after_write else 'shows writes late'}; "
            f"{'deletes' if self.delete else 'may not delete'}{'; versioned' if self.versioned else ''}"
        )


def probe(bucket: Bucket) -> Promises:
    """Try everything, under keys that nobody else has, and remove them. Raises BucketError where it cannot write."""
    top = f"probe/{secrets.token_hex(8)}"
    made: list[str] = []
    try:
        return _Probe(bucket, top, made).run()
    finally:
        quietly(lambda: bucket.delete(made))


class _Probe:
    def __init__(self, bucket: Bucket, top: str, made: list[str]) -> None:
        self._bucket = bucket
        self._top = top
        self._made = made

    def run(self) -> Promises:
        condition = next((name for name in CONDITIONS if self._once(name)), "none")
        read, overwrite = self._visible()
        return Promises(
            condition=condition,
            race=condition != "none" and self._race(condition),
            read_after_write=read,
            overwrite=overwrite,
            list_after_write=self._listed(),
            delete=self._deleted(),
            ranges=self._ranges(),
            multipart_condition=self._multipart(),
            integrity=next((each for each in ("payload", "sha256", "md5") if self._checks(each)), "none"),
            versioned=self._versioned(),
        )

    def _key(self, name: str) -> str:
        key = f"{self._top}/{name}"
        self._made.append(key)
        return key

    def _put(self, key: str, data: bytes) -> None:
        self._bucket.put(key, data, of_bytes(data), "payload")

    def _once(self, condition: str) -> bool:
        """Whether a second writer is refused, and the first one's bytes stay."""
        key = self._key(f"once-{condition}")
        try:
            first = self._bucket.create(key, b"first", condition)
            second = self._bucket.create(key, b"second", condition)
        except BucketError as error:
            if error.passing or (condition == "if-none-match" and not _unknown(error)):
                raise
            return False
        return first and not second and self._bucket.read(key) == b"first"

    def _race(self, condition: str) -> bool:
        for number in range(_ROUNDS):
            key = self._key(f"race-{number}")
            gate = threading.Barrier(_WRITERS)

            def claim(writer: int, key: str = key, gate: threading.Barrier = gate) -> tuple[int, bool]:
                gate.wait()
                return writer, self._bucket.create(key, f"writer {writer}".encode(), condition)

            with ThreadPoolExecutor(_WRITERS) as pool:
                won = [writer for writer, mine in pool.map(claim, range(_WRITERS)) if mine]
            if len(won) != 1 or self._bucket.read(key) != f"writer {won[0]}".encode():
                return False
        return True

    def _visible(self) -> tuple[bool, bool]:
        key = self._key("visible")
        self._put(key, b"one")
        read = self._bucket.part(key, 0, 100) == (b"one", 3)
        self._put(key, b"two")
        return read, self._bucket.part(key, 0, 100) == (b"two", 3)

    def _listed(self) -> bool:
        names = [f"{self._top}/visible"]
        for number in range(3):
            names.append(self._key(f"list/{number}"))
            self._put(names[-1], b"x")
        return set(names) <= {key for key, _ in self._bucket.list(f"{self._top}/")}

    def _deleted(self) -> bool:
        try:
            self._bucket.delete([f"{self._top}/visible"])
        except BucketError as error:
            if error.passing:
                raise
            return False
        return self._bucket.size(f"{self._top}/visible") is None

    def _ranges(self) -> bool:
        key = self._key("ranges")
        self._put(key, bytes(range(100)))
        try:
            return self._bucket.part(key, 10, 5) == (bytes(range(10, 15)), 100)
        except BucketError:
            return False

    def _multipart(self) -> bool:
        """Whether the end of a multipart upload can be conditional too; nothing rests on it."""
        key = self._key("multipart")
        self._put(key, b"first")
        full, upload = self._bucket.full(key), ""
        try:
            upload = self._bucket.call("create_multipart_upload", "begin an upload", Key=full)["UploadId"]
            answer = self._bucket.send(
                "PUT", key, "upload a part", query=f"partNumber=1&uploadId={upload}", body=b"second"
            )
            part = {"PartNumber": 1, "ETag": answer.headers.get("etag", "")}
            self._bucket.call(
                "complete_multipart_upload",
                "complete an upload",
                Key=full,
                UploadId=upload,
                MultipartUpload={"Parts": [part]},
                IfNoneMatch="*",
            )
        except BucketError:
            if upload:
                quietly(lambda: self._bucket.abort(key, upload))
        return self._bucket.part(key, 0, 100) == (b"first", 5)

    def _checks(self, integrity: str) -> bool:
        """Whether a body that is not what was said is refused."""
        key = self._key(f"check-{integrity}")
        true, false = b"what was sent", b"what was said"
        said = of_bytes(false if integrity == "payload" else true)
        headers = proof(integrity, false, of_bytes(false))
        try:
            self._bucket.send("PUT", key, "probe", headers=headers, body=true, sha256=said)
        except BucketError as error:
            if type(error).__name__ in ("Throttled", "Unreachable"):
                raise garbled(self._bucket.place, "none to a probe") from error
            try:  # refused; and is an honest one taken?
                self._bucket.put(key, true, of_bytes(true), integrity)
            except BucketError:
                return False
            return True
        return False

    def _versioned(self) -> bool:
        try:
            found = self._bucket.call("get_bucket_versioning", "ask whether it is versioned")
        except StoreError:
            return False  # not known there, or not allowed to ask
        return found.get("Status") is not None


def _unknown(error: BucketError) -> bool:
    """Whether a refusal is of the header, not of the request (501 NotImplemented, 400 InvalidArgument)."""
    return "NotImplemented" in error.message or "InvalidArgument" in error.message
