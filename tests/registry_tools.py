"""A real registry on this machine's loopback: Debian's docker-registry, with a login where a test wants one."""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
CONFIG = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "{address}"}}
{auth}log: {{level: error, accesslog: {{disabled: true}}}}
"""


class Registry:
    """Debian's docker-registry on a free port of the loopback, which engines trust without TLS."""

    def __init__(self, folder: Path, login: str = "") -> None:
        if shutil.which("docker-registry", path="/usr/bin:/usr/local/bin") is None:
            pytest.fail("docker-registry is not installed: scripts/packages.py docker-registry")
        folder.mkdir()
        self._header = {}
        auth = ""
        if login:
            user, _, password = login.partition(":")
            hashed = subprocess.run(  # bcrypt, the one form that this registry takes
                ["perl", "-e", "print crypt($ARGV[0], '$2b$05$' . 'a' x 22)", password],
                capture_output=True,
                text=True,
                check=True,
            )
            (folder / "htpasswd").write_text(f"{user}:{hashed.stdout.strip()}\n")
            auth = f'auth: {{htpasswd: {{realm: test, path: "{folder / "htpasswd"}"}}}}\n'
            self._header = {"Authorization": "Basic " + base64.b64encode(login.encode()).decode()}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        config = folder / "config.yml"
        config.write_text(CONFIG.format(folder=folder / "data", address=self.address, auth=auth))
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=self._log, stderr=self._log
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"http://{self.address}/v2/", timeout=2).close()
                return
            except urllib.error.HTTPError as error:
                error.close()
                return  # it asks for a login: it is there
            except OSError:
                assert self._process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, "the registry did not start"
                time.sleep(0.05)

    def digest(self, repository: str, tag: str) -> str:
        """What the registry itself calls an image."""
        request = urllib.request.Request(
            f"http://{self.address}/v2/{repository}/manifests/{tag}",
            headers={"Accept": MANIFESTS, **self._header},
            method="HEAD",
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return str(answer.headers["Docker-Content-Digest"])

    def stop(self) -> None:
        """End it; more than once is fine."""
        self._process.terminate()
        self._process.wait()
        self._log.close()
