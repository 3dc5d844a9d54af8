"""A host: a process that listens for a launcher, and accepts connections of the run's other hosts."""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from covey.parts.errors import WireError
from covey.runtime.emulation.host.run import HostRun
from covey.runtime.emulation.transport import tls
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.descriptors import allowed, make_room, needed_by_host
from covey.runtime.emulation.transport.door import Door, Purpose, call, knock, shown
from covey.runtime.emulation.transport.handshake import (
    LAUNCHER,
    LIMITS,
    SECONDS,
    Guest,
    admit,
    refuse,
    title,
    welcome,
)
from covey.runtime.emulation.transport.meeting import Meeting, call_out

if TYPE_CHECKING:
    from covey.runtime.emulation.transport.certificates import Certificates

log = logging.getLogger("covey.host")

_STRANGERS, _FEWEST = 256, 8
"""The greatest number of strangers, and of callers that knocked, in handshakes at once; and the least if a process may
have few open files."""
_HASTE = 2.0
"""The timeout of a stranger that did not knock, in seconds."""
SILENCE = 60.0
"""The seconds of silence after which a launcher on another machine counts as lost: a machine without power closes no
connection. The launcher sends a heartbeat every second."""


class Host:
    """A host, which listens and serves one run at a time.

    Args:
        token: the secret that launchers and other hosts must hold.
        certificates: the certificates of this host; None for plain TCP.
        patience: the seconds that a caller may take to identify itself.
        silence: the seconds of silence after which a launcher counts as lost; None for never, if the system reports
            its end.
        local: the tables with this host's own data; None if it has none.
        shipped: the data that it got in place of files; None to load them.
        sends_log: send the log of a run to its launcher, which has no file of it.
    """

    def __init__(
        self,
        token: bytes,
        certificates: "Certificates | None" = None,
        *,
        patience: float = SECONDS,
        silence: float | None = None,
        local: Mapping[str, Any] | None = None,
        sends_log: bool = False,
        shipped: tuple[Any, Any] | None = None,
    ) -> None:
        self.token, self._certificates, self._patience, self.silence = token, certificates, patience, silence
        self.local, self.sends_log, self.shipped = local, sends_log, shipped
        self.refused: Counter[str] = Counter()
        """The number of refused connections and frames, by reason."""
        self._strangers: dict[asyncio.Task[None], Connection] = {}
        """The callers that have not identified themselves yet, in order of their calls."""
        self._knocked: dict[asyncio.Task[None], Connection] = {}
        """The same for callers that knocked, and so seem to hold the token."""
        self._most = _STRANGERS
        self._run: HostRun | None = None
        self._calls_out = False
        """True if this host cannot be called."""
        self._served_one = asyncio.Event()

    async def serve(
        self,
        listening: socket.socket | None,
        *,
        out: tuple[int, Address] | None = None,
        once: bool = False,
        grace: float = 60.0,
    ) -> None:
        """Listen, or call out, until cancelled.

        Args:
            listening: a bound socket; None if this host cannot be called.
            out: the number of this host, and the address of the one to which it then calls out.
            once: end after one run, or if no launcher connects in time.
            grace: the seconds to wait for a launcher.
        """
        hidden, self._calls_out = self._certificates is not None, listening is None
        elsewhere = None if listening is None else Meeting(self._count)
        self._door = Door(
            listening, self.token, hidden=hidden, come=self._come, refused=self._count, elsewhere=elsewhere
        )
        self.expect(1)
        calling = None
        if listening is not None:
            log.info("listening on %s", Address.of(listening))
        elif out is not None:
            log.info("calling out to %s", out[1])
            calling = asyncio.create_task(call_out(self._door, *out, self.token, hidden=hidden))
        try:
            if not once:
                await asyncio.Event().wait()
            async with asyncio.timeout(grace) as patience:
                while not self._served_one.is_set():
                    if self._run is not None:
                        patience.reschedule(None)
                    await asyncio.sleep(0.05)
        finally:
            if calling is not None:
                calling.cancel()
            self._door.close()
            await self._leave()

    def expect(self, hosts: int, behind: int = 0) -> None:
        """Provide open files for the connections of a run with some hosts, and limit strangers to the rest.

        Args:
            hosts: their number.
            behind: the number of those that meet their callers here.

        Raises:
            ConfigurationError: the system does not allow that many.
        """
        needed = needed_by_host(hosts, behind)
        make_room(needed, hosts)
        self._most = self._door.most = int(max(_FEWEST, min(_STRANGERS, (allowed() - needed) / 3)))

    async def _leave(self) -> None:
        """End all activities."""
        for task, connection in [*self._strangers.items(), *self._knocked.items()]:
            connection.abort()
            task.cancel()
        run = None if self._run is None else self._run.task
        if run is not None:
            run.cancel()
            await asyncio.wait([run])

    # ------------------------------------------------------------------ callers

    def _count(self, reason: str) -> None:
        self.refused[reason] += 1
        log.warning("refused: %s", reason) if self.refused[reason] in (1, 10, 100, 1000, 10_000) else None

    def _come(self, caller: socket.socket, knocked: bool) -> None:
        """Start a task that identifies a caller."""
        others = self._knocked if knocked else self._strangers
        if len(others) >= self._most:
            # Honest callers identify themselves at once. The oldest of the others makes room, or silent ones block all.
            oldest = next(iter(others))
            others.pop(oldest).abort()
            oldest.cancel()
            self._count("too-many-strangers")
        connection = Connection(LIMITS, self._count, secured=self._certificates is not None)
        patience = self._patience if knocked else min(self._patience, _HASTE)
        task = asyncio.get_running_loop().create_task(self._meet(caller, connection, patience))
        others[task] = connection

        def on_end(task: asyncio.Task[None]) -> None:
            others.pop(task, None)
            if not connection.is_made:
                caller.close()

        task.add_done_callback(on_end)

    async def _meet(self, caller: socket.socket, connection: Connection, patience: float) -> None:
        """Identify a caller, and admit it if this host serves it."""
        try:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, caller)
            except OSError as error:
                raise WireError("closed", "the other side ended the connection") from error
            if self._certificates is not None:
                await connection.secure(self._certificates.served, patience)
            guest = await admit(connection, self.token, patience, called_out=self._calls_out)
            if self._certificates is not None:
                self._certificates.hold_to(connection, guest.caller.who)
            objection = self._objection_to(guest)
            if objection is None and self._certificates is not None and self._run is not None:
                self._certificates.hold_to_mark(connection, self._run.mark_of(guest.caller.who))
            if objection is None:
                self._let_in(connection, guest)
                return
            if objection != "busy":
                self._count(objection)
        except WireError as error:
            self._count(error.reason)
            objection = error.reason
        refuse(connection, objection)

    def _objection_to(self, guest: Guest) -> str | None:
        """The reason to refuse a caller that holds the token, as a word of the handshake; None to admit it."""
        who, run = guest.caller.who, self._run
        if self._certificates is not None and self._certificates.owner != title(guest.callee):
            return "wrong-host"
        if who == LAUNCHER:
            return None if run is None else "busy"
        if run is None or run.name != guest.caller.run:
            return "wrong-run"
        if run.peers is None or not run.begun:
            return "busy"  # The mail of the restored nodes is not delivered yet.
        if guest.callee != run.me or not run.knows(who):
            return "wrong-host"
        return None if run.peers.wants(who) else "busy"

    def _let_in(self, connection: Connection, guest: Guest) -> None:
        """Admit a caller.

        Raises:
            WireError: its public key is not valid.
        """
        welcome(connection, self.token, guest)
        if guest.caller.who != LAUNCHER:
            assert self._run is not None
            assert self._run.peers is not None
            self._run.peers.accept(guest.caller.who, connection)
            return
        self._run = run = HostRun(self, connection, guest.caller.run, guest.callee)
        run.task = asyncio.get_running_loop().create_task(self._serve_run(run))

    async def _serve_run(self, run: HostRun) -> None:
        try:
            await run.serve()
        finally:
            self._run = None
            self._served_one.set()

    async def call(self, who: int, address: Address, mark: str = "") -> Connection:
        """Open a connection to another host, whose certificate has a mark.

        Raises:
            OSError, WireError: the connection fails, or it shows another certificate.
        """
        connection = await open_connection(who, address, self.token, self._certificates, self._count)
        try:
            if self._certificates is not None:
                self._certificates.hold_to_mark(connection, mark)
        except WireError:
            connection.abort()
            raise
        return connection


async def open_connection(
    who: int,
    address: Address,
    token: bytes | None,
    certificates: "Certificates | None",
    refused: Callable[[str], None],
) -> Connection:
    """Open a connection to a host.

    Args:
        who: its number.
        address: its address.
        token: the secret of the run; None to call without a knock.
        certificates: the caller's certificates; None for plain TCP, which is allowed only on this machine.
        refused: called with the reason of every dropped frame.

    Raises:
        OSError: the connection fails.
        WireError: it does not show that host's certificate, or the call would leave this machine without any.
    """
    loop = asyncio.get_running_loop()
    context = None if certificates is None else certificates.calling

    def first(where: Any) -> bytes:
        if context is None and not ipaddress.ip_address(where[0]).is_loopback:
            raise WireError("not-local", "it is on another machine, and certificates are missing")
        if token is None:
            return b""
        shown_where = "" if context is not None else shown(where)
        asked = knock(token, shown_where, Purpose.ASK, who) if address.behind else b""
        return asked + knock(token, shown_where)

    async with asyncio.timeout(SECONDS):
        try:
            caller = await call(address.host, address.port, first)
            _, connection = await loop.create_connection(
                lambda: Connection(LIMITS, refused),
                sock=caller,
                ssl=context,
                server_hostname=None if context is None else address.host,
            )
        except (ssl.SSLError, ConnectionResetError, ConnectionAbortedError) as error:
            raise tls.why(error) from error
    if certificates is not None:
        try:
            certificates.hold_to(connection, who)
        except WireError:
            connection.abort()
            raise
    return connection
