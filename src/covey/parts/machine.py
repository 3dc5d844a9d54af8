"""What this machine has: processors, and how much memory, so that what can never fit is refused at once."""

import os
from functools import cache
from pathlib import Path

from covey.parts.errors import ConfigurationError


def default_workers() -> int:
    """As many as there are processors for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def total() -> float:
    """The bytes that this process could have: the machine's, or as many as its container may take."""
    bounds = [float("inf")]
    try:
        bounds.append(float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")))
    except (AttributeError, ValueError, OSError):
        pass  # Not on this system.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            bounds.append(float(Path("/sys/fs/cgroup", name).read_text()))
        except (OSError, ValueError):
            pass  # No container, or one without a bound, or of another version.
    return min(bounds)


def demand(amount: float, what: str) -> None:
    """Refuse what takes more bytes than there are.

    Args:
        amount: how many it takes, at least.
        what: it, for the beginning of a sentence.

    Raises:
        ConfigurationError: there are fewer.
    """
    if amount > total():
        raise ConfigurationError(f"{what} would take {amount / 1e9:,.1f} GB of memory. Here are {total() / 1e9:,.1f}.")
