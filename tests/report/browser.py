"""A headless Chromium, spoken to in its DevTools protocol over two pipes: no driver, no network."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser", "find_chromium"]

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The program, None if there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _high(fd: int) -> int:
    """The same above those that the shell gives away."""
    new = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(fd)
    return new


class Browser:
    """One page of a browser. ``requests``: the addresses that pages asked for; ``errors``: what
    scripts threw or complained of.
    """

    def __init__(self, program: str, profile: Path) -> None:
        there, self._out = map(_high, os.pipe())
        self._in, back = map(_high, os.pipe())
        # The browser reads its commands from 3 and answers on 4.
        shell = f'exec "$0" "$@" 3<&{there} 4>&{back} {there}<&- {back}>&-'
        flags = [
            "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
            "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", shell, program, *flags, "about:blank"],
            pass_fds=(there, back), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env=os.environ | {"HOME": str(profile)},
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self._call(f"{domain}.enable")
        self.size(1280, 900)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._session = None
        with suppress(EOFError, OSError):
            self._call("Browser.close")
            while self._message():  # until its end of the pipe is closed
                pass
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    # -- the protocol ------------------------------------------------------------------

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._in, 1 << 20)
            if not more:
                raise EOFError("the browser is gone")
            self._buffer += more
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        method = message.get("method")
        if method == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
        return message

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise ValueError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait(self, method: str) -> None:
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._message())

    # -- a page ------------------------------------------------------------------------

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """The window's size in CSS pixels."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=phone)  # fmt: skip

    def dark(self, dark: bool = True) -> None:
        """What the user prefers."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[feature])

    def scripts(self, on: bool) -> None:
        """Whether pages that are opened from now on run scripts."""
        self._call("Emulation.setScriptExecutionDisabled", value=not on)

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file, and wait until it is loaded."""
        self._events.clear()
        done = self._call("Page.navigate", url=path.as_uri() + fragment)
        if "loaderId" in done:  # else it is another place of the same page
            self._wait("Page.loadEventFired")

    def js(self, expression: str) -> Any:
        """The value of an expression of JavaScript, a promise's when it is there."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise ValueError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def key(self, key: str, text: str = "") -> None:
        """Press a key and let it go. text: what it types."""
        codes = {
            "Tab": 9, "Enter": 13, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
            "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
        }  # fmt: skip
        code = codes.get(key, ord(key[0].upper()))
        down = "keyDown" if text else "rawKeyDown"
        for kind in (down, "keyUp"):
            more = {"text": text} if text and kind == down else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                       windowsVirtualKeyCode=code, **more)  # fmt: skip

    def screenshot(
        self, path: Path, *, whole: bool = True, top: float = 0, bottom: float = 0
    ) -> None:
        """A picture of the page, as PNG or, by the path's name, WebP; from top to bottom of it."""
        how: dict[str, Any] = {"captureBeyondViewport": whole}
        if path.suffix == ".webp":
            how |= {"format": "webp", "quality": 55}
        if bottom:
            size = self.js("document.documentElement.clientWidth")
            how["clip"] = {"x": 0, "y": top, "width": size, "height": bottom - top, "scale": 1}
        data = self._call("Page.captureScreenshot", **how)["data"]
        path.write_bytes(base64.b64decode(data))
