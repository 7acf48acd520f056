"""Layers: the same entries give the same bytes, and every tar reader gives them back."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.image import layer
from orchestrator.image.layer import MTIME, Entry, LayerError

ODD_NAMES = [
    b"plain.txt",
    b"with space and 'quote\"",
    b"new\nline",
    b"back\\slash",
    "caf\u00e9 \u4f60\u597d \U0001f40d".encode(),
    b"latin-1 \xe9\xff",
    b"n" * 100,
    b"n" * 101,
    b"n" * 255,
    "\u00e9".encode() * 99,
    b"-rf",
]


def read_back(data: bytes) -> dict[bytes, tuple[str, int, bytes]]:
    """Path -> (kind, mode, content or target), by tarfile."""
    found: dict[bytes, tuple[str, int, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            name = os.fsencode(member.name)
            assert name not in found
            if member.isdir():
                found[name] = ("dir", member.mode, b"")
            elif member.issym():
                found[name] = ("link", member.mode, os.fsencode(member.linkname))
            else:
                body = archive.extractfile(member)
                assert body is not None
                found[name] = ("file", member.mode, body.read())
            assert (member.mtime, member.uid, member.gid) == (MTIME, 0, 0)
            assert (member.uname, member.gname) == ("", "")
    return found


@contextmanager
def umask(mode: int) -> Iterator[None]:
    before = os.umask(mode)
    try:
        yield
    finally:
        os.umask(before)


def make_tree(top: Path, names: list[bytes], mode: int, stamp: int) -> None:
    with umask(mode):
        top.mkdir()
        for name in names:
            path = os.path.join(os.fsencode(top), name)
            os.mkdir(path)
            with open(os.path.join(path, b"file"), "wb") as target:
                target.write(name * 3)
            with open(os.path.join(path, b"run"), "wb") as target:
                target.write(b"#!/bin/sh\n")
            os.chmod(os.path.join(path, b"run"), 0o700 if mode else 0o755)
            os.symlink(b"../" + name, os.path.join(path, b"link"))
            os.utime(os.path.join(path, b"file"), (stamp, stamp))
        os.utime(top, (stamp, stamp))


def test_order_umask_time_and_owner_of_the_source_leave_no_trace(tmp_path: Path) -> None:
    make_tree(tmp_path / "a", ODD_NAMES, 0o022, 1)
    make_tree(tmp_path / "b", ODD_NAMES[::-1], 0o077, 1700000000)
    if os.getuid() == 0:
        for folder, _, files in os.walk(os.fsencode(tmp_path / "b")):
            for name in files:
                os.chown(os.path.join(folder, name), 1234, 4321, follow_symlinks=False)
    first, second = (
        layer.to_bytes(layer.scan(os.fsencode(tmp_path / name), b"opt/tree")) for name in ("a", "b")
    )
    assert first == second
    found = read_back(first)
    assert found[b"opt"] == found[b"opt/tree"] == ("dir", 0o755, b"")
    for name in ODD_NAMES:
        assert found[b"opt/tree/" + name + b"/file"] == ("file", 0o644, name * 3)
        assert found[b"opt/tree/" + name + b"/run"] == ("file", 0o755, b"#!/bin/sh\n")
        assert found[b"opt/tree/" + name + b"/link"] == ("link", 0o777, b"../" + name)
    assert len(found) == 2 + 4 * len(ODD_NAMES)


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C.UTF-8"},
        {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
    ],
)
def test_locale_and_time_zone_of_the_writing_process_leave_no_trace(
    tmp_path: Path, env: dict[str, str]
) -> None:
    make_tree(tmp_path / "a", ODD_NAMES, 0o022, 1)
    program = (
        "import os, sys; sys.path.insert(0, os.path.dirname(sys.argv[1])); import layer\n"
        "print(layer.to_file(layer.scan(os.fsencode(sys.argv[2]), b'x'), open(os.devnull, 'wb')))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, str(layer.__file__), str(tmp_path / "a")],
        env=env,
        check=True,
        capture_output=True,
    )
    here = layer.to_bytes(layer.scan(os.fsencode(tmp_path / "a"), b"x"))
    assert told.stdout.decode().strip() == hashlib.sha256(here).hexdigest()


def test_gnu_tar_reads_it_back(tmp_path: Path) -> None:
    make_tree(tmp_path / "a", ODD_NAMES, 0o022, 1)
    (tmp_path / "a.tar").write_bytes(layer.to_bytes(layer.scan(os.fsencode(tmp_path / "a"), b"tree")))
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        ["tar", "-xf", tmp_path / "a.tar", "-C", tmp_path / "out"],
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=True,
    )
    assert {line for line in done.stderr.splitlines() if b"hdrcharset" not in line} == set()
    again = layer.to_bytes(layer.scan(os.fsencode(tmp_path / "out" / "tree"), b"tree"))
    assert again == (tmp_path / "a.tar").read_bytes()


def test_long_paths_and_long_link_targets(tmp_path: Path) -> None:
    deep = b"/".join([b"d" * 50] * 8)
    entries = [
        Entry(deep + b"/f", "file", data=b"x"),
        Entry(b"l", "link", data=b"t" * 300),
        Entry(b"m", "link", data="\u00e9".encode()),
        Entry(b"n", "link", data=b"\xff"),
    ]
    found = read_back(layer.to_bytes(entries))
    assert found[deep + b"/f"] == ("file", 0o644, b"x")
    assert [found[name][2] for name in (b"l", b"m", b"n")] == [b"t" * 300, "\u00e9".encode(), b"\xff"]


@pytest.mark.parametrize("size", [(8 << 30) - 1, 8 << 30, 1 << 41])
def test_sizes_beyond_the_octal_field_are_read_back(size: int) -> None:
    block = layer.header(b"big", 0o644, size, b"0")
    with tarfile.open(fileobj=io.BytesIO(block + bytes(1024))) as archive:
        member = archive.next()
        assert member is not None
        assert member.size == size
    assert len(block) == (512 if size < 8 << 30 else 3 * 512)


def test_large_owners_are_read_back() -> None:
    block = layer.header(b"x", 0o644, 0, b"0", uid=1 << 22, gid=(1 << 32) - 2)
    with tarfile.open(fileobj=io.BytesIO(block + bytes(1024))) as archive:
        assert [(m.uid, m.gid) for m in archive] == [(1 << 22, (1 << 32) - 2)]


def test_only_names_that_are_no_utf8_are_marked_as_bytes() -> None:
    assert b" hdrcharset=BINARY\n" in layer.header(b"\xff", 0o644, 0, b"0")
    assert b" hdrcharset=BINARY\n" in layer.header(b"x", 0o777, 0, b"2", b"\xff")
    assert b"hdrcharset" not in layer.header("\u00e9".encode(), 0o777, 0, b"2", b"n" * 200)
    assert layer.header(b"x", 0o644, 0, b"0")[156:157] == b"0"  # a plain name needs no extension


def test_a_pax_record_counts_its_own_length() -> None:
    for size in range(1, 1100):
        name = b"\xc3\xa9" + b"n" * size
        assert list(read_back(layer.header(name, 0o644, 0, b"0") + bytes(1024))) == [name]


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_files_of_any_size_come_out_whole_in_small_pieces(tmp_path: Path, size: int) -> None:
    data = Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(data)
    pieces: list[bytes] = []
    layer.write(
        [Entry(b"f", "file", source=os.fsencode(tmp_path / "f"))], lambda piece: pieces.append(bytes(piece))
    )
    assert read_back(b"".join(pieces)) == {b"f": ("file", 0o644, data)}
    assert b"".join(pieces) == layer.to_bytes([Entry(b"f", "file", data=data)])
    assert max(map(len, pieces)) <= 1 << 20


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/a",
        b"a/",
        b"a//b",
        b"../a",
        b"a/../b",
        b"./a",
        b"a\0b",
        b".wh.x",
        b"a/.wh..wh..opq",
        b".wh.d/a",
    ],
)
def test_a_path_that_climbs_out_or_hides_another_is_refused(path: bytes) -> None:
    with pytest.raises(LayerError):
        layer.to_bytes([Entry(path, "file")])


@pytest.mark.parametrize(
    "entries",
    [
        [Entry(b"a", "file"), Entry(b"a", "file")],
        [Entry(b"a", "file"), Entry(b"a", "dir")],
        [Entry(b"a", "link", data=b"b"), Entry(b"a/c", "file")],
        [Entry(b"a/b/c", "file"), Entry(b"a", "file")],
    ],
)
def test_two_things_with_one_name_are_refused(entries: list[Entry]) -> None:
    with pytest.raises(LayerError):
        layer.to_bytes(entries)


def test_a_pipe_in_the_tree_is_refused_with_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LayerError, match="pipe"):
        layer.scan(os.fsencode(tmp_path), b"x")


def test_a_link_put_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    entries = layer.scan(os.fsencode(tmp_path), b"x")
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic links"):
        layer.to_bytes(entries)


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(3 << 20))

    def disturb(piece: memoryview) -> None:
        if change == "longer":
            with path.open("ab") as target:
                target.write(b"x")
        else:
            os.truncate(path, 100)

    with pytest.raises(LayerError, match=change):
        layer.write([Entry(b"f", "file", source=os.fsencode(path))], disturb)


names = st.binary(min_size=1, max_size=140).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..") and name[:4] != b".wh."
)
contents = st.one_of(
    st.tuples(st.just("file"), st.booleans(), st.binary(max_size=1100)),
    st.tuples(
        st.just("link"), st.just(False), st.binary(min_size=1, max_size=300).filter(lambda b: b"\0" not in b)
    ),
    st.tuples(st.just("dir"), st.just(False), st.just(b"")),
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.lists(names, min_size=1, max_size=3).map(tuple), contents, max_size=8),
    st.randoms(use_true_random=False),
)
def test_any_tree_is_read_back_by_tarfile_and_does_not_depend_on_order(
    tree: dict[tuple[bytes, ...], tuple[str, bool, bytes]], luck: Random
) -> None:
    entries = [Entry(b"/".join(parts), *what) for parts, what in tree.items()]
    try:
        data = layer.to_bytes(entries)
    except LayerError:
        tops = {parts[:n] for parts in tree for n in range(1, len(parts))}
        assert any(what[0] != "dir" for parts, what in tree.items() if parts in tops)
        return
    luck.shuffle(entries)
    assert layer.to_bytes(entries) == data
    found = read_back(data)
    assert list(found) == sorted(found)
    modes = {"dir": 0o755, "link": 0o777}
    for entry in entries:
        mode = modes.get(entry.kind, 0o755 if entry.executable else 0o644)
        assert found[entry.path] == (entry.kind, mode, entry.data)
    for path in found:
        assert path.rpartition(b"/")[0] in {b"", *found}


def test_the_digest_that_is_told_is_that_of_the_bytes(tmp_path: Path) -> None:
    entries = [Entry(b"a", "file", data=b"x" * 5000)]
    with (tmp_path / "a.tar").open("wb") as target:
        told = layer.to_file(entries, target)
    assert told == hashlib.sha256((tmp_path / "a.tar").read_bytes()).hexdigest()
    assert told == hashlib.sha256(layer.to_bytes(entries)).hexdigest()
