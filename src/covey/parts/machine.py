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


@cache
def multiplies_bf16() -> bool | None:
    """True if processors have instructions that multiply matrices of bfloat16; None if the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split(":")[-1].split()}
    return bool(flags & _BF16) if flags else None


_BF16 = {"amx_bf16", "avx512_bf16", "bf16"}
"""The flags of such instructions: those of x86, and those of Arm."""


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
