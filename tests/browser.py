"""A headless chromium, driven over a pipe by its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab of a browser.

    Args:
        reading, writing: the ends of its pipes.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._rest, self._number, self._session = b"", 0, None
        self.complaints: list[str] = []
        """The errors of scripts, of the console and of the content security policy."""
        self.asked: list[str] = []
        """The addresses of all requests."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found)
                return found["result"]
            self._note(found)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._reading, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.complaints.append(str([one.get("value") for one in parameters["args"]]))
        elif event.get("method") == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])

    def show(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Set the size of the window, and the mode."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        mode = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[mode, {"name": "prefers-reduced-motion", "value": "reduce"}])

    def open(self, address: str) -> None:
        """Open a page."""
        self.call("Page.navigate", url=address)

    def eval(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, (script, found)
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # The page may be on its way.
            found = self.eval(f"(() => {{ try {{ return {script}; }} catch {{ return null; }} }})()")
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{script} stays false; the page says: {self.eval('document.body.innerText')[:1000]}")

    def press(self, key: str) -> None:
        """Press a key, such as "Tab" or "Enter"."""
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        named = {
            "key": " " if key == "Space" else key,
            "code": key,
            "windowsVirtualKeyCode": {"Tab": 9, "Enter": 13, "Space": 32}.get(key, 0),
        }
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write a screenshot as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        more = {"clip": clip, "captureBeyondViewport": True} if whole else {}
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"]))

    def names(self) -> list[tuple[str, str]]:
        """The roles and names of what can be used, as a screen reader has them."""
        found = self.call("Accessibility.getFullAXTree")["nodes"]
        used = (
            "link",
            "button",
            "textbox",
            "searchbox",
            "combobox",
            "checkbox",
            "radio",
            "img",
            "image",
            "progressbar",
            "progressIndicator",
            "table",
        )
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in found
            if not node.get("ignored") and node.get("role", {}).get("value") in used
        ]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser within the context, with its files in a folder."""
    assert BROWSER is not None
    (to_read, writing), (reading, to_write) = os.pipe(), os.pipe()
    # The protocol has the descriptors 3 and 4.
    script = (
        f"exec {BROWSER} --headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run "
        f"--disable-dev-shm-usage --hide-scrollbars --user-data-dir={folder / 'browser'} 3<&{to_read} 4>&{to_write} 2>/dev/null"
    )
    process = subprocess.Popen(
        ["bash", "-c", script],
        pass_fds=(to_read, to_write),
        env={**os.environ, "HOME": str(folder)},
        stdout=subprocess.DEVNULL,
    )
    os.close(to_read)
    os.close(to_write)
    try:
        yield Browser(reading, writing)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(reading)
        os.close(writing)
