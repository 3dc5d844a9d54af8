"""The interface of makers of host processes, and the maker for hosts that run already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from covey.parts.errors import RunError
from covey.runtime.emulation.transport.address import Address

if TYPE_CHECKING:
    from covey.runtime.emulation.transport.certificates import Authority, Certificates

UNKNOWN = 255
"""The status of a host that has ended with an unknown one."""


class HostGone(RunError):
    """The error that a host does not answer."""


class HostEnded(HostGone):
    """The error that a host ended before it was ready. A restart may help."""


@dataclass(frozen=True)
class Trust:
    """The proofs of identity of the launcher and its hosts."""

    token: bytes
    """The secret that a host must hold."""
    certificates: "Certificates | None" = None
    """The launcher's certificates; None for plain TCP on one machine."""
    authority: "Authority | None" = None
    """The authority of the run, if hosts get their certificates when they start."""


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
    shipment: Callable[[int | None], object] = lambda number: None
    """Returns the data that a host gets in place of files; with None, those that all get."""
    authority: "Authority | None" = None
    """The authority that issues certificates for hosts when they start."""

    def log(self, number: int) -> Path:
        """The log of a host. After a failure its last line is shown."""
        return self.logs() / f"host-{number}.log"


class Maker(Protocol):
    """A maker of the processes of a run's hosts, which do the same as `covey host --once`."""

    starts: bool
    """True if it starts hosts, and so can end and restart them; False if they are only called."""
    shares_files: bool
    """True if hosts have the files of this machine at the same paths."""
    same_paths: bool = False
    """True if hosts look for data and modules at the paths of this machine, even on other ones."""
    ends_within: float = 0.25
    """The seconds within which the end of a host that lost its connections is known."""

    def address(self, number: int) -> Address | None:
        """The address of a host; None until it is known. It may be another one after a restart."""

    def mark(self, number: int) -> str:
        """The mark of the certificate of a host that may come back at another address; nothing for others."""
        return ""

    def problem(self, number: int) -> str | None:
        """The reason why the address of a host is not known yet."""
        return None

    def last_words(self, number: int, log: Path | None, *, nodes: int = 0, peak: float = 0.0) -> str:
        """The reason why a host has ended, if it is known: a signal, or the last line of its log after a failure.

        Args:
            number: the host.
            log: its log.
            nodes: the number of its nodes.
            peak: the greatest memory that it reported, in bytes.
        """
        return words_of(self.poll(number), log)

    def check(self) -> None:
        """Check that hosts can still be started and watched.

        Raises:
            HostGone: they cannot.
        """
        return

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


def words_of(status: int | None, log: Path | None) -> str:
    """The reason of an exit status: a signal, or the last line of a log after a failure."""
    if log is None or not status or status == UNKNOWN:
        return ""
    if status < 0:
        return f"killed by signal {-status}"
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


class Called(Maker):
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
