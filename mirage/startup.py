"""The hermeticity audit of a run: what every Python process of it opens, connects to, starts and asks for.

Lies in the image as `/mirage/sdk/sitecustomize.py`, so that it is there before the workflow's first import; stands by
itself and imports next to nothing, since each process of the run pays for it. Notes names, never contents, values or
arguments. Must not break anything: whatever goes wrong in here is nobody's trouble. Format: docs/contract.md.
"""

from __future__ import annotations

import os
import sys

MOST = 2000  # things that one process notes, each once
LARGEST = 1 << 20  # bytes of the file, from where on nothing is added
LONGEST = 4096  # characters of a name; a longer one is counted, not cut: half of a secret is not recognised

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def begin() -> None:
    """Start to note, where this is a process of a run that wants it."""
    if "MIRAGE_RUN_ID" not in os.environ or os.environ.get("MIRAGE_AUDIT", "1") == "0":
        return
    root = os.environ.get("MIRAGE_ROOT", "/mirage")
    note = _noter(f"{root}/out/audit.jsonl")
    note("python", "%d.%d.%d" % sys.version_info[:3])
    sys.addaudithook(_hook(root, note))
    _watch_environment(note)


def _noter(file: str) -> Callable[[str, str], None]:
    """Appends one line for each thing, once."""
    try:
        from _json import encode_basestring_ascii as quoted  # what json itself uses; json costs milliseconds
    except ImportError:
        from json.encoder import encode_basestring_ascii as quoted
    seen: set[tuple[str, str]] = set()

    def note(kind: str, name: str) -> None:
        item = (kind, name if len(name) <= LONGEST else "(a name of %d characters)" % len(name))
        if item in seen or len(seen) >= MOST:
            return
        seen.add(item)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.fstat(descriptor).st_size < LARGEST:
                    line = '{"kind": "%s", "name": %s}\n' % (kind, quoted(item[1]))
                    os.write(descriptor, line.encode("ascii"))
            finally:
                os.close(descriptor)
        except OSError:
            pass

    return note


def _hook(root: str, note: Callable[[str, str], None]) -> Callable[[str, tuple[Any, ...]], None]:
    """The audit hook (PEP 578): called for every event of the interpreter, so the first lines count."""
    quiet = (
        "/usr/", "/opt/", "/lib", "/bin/", "/sbin/", "/etc/", "/tmp", "/dev/shm", "/dev/null", "/dev/urandom",
        "/dev/tty", "/dev/pts/", "/proc/self", f"/proc/{os.getpid()}/", f"{root}/sdk", f"{root}/out", f"{root}/tmp",
        f"{root}/config.json", f"{root}/in/inputs.json", sys.prefix + "/", sys.base_prefix + "/",
    )  # fmt: skip
    trees = f"{root}/in/trees/"
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    known: set[str] = set()

    def opened(path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str) or path.startswith(quiet) or path in known:
            return
        if len(known) < MOST:
            known.add(path)
        full = path if path.startswith("/") else os.path.join(os.getcwd(), path)
        if "/." in full or "//" in full:
            full = os.path.normpath(full)
        if full.startswith(trees):
            note("input", full[len(trees) :].partition("/")[0])
        elif full.startswith(quiet) or full.endswith((".pyc", ".py")):
            pass
        elif full.startswith(("/proc/", "/sys/", "/dev/")):
            note("host", full)
        elif (mode and mode[0] in "wax") or "+" in (mode or "") or (mode is None and (flags or 0) & writing):
            note("write", full)
        elif not os.path.exists(full):
            note("missing", full)

    def asked(host: Any, port: Any) -> None:
        host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if host:
            note("resolve", f"{host}:{port}" if port is not None else str(host))

    def connected(address: Any) -> None:
        if isinstance(address, tuple) and len(address) >= 2:
            host = f"[{address[0]}]" if ":" in str(address[0]) else address[0]
            note("connect", f"{host}:{address[1]}")
        elif isinstance(address, (str, bytes)) and address:
            note("connect", "unix:" + os.fsdecode(address))

    def started(program: Any) -> None:
        if isinstance(program, (str, bytes, os.PathLike)):
            note("program", os.fsdecode(program))

    events: dict[str, Callable[[tuple[Any, ...]], None]] = {
        "socket.getaddrinfo": lambda args: asked(args[0], args[1]),
        "socket.gethostbyname": lambda args: asked(args[0], None),
        "socket.connect": lambda args: connected(args[1]),
        "socket.sendto": lambda args: connected(args[1]),
        "subprocess.Popen": lambda args: started(args[0] or args[1]),
        "os.exec": lambda args: started(args[0]),
        "os.posix_spawn": lambda args: started(args[0]),
        "os.system": lambda args: started("/bin/sh"),
        # of the SDK: the workflow asked for the path of an input
        "mirage.input": lambda args: opened(args[0], "r", 0),
    }

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path = args[0]
            if type(path) is str and (path.startswith(quiet) or path in known):
                return
            try:
                opened(*args)
            except Exception:  # it would be raised in the workflow
                pass
        elif event in events:
            try:
                events[event](args)
            except Exception:
                pass

    return hook


def _watch_environment(note: Callable[[str, str], None]) -> None:
    """Note the names that are read of os.environ: the interpreter has no event for it."""
    plain: Any = type(os.environ)

    class Watched(plain):  # type: ignore[misc]  # a class by value
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, str) and not key.startswith("MIRAGE_"):
                note("environment", key)
            return plain.__getitem__(self, key)

    Watched.__name__, Watched.__qualname__, Watched.__module__ = plain.__name__, plain.__qualname__, "os"
    os.environ.__class__ = Watched


def go_on() -> None:
    """Run the sitecustomize that there would be without this one: the base's, or the environment's."""
    here = os.path.dirname(os.path.abspath(__file__))
    find: Any = sys.modules["_frozen_importlib_external"]
    make: Any = sys.modules["_frozen_importlib"]
    spec = find.PathFinder.find_spec(
        "sitecustomize", [path for path in sys.path if os.path.abspath(path) != here]
    )
    if spec is not None and spec.loader is not None:
        module = make.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    try:
        begin()
    except Exception:
        pass
    go_on()
