"""Gives both sides of a handshake messages of a stranger without the token: they must admit no caller."""

import asyncio

import msgspec
from loop import fuzz, watched

with watched():
    from covey.messages import wire
    from covey.parts.errors import WireError
    from covey.runtime.emulation.transport.connection import Connection
    from covey.runtime.emulation.transport.handshake import LIMITS, Caller, admit, greet

TOKEN = b"nobody who says a word here holds it"
LOOP = asyncio.new_event_loop()


class _Pipe(asyncio.Transport):
    """Hands what is written to the other side of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.other: Connection | None = None
        self.open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        buffer = None if self.other is None else self.other.get_buffer(-1)
        if self.open and self.other is not None and buffer is not None and len(buffer) >= len(data):
            buffer[: len(data)] = data
            self.other.buffer_updated(len(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def abort(self) -> None:
        self.open = False


def harness(data: bytes) -> None:
    """One input: which side hears it, the word's tag and, as msgpack, its entries."""
    LOOP.run_until_complete(_say(data))


async def _say(data: bytes) -> None:
    calls, tag, entries = (
        data[:1] > b"\x7f",
        ("hello", "challenge", "welcome", "refused")[data[1:2] > b"\x7f"],
        data[2:],
    )
    ours, theirs = _Pipe(), _Pipe()
    stranger, victim = Connection(LIMITS, lambda reason: None), Connection(LIMITS, lambda reason: None)
    ours.other, theirs.other = victim, stranger
    stranger.connection_made(ours)
    victim.connection_made(theirs)
    header = msgspec.msgpack.encode(tag)
    spoken = asyncio.ensure_future(
        greet(victim, TOKEN, Caller("a run", 1), 0) if calls else admit(victim, TOKEN, 0.002)
    )
    await asyncio.sleep(0)
    for word in (b"\x92" + header + entries, entries):
        prefix, *_ = wire.encode_parts({})
        length = len(word).to_bytes(4, "little")
        stranger.send([prefix[:12] + length + prefix[16:], word])
        await asyncio.sleep(0)
    if calls and not spoken.done():
        victim.connection_lost(None)
    try:
        await spoken
    except WireError:
        return
    raise AssertionError("let in")


if __name__ == "__main__":
    right = {"nonce": bytes(32)}
    hello = {"run": "x", "who": -1, "callee": 0, "where": "", "nonce": bytes(32), "key": bytes(32), "proof": bytes(32)}
    fuzz(
        harness,
        [
            bytes([side, tag]) + msgspec.msgpack.encode(entries)
            for side in (0, 255)
            for tag in (0, 255)
            for entries in (right, hello, {"key": bytes(32), "proof": bytes(32)}, {"reason": "busy"})
        ],
    )
