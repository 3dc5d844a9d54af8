"""The addresses of hosts."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from covey.parts.errors import ConfigurationError

BEHIND = "behind "
"""The word before the address at which a host that cannot be called meets its callers."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address."""

    host: str
    port: int
    behind: bool = False
    """True if the host cannot be called, and calls out to this address, which is that of another host."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "10.0.0.1:7000", "[::1]:7000" or "name:7000", or one of these after "behind ".

        Raises:
            ConfigurationError: the text is not an address.
        """
        behind = text.startswith(BEHIND)
        host, colon, port = text.removeprefix(BEHIND).strip().rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        is_port = port.isdecimal() and len(port) <= 5 and int(port) < 1 << 16
        if not (colon and host and is_port and _may_be_looked_up(host)):
            raise ConfigurationError(f'An address must be "host:port", such as "10.0.0.1:7000". Got {text!r} instead.')
        return cls(host, int(port), behind)

    @classmethod
    def of(cls, listening: socket.socket) -> Self:
        """The address of a listening socket."""
        host, port, *_ = listening.getsockname()
        return cls(host, port)

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it. For a name, all its addresses must be loopback ones."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return all(ipaddress.ip_address(where[0]).is_loopback for *_, where in found)

    def listen(self) -> socket.socket:
        """A socket bound to it.

        Raises:
            OSError: the address is not one of this machine, or in use.
        """
        family, kind, protocol, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        # With the protocol set, asyncio turns off Nagle's algorithm, which would cost a round trip.
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(1024)
        return listening

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{BEHIND if self.behind else ''}{host}:{self.port}"


def check_meetings(addresses: Sequence[Address]) -> None:
    """See whether every host that cannot be called meets its callers at one of the others.

    Raises:
        ConfigurationError: one does not.
    """
    for number, address in enumerate(addresses):
        if address.behind and replace(address, behind=False) not in addresses:
            raise ConfigurationError(
                f"Host {number} is {address}, which must be the address of another host of the run that can be called."
            )


def _may_be_looked_up(name: str) -> bool:
    """True if a name can be looked up: none of its labels is empty or too long."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def read_addresses(file: Path) -> list[str]:
    """The addresses in a file, one per line. Empty lines and comments after # are ignored.

    Raises:
        ConfigurationError: the file cannot be read, has no address, or has a malformed line. The text does not quote
            the file.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigurationError(f"The hosts file {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigurationError(f"The hosts file {file} is not UTF-8.") from None
    if not any(lines):
        raise ConfigurationError(f"The hosts file {file} must have one address per line. It has none.")
    for number, line in enumerate(lines, 1):
        try:
            Address.parse(line or "empty:0")
        except ConfigurationError:
            raise ConfigurationError(
                f'Line {number} of the hosts file {file} must be an address, "host:port", such as "10.0.0.1:7000".'
            ) from None
    return [line for line in lines if line]
