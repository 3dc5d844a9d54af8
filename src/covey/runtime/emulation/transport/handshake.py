"""Who is at the other end of a connection: both sides show that they hold the run's token, and agree on keys.

    called  challenge   a nonce
    caller  hello       the run, who calls whom, a nonce and a public key; an HMAC under the token
    called  welcome     a public key; an HMAC under the token

An HMAC is of all that was said so far, and of where the caller reached the other side. So a proof is of use on one
connection and to one host: whoever passes it on, or listens where a host should, learns nothing that opens another.
Both keys are new and kept nowhere. What two ends agree on seals every frame from then on, each direction with a key of
its own, and cannot be found out later, not even by who gets hold of the token.
"""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from covey.messages import wire
from covey.messages.crypto import KeyPair, derive
from covey.messages.payloads import Payload
from covey.parts.errors import WireError
from covey.runtime.emulation.transport.connection import Connection
from covey.runtime.emulation.transport.sealing import KEY_BYTES

LAUNCHER = -1
"""Who the launcher says it is; a host gives its number."""
SECONDS = 10.0
"""How long each side waits for the other's next word."""
_PROTOCOL = "covey handshake 2"
_MOST = 1 << 30
"""Who has read nothing of so many bytes that were said is gone."""
_REFUSALS = {
    "bad-token": "it holds another secret",
    "bad-handshake": "it understands another handshake: is it of the same version of covey?",
    "busy": "it serves another run, or is not ready",
    "wrong-address": "it was reached by another address than its own: something stands in between",
    "wrong-host": "it does not know this caller, or is another host than was called",
    "wrong-run": "it takes part in another run",
}
"""Why a host sends callers away. Other words are not taken over: they would be as many as a stranger likes."""
LIMITS = wire.Limits(frame=4096, header=4096, tensors=0)
"""What is accepted of a stranger."""


def title(who: int) -> str:
    """What the launcher, or the host with a number, is called."""
    return "launcher" if who == LAUNCHER else f"host-{who}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls a host."""

    run: str
    who: int
    """LAUNCHER, or the number of a host."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A caller that has shown that it holds the token."""

    caller: Caller
    callee: int
    """The number of the host that it means to call."""
    key: bytes
    """Its public key."""
    said: tuple[Any, ...]
    """What was said so far, of which `welcome` is a proof."""


def _proof(token: bytes, word: str, said: tuple[Any, ...]) -> bytes:
    """An HMAC of what was said; msgpack gives other bytes to whatever differs."""
    return hmac.digest(token, msgspec.msgpack.encode((_PROTOCOL, word, said)), "sha256")


def _agree(connection: Connection, token: bytes, own: KeyPair, other: bytes, said: tuple[Any, ...]) -> None:
    """Seal the connection with keys of what was said, of the token, and of what both ends alone know.

    Raises:
        WireError: the other side's public key is none.
    """
    secret = own.secret(other)
    if secret is None:
        raise WireError("bad-handshake", "its public key is none")
    whole = sha256(msgspec.msgpack.encode((_PROTOCOL, said))).digest()
    keyed = hmac.digest(token, secret, "sha256")
    ours, theirs = (derive(keyed, "frames", context=whole + key)[:KEY_BYTES] for key in (own.public, other))
    connection.seal(ours, theirs)


def say(connection: Connection, tag: str, payload: Payload) -> None:
    """Send a frame that is for the other side itself, not for one of its nodes."""
    connection.send(wire.encode_parts(payload, tag=tag))
    if connection.queued > _MOST:
        connection.abort()


async def greet(connection: Connection, token: bytes, caller: Caller, callee: int) -> None:
    """Say who calls whom, make sure that the other side holds the token, and seal the connection.

    Args:
        connection: to a host.
        token: the run's.
        caller: who calls.
        callee: the number of that host.

    Raises:
        WireError: it does not, or does not want this caller, or says nothing.
    """
    challenge = await _next(connection, "challenge", {"nonce": bytes}, SECONDS)
    own, nonce = KeyPair(), secrets.token_bytes(32)
    said: tuple[Any, ...] = (challenge["nonce"], caller.run, caller.who, callee, connection.there, nonce, own.public)
    proof = _proof(token, "hello", said)
    names = ("run", "who", "callee", "where", "nonce", "key")
    say(connection, "hello", {**dict(zip(names, said[1:], strict=True)), "proof": proof})
    welcome = await _next(connection, "welcome", {"key": bytes, "proof": bytes}, SECONDS)
    said = (*said, welcome["key"])
    if not hmac.compare_digest(welcome["proof"], _proof(token, "welcome", said)):
        raise WireError("bad-token", "the other side does not hold the run's token")
    _agree(connection, token, own, welcome["key"], said)


async def admit(connection: Connection, token: bytes, patience: float = SECONDS) -> Guest:
    """Find out who calls within some seconds; `welcome` then lets it in.

    Raises:
        WireError: the caller does not hold the token, or called another host, or says nothing.
    """
    nonce = secrets.token_bytes(32)
    say(connection, "challenge", {"nonce": nonce})
    fields = {"run": str, "who": int, "callee": int, "where": str, "nonce": bytes, "key": bytes, "proof": bytes}
    hello = await _next(connection, "hello", fields, patience)
    *named, proof = (hello[name] for name in fields)
    said = (nonce, *named)
    if not hmac.compare_digest(proof, _proof(token, "hello", said)):
        raise WireError("bad-token", "the caller does not hold the run's token")
    if hello["where"] != connection.here:
        raise WireError("wrong-address", f"the caller called {hello['where'][:64]!r}, which is not here")
    return Guest(Caller(hello["run"], hello["who"]), hello["callee"], hello["key"], said)


def welcome(connection: Connection, token: bytes, guest: Guest) -> None:
    """Let a caller in, and seal the connection.

    Raises:
        WireError: its public key is none.
    """
    own = KeyPair()
    said = (*guest.said, own.public)
    say(connection, "welcome", {"key": own.public, "proof": _proof(token, "welcome", said)})
    _agree(connection, token, own, guest.key, said)


def refuse(connection: Connection, reason: str) -> None:
    """Send a caller away, with a word."""
    say(connection, "refused", {"reason": reason})
    connection.close()


async def _next(connection: Connection, tag: str, fields: dict[str, type], patience: float) -> Any:
    frame = await connection.next_frame(patience)
    if frame.tag == "refused":
        reason = str(frame.payload.get("reason"))
        raise WireError(reason if reason in _REFUSALS else "refused", _REFUSALS.get(reason, "the other side refused"))
    if frame.tag != tag or {name: type(value) for name, value in frame.payload.items()} != fields:
        raise WireError("bad-handshake", f"a {tag} was due, and a {frame.tag[:64]!r} came")
    return frame.payload
