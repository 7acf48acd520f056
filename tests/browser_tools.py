"""A real browser without a window, spoken to through a pipe: what a page does, asks for, and looks like.

The protocol is Chrome DevTools' (chromedevtools.github.io/devtools-protocol), one JSON message after the other with a
NUL between, on the descriptors 3 and 4 of the browser (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


class Browser:
    """One browser with one page; everything that the page said or asked for is in ``heard``."""

    def __init__(self, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # what the browser reads, what it writes
        self._write, self._read = ours[1], theirs[0]
        flags = (
            "--headless=new",
            "--no-sandbox",  # it runs as root here, and opens pages of our own only
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
        )

        def place() -> None:
            # the descriptors may be 3 and 4 themselves: out of the way first
            read, write = os.dup(ours[0]), os.dup(theirs[1])
            high = [os.dup2(read, 100), os.dup2(write, 101)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            ["chromium", *flags, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4, ours[0], theirs[1]),
            preexec_fn=place,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._number = 0
        self._rest = b""
        self._session: str | None = None
        self.heard: list[dict[str, Any]] = []
        target = self._first_page()
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None
        try:
            self.call("Browser.close")
        finally:
            os.close(self._write)
            os.close(self._read)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _first_page(self) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for each in self.call("Target.getTargets")["targetInfos"]:
                if each["type"] == "page":
                    return str(each["targetId"])
            time.sleep(0.05)
        raise AssertionError("the browser opened no page")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask the browser something, and wait for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(60)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                found: dict[str, Any] = answer["result"]
                return found
            self.heard.append(answer)

    def _next(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser is gone"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, address: str, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Open a page on a screen of this size, and wait until it is loaded."""
        self.heard.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        went = self.call("Page.navigate", url=address)
        assert not went.get("errorText"), went
        deadline = time.monotonic() + 30
        while not self.said("Page.loadEventFired"):
            assert time.monotonic() < deadline, "the page was never loaded"
            self.heard.append(self._next(30))
        self.ask("new Promise(done => requestAnimationFrame(() => setTimeout(() => done(1), 50)))")

    def said(self, method: str) -> list[dict[str, Any]]:
        """The parameters of what the browser told by itself."""
        return [each["params"] for each in self.heard if each.get("method") == method]

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[Any]:
        """What stood in the console, and scripts' errors."""
        return [
            *self.said("Log.entryAdded"),
            *self.said("Runtime.consoleAPICalled"),
            *self.said("Runtime.exceptionThrown"),
        ]

    def requests(self) -> Sequence[str]:
        """Every address that was asked for, without those that hold their data themselves."""
        found = [str(each["request"]["url"]) for each in self.said("Network.requestWillBeSent")]
        return [address for address in found if not address.startswith("data:")]

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        return int(self.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def picture(self, path: Path) -> None:
        """A picture of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)[
            "data"
        ]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"])
