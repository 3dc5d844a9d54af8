"""One host as the launcher sees it: its process where it was started here, the way to it, and what is known of it."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from covey.messages.payloads import Payload
from covey.parts.errors import RunError, WireError
from covey.runtime.emulation.host.host import open_connection
from covey.runtime.emulation.launcher.makers import UNKNOWN, Maker
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import Connection, loop_time
from covey.runtime.emulation.transport.handshake import Caller, greet, say

if TYPE_CHECKING:
    from covey.runtime.emulation.transport.certificates import Certificates


class HostGone(RunError):
    """A host that does not answer."""


class HostEnded(HostGone):
    """A host that ended before it was ready; started again, it may become so."""


_PASSING = {"closed", "silent", "busy", "tls-silent", "tls-broken-off"}
"""Why a call may fail that succeeds a little later."""
_ENDING = 0.25
"""Seconds in which a process that lost its connections should have ended."""


@dataclass
class Condition:
    """What the nodes of a host did when it last said how it is."""

    at: float = 0.0
    """When it said so; 0 where it has not yet."""
    acting: int = 0
    """Nodes whose programs may still do something."""
    idle: int = 0
    """Those of them that only wait for messages."""
    queued: float = 0.0
    """Bytes on their way out."""
    evaluates: bool = False
    """Whether models are evaluated there."""
    waits: list[str] = field(default_factory=list)
    """What the first few wait for, in words."""

    @property
    def is_busy(self) -> bool:
        """Whether something will happen without a message from elsewhere."""
        return self.at == 0.0 or self.evaluates or self.acting > self.idle or (self.acting > 0 and self.queued > 0)


@dataclass(eq=False)
class Remote:
    """One host, as the launcher sees it."""

    number: int
    nodes: list[int]
    maker: Maker
    """Who makes its process."""
    log: Path | None = None
    """Where what it has to say may be found."""
    connection: Connection | None = None
    problem: str = "it does not answer"
    """Why it is not ready yet."""
    ready: asyncio.Future[None] | None = None
    begun: bool = False
    """Whether its nodes have begun, and it is there: until then it takes no orders but those to make ready."""
    away: bool = False
    """Whether the others know that it is not there."""
    done: bool = False
    coming: asyncio.Task[None] | None = None
    """What brings it back."""
    restarted: deque[float] = field(default_factory=deque)
    """When it was started or called again though no fault had struck it."""
    kills: int = 0
    """How many faults keep it away."""
    struck: bool = False
    """Whether a fault is why it is away."""
    for_good: bool = False
    """Whether one of them keeps it away to the end."""
    paused_until: float = 0.0
    """Until when a fault lets it stand still."""
    serves: bool = False
    """Whether its programs have ended, and it still answers messages."""
    holds: int | None = None
    """The last round that one of its nodes is in, once it lets none begin another."""
    condition: Condition = field(default_factory=Condition)

    @property
    def is_ready(self) -> bool:
        """Whether it has made ready."""
        ready = self.ready
        return ready is not None and ready.done() and not ready.cancelled() and ready.exception() is None

    def ending(self) -> str:
        """Why its process is gone, behind a colon: a signal, or the last line of the log of one that failed.

        Its connections are gone a moment before it is.
        """
        late = monotonic() + _ENDING
        while self.maker.starts and self.maker.poll(self.number) is None and monotonic() < late:
            sleep(0.005)
        status = self.maker.poll(self.number)
        if self.log is None or not status or status == UNKNOWN:
            return ""
        if status < 0:
            return f": killed by signal {-status}"
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1]}" if lines else ""

    def tell(self, tag: str, payload: Payload) -> None:
        """Say something to it; where it is not there, nobody hears it."""
        if self.connection is not None:
            say(self.connection, tag, payload)

    def let_go(self) -> None:
        """End the connection to it: nothing that it says is heard any more."""
        connection, self.connection = self.connection, None
        self.begun = False
        if connection is not None:
            connection.abort()

    def dismiss(self) -> None:
        """End what it does, so that it can begin anew; whatever it says from now on is not heard."""
        self.let_go()
        self.kill()
        self.away = self.done = self.serves = False
        self.ready = self.coming = self.holds = None

    # ------------------------------------------------------------------ its process

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.maker.address(self.number)

    def start(self) -> None:
        """Start its process.

        Raises:
            RunError: the system refuses.
        """
        try:
            self.maker.start(self.number)
        except OSError as error:
            raise RunError(
                f"The process of host {self.number} cannot be started: {error.strerror or error}."
            ) from error

    async def start_again(self) -> None:
        """Start its process once the one before has ended."""
        if self.maker.starts:
            while self.maker.poll(self.number) is None:
                await asyncio.sleep(0.02)
            self.start()

    def kill(self) -> None:
        """End its process."""
        self.maker.kill(self.number)

    def check_alive(self) -> None:
        """Whether its process is there, as far as anybody knows.

        Raises:
            HostEnded: it has ended.
        """
        status = self.maker.poll(self.number)
        if status is not None:
            raise HostEnded(f"Host {self.number} ended with status {status} before it was ready{self.ending()}.")

    def wake(self) -> None:
        """Let its process go on, where a fault lets it stand still."""
        if self.paused_until > loop_time():
            self.maker.wake(self.number)

    async def end(self, late: float) -> None:
        """Let its process come to its end, unless it is late."""
        while self.maker.starts and self.maker.poll(self.number) is None and loop_time() < late:
            await asyncio.sleep(0.02)

    # ------------------------------------------------------------------ the way to it

    async def reach(self, token: bytes, caller: Caller, certificates: "Certificates | None", hint: str) -> Connection:
        """Call it until it answers.

        Args:
            token: what it must hold.
            caller: who calls.
            certificates: what is shown to it; None for plain TCP.
            hint: what else to say of one that is silent.

        Raises:
            HostGone: it is not to be expected that it ever will.
        """
        while True:
            self.check_alive()
            connection = greeting = None
            try:
                connection = await open_connection(self.number, self.address, token, certificates, lambda reason: None)
                greeting = asyncio.create_task(greet(connection, token, caller, self.number))
                while not greeting.done():
                    # A process that imports torch takes seconds to answer; one that died never does.
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
                        raise HostGone(f"Host {self.number} at {self.address}: {self.problem}.") from error
                elif isinstance(error, OSError):
                    refused = isinstance(error, ConnectionRefusedError)
                    self.problem = "nobody listens there" if refused else str(error) or "it does not answer"
                else:
                    raise
            await asyncio.sleep(0.1)
