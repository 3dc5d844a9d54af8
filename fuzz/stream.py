"""Gives a connection frames with changed bytes, in pieces: it must receive no frame that was not sent."""

import asyncio

import torch
from loop import fuzz, watched

with watched():
    from covey.messages import wire
    from covey.runtime.emulation.transport.connection import Connection

LIMITS = wire.Limits(frame=1 << 19, header=1 << 12)
SENT = [
    wire.encode_parts({"n": number, "x": torch.arange(size, dtype=torch.float32)}, tag="t", number=number)
    for number, size in enumerate([0, 3, 2500, 70_000])
]
ENCODED = {b"".join(map(bytes, parts)) for parts in SENT}
KEY = b"sixteen bytes, k"
LOOP = asyncio.new_event_loop()


class _Nothing(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.open = True
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_reading(self) -> bool:
        return True

    def abort(self) -> None:
        self.open = False


async def _stream() -> bytes:
    """The bytes that a connection writes for all frames."""
    pipe, connection = _Nothing(), Connection(LIMITS, lambda reason: None)
    connection.connection_made(pipe)
    connection.seal(KEY, KEY)
    for parts in SENT:
        connection.send(parts)
    return bytes(pipe.written)


STREAM = LOOP.run_until_complete(_stream())


def harness(data: bytes) -> None:
    """One input, in eights: where in the stream, how many bytes go, which come, and how long the pieces are."""
    stream = bytearray(STREAM)
    for at in range(0, len(data) - 7, 8):
        index = int.from_bytes(data[at : at + 4], "little") % len(stream)
        stream[index : index + data[at + 4] % 4] = data[at + 5 : at + 5 + data[at + 4] // 4 % 4]
    LOOP.run_until_complete(_feed(memoryview(stream), 1 + int.from_bytes(data[:3], "little") % 300_000))


async def _feed(rest: memoryview, piece: int) -> None:
    heard: list[bytes] = []
    pipe, connection = _Nothing(), Connection(LIMITS, lambda reason: None)
    connection.connection_made(pipe)
    connection.seal(KEY, KEY)

    def take(frame: wire.Frame) -> None:
        heard.append(wire.encode(frame.payload, tag=frame.tag, number=frame.number))

    connection.listen(take, LIMITS)
    while len(rest) and pipe.open:
        buffer = connection.get_buffer(-1)
        count = min(len(buffer), piece, len(rest))
        assert count, "no room"
        buffer[:count] = rest[:count]
        connection.buffer_updated(count)
        rest, piece = rest[count:], max(piece, 500)
    assert ENCODED.issuperset(heard)


if __name__ == "__main__":
    fuzz(harness, [bytes(64), bytes(range(80)), bytes(range(0, 240, 3))])
