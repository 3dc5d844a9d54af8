"""How many files and connections a process may have open."""

import os
import resource
from contextlib import suppress

from covey.parts.errors import ConfigurationError

_OWN = 32
"""What a process has open beside its connections: libraries, logs, the run's database, a file now and then."""
_COMFORT = 512
"""How many more are asked for where the system allows it."""


def allowed() -> float:
    """How many this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def needed_by_launcher(hosts: int, *, starts_them: bool) -> int:
    """How many a launcher has open: to each host a connection, and of those it starts a socket and a handle."""
    return _open_now() + _OWN + hosts * (3 if starts_them else 1)


def needed_by_host(hosts: int) -> int:
    """How many a host has open: to each other one a connection, and another where their calls cross."""
    return _OWN + 2 * hosts


def make_room(needed: int, hosts: int) -> None:
    """Let this process, and those that it starts, have so many open.

    Args:
        needed: how many.
        hosts: how many hosts the run has, for the error.

    Raises:
        ConfigurationError: the system does not allow so many.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = needed + _COMFORT if hard == resource.RLIM_INFINITY else min(needed + _COMFORT, hard)
    if allowed() < wanted:
        with suppress(ValueError, OSError):  # Some systems allow less than they say.
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if allowed() < needed:
        raise ConfigurationError(
            f"An emulation with {hosts} hosts needs {needed} open files and connections in one process, and the "
            f"system allows {allowed():.0f}: let the engine have fewer hosts ('nodes_per_process'), or raise the limit "
            "(`ulimit -n`)."
        )


def _open_now() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
