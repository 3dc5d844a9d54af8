"""Hosts that cannot be called, as behind a NAT: their callers meet them at a host that can be called.

Such a host calls out: it leaves a few connections at the door of the host that can be called. Whoever wants to reach it
calls there and asks for it by number, and the two connections are joined. The ends do their handshakes, and TLS, with
each other, so the host between them forwards bytes that it cannot read.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.descriptors import MOST_LEFT
from covey.runtime.emulation.transport.door import Door, Purpose, call, knock, shown

LEFT = 4
"""The connections that a host leaves at a door for its next callers."""
_MOST_ASKING = 64
"""The greatest number of callers that wait at a door for one host."""
_MOST_HOSTS = 4096
"""The bound of the numbers of hosts."""
_PATIENCE = 10.0
"""The seconds for which a caller waits for a host."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_PIECE = 1 << 17
_IDLE, _INTERVAL, _PROBES = 20, 10, 3
"""The seconds of silence after which the system probes a connection, those between probes, and their number."""


class Meeting:
    """The connections that other hosts have left at a door, and the callers of these hosts.

    Args:
        refused: called with the reason of every refusal.
    """

    def __init__(self, refused: Callable[[str], None]) -> None:
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        self._left: dict[int, deque[socket.socket]] = {}
        self._asking: dict[int, deque[socket.socket]] = {}
        self._joined: set[asyncio.Task[None]] = set()

    def leave(self, number: int, connection: socket.socket) -> None:
        """Keep a connection of a host for its next caller."""
        if number >= _MOST_HOSTS:
            self._refused("wrong-host")
            connection.close()
            return
        keep_alive(connection)
        asking = self._asking.get(number)
        if asking:
            self._join(self._taken(asking), connection)
        else:
            self._keep(self._left.setdefault(number, deque()), connection, MOST_LEFT)

    def ask(self, number: int, caller: socket.socket) -> None:
        """Join a caller to a connection of the host that it asks for, or let it wait for one."""
        if number >= _MOST_HOSTS:
            self._refused("wrong-host")
            caller.close()
            return
        left = self._left.get(number)
        if left:
            self._join(caller, self._taken(left))
            return
        asking = self._asking.setdefault(number, deque())
        asking.append(caller)
        if len(asking) > _MOST_ASKING:
            self._give_up(asking, asking[0])
        self._loop.call_later(_PATIENCE, self._give_up, asking, caller)

    def close(self) -> None:
        """End all connections."""
        for left in self._left.values():
            while left:
                self._taken(left).close()
        for asking in self._asking.values():
            while asking:
                asking.popleft().close()
        for task in self._joined:
            task.cancel()

    def _keep(self, left: deque[socket.socket], connection: socket.socket, most: int) -> None:
        left.append(connection)
        # Its host says nothing before a caller does. So whatever comes is its end, or a mistake.
        self._loop.add_reader(connection, self._drop, left, connection)
        if len(left) > most:
            self._drop(left, left[0])

    def _drop(self, left: deque[socket.socket], connection: socket.socket) -> None:
        self._loop.remove_reader(connection)
        left.remove(connection)
        connection.close()

    def _taken(self, waiting: deque[socket.socket]) -> socket.socket:
        connection = waiting.popleft()
        self._loop.remove_reader(connection)
        return connection

    def _give_up(self, asking: deque[socket.socket], caller: socket.socket) -> None:
        if caller in asking:
            asking.remove(caller)
            self._refused("not-there")
            caller.close()

    def _join(self, caller: socket.socket, host: socket.socket) -> None:
        task = self._loop.create_task(_joined(caller, host))
        self._joined.add(task)
        task.add_done_callback(self._joined.discard)


async def _joined(one: socket.socket, other: socket.socket) -> None:
    """Forward bytes in both directions, until both have ended or one has failed."""
    for connection in (one, other):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_forward(one, other))
                tasks.create_task(_forward(other, one))
    finally:
        one.close()
        other.close()


async def _forward(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while piece := await loop.sock_recv(source, _PIECE):
        await loop.sock_sendall(target, piece)
    target.shutdown(socket.SHUT_WR)


async def call_out(door: Door, number: int, address: Address, token: bytes, *, hidden: bool) -> None:
    """Leave connections at another host's door until cancelled, and take those that a caller was joined to.

    Args:
        door: the door of this host, which takes them as it takes calls.
        number: the number of this host.
        address: the address of the host that can be called.
        token: the secret of the run.
        hidden: True if knocks have no address, because certificates identify both ends.
    """

    def first(where: tuple[str, int]) -> bytes:
        return knock(token, "" if hidden else shown(where), Purpose.LEAVE, number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(LEFT):
            tasks.create_task(_left_again(door, address, first))


async def _left_again(door: Door, address: Address, first: Callable[[tuple[str, int]], bytes]) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            connection = await call(address.host, address.port, first)
        except OSError:
            connection = None
        if connection is not None and await _is_wanted(connection):
            pause = _FIRST_PAUSE
            door.take(connection)
            continue
        await asyncio.sleep(pause)
        pause = min(2.0 * pause, _LONGEST_PAUSE)


async def _is_wanted(connection: socket.socket) -> bool:
    """Wait for the first bytes of a caller. False if the connection ends before; it is closed then."""
    keep_alive(connection)
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, said.set)
    wanted = False
    try:
        await said.wait()
        with suppress(OSError):
            wanted = bool(connection.recv(1, socket.MSG_PEEK))
        return wanted
    finally:
        loop.remove_reader(connection)
        if not wanted:
            connection.close()


def keep_alive(connection: socket.socket) -> None:
    """Let the system find out if a silent connection is broken, and keep it in the tables of a NAT."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _IDLE), ("TCP_KEEPINTVL", _INTERVAL), ("TCP_KEEPCNT", _PROBES)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
