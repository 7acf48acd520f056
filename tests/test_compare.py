"""Contents compared by their formats: what counts as the same, where two part first, and what a tolerance lets pass."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from orchestrator.artifacts import by_hand
from orchestrator.compare import artifacts, containers
from orchestrator.compare.contents import by_bytes, compare
from orchestrator.compare.difference import Difference, Tolerance
from orchestrator.compare.tolerances import Tolerances, recorded
from orchestrator.errors import CannotVerify
from orchestrator.store.folder import FolderStore

EXACT = Tolerance()
NEAR = Tolerance(rtol=1e-3)


def npy(array: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def _upon_each_other(letter: bytes) -> bytes:
    """A file of 100,000 tensors that all lie in the same 8,000 bytes."""
    one = {"dtype": "F64", "shape": [1000], "data_offsets": [0, 8000]}
    head = json.dumps({f"t{number}": one for number in range(100_000)}).encode()
    return struct.pack("<Q", len(head)) + head + letter * 8000


def told(found: Difference | None) -> Difference:
    assert found is not None, "no difference was found"
    return found


@pytest.mark.parametrize("seed", range(5))
def test_the_first_byte_that_differs_is_found(seed: int) -> None:
    dice = random.Random(seed)
    data = dice.randbytes(1000)
    at = dice.randrange(1000)
    other = bytearray(data)
    other[at] ^= 1
    other[-1] ^= 2
    assert told(by_bytes(data, bytes(other))).place == f"byte {at if at < 999 else 999}"
    assert told(by_bytes(data, data[:500])).again == "500 bytes"
    assert by_bytes(data, data) is None


def test_json_means_the_same_in_any_order_and_spelling() -> None:
    assert compare("a.json", b'{"a": 1, "b": [1.0]}', b'{"b":[1],\n"a":1}', EXACT) is None
    found = told(
        compare("a.json", b'{"a": {"b": [1, 2.0]}, "c": 1}', b'{"a": {"b": [1, 2.0001]}, "c": 9}', EXACT)
    )
    assert (found.place, found.original, found.again, found.within) == ("a.b.1", "2.0", "2.0001", False)


@pytest.mark.parametrize(
    ("original", "again"),
    [
        ({"a": 1}, {}),
        ({}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": None}, {"a": 0}),
        ({"a": []}, {"a": [1]}),
        ({"a": []}, {"a": {}}),
        ({"a": float("inf")}, {"a": 1e308}),
    ],
)
def test_json_of_another_form_differs_at_any_tolerance(original: Any, again: Any) -> None:
    wide = Tolerance(rtol=10, atol=10)
    assert not told(compare("a.json", json.dumps(original).encode(), json.dumps(again).encode(), wide)).within


def test_a_tolerance_lets_near_numbers_pass_and_no_others() -> None:
    near = told(compare("a.json", b"[1.0, 100.0]", b"[1.0005, 100.05]", NEAR))
    assert near.within
    far = told(compare("a.json", b"[1.0, 100.0]", b"[1.0005, 101.0]", NEAR))
    assert (far.place, far.within) == ("1", False)
    assert compare("a.json", b"[NaN]", b"[NaN ]", EXACT) is None


def test_the_nearest_pattern_says_how_far_an_output_may_differ() -> None:
    committed = (
        ("*", Tolerance(rtol=1.0)),
        ("model:*", Tolerance(rtol=2.0, ignore=("a",))),
        ("model:small*", Tolerance(rtol=3.0)),
        ("model:small", Tolerance(rtol=4.0)),
        ("metric:loss", Tolerance(atol=5.0)),
    )
    given = Tolerances(committed)
    names = ("file:x", "model:large", "model:smallest", "model:small", "metric:loss")
    assert [given.of(name).rtol for name in names] == [1.0, 2.0, 3.0, 4.0, 0.0]
    assert given.of("metric:loss").atol == 5.0 and Tolerances(committed[1:]).of("file:x") == Tolerance()
    above = Tolerances(committed, rtol=0.0, ignore=("b",))
    assert above.of("model:large") == Tolerance(ignore=("a", "b")) and above.of("metric:loss").atol == 5.0
    told_ = recorded({"tolerance": given.to_json()})
    assert told_ == committed and recorded({}) == ()
    with pytest.raises(CannotVerify, match="bad pattern"):
        recorded({"tolerance": {"*": {"rtol": 0, "atol": 0, "ignore": ["("]}}})


def test_tables_are_compared_column_by_column() -> None:
    def written(columns: dict[str, list[Any]], **options: Any) -> bytes:
        sink = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), sink, **options)
        return sink.getvalue()

    columns: dict[str, list[Any]] = {"a": [1.0, 2.0], "b": ["x", "y"]}
    plain, packed = written(columns), written(columns, compression="gzip")
    assert plain != packed and compare("a.parquet", plain, packed, EXACT) is None
    near = told(compare("a.parquet", plain, written({**columns, "a": [1.0, 2.0001]}), NEAR))
    assert (near.place, near.within) == ("a.1", True)
    assert not told(compare("a.parquet", plain, written({**columns, "b": ["x", "z"]}), NEAR)).within
    assert (
        "columns" in told(compare("a.parquet", plain, written({"a": [1, 2], "b": ["x", "y"]}), NEAR)).original
    )
    assert told(compare("a.parquet", plain, plain[:-20], EXACT)).again.endswith("bytes"), (
        "damaged: by its bytes"
    )


def test_what_is_ignored_is_not_looked_at() -> None:
    ignoring = Tolerance(ignore=(r"meta\.time", r"took \d+ s"))
    old, new = {"meta": {"time": 1}, "v": 1}, {"meta": {"time": 2}, "v": 1}
    assert compare("a.json", json.dumps(old).encode(), json.dumps(new).encode(), ignoring) is None
    assert compare("a.txt", b"x took 5 s\n", b"x took 6 s\n", ignoring) is None
    assert told(compare("a.txt", b"x took 5 s\n", b"y took 6 s\n", ignoring)).place == "line 1"
    assert told(compare("a.json", b'{"meta": 1}', b'{"meta": 2}', ignoring)).place == "meta"


def test_text_differs_at_a_line_and_its_numbers_may_be_near() -> None:
    assert told(compare("a.csv", b"a,b\n1,2\n", b"a,b\n1,3\n", EXACT)).place == "line 2"
    assert told(compare("a.csv", b"a,b\n1.0,2\n", b"a,b\n1.0001,2\n", NEAR)).within
    assert not told(compare("a.csv", b"a,b\n1.0,2\n", b"a,c\n1.0001,2\n", NEAR)).within
    assert not told(compare("a.csv", b"a\n", b"a\nb\n", NEAR)).within
    assert compare("a.txt", b"a\r\n", b"a\n", EXACT) is None


def test_lines_of_json_are_compared_line_by_line() -> None:
    assert told(compare("m.jsonl", b'{"a":1}\n{"a":2}\n', b'{"a":1}\n{"a":3}\n', EXACT)).place == "1.a"


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f4", "i1", "i8", "u2", "c8", "c16"])
def test_arrays_differ_at_an_element_and_within_a_tolerance(kind: str) -> None:
    array = (np.arange(24).reshape(2, 3, 4) + 1).astype(kind)
    assert compare("a.npy", npy(array), npy(array.copy()), EXACT) is None
    other = array.copy()
    other[1, 2, 0] += 1
    found = told(compare("a.npy", npy(array), npy(other), NEAR))
    assert (found.place, found.within) == ("[1, 2, 0]", False)
    assert told(compare("a.npy", npy(array), npy(other), Tolerance(atol=1.5))).within


def test_arrays_of_another_order_type_or_shape() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert compare("a.npy", npy(array), npy(array.astype(">f8")), EXACT) is None
    columns = np.asfortranarray(array)
    changed = columns.copy(order="F")
    changed[0, 2] = 9
    assert told(compare("a.npy", npy(columns), npy(changed), EXACT)).place == "[0, 2]"
    assert told(compare("a.npy", npy(array), npy(array.astype("f4")), EXACT)).original == "f8[2x3]"
    assert told(compare("a.npy", npy(array), npy(array.reshape(3, 2)), EXACT)).again == "f8[3x2]"
    nothing = np.array([np.nan, -0.0])
    assert compare("a.npy", npy(nothing), npy(np.array([np.nan, 0.0])), EXACT) is None


def test_a_large_array_is_read_beyond_its_first_piece() -> None:
    array = np.zeros(100_000, dtype="f8")
    other = array.copy()
    other[77_777] = 1e-9
    assert told(compare("a.npy", npy(array), npy(other), EXACT)).place == "[77777]"
    assert told(compare("a.npy", npy(array), npy(other), Tolerance(atol=1e-8))).within


def test_damaged_files_are_compared_by_their_bytes() -> None:
    for name in ("a.npy", "a.json", "a.png", "a.safetensors", "a.jsonl", "a.parquet", "a.zip"):
        found = told(compare(name, b"\x93NUMPY\x01damage", b"\x93NUMPY\x02damage", Tolerance(1, 1)))
        assert (found.place, found.within) == ("byte 6", False), name


def zipped(members: dict[str, bytes], *, packed: bool, year: int) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), data)
    return sink.getvalue()


def test_containers_are_compared_by_what_they_hold() -> None:
    members = {"a.json": b'{"x": 1.0}', "w.npy": npy(np.ones(3))}
    backwards = dict(reversed(members.items()))
    old = zipped(members, packed=True, year=2001)
    assert compare("m.npz", old, zipped(backwards, packed=False, year=2020), EXACT) is None
    changed = zipped({**members, "w.npy": npy(np.array([1, 1, 1.0001]))}, packed=True, year=2001)
    found = told(compare("m.npz", old, changed, EXACT))
    assert found.place == "w.npy: [2]"
    assert told(compare("m.npz", old, changed, NEAR)).within
    fewer = zipped({"a.json": members["a.json"]}, packed=True, year=2001)
    assert told(compare("m.pt", old, fewer, NEAR)).again == "nothing"
    assert told(compare("m.pt", fewer, old, NEAR)).original == "nothing"
    one, two = gzip.compress(b"[1.0]", mtime=1), gzip.compress(b"[1.0]", mtime=2)
    assert one != two and compare("a.json.gz", one, two, EXACT) is None
    assert told(compare("a.json.gz", one, gzip.compress(b"[1.0002]"), NEAR)).within


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    header, body = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_tensors_are_compared_one_by_one() -> None:
    bias = struct.pack("<2f", 1.0, 2.0)
    half = struct.pack("<2H", 0x3F80, 0x4000)  # 1.0 and 2.0 as bfloat16
    old = safetensors({"bias": ("F32", [2], bias), "scale": ("BF16", [2], half)})
    same = safetensors({"scale": ("BF16", [2], half), "bias": ("F32", [2], bias)})
    assert old != same and compare("m.safetensors", old, same, EXACT) is None
    other = safetensors(
        {"bias": ("F32", [2], bias), "scale": ("BF16", [2], struct.pack("<2H", 0x3F80, 0x4001))}
    )
    found = told(compare("m.safetensors", old, other, EXACT))
    assert (found.place, found.original) == ("scale: [1]", "2.0")
    assert told(compare("m.safetensors", old, other, Tolerance(rtol=0.01))).within
    assert (
        told(compare("m.safetensors", old, safetensors({"bias": ("F32", [2], bias)}), EXACT)).again
        == "nothing"
    )


def png(pixels: Any, *, kinds: list[int], level: int, text: bytes = b"") -> bytes:
    """A PNG of 8-bit pixels (height x width x channels), each line with the filter that ``kinds`` says in turn."""
    height, width, channels = pixels.shape
    lines = pixels.reshape(height, width * channels).astype(int)
    raw = b""
    for row in range(height):
        kind, line = kinds[row % len(kinds)], lines[row]
        above = lines[row - 1] if row else np.zeros_like(line)
        left = np.concatenate([np.zeros(channels, int), line[:-channels]])
        corner = np.concatenate([np.zeros(channels, int), above[:-channels]])
        guess = left + above - corner
        apart = [abs(guess - each) for each in (left, above, corner)]
        nearest = np.where(
            (apart[0] <= apart[1]) & (apart[0] <= apart[2]),
            left,
            np.where(apart[1] <= apart[2], above, corner),
        )
        taken = (0, left, above, (left + above) // 2, nearest)[kind]
        raw += bytes([kind]) + ((line - taken) % 256).astype("u1").tobytes()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    comment = chunk(b"tEXt", b"Software\0" + text) if text else b""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            comment,
            chunk(b"IDAT", zlib.compress(raw, level)),
            chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_are_compared_by_their_pixels(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (20, 30, channels))
    old = png(pixels, kinds=[0], level=9)
    again = png(pixels, kinds=[0, 1, 2, 3, 4], level=1, text=b"another library")
    assert compare("a.png", old, again, EXACT) is None
    changed = pixels.copy()
    changed[7, 11, 0] += 1
    found = told(compare("a.png", old, png(changed, kinds=[4, 2], level=1), EXACT))
    assert (found.place, found.within) == ("pixel (11, 7)", False)
    assert told(compare("a.png", old, png(changed, kinds=[4, 2], level=1), Tolerance(atol=1))).within
    assert told(compare("a.png", old, png(pixels[:10], kinds=[0], level=1), EXACT)).again.startswith("30x10")


def test_artifacts_are_compared_file_by_file(tmp_path: Path) -> None:
    store = FolderStore.open_at(tmp_path / "store")

    def artifact(name: str, files: dict[str, bytes]) -> Any:
        folder = tmp_path / name
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        return by_hand.add(store, folder, kind="file", name=name, version=None).digest

    old = artifact("old", {"a.txt": b"a\n", "deep/m.json": b"[1.0]"})
    assert (
        artifacts.compare(store, old, artifact("same", {"a.txt": b"a\n", "deep/m.json": b"[ 1.0 ]"}), EXACT)
        is None
    )
    changed = told(
        artifacts.compare(store, old, artifact("new", {"a.txt": b"a\n", "deep/m.json": b"[1.5]"}), EXACT)
    )
    assert changed.place == "deep/m.json: 0"
    less = told(artifacts.compare(store, old, artifact("less", {"deep/m.json": b"[1.0]"}), EXACT))
    assert (less.place, less.again) == ("a.txt", "nothing")
    more = told(artifacts.compare(store, artifact("only", {"a.txt": b"a\n"}), old, EXACT))
    assert (more.place, more.original) == ("deep/m.json", "nothing")


def test_an_archive_of_too_much_is_compared_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its members may lie upon each other, so that its size says nothing."""

    def archive(compression: int) -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", compression) as made:
            for name in "abc":
                made.writestr(zipfile.ZipInfo(name), bytes(1 << 20), compression)
        return packed.getvalue()

    stored, deflated = archive(zipfile.ZIP_STORED), archive(zipfile.ZIP_DEFLATED)
    assert compare("x.zip", stored, deflated, Tolerance()) is None
    monkeypatch.setattr(containers, "_TOTAL", 5 << 20)
    found = compare("x.zip", stored, deflated, Tolerance())
    assert found is not None and found.place.startswith("byte ")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("a.npy", b"\x93NUMPY\x02\x00" + (1 << 20).to_bytes(4, "little") + b"[" * (1 << 20), b"a"),
        ("a.npy", b"\x93NUMPY\x02\x00" + (1 << 24).to_bytes(4, "little") + b"1," * (1 << 23), b"a"),
        ("a.safetensors", _upon_each_other(b"a"), _upon_each_other(b"b")),
    ],
)
def test_what_would_take_minutes_is_compared_as_bytes(name: str, one: bytes, other: bytes) -> None:
    begun = time.monotonic()
    found = compare(name, one, other, Tolerance())
    assert found is not None and found.place.startswith("byte ")
    assert time.monotonic() - begun < 10, "with room for a busy machine: it was minutes"
