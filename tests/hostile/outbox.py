"""A workflow that hands its host everything but honest artifacts, over the outbox's own protocol.

Runs inside a run's container; the standard library only. CANARY is the path of a file of the host that must never be
read through any of this. The answers of the host go into the last save, named `answers`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

OUT = "/mirage/out/artifacts"
CANARY = os.environ["CANARY"]
NAMES: dict[int, str] = {}


def begin(what: str) -> tuple[int, str]:
    """A new payload."""
    n = len(NAMES)
    NAMES[n] = what
    os.mkdir(f"{OUT}/{n}")
    return n, f"{OUT}/{n}"


def announce(number: int, data: bytes | None = None, **fields: Any) -> None:
    """Say that it is ready, in the words given."""
    ready: dict[str, Any] = {
        "schema": "mirage-ready/1", "n": number, "kind": "file", "name": f"hostile-{number}", "version": None,
        "format": "directory", "entry": None, "metadata": {},
    }  # fmt: skip
    with open(f"{OUT}/{number}.tmp", "wb") as sink:
        sink.write(json.dumps({**ready, **fields}).encode() if data is None else data)
    os.rename(f"{OUT}/{number}.tmp", f"{OUT}/{number}.ready.json")


def forge(what: str, data: bytes | None = None, **fields: Any) -> None:
    """An honest file under a dishonest announcement."""
    n, path = begin(what)
    write(f"{path}/data.json", b"{}")
    announce(n, data, **fields)


def write(path: str, data: bytes = b"x") -> None:
    """A file."""
    with open(path, "wb") as sink:
        sink.write(data)


def linked(what: str, target: str) -> None:
    """A payload with a link."""
    n, path = begin(what)
    os.symlink(target, f"{path}/link")
    announce(n)


def files() -> None:
    """What a payload may hold."""
    linked("link, absolute", CANARY)
    linked("link, relative", "../../../../../../../../../../../.." + CANARY)
    linked("link to /proc/self/root", "/proc/self/root" + CANARY)
    n, path = begin("link through a link")
    os.symlink(".", f"{path}/here")
    os.symlink("here/../../" + CANARY.lstrip("/"), f"{path}/out")
    announce(n)
    n, path = begin("payload is a link")
    os.rmdir(path)
    os.symlink(os.path.dirname(CANARY), path)
    announce(n)
    n, path = begin("payload is a file")
    os.rmdir(path)
    write(path)
    announce(n)
    n, path = begin("link as the entry")
    os.symlink(CANARY, f"{path}/data.json")
    announce(n, entry="data.json", format="json")
    n, path = begin("fifo")
    os.mkfifo(f"{path}/pipe")
    announce(n)
    n, path = begin("socket")
    plug = socket.socket(socket.AF_UNIX)
    os.chdir(path)
    plug.bind("plug")
    announce(n)
    n, path = begin("directories, 1,000 deep")
    os.chdir(path)
    for _ in range(1000):
        os.mkdir("deep")
        os.chdir("deep")
    write("bottom")
    os.chdir("/")
    announce(n)
    n, path = begin("longest path")
    os.chdir(path)
    for _ in range(20):
        os.mkdir("a" * 250)
        os.chdir("a" * 250)
    write("bottom")
    os.chdir("/")
    announce(n)
    n, path = begin("name that is not UTF-8")
    write(os.fsdecode(os.fsencode(path) + b"/\xff\xfe"))
    announce(n)
    n, path = begin("names with newlines and escapes")
    write(f"{path}/a\nb")
    write(f"{path}/\x1b]0;owned\x07\x1b[2J")
    write(f"{path}/" + "\u00e9" * 127)
    write(f"{path}/\u202etxt.exe")
    announce(n)
    n, path = begin("case pair")
    write(f"{path}/Readme", b"upper")
    write(f"{path}/readme", b"lower")
    announce(n)
    n, path = begin("setuid")
    write(f"{path}/sh", b"#!/bin/sh\n")
    os.chmod(f"{path}/sh", 0o6755)
    announce(n, entry="sh")
    n, path = begin("modes 000")
    os.mkdir(f"{path}/shut")
    write(f"{path}/shut/file", b"shut")
    os.chmod(f"{path}/shut/file", 0)
    os.chmod(f"{path}/shut", 0)
    announce(n)
    n, path = begin("hard links")
    write(f"{path}/one", b"same")
    os.link(f"{path}/one", f"{path}/two")
    announce(n)
    n, path = begin("a file of 8 EiB of nothing")
    write(f"{path}/sparse")
    for size in (1 << 62, 1 << 50, 1 << 43):
        try:
            os.truncate(f"{path}/sparse", size)
            break
        except OSError:
            pass
    announce(n)
    n, path = begin("a hook of git")
    os.makedirs(f"{path}/.git/hooks")
    write(f"{path}/.git/hooks/post-checkout", b"#!/bin/sh\ntouch /tmp/owned\n")
    os.chmod(f"{path}/.git/hooks/post-checkout", 0o755)
    announce(n, entry=".git/hooks/post-checkout")
    n, path = begin("a profile")
    write(f"{path}/.bashrc")
    announce(n, entry=".bashrc")
    n, path = begin("too many entries in one name")
    os.makedirs(f"{path}/a/b")
    announce(n, entry="a/b")


def announcements() -> None:
    """What an announcement may say."""
    forge("entry leads out", entry="../../../../../etc/passwd")
    forge("entry is absolute", entry=CANARY)
    forge("entry with NUL", entry="data.json\0")
    forge("entry is not there", entry="other.json")
    forge("entry of another type", entry=["data.json"])
    forge("name leads out", name="../../../x")
    forge("name is absolute", name="/etc/cron.d/x")
    forge("name with a newline", name="a\nb")
    forge("name with an escape", name="a\x1b[31mred")
    forge("name encoded", name="..%2f..%2fx")
    forge("name with a backslash", name="..\\..\\x")
    forge("name too long", name="a" * 129)
    forge("name is a number", name=7)
    forge("kind leads out", kind="../runs")
    forge("kind is another", kind="run")
    forge("kind is a list", kind=["model"])
    forge("version leads out", version="../../v1")
    forge("version of another", name="taken", version="exp1")
    forge("version that the store counts", name="taken", version="v1")
    forge("version is an alias", name="taken", version="latest")
    forge("format leads out", format="../../x")
    forge("format is an object", format={"a": 1})
    forge("number of another", n=0)
    forge("number is no number", n="../../0")
    forge("no schema", schema=None)
    forge(
        "sizes and digests that are not true", size=-1, files=10**9, digest="sha256:" + "0" * 64, tree="../x"
    )
    forge("not JSON", b"{")
    forge("not an object", b"[]")
    forge("empty", b"")
    forge("giant JSON", b'{"schema": "mirage-ready/1", "metadata": {"a": "' + b"x" * (2 << 20) + b'"}}')
    forge("deep JSON", b"[" * 200_000)
    forge("deep metadata", metadata=json.loads("[" * 300 + "]" * 300))
    forge("deep metadata below an object", metadata={"a": json.loads('{"a":' * 300 + "1" + "}" * 300)})
    forge("metadata is a list", metadata=[1])
    forge("metadata of huge numbers", metadata={"a": 10**400})
    forge(
        "metadata with NaN",
        b'{"schema":"mirage-ready/1","kind":"file","name":"nan","format":"json","metadata":{"a":NaN}}',
    )
    forge("metadata with half a pair", metadata={"a": "\ud800"})
    forge("not UTF-8", b'{"schema":"mirage-ready/1","kind":"\xff"}')
    n, _ = begin("announcement is a link")
    os.symlink(CANARY, f"{OUT}/{n}.ready.json")
    n, _ = begin("announcement is a fifo")
    os.mkfifo(f"{OUT}/{n}.ready.json")
    n, _ = begin("announcement is a directory")
    os.mkdir(f"{OUT}/{n}.ready.json")
    n, _ = begin("answer forged before")
    write(f"{OUT}/{n}.done.json", b'{"id":"model:prod:v99","digest":"sha256:' + b"0" * 64 + b'","size":1}')
    announce(n)
    n, _ = begin("answer is a link")
    os.symlink(CANARY, f"{OUT}/{n}.done.json")
    announce(n)
    for name in (
        "99999999999.ready.json",
        "-1.ready.json",
        "01.ready.json",
        "a.ready.json",
        "0x1.ready.json",
    ):
        write(f"{OUT}/{name}", b"{}")


def races() -> None:
    """A file that is a link at one moment and a file at the next, a folder likewise, and one that grows."""
    stop = threading.Event()
    flipping: list[threading.Thread] = []
    for round_ in range(12):
        n, path = begin(f"race {round_}")
        for number in range(40):
            write(f"{path}/file-{number:02}", b"honest")
        os.mkdir(f"{path}/folder")
        write(f"{path}/folder/canary", b"honest")
        flipping.append(threading.Thread(target=_flip, args=(path, stop)))
        flipping[-1].start()
        announce(n)
    n, path = begin("grows")
    write(f"{path}/file", b"x" * (8 << 20))
    grower = threading.Thread(target=_grow, args=(f"{path}/file", stop))
    grower.start()
    announce(n)
    deadline = time.monotonic() + 20
    while not all(os.path.exists(f"{OUT}/{k}.done.json") for k in NAMES) and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    for thread in (*flipping, grower):
        thread.join()


def _flip(path: str, stop: threading.Event) -> None:
    os.symlink(CANARY, f"{path}.link")
    os.symlink(os.path.dirname(CANARY), f"{path}.folder")
    while not stop.is_set():
        for name in (f"{path}/file-39", f"{path}/folder"):
            other = f"{path}.link" if name.endswith("39") else f"{path}.folder"
            try:
                os.rename(name, f"{path}.kept")
                os.rename(other, name)
                os.rename(name, other)
                os.rename(f"{path}.kept", name)
            except OSError:
                pass


def _grow(path: str, stop: threading.Event) -> None:
    deadline = time.monotonic() + 3
    with open(path, "ab") as sink:
        while not stop.is_set() and time.monotonic() < deadline:
            sink.write(b"y" * 4096)
            sink.flush()
            time.sleep(0.001)


def lines() -> None:
    """Metrics and events that are none."""
    with open("/mirage/out/metrics.jsonl", "wb") as sink:
        for values in (
            {"fine": 1.5}, {"\x1b]0;owned\x07": 1}, {"\x1b[2Jcleared": 2}, {"line\nbreak": 3}, {"\u202eevil": 4},
            {"a" * 300: 5}, {"\ud800": 6}, {"text": "7"}, {"flag": True}, {"list": [8]}, {"huge": 10**400},
        ):  # fmt: skip
            sink.write(json.dumps({"time": 0, "step": None, "values": values}).encode() + b"\n")
        sink.write(
            b'{"values": {"nan": NaN}}\n{"values": {"infinite": Infinity}}\n{"values": {"minus": -1e999}}\n'
        )
        sink.write(b"[" * 100_000 + b"\n")
        sink.write(b'{"values": null}\n[]\n7\n{}\n\xff\xfe\n\x1b[31m\n')
        sink.write(b'{"values": {"endless": ' + b"9" * (3 << 20))
    with open("/mirage/out/events.jsonl", "wb") as sink:
        sink.write(
            b'{"event": "flow-start", "name": "\x1b]0;owned\x07"}\n'
            + b"\xff" * 100
            + b"\n"
            + b"{" * 5000
            + b"\n"
        )
    with open("/mirage/out/audit.jsonl", "ab") as sink:
        for kind, name in (
            ("missing", "\x1b]0;owned\x07"), ("connect", "\ud800\0"), ("program", "\u202e" * 5000), ("input", "9" * 5000),
            ("input", "\u0664"), ("host", 7), (["host"], "x"), ("write", ""), ("unknown", "x"),
        ):  # fmt: skip
            sink.write(json.dumps({"kind": kind, "name": name}).encode() + b"\n")
        for number in range(500):
            sink.write(json.dumps({"kind": "missing", "name": f"/forged/{number}"}).encode() + b"\n")
        sink.write(b"[" * 100_000 + b"\n{}\n7\n\xff\n" + b"x" * (3 << 20))


if __name__ == "__main__":
    n, path = begin("taken, the first time")
    write(f"{path}/data.json", b'{"first": true}')
    announce(n, name="taken", version="exp1")
    while not os.path.exists(f"{OUT}/0.done.json"):
        time.sleep(0.01)
    files()
    announcements()
    lines()
    races()
    answers: dict[str, Any] = {}
    for n, what in NAMES.items():
        try:
            with open(f"{OUT}/{n}.done.json") as source:
                answer = json.load(source)
            error = answer.get("error")
            answers[what] = answer.get("id") if error is None else f"{error['code']}: {error['message']}"
        except (OSError, ValueError) as error:
            answers[what] = f"no answer: {error}"
    # the honest end: what was taken is in the record, and this tells what was answered
    n, path = begin("answers")
    write(f"{path}/answers.json", json.dumps(answers).encode())
    announce(n, name="answers", entry="answers.json", format="json", kind="report")
    print("\x1b]0;owned by the log\x07", flush=True)
