"""The limit of open files and connections of a process."""

import os
import resource
from contextlib import suppress

from covey.parts.errors import ConfigurationError

_OWN = 32
"""The open files of a process beside its connections: libraries, logs, the run's database and so on."""
MOST_LEFT = 8
"""The greatest number of connections that a host may leave at another one for its callers."""
_COMFORT = 512
"""The number of further open files that are requested, if the system allows it."""


def allowed() -> float:
    """The current limit of this process."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def needed_by_launcher(hosts: int, *, starts_them: bool) -> int:
    """The open files of a launcher: a connection per host and, if it starts them, a socket and a handle."""
    return _open_now() + _OWN + hosts * (3 if starts_them else 1)


def needed_by_host(hosts: int, behind: int = 0) -> int:
    """The open files of a host: a connection per other host, and another one if calls cross.

    Args:
        hosts: the number of hosts of the run.
        behind: the number of those that meet their callers at this host. Each leaves some connections there, and for
            each of its callers there are two.
    """
    return _OWN + 2 * hosts + behind * (MOST_LEFT + 2 * (hosts + 1))


def make_room(needed: int, hosts: int) -> None:
    """Raise the limit of this process and of those that it starts.

    Args:
        needed: the number of open files that are needed.
        hosts: the number of hosts of the run, for the error.

    Raises:
        ConfigurationError: the system does not allow that many.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = needed + _COMFORT if hard == resource.RLIM_INFINITY else min(needed + _COMFORT, hard)
    if allowed() < wanted:
        with suppress(ValueError, OSError):  # Some systems allow less than their stated limit.
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
