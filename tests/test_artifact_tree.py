"""Trees: what is taken from a hostile directory, and what is believed of a hostile tree blob."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import canonical
from orchestrator.artifacts import taking, tree
from orchestrator.artifacts.inputs import InputCache
from orchestrator.digest import of_bytes
from orchestrator.errors import ArtifactError, MirageError, StoreError
from orchestrator.store.folder import FolderStore
from tests.store_tools import (
    FINE,
    ROOT,
    Heard,
    check_store,
    collect,
    in_child,
    open_descriptors,
    staged,
)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    folder = tmp_path / "payload"
    folder.mkdir()
    return folder


def _taken(store: FolderStore, folder: Path) -> dict[str, tree.TreeEntry]:
    return {entry.path: entry for entry in collect(store, folder)}


def _content(store: FolderStore, entry: tree.TreeEntry) -> bytes:
    assert entry.digest is not None
    with store.open(entry.digest) as source:
        return source.read()


def test_files_links_modes_and_empty_folders_are_taken(store: FolderStore, top: Path) -> None:
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_bytes(b"bytes")
    (top / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "run.sh").chmod(0o4755)
    (top / "nothing").mkdir()
    (top / "void").write_bytes(b"")
    (top / "a" / "up").symlink_to("../run.sh")
    (top / "dangling").symlink_to("a/not-there")
    found = _taken(store, top)
    assert {path: entry.kind for path, entry in found.items()} == {
        "a/b/file": "f",
        "run.sh": "f",
        "nothing": "d",
        "void": "f",
        "a/up": "l",
        "dangling": "l",
    }
    assert (found["run.sh"].executable, found["a/b/file"].executable) == (True, False)
    assert found["a/up"].target == "../run.sh"
    assert _content(store, found["a/b/file"]) == b"bytes"
    assert tree.parse(tree.encode(found.values())) == tuple(
        sorted(found.values(), key=lambda entry: entry.path.encode())
    )


def test_equal_content_gives_equal_trees_whatever_the_order_times_and_modes(
    store: FolderStore, tmp_path: Path
) -> None:
    blobs = []
    for mode, names in ((0o664, ("b", "a.x", "a")), (0o600, ("a", "b", "a.x"))):
        folder = tmp_path / oct(mode)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(name.encode())
            (folder / name).chmod(mode)
        os.utime(folder / "a", (1, 1))
        blobs.append(tree.encode(collect(store, folder)))
    assert blobs[0] == blobs[1]


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "odd")


def _socket(folder: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        listener.bind("odd")
    finally:
        os.chdir(here)
        listener.close()


def _device(folder: Path) -> None:
    if not ROOT:
        pytest.skip("making a device needs root")
    os.mknod(folder / "odd", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero: endless where it is read


def _absolute_link(folder: Path) -> None:
    (folder / "odd").symlink_to("/etc/shadow")


def _link_out(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "odd").symlink_to("../../outside")


def _link_out_through_a_link(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "top").symlink_to("..")
    (folder / "odd").symlink_to("inner/top/../outside")


def _link_out_through_itself_as_folder(folder: Path) -> None:
    (folder / "here").symlink_to(".")
    (folder / "odd").symlink_to("here/..")


def _link_to_folder_outside(folder: Path) -> None:
    (folder.parent / "outside").mkdir()
    (folder.parent / "outside" / "secret").write_bytes(b"secret")
    (folder / "odd").symlink_to(folder.parent / "outside", target_is_directory=True)


def _not_utf8(folder: Path) -> None:
    (folder / os.fsdecode(b"odd\xff\xfe")).write_bytes(b"")


def _link_not_utf8(folder: Path) -> None:
    (folder / "odd").symlink_to(os.fsdecode(b"\xff"))


def _too_deep(folder: Path) -> None:
    _nest(folder, "d", tree.MAX_DEPTH + 1)


def _beyond_path_max(folder: Path) -> None:
    _nest(folder, "n" * 200, 40)


def _nest(folder: Path, name: str, count: int) -> None:
    at = os.open(folder, os.O_RDONLY)
    for _ in range(count):
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
    os.close(at)


HOSTILE = [
    _fifo,
    _socket,
    _device,
    _absolute_link,
    _link_out,
    _link_out_through_a_link,
    _link_out_through_itself_as_folder,
    _link_to_folder_outside,
    _not_utf8,
    _link_not_utf8,
    _too_deep,
    _beyond_path_max,
]


@pytest.mark.parametrize("make", HOSTILE)
def test_what_cannot_be_taken_is_an_artifact_error_and_leaves_nothing(
    store: FolderStore, top: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    (top / "good").write_bytes(b"taken before the odd one is met")
    make(top)
    before = open_descriptors()
    with pytest.raises(ArtifactError) as caught:
        collect(store, top)
    assert open_descriptors() == before
    assert caught.value.message.isprintable()
    assert staged(tmp_path / "store") == []
    assert check_store(tmp_path / "store") == 0
    shutil.rmtree(top)


def test_a_name_cannot_speak_to_the_terminal(store: FolderStore, top: Path) -> None:
    os.mkfifo(top / "\x1b[2J\x1b]0;owned\x07\n")
    with pytest.raises(ArtifactError) as caught:
        collect(store, top)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "name", ["new\nline", "tab\tand space ", "ä-日本語-🜁", "-rf", "a\\b", "x" * 255, "..."]
)
def test_any_utf8_name_is_taken_and_laid_out(
    store: FolderStore, top: Path, tmp_path: Path, name: str
) -> None:
    (top / name).write_bytes(b"content")
    entries = collect(store, top)
    digest = store.put(tree.encode(entries))
    laid = InputCache(store, tmp_path / "trees", Heard()).lay_out(digest)
    assert (laid / name).read_bytes() == b"content"


def test_the_deepest_and_longest_that_is_taken_can_be_laid_out(
    store: FolderStore, top: Path, tmp_path: Path
) -> None:
    _nest(top, "n" * 22, tree.MAX_DEPTH)
    (entry,) = collect(store, top)
    assert 2900 < len(entry.path) <= tree.MAX_PATH
    laid = InputCache(store, tmp_path / "trees", Heard()).lay_out(store.put(tree.encode([entry])))
    assert (laid / entry.path).exists()
    shutil.rmtree(top)


def test_a_link_loop_is_kept_and_never_followed(store: FolderStore, top: Path) -> None:
    (top / "a").symlink_to("b")
    (top / "b").symlink_to("a")
    (top / "self").symlink_to("self")
    (top / "here").symlink_to(".")
    assert {entry.kind for entry in collect(store, top)} == {"l"}
    assert len(collect(store, top)) == 4


@pytest.mark.parametrize("swap", ["folder by link", "file by link", "file by pipe", "file by folder", "gone"])
def test_what_is_swapped_between_look_and_open_is_not_followed(
    store: FolderStore, top: Path, monkeypatch: pytest.MonkeyPatch, swap: str
) -> None:
    """The hostile race, always lost by us: right after each look the name is something else."""
    secret = top.parent / "secret"
    secret.mkdir()
    (secret / "inner").write_bytes(b"secret of the host")
    name = top / "name"
    if swap == "folder by link":
        name.mkdir()
    else:
        name.write_bytes(b"of the workflow")
    look = os.stat

    def look_and_lose(*given: Any, **more: Any) -> os.stat_result:
        status = look(*given, **more)
        if given[0] == "name":
            name.rename(top.parent / "before")
            if swap == "folder by link":
                name.symlink_to(secret, target_is_directory=True)
            elif swap == "file by link":
                name.symlink_to(secret / "inner")
            elif swap == "file by pipe":
                os.mkfifo(name)
            elif swap == "file by folder":
                name.mkdir()
        return status

    monkeypatch.setattr(os, "stat", look_and_lose)
    with pytest.raises(ArtifactError):
        collect(store, top)
    monkeypatch.undo()
    assert not store.has(of_bytes(b"secret of the host"))


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_its_owner_may_not_read_is_told(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        ground = Path(name)
        ground.chmod(0o777)

        def attempt() -> None:
            store = FolderStore.open_at(ground / "store")
            (ground / "payload" / "inner").mkdir(parents=True)
            (ground / "payload" / "inner" / "x").write_bytes(b"")
            (ground / "payload" / "inner" / ("x" if what == "file" else "")).chmod(0)
            with pytest.raises(ArtifactError, match="Permission denied"):
                collect(store, ground / "payload")
            (ground / "payload" / "inner").chmod(0o700)

        assert in_child(attempt, nobody=True) == FINE


def test_hard_links_are_two_files_with_one_blob(store: FolderStore, top: Path, tmp_path: Path) -> None:
    (top / "a").write_bytes(b"one content")
    os.link(top / "a", top / "b")
    found = _taken(store, top)
    assert found["a"].digest == found["b"].digest
    assert check_store(tmp_path / "store") == 1
    (top / "a").write_bytes(
        b"written after"
    )  # bytes were copied: the workflow's links do not reach the store
    assert _content(store, found["b"]) == b"one content"


def test_a_sparse_file_is_taken_whole_and_stays_sparse(store: FolderStore, top: Path, tmp_path: Path) -> None:
    with (top / "sparse").open("wb") as sink:
        sink.seek(50 << 20)
        sink.write(b"end")
    entry = _taken(store, top)["sparse"]
    assert entry.size == (50 << 20) + 3
    assert entry.digest == of_bytes(bytes(50 << 20) + b"end")
    assert store.blob_path(entry.digest).stat().st_blocks * 512 < 8 << 20


def test_a_file_that_is_written_to_meanwhile_is_refused_though_its_time_is_put_back(
    store: FolderStore, top: Path
) -> None:
    """By a mapping that is there already, and utime: size and time of modification are those of before."""
    path = top / "weights"
    path.write_bytes(b"A" * (32 << 20))
    status = path.stat()
    stop = threading.Event()

    def change() -> None:
        with path.open("r+b") as sink, mmap.mmap(sink.fileno(), 0) as mapped:
            while not stop.is_set():
                mapped[:4] = mapped[-4:] = b"EVIL"
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    writer = threading.Thread(target=change)
    writer.start()
    try:
        with pytest.raises(ArtifactError, match="changed while it was taken"):
            for _ in range(50):
                collect(store, top)
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("start", [0, 1000, 4 << 20])
def test_a_file_that_grows_meanwhile_is_refused(store: FolderStore, top: Path, start: int) -> None:
    path = top / "log"
    path.write_bytes(bytes(start))
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as sink:
            while not stop.is_set():
                sink.write(b"x" * 4096)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        while path.stat().st_size <= start:
            time.sleep(0.001)
        with pytest.raises(ArtifactError, match="changed while it was taken"):
            for _ in range(200):  # on two cores the writer may rest during one small copy
                collect(store, top)
    finally:
        stop.set()
        writer.join()


def test_ten_thousand_files(store: FolderStore, top: Path, tmp_path: Path) -> None:
    for number in range(10_000):
        (top / f"{number:05}").write_bytes(number.to_bytes(4, "big"))
    began = time.monotonic()
    entries = collect(store, top)
    assert time.monotonic() - began < 30, "was each file synced alone?"
    assert len(entries) == 10_000
    assert tree.parse(tree.encode(entries)) == entries
    assert all(store.has(entry.digest) for entry in entries if entry.digest)
    assert staged(tmp_path / "store") == []


def test_too_many_files_are_refused(store: FolderStore, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "MAX_FILES", 20)
    (top / "inner").mkdir()
    for number in range(19):
        (top / "inner" / str(number)).write_bytes(b"")
    assert len(collect(store, top)) == 19
    (top / "one more").write_bytes(b"")
    with pytest.raises(ArtifactError, match="more than 20 files"):
        collect(store, top)


# --- trees from elsewhere -----------------------------------------------------------------------------------

D = of_bytes(b"")


def _lines(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def _file(path: Any, **more: Any) -> dict[str, Any]:
    return {"p": path, "t": "f", "x": 0, "s": 0, "d": D, **more}


def _link(path: str, target: Any) -> dict[str, Any]:
    return {"p": path, "t": "l", "d": target}


BAD_TREES = {
    "not json": b"{\n",
    "not utf-8": b'{"p":"\xff","t":"d"}\n',
    "a list": b"[]\n",
    "a string": b'"p"\n',
    "null": b"null\n",
    "deep": b"[" * 100_000 + b"\n",
    "a huge number": b'{"p":"a","t":"f","x":0,"d":"","s":' + b"9" * 5000 + b"}\n",
    "no path": _lines({"t": "d"}),
    "empty path": _lines(_file("")),
    "absolute": _lines(_file("/etc/passwd")),
    "dot": _lines(_file("a/./b")),
    "dotdot": _lines(_file("../b")),
    "dotdot inside": _lines(_file("a/../../b")),
    "trailing slash": _lines(_file("a/")),
    "double slash": _lines(_file("a//b")),
    "nul": _lines(_file("a\0b")),
    "half a surrogate": b'{"p":"\\ud800","t":"d"}\n',
    "path no string": _lines(_file(3)),
    "too long": _lines(_file("/".join(["x" * 200] * 20))),
    "too deep": _lines(_file("/".join("d" * 200))),
    "twice": _lines(_file("a"), _file("a")),
    "file and folder": _lines(_file("a"), _file("a/b")),
    "folder and file": _lines(_file("a/b"), _file("a")),
    "below a link": _lines(_link("a", "b"), _file("a/x")),
    "below a link, later": _lines(_file("a/x/y"), _link("a/x", "..")),
    "unknown type": _lines({"p": "a", "t": "x"}),
    "type is a list": _lines({"p": "a", "t": []}),
    "negative size": _lines(_file("a", s=-1)),
    "size no number": _lines(_file("a", s="1")),
    "size a truth": _lines(_file("a", s=True)),
    "size a float": _lines(_file("a", s=1.0)),
    "bad digest": _lines(_file("a", d="sha256:../../x")),
    "no digest": _lines({"p": "a", "t": "f", "x": 0, "s": 0}),
    "absolute link": _lines(_link("a", "/etc")),
    "link out": _lines(_link("a/b", "../../x")),
    "link out in the middle": _lines(_link("a", "x/../../payload/y")),
    "empty link": _lines(_link("a", "")),
    "link no string": _lines(_link("a", ["x"])),
    "link with nul": _lines(_link("a", "x\0")),
    "link out by a link": _lines(_link("d/top", ".."), _link("z", "d/top/../out")),
    "link out by a later link": _lines(_link("a", "z/.."), _link("z", ".")),
}


@pytest.mark.parametrize("data", BAD_TREES.values(), ids=BAD_TREES.keys())
def test_a_hostile_tree_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError, match="a tree in the store cannot be used"):
        tree.parse(_lines(_file("before")) + data)


GOOD_TREES = {
    "nothing": (b"", 0),
    "folder with a file": (_lines({"p": "a", "t": "d"}, _file("a/b")), 2),
    "link up and down": (_lines(_file("a/b"), _link("c/d/e", "../../a/b")), 2),
    "link to the top": (_lines(_link("a/b", "..")), 1),
    "link through a link": (_lines(_link("a", "b"), _link("c", "a/d")), 2),
    "link up beside a link": (_lines(_link("a", "b"), _link("d/c", "../a")), 2),
}


@pytest.mark.parametrize("data,count", GOOD_TREES.values(), ids=GOOD_TREES.keys())
def test_an_honest_tree_is_read(data: bytes, count: int) -> None:
    assert len(tree.parse(data)) == count


@given(st.binary(max_size=300))
def test_any_bytes_are_a_tree_or_a_store_error(data: bytes) -> None:
    try:
        tree.parse(data)
    except MirageError as error:
        assert isinstance(error, StoreError)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_tree_is_canonical_json(path: str, target: str) -> None:
    for entry in (
        tree.TreeEntry(path, "f", True, 2**53 - 1, D),
        tree.TreeEntry(path, "l", target=target),
        tree.TreeEntry(path, "d"),
    ):
        assert tree.encode([entry]) == canonical.encode(entry.to_json()) + b"\n"


PARTS = st.sampled_from(["a", "b", "c", ".", "..", ""])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


@st.composite
def _trees(draw: st.DrawFn) -> bytes:
    items: list[Any] = []
    for path in draw(st.lists(PATHS, min_size=1, max_size=6)):
        items.append(draw(st.sampled_from([_file(path), {"p": path, "t": "d"}, _link(path, draw(PATHS))])))
    return _lines(*items)


@given(_trees())
def test_no_tree_that_is_accepted_leads_out_of_its_folder(data: bytes) -> None:
    """Laid out for real, each path and each chain of links resolves below the folder."""
    try:
        entries = tree.parse(data)
    except StoreError:
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        top = Path(name).resolve() / "one" / "tree"
        top.mkdir(parents=True)
        for entry in entries:
            path = top / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == "l":
                path.symlink_to(entry.target)
            elif entry.kind == "d":
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(b"")
        for entry in entries:
            real = os.path.realpath(top / entry.path)
            assert real == str(top) or real.startswith(f"{top}/"), (entry, real)


@pytest.fixture(autouse=True)
def _no_deep_leftovers(tmp_path: Path) -> Iterator[None]:
    """pytest's own removal of old folders gives up on paths beyond PATH_MAX."""
    yield
    shutil.rmtree(tmp_path / "payload", ignore_errors=True)
