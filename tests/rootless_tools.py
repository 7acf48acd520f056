"""A rootless Docker engine of an ordinary user, who exists in a mount namespace of its own only, and programs run as that user.

`dockerd-rootless.sh` typed by hand (docs.docker.com, "Rootless mode"): RootlessKit makes the user and network namespaces.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from scripts.packages import SYSTEM_PATH
from tests.engine_tools import answers, client
from tests.run_tools import wait_for

USER, UID, RANGE = "mirage-test", 31415, 3141592
ROOT = Path(__file__).resolve().parent.parent

# Root's part, in a mount namespace of its own: the user, its range of others, a device of its own for the network; and
# folders that only root may enter (a home) become such that have nothing but what is needed from them.
_SETUP = r"""
set -eu
here=$1; shift
for name in passwd group subuid subgid; do mount --bind "$here/etc/$name" "/etc/$name"; done
mkdir -p /dev/net
mount -t tmpfs -o mode=0755,dev tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
number=0
while [ "$1" != -- ]; do
  closed=$1 needed=$2; shift 2
  if [ ! -e "$here/opened$closed" ]; then
    mkdir -p "$here/opened$closed" "$here/held$closed"
    mount --rbind "$closed" "$here/held$closed"
    mount -t tmpfs -o mode=0755 tmpfs "$closed"
  fi
  mkdir -p "$needed"
  mount --rbind "$here/held$needed" "$needed"
done
shift
touch "$here/ready"
exec "$@"
"""
# The user's part, in the namespaces that RootlessKit made.
_INSIDE = r"""
rm -f /run/docker /run/containerd /run/xtables.lock
exec "$@"
"""


class RootlessEngine:
    """A dockerd of the user below ``folder``, which the user owns; ``env`` is the user's environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._short = Path(tempfile.mkdtemp(prefix="mirage-rootless-", dir="/run"))
        self._short.chmod(0o755)
        for name in ("run", "home"):
            self._own(self._short / name if name == "run" else folder / name)
        self.url = f"unix://{self._short}/run/docker.sock"
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(self._short / "run"),
            "DOCKER_HOST": self.url,
            "LC_ALL": "C.UTF-8",
        }
        self._etc()
        needs = sorted({str(ROOT), str(Path(sys.executable).parent.parent), sys.base_prefix})
        closed = [word for need in needs for word in self._closed(Path(need))]
        words = ["unshare", "--mount", "sh", "-c", _SETUP, "sh", str(self._short), *closed, "--"]
        nothing = subprocess.DEVNULL
        self._hold = subprocess.Popen(
            [*words, "sleep", "infinity"],
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            start_new_session=True,
        )
        wait_for((self._short / "ready").exists, 30)
        self._process: subprocess.Popen[bytes] | None = None

    def _own(self, path: Path) -> None:
        path.mkdir(mode=0o700, parents=True)
        os.chown(path, UID, UID)

    def _etc(self) -> None:
        etc = self._short / "etc"
        etc.mkdir()
        passwd, group = Path("/etc/passwd").read_text(), Path("/etc/group").read_text()
        (etc / "passwd").write_text(f"{passwd}{USER}:x:{UID}:{UID}::{self.folder / 'home'}:/bin/sh\n")
        (etc / "group").write_text(f"{group}{USER}:x:{UID}:\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text(f"{USER}:{RANGE}:65536\n")

    @staticmethod
    def _closed(need: Path) -> list[str]:
        """The first folder above that the user may not enter, with what is needed of it."""
        for above in reversed(need.parents):
            if not above.stat().st_mode & 0o001:
                return [str(above), str(need)]
        return []

    def _as_user(self, command: Sequence[str], env: Mapping[str, str]) -> list[str]:
        told = [f"{name}={value}" for name, value in {**self.env, **env}.items()]
        inside = ["nsenter", "--mount", "--target", str(self._hold.pid)]
        who = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
        return [*inside, *who, "env", "-i", *told, *command]

    def run(
        self, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as the user."""
        words = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd or self.folder), *command]
        return subprocess.run(self._as_user(words, env or {}), capture_output=True, text=True, timeout=300)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        kit = [
            "rootlesskit",
            "--state-dir",
            str(self._short / "run" / "kit"),
            "--net=slirp4netns",
            "--mtu=65520",
        ]
        kit += ["--copy-up=/etc", "--copy-up=/run", "--propagation=rslave", "sh", "-c", _INSIDE, "sh"]
        kit += ["dockerd", "--rootless", "--data-root", str(self.folder / "data"), "-H", self.url]
        kit += ["--exec-root", str(self._short / "run" / "x"), "--pidfile", str(self._short / "run" / "pid")]
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._as_user(kit, {}), stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers, 60)

    def _answers(self) -> bool:
        assert self._process is not None
        return answers(self._process, self.api(), self.folder / "dockerd.log", 4000)

    def api(self) -> Any:
        """It, by its own library."""
        return client(self.url, 60)

    def __enter__(self) -> RootlessEngine:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End it, and remove all that it had."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)
        self._hold.kill()
        self._hold.wait(10)
        shutil.rmtree(self._short, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
