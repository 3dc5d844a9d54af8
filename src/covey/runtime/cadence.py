"""The times of checkpoints, if the experiment does not give them in rounds."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LEAST = 5.0
"""The least seconds between two checkpoints."""
_SHARE = 0.03
"""The greatest fraction of a run's time for checkpoints: after one of a second, the next is due 33 seconds later."""
_MOST = 1 << 31
"""The greatest size of models for which checkpoints are taken by default: they need as much memory, and twice as much
disk."""
_BYTES_PER_SECOND = 60e6
"""The expected speed of the first checkpoint. Measured: 60 to 120 MB/s, with checksum and fsync, on two busy cores."""
_COPIES = 4
"""The free disk that is required, in checkpoints: those that are kept, the one that is written, and a reserve."""


class Cadence:
    """Schedules checkpoints so that they cost a small fraction of a run's time.

    Args:
        model_bytes: the bytes of the models of all nodes.
        folder: the folder of checkpoints; None if none are written.
        now: a clock, in seconds.
    """

    def __init__(self, model_bytes: int, folder: Path | None, now: Callable[[], float]) -> None:
        self._bytes, self._folder, self._now = model_bytes, folder, now
        self._cost, self._spent, self._since = model_bytes / _BYTES_PER_SECOND, 0.0, now()

    @property
    def is_due(self) -> bool:
        """True if a checkpoint is due."""
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
        """Measure the time within the context as cost of the next checkpoint."""
        began = self._now()
        try:
            yield
        finally:
            self._spent += self._now() - began

    def taken(self) -> None:
        """Record that a checkpoint was taken."""
        self._cost, self._spent, self._since = self._spent, 0.0, self._now()
