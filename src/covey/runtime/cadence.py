"""When a run's next checkpoint is due, where the experiment does not say it in rounds."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LEAST = 5.0
"""Seconds between two checkpoints at least."""
_SHARE = 0.03
"""Of a run's time, what checkpoints take at most: after one that took a second, the next is due 33 seconds later."""
_MOST = 1 << 31
"""Bytes of models up to which checkpoints are taken that nobody asked for: they need as much memory, and room for two
on the disk."""
_BYTES_PER_SECOND = 60e6
"""How fast the first is expected to be. Measured: 60 to 120 MB/s, with its checksum and fsync, on two busy cores."""
_COPIES = 4
"""How many of them must find room on the disk: those that are kept, the one that is written, and what else grows."""


class Cadence:
    """Spreads checkpoints over a run so that they cost a small share of its time.

    Args:
        model_bytes: what the models of all nodes take.
        folder: where checkpoints are written; None where they are not.
        now: a clock, in seconds.
    """

    def __init__(self, model_bytes: int, folder: Path | None, now: Callable[[], float]) -> None:
        self._bytes, self._folder, self._now = model_bytes, folder, now
        self._cost, self._spent, self._since = model_bytes / _BYTES_PER_SECOND, 0.0, now()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._now() - self._since >= max(_LEAST, self._cost / _SHARE) and self._is_affordable

    @property
    def _is_affordable(self) -> bool:
        if self._folder is None or self._bytes > _MOST:
            return False
        if shutil.disk_usage(self._folder).free >= _COPIES * self._bytes:
            return True
        self._since = self._now()
        return False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count what is done meanwhile as the cost of the next checkpoint."""
        began = self._now()
        try:
            yield
        finally:
            self._spent += self._now() - began

    def taken(self) -> None:
        """A checkpoint has been taken."""
        self._cost, self._spent, self._since = self._spent, 0.0, self._now()
