"""Who is at the other end of a connection: both sides show that they hold the run's token, without sending it.

The side that was called begins with a random challenge. The caller answers with who it is, and with an HMAC of that and
the challenge under the token; the other side answers the caller's own challenge in the same way.
"""

import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from covey import wire
from covey.engines.emulation.connection import Connection, enveloped
from covey.errors import WireError
from covey.node import Payload

LAUNCHER = -1
"""Who the launcher says it is; a host gives its number."""
SECONDS = 10.0
"""How long each side waits for the other's next word."""
_MOST = 1 << 30
"""Who has read nothing of so many bytes that were said is gone."""
_REFUSALS = frozenset({"bad-token", "busy", "wrong-run", "wrong-host"})
"""Why a host sends callers away. Other words are not taken over: they would be as many as a stranger likes."""
LIMITS = wire.Limits(frame=4096, header=4096, tensors=0)
"""What is accepted of a stranger."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls a host."""

    run: str
    who: int
    """LAUNCHER, or the number of a host."""


def _proof(token: bytes, word: str, nonce: bytes, run: str, who: int) -> bytes:
    return hmac.digest(token, b"\0".join([word.encode(), nonce, run.encode(), str(who).encode()]), "sha256")


def say(connection: Connection, tag: str, payload: Payload, sequence: int = 0) -> None:
    """Send a frame that is for the other side itself, not for one of its nodes."""
    connection.send(enveloped(wire.encode_parts(payload, tag=tag, sequence=sequence)))
    if connection.queued > _MOST:
        connection.abort()


async def greet(connection: Connection, token: bytes, caller: Caller) -> None:
    """Say who calls, and make sure that the other side holds the token.

    Raises:
        WireError: it does not, or does not want this caller, or says nothing.
    """
    challenge = await _next(connection, "challenge", {"nonce": bytes}, SECONDS)
    nonce = secrets.token_bytes(32)
    proof = _proof(token, "hello", challenge["nonce"], caller.run, caller.who)
    say(connection, "hello", {"run": caller.run, "who": caller.who, "nonce": nonce, "proof": proof})
    welcome = await _next(connection, "welcome", {"proof": bytes}, SECONDS)
    if not hmac.compare_digest(welcome["proof"], _proof(token, "welcome", nonce, caller.run, caller.who)):
        raise WireError("bad-token", "the other side does not hold the run's token")


async def admit(connection: Connection, token: bytes, patience: float = SECONDS) -> tuple[Caller, bytes]:
    """Find out who calls within some seconds; returns it, and the challenge that `welcome` answers.

    Raises:
        WireError: the caller does not hold the token, or says nothing.
    """
    nonce = secrets.token_bytes(32)
    say(connection, "challenge", {"nonce": nonce})
    fields: dict[str, type] = {"run": str, "who": int, "nonce": bytes, "proof": bytes}
    hello = await _next(connection, "hello", fields, patience)
    if not hmac.compare_digest(hello["proof"], _proof(token, "hello", nonce, hello["run"], hello["who"])):
        raise WireError("bad-token", "the caller does not hold the run's token")
    return Caller(hello["run"], hello["who"]), hello["nonce"]


def welcome(connection: Connection, token: bytes, caller: Caller, nonce: bytes) -> None:
    """Let a caller in."""
    say(connection, "welcome", {"proof": _proof(token, "welcome", nonce, caller.run, caller.who)})


def refuse(connection: Connection, reason: str) -> None:
    """Send a caller away, with a word."""
    say(connection, "refused", {"reason": reason})
    connection.close()


async def _next(connection: Connection, tag: str, fields: dict[str, type], patience: float) -> Any:
    frame = await connection.next_frame(patience)
    if frame.tag == "refused":
        reason = str(frame.payload.get("reason"))
        raise WireError(reason if reason in _REFUSALS else "refused", "the other side refused")
    if frame.tag != tag or {name: type(value) for name, value in frame.payload.items()} != fields:
        raise WireError("bad-handshake", f"a {tag} was due, and a {frame.tag[:64]!r} came")
    return frame.payload
