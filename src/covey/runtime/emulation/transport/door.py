"""The door of a host: it accepts calls as fast as they come, and prefers callers that hold the token.

A caller knocks: its first bytes are an HMAC, under the token, of the address that it calls. A knock does not identify
the caller, but distinguishes it from strangers at the cost of a hash, before anything is stored for it. Others wait in
a queue that drops the oldest, and a limited number per second gets a handshake. A stranger costs 25 µs to dismiss, and
0.2 ms with a handshake.

A caller speaks with this host, asks for one that cannot be called, or leaves a connection of such a host (`meeting`).
"""

import asyncio
import errno
import hmac
import ipaddress
import secrets
import socket
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol

_MAGIC = b"CVYK"
_MEANT, _SALT, _PROOF = 5, 12, 32
KNOCK_BYTES = len(_MAGIC) + _MEANT + _SALT + _PROOF
_BACKLOG, _AT_ONCE = 1024, 64
"""The backlog of calls in the system, and the number of calls that are accepted in one turn of the loop."""
_LISTENED, _LOOK = 0.1, 0.01
"""The seconds that a silent caller waits for a handshake, and the interval of checks."""
_A_SECOND, _BURST = 200.0, 400.0
"""The greatest number of handshakes with strangers, per second and in a burst."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE = 0.1
"""Seconds until calls are accepted again after the system had no free files."""
_AGAIN, _TRIES = 0.25, 8
"""The seconds after which another call is started in parallel to unanswered ones, and their greatest number. The system
itself would retry after 1, 3 and 7 seconds."""


def shown(where: Any) -> str:
    """A socket's address in the form that both ends use."""
    address = ipaddress.ip_address(where[0])
    # A dual-stack socket shows IPv4 addresses as IPv6 ones.
    return f"{getattr(address, 'ipv4_mapped', None) or address} {where[1]}"


class Purpose(IntEnum):
    """The purpose of a call."""

    CALL = 0
    """To speak with the host that is called."""
    ASK = 1
    """To speak with another host, which has left a connection there."""
    LEAVE = 2
    """To leave a connection for the callers of the host that calls."""


def knock(token: bytes, where: str, purpose: Purpose = Purpose.CALL, number: int = 0) -> bytes:
    """The first bytes of a caller of an address.

    Args:
        token: the secret of the run.
        where: the address, or nothing.
        purpose: the purpose of the call.
        number: the host that is asked for, or whose connection is left.
    """
    salted = bytes([purpose]) + number.to_bytes(_MEANT - 1) + secrets.token_bytes(_SALT)
    return _MAGIC + salted + _proof(token, salted, where)


def _proof(token: bytes, salted: bytes, where: str) -> bytes:
    return hmac.digest(token, b"covey knock" + salted + where.encode(), "sha256")


class Elsewhere(Protocol):
    """The hosts that cannot be called, and their callers."""

    def ask(self, number: int, caller: socket.socket) -> None:
        """Take a caller who asks for a host."""

    def leave(self, number: int, connection: socket.socket) -> None:
        """Take a connection that a host leaves."""

    def close(self) -> None:
        """End all connections."""


class Door:
    """Accepts the calls of a listening socket.

    Args:
        listening: the socket, which is closed in the end; None for a host that cannot be called.
        token: the secret of callers.
        hidden: True if knocks have no address, because certificates identify both ends.
        come: called with every accepted call, and True if it knocked.
        refused: called with the reason of every refusal.
        elsewhere: the hosts that cannot be called; None to refuse these and their callers.
    """

    def __init__(
        self,
        listening: socket.socket | None,
        token: bytes,
        *,
        hidden: bool,
        come: Callable[[socket.socket, bool], None],
        refused: Callable[[str], None],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.most = 128
        """The greatest number of silent callers."""
        self._listening, self._token, self._hidden, self._come, self._refused = listening, token, hidden, come, refused
        self._elsewhere = elsewhere
        self._loop = asyncio.get_running_loop()
        self._silent: deque[tuple[socket.socket, float]] = deque()
        """The silent callers and the times of their calls, the oldest first."""
        self._spare, self._spare_at = _BURST, self._loop.time()
        """The number of handshakes with strangers that are allowed now, and the time of that number."""
        self._later: asyncio.TimerHandle | None = None
        if listening is not None:
            listening.setblocking(False)
            listening.listen(_BACKLOG)
            self._loop.add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more calls."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
        if self._elsewhere is not None:
            self._elsewhere.close()
        if self._later is not None:
            self._later.cancel()
        while self._silent:
            self._silent.popleft()[0].close()

    def take(self, caller: socket.socket) -> None:
        """Take a connection of a caller, as if it had called the listening socket."""
        caller.setblocking(False)
        if not self._sort_out(caller):
            self._listen_to(caller)

    def _accept(self) -> None:
        assert self._listening is not None
        for _ in range(_AT_ONCE):
            try:
                caller, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._make_room(self._listening)
                    return
                continue  # The caller has hung up.
            self.take(caller)

    def _make_room(self, listening: socket.socket) -> None:
        """Dismiss a silent caller, or pause accepting, because the system has no free files."""
        self._refused("no-files")
        if self._silent:
            self._silent.popleft()[0].close()
            return
        self._loop.remove_reader(listening)
        self._loop.call_later(_PAUSE, self._accept_again, listening)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self._loop.add_reader(listening, self._accept)

    def _listen_to(self, caller: socket.socket) -> None:
        if len(self._silent) >= self.most:
            oldest, _ = self._silent.popleft()
            if not self._sort_out(oldest):
                self._refused("too-many-strangers")
                oldest.close()
        self._silent.append((caller, self._loop.time()))
        if self._later is None:
            self._later = self._loop.call_later(_LOOK, self._look)

    def _look(self) -> None:
        """Handle silent callers that have sent something, or were silent for long enough."""
        now = self._loop.time()
        for _ in range(len(self._silent)):
            caller, since = self._silent.popleft()
            if not self._sort_out(caller, ask=now - since >= _LISTENED):
                self._silent.append((caller, since))
        self._later = self._loop.call_later(_LOOK, self._look) if self._silent else None

    def _sort_out(self, caller: socket.socket, *, ask: bool = False) -> bool:
        """Admit a caller, start a handshake or hang up, by its first bytes. False if a knock may be incomplete.

        Args:
            caller: the caller's socket.
            ask: True if its time is over.
        """
        try:
            knock = caller.recv(KNOCK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            if not ask:
                return False
            knock = b"?"
        except OSError:
            knock = b""
        if not knock:
            self._refused("closed")
            caller.close()
        elif knock[: len(_MAGIC)] == _MAGIC and len(knock) == KNOCK_BYTES:
            caller.recv(KNOCK_BYTES)
            if self._is_right(knock, caller):
                self._let_pass(
                    knock[len(_MAGIC)], int.from_bytes(knock[len(_MAGIC) + 1 : len(_MAGIC) + _MEANT]), caller
                )
            else:
                self._ask(caller)
        elif ask or not _MAGIC.startswith(knock[: len(_MAGIC)]):
            self._ask(caller)
        else:
            return False
        return True

    def _let_pass(self, purpose: int, number: int, caller: socket.socket) -> None:
        """Pass a caller on by the purpose of its call."""
        if purpose == Purpose.CALL:
            self._come(caller, True)
        elif self._elsewhere is None or purpose not in (Purpose.ASK, Purpose.LEAVE):
            self._refused("wrong-purpose")
            caller.close()
        elif purpose == Purpose.ASK:
            self._elsewhere.ask(number, caller)
        else:
            self._elsewhere.leave(number, caller)

    def _is_right(self, knock: bytes, caller: socket.socket) -> bool:
        """True if a knock proves the token, for the address that was called."""
        salted, proof = knock[len(_MAGIC) : -_PROOF], knock[-_PROOF:]
        try:
            # A host that cannot be called has called that address itself.
            called = caller.getsockname() if self._listening is not None else caller.getpeername()
        except OSError:
            return False
        where = "" if self._hidden else shown(called)
        return hmac.compare_digest(proof, _proof(self._token, salted, where))

    def _ask(self, caller: socket.socket) -> None:
        """Start a handshake with a stranger, or dismiss it if there are too many."""
        now = self._loop.time()
        self._spare = min(_BURST, self._spare + _A_SECOND * (now - self._spare_at))
        self._spare_at = now
        if self._spare < 1.0:
            self._refused("too-many-strangers")
            caller.close()
            return
        self._spare -= 1.0
        self._come(caller, False)


async def call(address: str, port: int, first: Callable[[Any], bytes]) -> socket.socket:
    """Open a connection, and send first bytes at once.

    Args:
        address, port: the address of the other side.
        first: returns the first bytes for the address of the other side.

    Raises:
        OSError: the connection fails.
    """
    calls: set[asyncio.Task[socket.socket]] = set()
    try:
        while True:
            if len(calls) < _TRIES:
                calls.add(asyncio.create_task(_call(address, port, first)))
            ended, _ = await asyncio.wait(calls, timeout=_AGAIN, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                calls.discard(one)
                return one.result()
    finally:
        for one in calls:
            one.cancel()
            one.add_done_callback(_hang_up)


async def _call(address: str, port: int, first: Callable[[Any], bytes]) -> socket.socket:
    loop = asyncio.get_running_loop()
    problem: OSError = ConnectionRefusedError()
    for family, kind, protocol, _, where in await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM):
        caller = socket.socket(family, kind, protocol)
        try:
            caller.setblocking(False)
            await loop.sock_connect(caller, where)
            await loop.sock_sendall(caller, first(caller.getpeername()))
            return caller
        except OSError as error:
            problem = error
            caller.close()
        except BaseException:
            caller.close()
            raise
    raise problem


def _hang_up(call: "asyncio.Task[socket.socket]") -> None:
    """Close the connection of a call that lost against another one."""
    if not call.cancelled() and call.exception() is None:
        call.result().close()
