"""Chromium without a window, over its DevTools pipe: a page at a true width, in either colour scheme, with whatever it
asks for or complains of. (The option --window-size makes no window narrower than 500 pixels.)
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fcntl import F_DUPFD, fcntl
from select import select
from time import monotonic

import pytest

NAME = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(NAME is None, reason="Chromium is not installed")

OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--hide-scrollbars"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe", "about:blank"]


@dataclass
class Look:
    """One page in one browser.

    complaints: errors and warnings in the console, uncaught exceptions.
    requests: every address that the page asked for, its own included.
    """

    _send: int
    _receive: int
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _session: dict = field(default_factory=dict)
    _buffer: bytes = b""
    _last: int = 0

    def call(self, method, **parameters):
        """A command of the DevTools protocol, and its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters, **self._session}
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path, width, scheme="light", media="screen"):
        """Show a file, as wide as a telephone or a screen, and wait until it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=path.absolute().as_uri())
        self._wait("Page.loadEventFired")
        assert self.run("innerWidth") == width

    def run(self, code):
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self, path):
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self, path):
        """The page as PDF."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))

    def _wait(self, event):
        while (message := self._next()).get("method") != event:
            self._note(message)

    def _next(self):
        until = monotonic() + 120
        while b"\0" not in self._buffer:
            assert select([self._receive], [], [], max(0, until - monotonic()))[0], "the browser does not answer"
            read = os.read(self._receive, 1 << 20)
            assert read, "the browser is gone"
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, message):
        told = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled":
                self.complaints.append(json.dumps(told))
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.complaints.append(told["entry"]["text"])


@contextmanager
def browser():
    """A `Look` at an empty page of a browser of its own."""
    to_browser, send = os.pipe()
    receive, from_browser = os.pipe()

    def at_three_and_four():  # where the browser expects its pipe
        # Copies out of the way first, lest one overwrites the other.
        commands, answers = (fcntl(end, F_DUPFD, 10) for end in (to_browser, from_browser))
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [NAME, f"--user-data-dir={profile}", *OPTIONS],
            preexec_fn=at_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        look = Look(send, receive)
        try:
            target = next(one for one in look.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
            session = look.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
            look._session = {"sessionId": session}
            for domain in ("Page", "Runtime", "Log", "Network"):
                look.call(f"{domain}.enable")
            yield look
        finally:
            with suppress(OSError, AssertionError):
                look._session = {}
                look.call("Browser.close")
            os.close(send)
            os.close(receive)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
