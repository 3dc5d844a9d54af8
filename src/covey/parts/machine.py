"""The processors and the memory of this machine. An experiment that can never fit is refused at once."""

import os
from functools import cache
from pathlib import Path

from covey.parts.errors import ConfigurationError

_processes = 1
"""The number of processes of one sweep that compute at the same time."""


def share(processes: int) -> None:
    """Use only the share of one among several processes that compute at the same time."""
    global _processes
    _processes = processes


def default_workers() -> int:
    """The number of processors that this process may use."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors // _processes)


@cache
def total() -> float:
    """The bytes of memory of the machine, or of its container if that has less."""
    bounds = [float("inf")]
    try:
        bounds.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    except (AttributeError, ValueError, OSError):
        pass  # This system does not say.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            bounds.append(float(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):
            pass  # No container, no limit, or another version of cgroups.
    return min(bounds)


def demand(amount: float, what: str) -> None:
    """Refuse a request of more memory than the machine has.

    Args:
        amount: the least number of bytes that are needed.
        what: the subject of the error message.

    Raises:
        ConfigurationError: the machine has less.
    """
    if amount > total():
        raise ConfigurationError(
            f"{what} would take {amount / 1e9:,.1f} GB of memory. This machine has {total() / 1e9:,.1f} GB."
        )
