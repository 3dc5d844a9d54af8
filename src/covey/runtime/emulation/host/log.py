"""The log of a host, sent to its launcher."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from covey.parts.errors import one_line
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.handshake import say


class _Sender(logging.Handler):
    """A handler that sends each entry of a log as a frame, from any thread."""

    def __init__(self, control: Connection) -> None:
        super().__init__()
        self._control, self._loop = control, asyncio.get_running_loop()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        text = one_line(self.format(record))
        self._loop.call_soon_threadsafe(say, self._control, "log", {"text": text})


@contextmanager
def sent_to_launcher(log: logging.Logger, control: Connection) -> Iterator[None]:
    """Send the entries of a log to a launcher."""
    sender = _Sender(control)
    log.addHandler(sender)
    try:
        yield
    finally:
        log.removeHandler(sender)
