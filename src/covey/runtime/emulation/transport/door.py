"""The door of a host: it accepts calls as fast as they come, and prefers callers that hold the token.

A caller knocks: its first bytes are an HMAC, under the token, of the address that it calls. A knock does not identify
the caller, but distinguishes it from strangers at the cost of a hash, before anything is stored for it. Others wait in
a queue that drops the oldest, and a limited number per second gets a handshake. A stranger costs 25 µs to dismiss, and
0.2 ms with a handshake.
"""

import asyncio
import errno
import hmac
import ipaddress
import secrets
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

_MAGIC = b"CVYK"
_SALT, _PROOF = 12, 32
KNOCK_BYTES = len(_MAGIC) + _SALT + _PROOF
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


def knock(token: bytes, where: str) -> bytes:
    """The first bytes of a caller of an address."""
    salt = secrets.token_bytes(_SALT)
    return _MAGIC + salt + _proof(token, salt, where)


def _proof(token: bytes, salt: bytes, where: str) -> bytes:
    return hmac.digest(token, b"covey knock" + salt + where.encode(), "sha256")


class Door:
    """Accepts the calls of a listening socket.

    Args:
        listening: the socket, which is closed in the end.
        token: the secret of callers.
        hidden: True if knocks have no address, because certificates identify both ends.
        come: called with every accepted call, and True if it knocked.
        refused: called with the reason of every refusal.
    """

    def __init__(
        self,
        listening: socket.socket,
        token: bytes,
        *,
        hidden: bool,
        come: Callable[[socket.socket, bool], None],
        refused: Callable[[str], None],
    ) -> None:
        self.most = 128
        """The greatest number of silent callers."""
        self._listening, self._token, self._hidden, self._come, self._refused = listening, token, hidden, come, refused
        self._loop = asyncio.get_running_loop()
        self._silent: deque[tuple[socket.socket, float]] = deque()
        """The silent callers and the times of their calls, the oldest first."""
        self._spare, self._spare_at = _BURST, self._loop.time()
        """The number of handshakes with strangers that are allowed now, and the time of that number."""
        self._later: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(_BACKLOG)
        self._loop.add_reader(listening, self._take)

    def close(self) -> None:
        """Accept no more calls."""
        self._loop.remove_reader(self._listening)
        self._listening.close()
        if self._later is not None:
            self._later.cancel()
        while self._silent:
            self._silent.popleft()[0].close()

    def _take(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                caller, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self._make_room()
                    return
                continue  # The caller has hung up.
            caller.setblocking(False)
            if not self._sort_out(caller):
                self._listen_to(caller)

    def _make_room(self) -> None:
        """Dismiss a silent caller, or pause accepting, because the system has no free files."""
        self._refused("no-files")
        if self._silent:
            self._silent.popleft()[0].close()
            return
        self._loop.remove_reader(self._listening)
        self._loop.call_later(_PAUSE, self._take_again)

    def _take_again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._take)

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
                self._come(caller, True)
            else:
                self._ask(caller)
        elif ask or not _MAGIC.startswith(knock[: len(_MAGIC)]):
            self._ask(caller)
        else:
            return False
        return True

    def _is_right(self, knock: bytes, caller: socket.socket) -> bool:
        """True if a knock proves the token, for the address of this door."""
        salt, proof = knock[len(_MAGIC) : -_PROOF], knock[-_PROOF:]
        try:
            where = "" if self._hidden else shown(caller.getsockname())
        except OSError:
            return False
        return hmac.compare_digest(proof, _proof(self._token, salt, where))

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
