"""The server of the live page in a thread of a test, and requests to it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from covey.runtime.emulation.transport.address import Address
from covey.watch.folder import Folder

TOKEN = "the-token-of-the-command-line"


@dataclass
class Page:
    """A server, as its readers call it."""

    server: Any
    port: int

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """The status, the content and the headers of an answer. Of headers, `_` stands for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.origin}{path}", method=method, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read(), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, error.read(), dict(error.headers)

    def get(self, path: str) -> Any:
        """The JSON of an answer that must be one."""
        status, content, _ = self.ask(path)
        assert status == 200, (status, content)
        return json.loads(content)

    def ids(self) -> dict[str, str]:
        """The id of each run, by its name."""
        return {row["name"]: row["id"] for row in self.get("/api/runs")["rows"]}

    def stream(self, path: str) -> Iterator[dict[str, Any]]:
        """The events of a stream."""
        with urllib.request.urlopen(f"{self.origin}{path}", timeout=30) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])


@contextmanager
def page(folder: Path, listen: str = "127.0.0.1", *, is_private: bool = False) -> Iterator[Page]:
    """The page of a folder, served within the context."""
    uvicorn = pytest.importorskip("uvicorn")
    from covey.watch.server import Server

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = Server(Folder(folder))
    app = server.app(Address(listen, port), TOKEN, is_private=is_private)
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield Page(server, port)
    finally:
        server.is_over = running.should_exit = True
        thread.join(timeout=20)
