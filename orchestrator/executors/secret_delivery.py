"""How secrets reach a container: through its standard input, into files in its memory, before the workflow begins.

Nothing of them is on the engine's host: not in a mount, a variable, an argument, or a file. Who dies before they are
sent closes the connection, and the container ends by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.engine_values import Tmpfs

FOLDER = "/run/mirage-secrets"
NOT_ARRIVED = 70  # EX_SOFTWARE; what the container ends with
# Runs first in the container: reads "NAME SIZE\n" and the bytes for each, an empty line, then becomes the workflow,
# whose standard input is empty as it is in a run without secrets.
_INIT = """\
import os, sys
take, folder = sys.stdin.buffer, sys.argv[1]
while True:
    line = take.readline()
    if line == b"\\n":
        break
    name, _, size = line.decode().partition(" ")
    data = take.read(int(size)) if size.endswith("\\n") else b""
    if not data or len(data) != int(size):
        sys.stderr.write("mirage: the secrets did not arrive\\n")
        sys.exit(70)
    file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    while data:
        data = data[os.write(file, data):]
    os.close(file)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.stderr.write(f"mirage: {sys.argv[2]} cannot be started: {error.strerror}\\n")
    sys.exit(127)
"""


def command(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The container's command for a workflow with secrets; every run image has Python."""
    return ("python", "-I", "-S", "-c", _INIT, FOLDER, *argv)


def payload(values: Iterable[tuple[str, bytes]]) -> bytes:
    """What is written to the container's standard input."""
    return b"".join(b"%s %d\n%s" % (name.encode(), len(value), value) for name, value in values) + b"\n"


def variables(names: Iterable[str]) -> dict[str, str]:
    """Where the workflow finds them."""
    return {f"{name}_FILE": f"{FOLDER}/{name}" for name in names}


def folder(uid: int, gid: int) -> Tmpfs:
    """The files' place: in memory, for the run's user alone."""
    return Tmpfs(FOLDER, f"rw,noexec,nosuid,nodev,size=16m,mode=0700,uid={uid},gid={gid}")
