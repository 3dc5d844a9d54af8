"""The signals that stop a run: SIGINT of Ctrl-C, and SIGTERM of clusters, containers and `kill`."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handled(
    handler: Callable[[int, Any], Any] | signal.Handlers, signals: tuple[signal.Signals, ...] = STOP
) -> Iterator[None]:
    """Handle signals within the context. Outside of the main thread, where Python handles none, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            # None: the handler was not set from Python, and cannot be restored.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
