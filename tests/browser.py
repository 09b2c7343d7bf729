"""A real browser for tests: headless Chromium, driven by the DevTools protocol."""

import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

_TIMEOUT_S = 600
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab of a browser, created by `start`.

    Attributes:
      requests: URLs that the tab requested, without data URLs.
      errors: Exceptions of scripts and violations of the content security policy.
    """

    def __init__(self, write: int, read: int):
        self._write, self._read = write, read
        self._numbers = itertools.count(1)
        self._received = b""
        self._session = ""
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: pathlib.Path, *, width: int = 1200, dark: bool = False):
        """Load a page at a width in pixels and wait until it is complete."""
        self.requests.clear()
        self.errors.clear()
        self.resize(width)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def resize(self, width: int, height: int = 900):
        """Set the size of the window in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def run(self, script: str) -> Any:
        """Return the value of an expression or of the promise that it returns."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str):
        """Wait until an expression is true."""
        self.run(f"""new Promise((done) => {{
            const look = () => ({condition}) ? done() : requestAnimationFrame(look);
            look();
        }})""")

    def press(self, key: str):
        """Press and release a key, named as in the DOM: `Tab`, `ArrowRight`."""
        codes = {"Tab": 9, "End": 35, "Home": 36}
        codes |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )

    def tap(self, selector: str, at: float = 0.5):
        """Tap the first element that matches a selector, at a fraction of its width."""
        x, y = self.run(f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            return [box.x + {at} * box.width, box.y + box.height / 2];
        }})()""")
        point = [{"x": x, "y": y}]
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=point)
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def close(self):
        """Close the browser and all its processes."""
        self._session = ""
        self.call("Browser.close")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], _TIMEOUT_S)
            part = os.read(self._read, 2**20) if ready else b""
            assert part, "the browser does not respond"
            self._received += part
        line, _, self._received = self._received.partition(b"\0")
        event = json.loads(line)
        self._record(event.get("method"), event.get("params", {}))
        return event

    def _record(self, method: str | None, parameters: dict[str, Any]):
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        if method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])


@contextlib.contextmanager
def start(profile: pathlib.Path) -> Iterator[Browser]:
    """Start a browser with a new profile; skip the test if no browser is installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("needs chromium or google-chrome")
    # The browser reads commands from file descriptor 3 and writes answers to 4.
    commands, write = os.pipe()
    read, answers = os.pipe()
    command = [program, *_OPTIONS, f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", *command],
        pass_fds=(commands, answers),
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        tab = Browser(write, read)
        yield tab
        tab.close()
    finally:
        os.close(write)
        os.close(read)
        process.kill()
        process.wait()
