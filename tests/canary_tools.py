"""Canaries: secrets that a workflow leaks wherever it can, and the search for them in everything that is left."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.redaction import forms
from tests.run_tools import Project, engine

# Leaks every secret of the run in five encodings, through every channel that a workflow has.
LEAKS = r"""
import base64, json, logging, os, subprocess, sys, time, urllib.parse
from mirage import artifact, metrics, secret, step

names = sorted(name[:-5] for name in os.environ if name.endswith("_FILE") and name.startswith("CANARY"))
values = [secret(name) for name in names]

def written(value):
    raw = value.encode()
    yield value
    yield base64.b64encode(b"x" * (len(value) % 3) + raw).decode()
    yield urllib.parse.quote(value, safe="")
    yield json.dumps(value)
    yield raw.hex()

@step
def leak(text):
    raise ValueError(text)

print(len(names), "secrets as", os.getuid(), flush=True)
out = os.open("/dev/stdout", os.O_WRONLY)
for value in values:
    for text in written(value):
        print(text)
        print(text, file=sys.stderr)
        logging.warning("%s", text)
        metrics.log(**{text[:150]: 1.0})
        open("/mirage/out/metrics.jsonl", "a").write(json.dumps({"values": {}, "note": text}) + "\n")
        open("/mirage/out/events.jsonl", "a").write(json.dumps({"note": text}) + "\n")
        for at in range(0, len(text), 7):
            os.write(out, text[at:at + 7].encode())
        looks = (open, os.getenv, subprocess.run) if value is values[0] else (open,)
        for look in looks:  # what the audit notes
            try:
                look("/data/" + text)
            except OSError:
                pass
        try:
            leak(text)
        except ValueError:
            pass
sys.stdout.flush()

def refused(**words):
    try:
        artifact.File.save(**words)
    except Exception as error:
        return type(error).__name__ + str(error)
    return "saved"

answers = []
for n, value in enumerate(values[:5]):
    text = list(written(value))[n]
    answers.append(refused(value="x" * 1048570 + text, name="content"))
    answers.append(refused(value="x", name="metadata", metadata={"note": [text]}))
os.mkdir("/mirage/tmp/tree")
open("/mirage/tmp/tree/" + values[0].encode().hex(), "w").write("x")
os.symlink(values[1].encode().hex(), "/mirage/tmp/tree/link")
import pathlib
answers.append(refused(value=pathlib.Path("/mirage/tmp/tree"), name="names"))
artifact.Report.save([each.split(":")[0] for each in answers], name="answers")
time.sleep(1.5)
raise RuntimeError("the end of " + " ".join(text for value in values for text in written(value)))
"""


_MUCH = 256 << 10


def canaries(count: int) -> dict[str, str]:
    """Names and values that no other text holds, with characters that each encoding writes differently.

    All begin alike: where there is much to look at, that is looked for.
    """
    mark = f'c/{secrets.token_hex(8)}+"\\{secrets.token_hex(4)}'
    return {f"CANARY_{n:02}": f"{mark}{secrets.token_hex(6)}=é" for n in range(count)}


def _beginning(values: list[str]) -> str:
    return values[0][
        : next((n for n, each in enumerate(zip(*values, strict=False)) if len({*each}) > 1), None)
    ]


def found(haystacks: Mapping[str, bytes], values: Mapping[str, str]) -> list[str]:
    """Where any form of any value is."""
    every = [(name, form) for name, value in values.items() for form in forms(value.encode())]
    mark = [("the mark", form) for form in forms(_beginning([*values.values()]).encode())]
    return [
        f"{name} in {place}"
        for place, hay in haystacks.items()
        for name, form in (mark if len(hay) > _MUCH else every)
        if form in hay
    ]


class Processes(threading.Thread):
    """Keeps what any process of this machine shows of itself while it is entered."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen: set[bytes] = set()
        self._over = threading.Event()
        self.looks = 0

    def __enter__(self) -> Processes:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(0.05):
            self.looks += 1
            for process in os.listdir("/proc"):
                for name in ("cmdline", "environ") if process.isdigit() else ():
                    with suppress(OSError):
                        self._seen.add(Path("/proc", process, name).read_bytes())

    def text(self) -> bytes:
        """All of it."""
        return b"\n".join(self._seen)


@contextmanager
def inspected(seen: list[bytes]) -> Iterator[None]:
    """Keeps what the engine tells of every container of a run while it is entered."""
    over = threading.Event()

    def look() -> None:
        api = engine()
        while not over.wait(0.1):
            for item in api.containers(all=True, filters={"label": "flow.mirage.run"}):
                with suppress(Exception):  # it may be gone by then
                    seen.append(json.dumps(api.inspect_container(item["Id"])).encode())
                    seen.append(json.dumps(api.top(item["Id"])).encode())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def events(since: float) -> bytes:
    """What the engine told of itself since then."""
    return b"".join(
        json.dumps(each).encode()
        for each in engine().events(since=int(since), until=int(time.time()) + 1, decode=True)
    )


def files_of(*tops: Path) -> dict[str, bytes]:
    """Every file below these folders."""
    return {
        str(path): path.read_bytes()
        for top in tops
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def left_of(project: Project, made: Mapping[str, Any]) -> dict[str, bytes]:
    """What a run left in the engine and what Mirage tells of it."""
    image = made["image"]["engine_id"]
    return {
        "image": b"".join(engine().get_image(image)),
        "history": json.dumps(engine().history(image)).encode(),
        "inspect": json.dumps(engine().inspect_image(image)).encode(),
        "show": project.mirage("show", made["run_id"], "--json").encode(),
        "logs": project.mirage("logs", made["run_id"]).encode(),
        "ls": project.mirage("ls", "--json").encode(),
        "record": json.dumps(project.record(made["run_id"])).encode(),
    }
