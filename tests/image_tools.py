"""Real things for tests of images: this machine's engine, its Python base, a library of one's own, a reporter.

Run as `python -m tests.image_tools FOLDER LOCK INDEX VOLUME` it builds an environment in a process of its own.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from orchestrator.digest import Digest
from orchestrator.engine_values import ContainerSpec
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from orchestrator.image import builder, environment, loading
from orchestrator.image.base import Base, Bases
from orchestrator.image.environment import Environment
from orchestrator.image.handover import Handover, gather
from orchestrator.image.library import Library, cache_folder
from orchestrator.locks import lock
from orchestrator.ports import Reporter
from orchestrator.store.folder import FolderStore

SIX = b"""six==1.17.0 \\
    --hash=sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274
"""
PACKAGING = b"""packaging==25.0 \\
    --hash=sha256:29572ef2b1f17581046b3a2227d5c611fb25ec70ca1ba8554b24b0e69331a484
"""


class Notes:
    """A Reporter that remembers."""

    def __init__(self, on_detail: Callable[[str], object] = lambda text: None) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.details: list[str] = []
        self.steps: list[tuple[str, int, int | None, bool]] = []
        self._on_detail = on_detail

    def stage(self, name: str, detail: str = "") -> None:
        self.stages.append(f"{name}: {detail}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def detail(self, text: str) -> None:
        self.details.append(text)
        self._on_detail(text)

    def log(self, stream: str, data: bytes) -> None:
        raise AssertionError("nothing runs a workflow here")

    def progress(self, step: str, done: int, total: int | None, *, ended: bool = False) -> None:
        self.steps.append((step, done, total, ended))

    def event(self, name: str, fields: Mapping[str, object]) -> None: ...


class CountingEngine(DockerEngine):
    """The real engine; counts the bytes of each load, and does ``before_load`` first."""

    def __init__(self, before_load: Callable[[], object] = lambda: None) -> None:
        super().__init__(choose(os.environ))
        self.loads: list[int] = []
        self._before_load = before_load

    def load(self, archive: Iterable[bytes]) -> None:
        self._before_load()
        self.loads.append(0)
        super().load(self._counted(archive))

    def _counted(self, archive: Iterable[bytes]) -> Iterator[bytes]:
        for piece in archive:
            self.loads[-1] += len(piece)
            yield piece


@cache
def engine() -> DockerEngine:
    """This machine's engine."""
    return DockerEngine(choose(os.environ))


@cache
def python_base() -> Base:
    """The base python-3.11 from this machine's own cache (built once), in the engine."""
    place = FolderStore.open_at(cache_folder())
    library = Library(place, place)
    bases = Bases(engine(), library, Path("/nonexistent"), Notes())
    base = bases.resolve("python-3.11", bases.platform())
    loading.ensure(engine(), base.image, base.tag, (), library.read)
    return base


def library(folder: Path) -> Library:
    """A library whose cache and bank are below a folder."""
    return Library(FolderStore.open_at(folder / "cache"), FolderStore.open_at(folder / "bank"))


def host() -> Handover:
    """What this machine hands over."""
    return gather("auto", "inherit", os.environ)


def provide(
    text: bytes,
    where: Library,
    reporter: Reporter,
    handover: Callable[[], Handover] = host,
    *,
    fresh: bool = False,
    network: str = "default",
) -> Environment:
    """Build an environment of a lock's text on the base."""
    return environment.provide(
        lock.parse("requirements.txt", text),
        python_base(),
        ("main",),
        engine=engine(),
        library=where,
        handover=handover,
        network=network,
        reporter=reporter,
        fresh=fresh,
    )


def wheel(name: str, files: dict[str, bytes], tag: str = "py3-none-any") -> tuple[str, bytes]:
    """A wheel of version 1.0 as (file name, bytes)."""
    folder = f"{name}-1.0.dist-info"
    content = {
        **files,
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in content.items()
    ]
    content[f"{folder}/RECORD"] = "\n".join([*rows, f"{folder}/RECORD,,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, data in content.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return f"{name}-1.0-{tag}.whl", packed.getvalue()


class Index:
    """A package index on this machine's loopback (PEP 503), which a builder on the host's network can reach.

    ``login`` is `user:password` where it asks for one; wheels are given out only while ``open`` is set, and with
    ``pace`` so many bytes of them a second. ``host`` is another address of this machine.
    """

    def __init__(
        self, *files: tuple[str, bytes], login: str = "", pace: int = 0, host: str = "127.0.0.1"
    ) -> None:
        self._host = host
        self.pace = pace
        self.files = dict(files)
        self.login = login
        self.served: list[str] = []
        self.yanked: dict[str, str] = {}
        self.asked = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self._server = ThreadingHTTPServer((host, 0), self._handler())

    @property
    def url(self) -> str:
        """Its address without a login."""
        return f"http://{self._host}:{self._server.server_port}/simple"

    def hash(self, name: str) -> str:
        """The hash of the one file of a package."""
        (data,) = (data for file, data in self.files.items() if file.startswith(f"{name}-"))
        return "sha256:" + hashlib.sha256(data).hexdigest()

    def mark(self, file: str) -> str:
        """What says of a file that it was yanked (PEP 592)."""
        return f' data-yanked="{self.yanked[file]}"' if file in self.yanked else ""

    def lock(self, *names: str) -> bytes:
        """A lock of packages of this index, with hashes."""
        return "".join(f"{name}==1.0 --hash={self.hash(name)}\n" for name in names).encode()

    def handover(self, home: Path, **environ: str) -> Callable[[], Handover]:
        """A host that has this index and nothing else."""
        base = {"HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "UV_DEFAULT_INDEX": self.url}
        return lambda: gather("none", "inherit", {**base, **environ})

    def __enter__(self) -> Index:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                login = "Basic " + base64.b64encode(index.login.encode()).decode()
                if index.login and self.headers.get("Authorization") != login:
                    self._answer(401, b"", ("WWW-Authenticate", "Basic"))
                    return
                name = unquote(self.path.strip("/").rpartition("/")[2])
                if name in index.files and self.command == "HEAD":
                    self._answer(200, index.files[name], ("Content-Type", "application/octet-stream"))
                    return
                if name in index.files:
                    index.asked.set()
                    index.open.wait(60)
                    index.served.append(name)
                    self._answer(200, index.files[name], ("Content-Type", "application/octet-stream"))
                    return
                links = [
                    f'<a href="/files/{file}#sha256={hashlib.sha256(data).hexdigest()}"{index.mark(file)}>{file}</a>'
                    for file, data in index.files.items()
                    if file.partition("-")[0].replace("_", "-") == name
                ]
                self._answer(200 if links else 404, "".join(links).encode(), ("Content-Type", "text/html"))

            def _answer(self, code: int, body: bytes, header: tuple[str, str]) -> None:
                self.send_response(code)
                self.send_header(*header)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(ConnectionError):
                    if self.command == "HEAD":
                        return
                    step = index.pace // 10 or len(body) or 1
                    for at in range(0, len(body), step):
                        self.wfile.write(body[at : at + step])
                        time.sleep(0.1 if index.pace else 0)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def forms(secret: str) -> list[bytes]:
    """How a secret may be written down; base64 at each of the three offsets, without the uneven ends."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"x" * n + raw)[4 * (n > 0) : -4] for n in range(3)]
    return [raw, quote(secret, safe="").encode(), raw.hex().encode(), raw[::-1], *shifted]


def run_in_image(reference: str, *argv: str) -> str:
    """What a program in an image prints, hardened as runs are."""
    container = engine().create(ContainerSpec(image=reference, argv=argv))
    try:
        output = engine().attach(container)
        engine().start(container)
        return b"".join(piece for _, piece in output).decode()
    finally:
        engine().remove(container)


def read_all(where: Library, digest: Digest) -> bytes:
    """A layer's bytes."""
    return b"".join(where.read(digest))


if __name__ == "__main__":
    _folder, _lock, _index, _volume = sys.argv[1:]
    builder.CACHE_VOLUME = _volume
    _environ = {"HOME": _folder, "PIP_CONFIG_FILE": os.devnull, "UV_DEFAULT_INDEX": _index}
    _notes = Notes()
    _made = provide(
        Path(_lock).read_bytes(),
        library(Path(_folder)),
        _notes,
        lambda: gather("none", "inherit", _environ),
        network="host",
    )
    print(_made.layer.digest, "cached" if _made.cached else "built", *_notes.notes, flush=True)
