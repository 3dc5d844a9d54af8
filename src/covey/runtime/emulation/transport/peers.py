"""The connections of a host to the others: one for each pair, opened when it is needed.

A host with something to send calls. If two call each other at once, the call of the host with the lower number stays.
Frames wait for a connection, up to a limit. A broken connection is called again with growing pauses.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import WireError
from covey.runtime.emulation.transport.connection import FRAMING_BYTES, Connection, Parts, loop_time
from covey.runtime.emulation.transport.handshake import Caller, greet

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_FRAME = 512
"""The memory of a waiting frame in bytes, beyond its own."""
_CROSSING = 1.0
"""The seconds for which a call may have been in transit when the other side's was answered."""

_HOST = (1 << 32) - 1
"""The sender and receiver of a frame that is for a host itself, and for none of its nodes."""

Call = Callable[[int], Awaitable[Connection]]
"""A function that opens a connection to a host, or raises OSError or WireError."""


@dataclass(slots=True, eq=False)
class _Route:
    """The connection to one other host, and its queue."""

    host: int
    connection: Connection | None = None
    calling: asyncio.Task[None] | None = None
    pausing: bool = False
    """True if it waits until it calls again."""
    waiting: deque[Callable[[], Parts]] = field(default_factory=deque)
    """Functions that make the frames that wait for a connection."""
    waiting_bytes: int = 0
    since: float = 0.0
    """The time at which the connection was established."""

    @property
    def backlog(self) -> int:
        """The memory of waiting frames, in bytes."""
        waiting = self.waiting_bytes + _FRAME * len(self.waiting)
        if self.connection is not None:
            waiting += self.connection.queued + _FRAME * self.connection.waiting
        return waiting


class Peers:
    """Sends frames to other hosts, and checks the frames from them.

    Args:
        me: the number of this host.
        owners: the host of every node.
        call: opens a connection.
        token: the secret of the run.
        run: its name.
        rounds: the number of rounds of the experiment.
        limits: the limits of the decoder.
        most: the limit of bytes that wait for one host.
        deliver: called with every valid frame for a node.
        from_host: called with the number of a host and every frame that it sends to this host itself.
        refused: called with the reason of every other frame, or of one that cannot be sent.
        broken: called with the number of a host whose connection ended unexpectedly, so that frames in transit are
            lost.
    """

    def __init__(
        self,
        me: int,
        owners: Sequence[int],
        *,
        call: Call,
        token: bytes,
        run: str,
        rounds: int,
        limits: wire.Limits,
        most: int,
        deliver: Callable[[wire.Frame], None],
        from_host: Callable[[int, wire.Frame], None],
        refused: Callable[[str], None],
        broken: Callable[[int], None],
    ) -> None:
        self.me, self.owners, self.run, self._rounds = me, owners, run, rounds
        self._call, self._token, self._limits, self._most = call, token, limits, most
        self._deliver, self._from_host, self._refused, self._broken = deliver, from_host, refused, broken
        self._routes: dict[int, _Route] = {}
        self._gone: set[int] = set()
        """The hosts that are known to be lost."""
        self._standing: dict[Connection, tuple[int, int]] = {}
        """The frames and bytes of each connection's handshake."""
        self._ended_frames = self._ended_handshakes = self._ended_bytes = 0
        """The counts of ended connections: frames after handshakes, bytes of handshakes, all bytes."""
        self._words = self._word_bytes = 0
        """The counts of frames for hosts themselves."""
        self.closed = False

    def _route(self, host: int) -> _Route:
        route = self._routes.get(host)
        if route is None:
            route = self._routes[host] = _Route(host)
        return route

    def send(self, host: int, length: int, frame: Callable[[], Parts]) -> None:
        """Send a frame to a host as soon as possible.

        Args:
            host: the number of the host.
            length: the bytes of the frame, without checksum and seal.
            frame: makes its pieces.
        """
        if host in self._gone:
            self._refused("away")
            return
        route = self._route(host)
        if route.backlog + length > self._most:
            self._refused("queue-full")
            return
        self._put(route, length, frame)

    def send_to_host(self, host: int, tag: str, payload: Payload) -> None:
        """Send a frame to a host itself, behind all frames to its nodes."""
        parts = wire.encode_parts(payload, tag=tag, sender=_HOST, receiver=_HOST)
        length = sum(map(len, parts))

        def word() -> Parts:
            self._words += 1
            self._word_bytes += length
            return parts

        if host not in self._gone:
            self._put(self._route(host), length, word)

    def send_word(self, host: int, tag: str, payload: Payload) -> None:
        """Send a frame to a host itself as soon as possible, as `send` does for its nodes."""
        parts = wire.encode_parts(payload, tag=tag, sender=_HOST, receiver=_HOST)
        self.send(host, sum(map(len, parts)), lambda: parts)

    def _put(self, route: _Route, length: int, frame: Callable[[], Parts]) -> None:
        connection = route.connection
        if connection is None or connection.lost.done():
            route.waiting.append(frame)
            route.waiting_bytes += length
            if route.calling is None and not self.closed:
                route.calling = asyncio.create_task(self._connect(route))
        else:
            connection.send(frame())

    async def _connect(self, route: _Route) -> None:
        pause = _FIRST_PAUSE
        try:
            while not (self.closed or self._has_connection(route)):
                try:
                    connection = await self._call(route.host)
                    try:
                        await greet(connection, self._token, Caller(self.run, self.me), route.host)
                    except BaseException:
                        connection.abort()
                        raise
                    if self._has_connection(route):
                        connection.abort()  # The other side called meanwhile.
                    else:
                        self._take_over(route, connection)
                except (OSError, WireError) as error:
                    if isinstance(error, WireError) and error.reason != "busy":
                        self._refused(f"call-{error.reason}")
                    route.pausing = True
                    await asyncio.sleep(pause)
                    route.pausing = False
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            route.calling, route.pausing = None, False

    @staticmethod
    def _has_connection(route: _Route) -> bool:
        return route.connection is not None and not route.connection.lost.done()

    def wants(self, host: int) -> bool:
        """True if a host's call is accepted. If it crosses a call of this host, the lower number's call stays."""
        if self.closed:
            return False
        route = self._route(host)
        if self.me > host:
            return True
        if self._has_connection(route):
            # The other side may have lost a connection that seems intact here, and calls again.
            return loop_time() - route.since > _CROSSING
        return route.calling is None or route.pausing

    def accept(self, host: int, connection: Connection) -> None:
        """Use the connection of a host that called."""
        route = self._route(host)
        if route.connection is not None:
            route.connection.abort()  # The other side has lost it, as it calls again.
        self._take_over(route, connection)

    def _break(self, route: _Route) -> None:
        """Report an unexpected end of a connection, before any frame of a later connection counts."""
        if not (self.closed or route.host in self._gone):
            self._broken(route.host)

    def _take_over(self, route: _Route, connection: Connection) -> None:
        if route.connection is not None:
            self._break(route)
        route.connection, route.since = connection, loop_time()
        self._standing[connection] = connection.frames_out, connection.bytes_out
        connection.listen(lambda frame: self._on_frame(route, connection, frame), self._limits)
        connection.lost.add_done_callback(lambda _: self._on_lost(route, connection))
        while route.waiting:
            connection.send(route.waiting.popleft()())
        route.waiting_bytes = 0

    def _on_lost(self, route: _Route, connection: Connection) -> None:
        frames, handshake = self._standing.pop(connection)
        self._ended_frames += connection.frames_out - frames
        self._ended_handshakes += handshake
        self._ended_bytes += connection.bytes_out
        for _ in range(connection.unsent):
            self._refused("away" if route.host in self._gone else "connection-lost")
        if route.connection is connection:
            route.connection = None
            self._break(route)

    def _on_frame(self, route: _Route, connection: Connection, frame: wire.Frame) -> None:
        """Check a frame of a host, and deliver it."""
        if route.connection is not connection:
            return
        if frame.sender == _HOST:
            self._from_host(route.host, frame)
        elif not (frame.sender < len(self.owners) and self.owners[frame.sender] == route.host):
            self._refused("spoofed-sender")
        elif not (frame.receiver < len(self.owners) and self.owners[frame.receiver] == self.me):
            self._refused("wrong-receiver")
        elif frame.round is not None and frame.round >= self._rounds:
            # A node that catches up continues at the latest round of a message, so rounds must exist.
            self._refused("wrong-round")
        else:
            self._deliver(frame)

    @property
    def backlog(self) -> int:
        """The bytes that wait to be written, for all hosts."""
        return sum(route.backlog for route in self._routes.values())

    @property
    def is_crowded(self) -> bool:
        """True if more than half of the limit waits for some host."""
        return any(route.backlog > self._most // 2 for route in self._routes.values())

    def drop(self, host: int) -> None:
        """Drop all frames for a lost host, until `take_up`."""
        self._gone.add(host)
        route = self._route(host)
        for _ in route.waiting:
            self._refused("away")
        route.waiting.clear()
        route.waiting_bytes = 0
        if route.calling is not None:
            route.calling.cancel()
        if route.connection is not None:
            route.connection.abort()

    def take_up(self, host: int) -> None:
        """Send frames to a returned host again."""
        self._gone.discard(host)

    @property
    def socket_bytes_out(self) -> int:
        """The bytes written to sockets: frames, checksums, seals, handshakes."""
        return self._ended_bytes + sum(connection.bytes_out for connection in self._standing)

    @property
    def frames_out(self) -> int:
        """The number of nodes' frames among them."""
        standing = sum(c.frames_out - frames for c, (frames, _) in self._standing.items())
        return self._ended_frames + standing - self._words

    @property
    def payload_bytes_out(self) -> int:
        """The bytes of nodes' frames among them, without checksums and seals."""
        handshakes = self._ended_handshakes + sum(handshake for _, handshake in self._standing.values())
        sealed = (self.frames_out + self._words) * FRAMING_BYTES
        return self.socket_bytes_out - handshakes - sealed - self._word_bytes

    async def close(self, *, in_peace: bool) -> None:
        """End all connections.

        Args:
            in_peace: write waiting frames before.
        """
        self.closed = True
        for route in self._routes.values():
            if route.calling is not None:
                route.calling.cancel()
            if route.connection is not None and not in_peace:
                route.connection.abort()
            elif route.connection is not None:
                try:
                    async with asyncio.timeout(2.0):
                        await route.connection.flushed()
                except TimeoutError:
                    pass
                route.connection.close()
