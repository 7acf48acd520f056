"""A second Docker engine, which a test may kill, stop and freeze: own data, own socket, own network namespace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import docker

from tests.run_tools import wait_for

# The user outside that a remapped engine's root is.
REMAPPED = 231072


def client(url: str, timeout: int) -> Any:
    """An engine of a test, by its own library."""
    return docker.APIClient(base_url=url, timeout=timeout, version="1.41")


def answers(process: subprocess.Popen[bytes], api: Any, log: Path, end: int) -> bool:
    """Whether a daemon answers yet; where it has ended, fails with the last ``end`` characters of its log."""
    assert process.poll() is None, log.read_text()[-end:]
    try:
        api.ping()
    except (docker.errors.DockerException, OSError):
        return False
    return True


class SecondEngine:
    """A dockerd below one folder. It cannot touch the machine's engine: its bridge and rules are in no one's network."""

    def __init__(
        self,
        folder: Path,
        *,
        live_restore: bool = False,
        remapped: bool = False,
        runtimes: Sequence[tuple[str, Path]] = (),
    ) -> None:
        self.folder = folder
        # A socket's path has at most 107 bytes.
        self._short = Path(tempfile.mkdtemp(prefix="mirage-engine-", dir="/run"))
        self.url = f"unix://{self._short}/s"
        self.env = {"DOCKER_HOST": self.url}
        self._words = [
            "unshare", "--net", "dockerd", "--data-root", str(folder / "data"), "--exec-root", str(self._short / "x"),
            "--pidfile", str(self._short / "pid"), "-H", self.url, "--bridge=none", "--iptables=false",
            "--ip-forward=false", "--ip-masq=false", "--containerd", str(self._short / "c"),
            *(["--live-restore"] if live_restore else []),
            *(f"--add-runtime={name}={path}" for name, path in runtimes),
        ]  # fmt: skip
        # As on real machines, containerd is a service of its own; one that dockerd starts would die with it.
        below: list[str] = []
        if remapped:  # a range of users for this engine alone: the machine's own list stays as it is
            self._short.chmod(0o711)
            ranges = self._short / "ranges"
            ranges.write_text(f"daemon:{REMAPPED}:65536\n")
            mounts = "; ".join(f"mount --bind {ranges} /etc/{name}" for name in ("subuid", "subgid"))
            # crun takes no machine that has both generations of cgroups mounted
            mounts += "; umount -l /sys/fs/cgroup/unified 2>/dev/null || :"
            below = ["unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh"]
            self._words += ["--userns-remap", "daemon:daemon"]
        self._below = subprocess.Popen(
            [*below, "containerd", "--root", str(folder / "containerd"), "--state", str(self._short / "cs"),
             "--address", str(self._short / "c")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        if remapped:
            wait_for((self._short / "c").exists, 60)
            self._words = ["nsenter", "--mount", "--target", str(self._below.pid), *self._words]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(self._words, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers, 60)

    def _answers(self) -> bool:
        assert self._process is not None
        return answers(self._process, self.api(), self.folder / "dockerd.log", 2000)

    def api(self) -> Any:
        """It, by its own library."""
        return client(self.url, 30)

    def end(self, number: signal.Signals) -> None:
        """End the daemon by a signal, and wait until it is gone."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        self._process.wait(60)

    def restart(self, number: signal.Signals, seconds: float = 1.0) -> None:
        """End it by a signal, leave it away for a while, start it again."""
        self.end(number)
        time.sleep(seconds)
        self.start()

    def __enter__(self) -> SecondEngine:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        try:
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGCONT)
                for container in self.api().containers(all=True):
                    self.api().remove_container(container["Id"], force=True)
        finally:
            if self._process.poll() is None:
                os.kill(self._process.pid, signal.SIGTERM)
                try:
                    self._process.wait(30)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait(10)
            self._below.terminate()
            self._below.wait(30)
            subprocess.run(
                ["umount", "-R", "-l", str(self.folder / "data")], capture_output=True, check=False
            )
            shutil.rmtree(self._short, ignore_errors=True)
            shutil.rmtree(self.folder, ignore_errors=True)
