"""The handshake of a connection: both sides prove that they hold the run's token, and agree on keys.

    callee  challenge   a nonce
    caller  hello       the run, the numbers of caller and callee, a nonce, a public key; an HMAC under the token
    callee  welcome     a public key; an HMAC under the token

An HMAC covers all previous messages, and the address at which the caller reached the other side. So a proof is valid on
one connection and for one host: relaying it, or listening in the place of a host, opens no other connection. Both key
pairs are new and not stored. The agreed keys, one per direction, seal all later frames. They cannot be found out later,
not even with the token.
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
"""The number of the launcher as a caller. A host gives its own number."""
SECONDS = 10.0
"""The timeout of each message, in seconds."""
_PROTOCOL = "covey handshake 2"
_MOST = 1 << 30
"""The bytes that may wait to be written. With more, the other side counts as lost."""
_REFUSALS = {
    "bad-token": "it holds another secret",
    "bad-handshake": "it understands another handshake: is it of the same version of covey?",
    "busy": "it serves another run, or is not ready",
    "wrong-address": "it was reached by another address than its own: something stands in between",
    "wrong-host": "it does not know this caller, or is another host than was called",
    "wrong-run": "it takes part in another run",
}
"""The reasons of refusals. Others are not accepted, because a stranger could invent any number."""
LIMITS = wire.Limits(frame=4096, header=4096, tensors=0)
"""The limits for frames of strangers."""


def title(who: int) -> str:
    """The title of the launcher or of a host."""
    return "launcher" if who == LAUNCHER else f"host-{who}"


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity of a caller."""

    run: str
    who: int
    """LAUNCHER, or the number of a host."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A caller that has proved that it holds the token."""

    caller: Caller
    callee: int
    """The number of the host that it wants to call."""
    key: bytes
    """Its public key."""
    transcript: tuple[Any, ...]
    """The previous messages, which `welcome` proves."""


def _proof(token: bytes, word: str, transcript: tuple[Any, ...]) -> bytes:
    """The HMAC of the messages so far. Different messages have different msgpack encodings."""
    return hmac.digest(token, msgspec.msgpack.encode((_PROTOCOL, word, transcript)), "sha256")


def _agree(connection: Connection, token: bytes, own: KeyPair, other: bytes, transcript: tuple[Any, ...]) -> None:
    """Seal the connection with keys that are derived from the messages, the token, and the key agreement.

    Raises:
        WireError: the other side's public key is not valid.
    """
    secret = own.secret(other)
    if secret is None:
        raise WireError("bad-handshake", "its public key is not valid")
    whole = sha256(msgspec.msgpack.encode((_PROTOCOL, transcript))).digest()
    keyed = hmac.digest(token, secret, "sha256")
    ours, theirs = (derive(keyed, "frames", context=whole + key)[:KEY_BYTES] for key in (own.public, other))
    connection.seal(ours, theirs)


def say(connection: Connection, tag: str, payload: Payload) -> None:
    """Send a frame to the other process itself, not to one of its nodes."""
    connection.send(wire.encode_parts(payload, tag=tag))
    if connection.queued > _MOST:
        connection.abort()


async def greet(connection: Connection, token: bytes, caller: Caller, callee: int) -> None:
    """Perform the handshake as a caller, and seal the connection.

    Args:
        connection: a connection to a host.
        token: the secret of the run.
        caller: the identity of the caller.
        callee: the number of that host.

    Raises:
        WireError: the host does not hold the token, refuses the caller, or is silent.
    """
    challenge = await _next(connection, "challenge", {"nonce": bytes}, SECONDS)
    own, nonce = KeyPair(), secrets.token_bytes(32)
    transcript: tuple[Any, ...] = (
        challenge["nonce"],
        caller.run,
        caller.who,
        callee,
        connection.there,
        nonce,
        own.public,
    )
    proof = _proof(token, "hello", transcript)
    names = ("run", "who", "callee", "where", "nonce", "key")
    say(connection, "hello", {**dict(zip(names, transcript[1:], strict=True)), "proof": proof})
    welcome = await _next(connection, "welcome", {"key": bytes, "proof": bytes}, SECONDS)
    transcript = (*transcript, welcome["key"])
    if not hmac.compare_digest(welcome["proof"], _proof(token, "welcome", transcript)):
        raise WireError("bad-token", "the other side does not hold the run's token")
    _agree(connection, token, own, welcome["key"], transcript)


async def admit(connection: Connection, token: bytes, patience: float = SECONDS, *, called_out: bool = False) -> Guest:
    """Identify a caller within some seconds. `welcome` completes the handshake.

    Args:
        connection: the connection to the caller.
        token: the secret of the run.
        patience: the seconds.
        called_out: True if this host cannot be called, and has called the address that the caller called, too.

    Raises:
        WireError: the caller does not hold the token, called another host, or is silent.
    """
    nonce = secrets.token_bytes(32)
    say(connection, "challenge", {"nonce": nonce})
    fields = {"run": str, "who": int, "callee": int, "where": str, "nonce": bytes, "key": bytes, "proof": bytes}
    hello = await _next(connection, "hello", fields, patience)
    *named, proof = (hello[name] for name in fields)
    transcript = (nonce, *named)
    if not hmac.compare_digest(proof, _proof(token, "hello", transcript)):
        raise WireError("bad-token", "the caller does not hold the run's token")
    if hello["where"] != (connection.there if called_out else connection.here):
        raise WireError("wrong-address", f"the caller called {hello['where'][:64]!r}, which is not this host")
    return Guest(Caller(hello["run"], hello["who"]), hello["callee"], hello["key"], transcript)


def welcome(connection: Connection, token: bytes, guest: Guest) -> None:
    """Admit a caller, and seal the connection.

    Raises:
        WireError: its public key is not valid.
    """
    own = KeyPair()
    transcript = (*guest.transcript, own.public)
    say(connection, "welcome", {"key": own.public, "proof": _proof(token, "welcome", transcript)})
    _agree(connection, token, own, guest.key, transcript)


def refuse(connection: Connection, reason: str) -> None:
    """Refuse a caller with a reason."""
    say(connection, "refused", {"reason": reason})
    connection.close()


async def _next(connection: Connection, tag: str, fields: dict[str, type], patience: float) -> Any:
    frame = await connection.next_frame(patience)
    if frame.tag == "refused":
        reason = str(frame.payload.get("reason"))
        raise WireError(reason if reason in _REFUSALS else "refused", _REFUSALS.get(reason, "the other side refused"))
    if frame.tag != tag or {name: type(value) for name, value in frame.payload.items()} != fields:
        raise WireError("bad-handshake", f"it sent {frame.tag[:64]!r} instead of a {tag}")
    return frame.payload
