"""The signals that ask a run to stop: Ctrl-C, and what clusters, containers and `kill` send. Both mean the same."""

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
    """Handle these signals; where Python handles none, in other threads than the main one, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, earlier in before.items():
            # What was not set from Python cannot be set again from there.
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
