"""What a launcher needs of whoever makes the processes of hosts; the maker of those that are there already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from covey.runtime.emulation.transport.address import Address

UNKNOWN = 255
"""The status of a host that is not there, where nobody can tell it any more."""


@dataclass(frozen=True)
class Wanted:
    """What a run wants of the processes of its hosts."""

    count: int
    """How many hosts there are; their numbers are 0 and so on."""
    token: bytes
    """The secret that a host must hold."""
    folder: Path
    """A folder of this run alone, which is gone after it."""
    logs: Callable[[], Path]
    """Makes the folder for what hosts have to say, and names it."""
    modules: list[str] = field(default_factory=list)
    """The modules that hosts will need."""

    def log(self, number: int) -> Path:
        """The file for what a host has to say; the last line of one that failed is shown."""
        return self.logs() / f"host-{number}.log"


class Maker(Protocol):
    """Makes the processes of a run's hosts, each of which does what `covey host --once` does."""

    starts: bool
    """Whether hosts are started by it, so that they can be ended and started again; if not, they are only called."""
    shares_files: bool
    """Whether hosts find the files of this machine where they are here."""

    def address(self, number: int) -> Address:
        """Where a host listens, the same each time that it is started; known before it is."""

    def start(self, number: int) -> None:
        """Start a host, for the first time or again after it has ended.

        Raises:
            OSError: the system refuses.
        """

    def poll(self, number: int) -> int | None:
        """The status with which a host has ended, negative for a signal, or `UNKNOWN`; None where it may be there."""

    def kill(self, number: int) -> None:
        """End a host at once, without waiting for it."""

    def wake(self, number: int) -> None:
        """Let a host go on that was told to stand still."""

    def close(self) -> None:
        """End all hosts that are still there, and start no more."""


class Called:
    """Hosts that somebody else has started, by `covey host`, here or elsewhere.

    Args:
        addresses: where they listen.
    """

    starts = False
    shares_files = False

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses = addresses

    def address(self, number: int) -> Address:
        return self._addresses[number]

    def start(self, number: int) -> None:
        """Nothing: it is there, or will be."""

    def poll(self, number: int) -> int | None:
        return None

    def kill(self, number: int) -> None:
        """Nothing: it can only be told."""

    def wake(self, number: int) -> None:
        """Nothing: it wakes by itself."""

    def close(self) -> None:
        """Nothing: they wait for the next launcher."""
