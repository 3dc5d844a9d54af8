"""The launcher's handle of one host: its process, its connection and its condition."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from covey.messages.payloads import Payload
from covey.parts.errors import RunError, WireError
from covey.runtime.emulation.host.host import open_connection
from covey.runtime.emulation.launcher.makers import HostEnded, HostGone, Maker
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import Connection, loop_time
from covey.runtime.emulation.transport.handshake import Caller, greet, say

if TYPE_CHECKING:
    from covey.runtime.emulation.transport.certificates import Certificates


_PASSING = {"closed", "silent", "busy", "tls-silent", "tls-broken-off"}
"""The reasons for which a call may succeed a little later."""


@dataclass
class Condition:
    """The condition of a host at its last heartbeat."""

    at: float = 0.0
    """The time of the heartbeat; 0 before the first."""
    acting: int = 0
    """The number of nodes whose programs may still act."""
    idle: int = 0
    """The number of those that only wait for messages."""
    queued: float = 0.0
    """The bytes in queues."""
    evaluates: bool = False
    """True if models are being evaluated."""
    waits: list[str] = field(default_factory=list)
    """The messages that the first few nodes wait for, in words."""

    @property
    def is_busy(self) -> bool:
        """True if something will happen without a message from another host."""
        return self.at == 0.0 or self.evaluates or self.acting > self.idle or (self.acting > 0 and self.queued > 0)


@dataclass(eq=False)
class Remote:
    """The launcher's handle of one host."""

    number: int
    nodes: list[int]
    maker: Maker
    """The maker of its process."""
    log: Path | None = None
    """Its log."""
    connection: Connection | None = None
    problem: str = "it does not answer"
    """The reason why it is not ready yet."""
    ready: asyncio.Future[None] | None = None
    begun: bool = False
    """True if it is present and its nodes have begun. Until then it takes only orders to get ready."""
    away: bool = False
    """True if the other hosts know that it is lost."""
    done: bool = False
    coming: asyncio.Task[None] | None = None
    """The task that brings it back."""
    restarted: deque[float] = field(default_factory=deque)
    """The times of its restarts without a fault."""
    kills: int = 0
    """The number of faults that keep it away."""
    struck: bool = False
    """True if it is away because of a fault."""
    for_good: bool = False
    """True if a fault keeps it away to the end."""
    paused_until: float = 0.0
    """The time until which a fault pauses it."""
    serves: bool = False
    """True if its programs have ended, and it still has message handlers."""
    holds: int | None = None
    """The last round of its nodes, once it lets none begin another."""
    condition: Condition = field(default_factory=Condition)
    logged: int = 0
    """The length of the log that it has sent."""
    peak: float = 0.0
    """The greatest memory that it reported, in bytes."""

    @property
    def is_ready(self) -> bool:
        """True if it is ready."""
        ready = self.ready
        return ready is not None and ready.done() and not ready.cancelled() and ready.exception() is None

    def ending(self) -> str:
        """The reason why its process has ended, after a colon. Its connections end a moment before its process."""
        late = monotonic() + self.maker.ends_within
        while self.maker.starts and self.maker.poll(self.number) is None and monotonic() < late:
            sleep(0.005)
        words = self.maker.last_words(self.number, self.log, nodes=len(self.nodes), peak=self.peak)
        return f": {words}" if words else ""

    def send(self, tag: str, payload: Payload) -> None:
        """Send a frame to it, if it is connected."""
        if self.connection is not None:
            say(self.connection, tag, payload)

    def let_go(self) -> None:
        """End the connection to it. Later frames of it are ignored."""
        connection, self.connection = self.connection, None
        self.begun = False
        if connection is not None:
            connection.abort()

    def dismiss(self) -> None:
        """End its work, so that it can be restarted. Later frames of it are ignored."""
        self.let_go()
        self.kill()
        self.away = self.done = self.serves = False
        self.ready = self.coming = self.holds = None

    # ------------------------------------------------------------------ its process

    @property
    def address(self) -> Address | None:
        """The address at which it listens; None until it is known."""
        return self.maker.address(self.number)

    @property
    def named(self) -> str:
        """Its number and address, for messages."""
        address = self.address
        return f"Host {self.number}" if address is None else f"Host {self.number} at {address}"

    def start(self) -> None:
        """Start its process.

        Raises:
            RunError: the system refuses a process.
        """
        try:
            self.maker.start(self.number)
        except OSError as error:
            raise RunError(
                f"The process of host {self.number} cannot be started: {error.strerror or error}."
            ) from error

    async def start_again(self) -> None:
        """Restart its process after the last one has ended."""
        if self.maker.starts:
            while self.maker.poll(self.number) is None:
                await asyncio.sleep(0.02)
            self.start()

    def kill(self) -> None:
        """End its process."""
        self.maker.kill(self.number)

    def check_alive(self) -> None:
        """Check that its process has not ended, as far as is known.

        Raises:
            HostEnded: it has ended.
        """
        status = self.maker.poll(self.number)
        if status is not None:
            raise HostEnded(f"Host {self.number} ended with status {status} before it was ready{self.ending()}.")

    def wake(self) -> None:
        """Wake its process, if a fault has paused it."""
        if self.paused_until > loop_time():
            self.maker.wake(self.number)

    async def end(self, late: float) -> None:
        """Wait for the end of its process until a time."""
        while self.maker.starts and self.maker.poll(self.number) is None and loop_time() < late:
            await asyncio.sleep(0.02)

    # ------------------------------------------------------------------ its connection

    async def reach(self, token: bytes, caller: Caller, certificates: "Certificates | None", hint: str) -> Connection:
        """Call it until it answers.

        Args:
            token: the secret that it must hold.
            caller: the identity of the caller.
            certificates: the caller's certificates; None for plain TCP.
            hint: an addition to the message about a silent host.

        Raises:
            HostGone: it is not expected to answer.
        """
        while True:
            self.check_alive()
            address = self.address
            if address is None:
                self.problem = self.maker.problem(self.number) or self.problem
                await asyncio.sleep(0.02)
                continue
            connection = greeting = None
            try:
                connection = await open_connection(self.number, address, token, certificates, lambda reason: None)
                if certificates is not None:
                    certificates.hold_to_mark(connection, self.maker.mark(self.number))
                greeting = asyncio.create_task(greet(connection, token, caller, self.number))
                while not greeting.done():
                    # A process that imports torch takes seconds to answer. One that has died never does.
                    await asyncio.wait([greeting], timeout=0.1)
                    self.check_alive()
                greeting.result()
                return connection
            except BaseException as error:
                if greeting is not None:
                    greeting.cancel()
                    await asyncio.gather(greeting, return_exceptions=True)
                if connection is not None:
                    connection.abort()
                if isinstance(error, WireError):
                    self.problem = f"{error.detail} ({error.reason})" + (hint if error.reason == "silent" else "")
                    if error.reason not in _PASSING:
                        raise HostGone(f"{self.named}: {self.problem}.") from error
                elif isinstance(error, OSError):
                    refused = isinstance(error, ConnectionRefusedError)
                    self.problem = "no process listens there" if refused else str(error) or "it does not answer"
                else:
                    raise
            await asyncio.sleep(0.1)
