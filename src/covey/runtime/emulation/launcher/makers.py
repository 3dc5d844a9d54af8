"""The interface of makers of host processes, and the maker for hosts that run already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from covey.runtime.emulation.transport.address import Address

UNKNOWN = 255
"""The status of a host that has ended with an unknown one."""


@dataclass(frozen=True)
class Wanted:
    """The requirements of a run on the processes of its hosts."""

    count: int
    """The number of hosts, which are numbered from 0."""
    token: bytes
    """The secret that a host must hold."""
    folder: Path
    """A temporary folder of this run."""
    logs: Callable[[], Path]
    """Makes the folder for the hosts' logs, and returns it."""
    modules: list[str] = field(default_factory=list)
    """The modules that hosts need."""

    def log(self, number: int) -> Path:
        """The log of a host. After a failure its last line is shown."""
        return self.logs() / f"host-{number}.log"


class Maker(Protocol):
    """A maker of the processes of a run's hosts, which do the same as `covey host --once`."""

    starts: bool
    """True if it starts hosts, and so can end and restart them; False if they are only called."""
    shares_files: bool
    """True if hosts have the files of this machine at the same paths."""

    def address(self, number: int) -> Address:
        """The address of a host. It is known before the start, and the same after a restart."""

    def start(self, number: int) -> None:
        """Start or restart a host.

        Raises:
            OSError: the system refuses a process.
        """

    def poll(self, number: int) -> int | None:
        """The exit status of a host, negative for a signal, or `UNKNOWN`; None if it may be running."""

    def kill(self, number: int) -> None:
        """End a host at once, without waiting for it."""

    def wake(self, number: int) -> None:
        """Wake a paused host."""

    def close(self) -> None:
        """End all running hosts, and start no more."""


class Called:
    """Hosts that were started by `covey host`, on this machine or elsewhere.

    Args:
        addresses: their addresses.
    """

    starts = False
    shares_files = False

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    def address(self, number: int) -> Address:
        return self._addresses[number]

    def start(self, number: int) -> None:
        """Do nothing: the host is started by its user."""

    def poll(self, number: int) -> int | None:
        return None

    def kill(self, number: int) -> None:
        """Do nothing: the process can only receive orders."""

    def wake(self, number: int) -> None:
        """Do nothing: the host wakes by itself."""

    def close(self) -> None:
        """Do nothing: hosts wait for the next launcher."""
