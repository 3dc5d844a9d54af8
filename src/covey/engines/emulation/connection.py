"""Frames over a stream: one connection between two hosts, or between the launcher and a host.

Every frame travels behind an envelope of 16 bytes that tells whether it came as it was sent: the CRC-32 of its prefix,
the CRC-32 of its header, and the sum of its body's 64-bit words. A frame whose prefix is right and whose rest is not is
dropped; behind a wrong prefix nobody knows where the next frame begins, so the connection ends there.
"""

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from covey import wire
from covey.errors import WireError

_ENVELOPE = struct.Struct("<IIQ")
_CRC = struct.Struct("<I")
FRAMING_BYTES = _ENVELOPE.size
"""What every frame costs on a socket beyond its own length."""
_HEAD = FRAMING_BYTES + wire.PREFIX_BYTES
_CHUNK = 1 << 18
_SMALL = 1 << 16
"""Frames up to here are copied together and written at once."""
_HIGH_WATER = 1 << 20
_WORD = (1 << 64) - 1

Parts = Sequence[bytes | memoryview]


def enveloped(parts: Parts) -> list[bytes | memoryview]:
    """The pieces of a frame, as `wire.encode_parts` gives them, behind their envelope."""
    prefix, header, *body = parts
    total = sum(_word_sum(part) for part in body) & _WORD
    return [_ENVELOPE.pack(crc32(prefix), crc32(header), total), prefix, header, *body]


def readdressed(parts: Parts, receiver: int, sequence: int) -> list[bytes | memoryview]:
    """The same frame, in its envelope, for another receiver; what is large is shared."""
    envelope, prefix, *rest = parts
    new = wire.readdressed(bytes(prefix), receiver, sequence)
    return [_CRC.pack(crc32(new)) + bytes(envelope[_CRC.size :]), new, *rest]


def corrupted(parts: Parts, number: int) -> list[bytes | memoryview]:
    """The same frame with one byte of its header or body changed: which one, and how, a number decides."""
    envelope, prefix, *rest = parts
    place = number % sum(map(len, rest))
    changed: list[bytes | memoryview] = []
    for part in rest:
        if 0 <= place < len(part):
            copy = bytearray(part)
            copy[place] ^= 1 + number % 255
            part = bytes(copy)
        changed.append(part)
        place -= len(part)
    return [envelope, prefix, *changed]


def _word_sum(part: bytes | memoryview) -> int:
    words = len(part) // 8
    total = int(np.frombuffer(part, dtype="<u8", count=words).sum(dtype=np.uint64)) if words else 0
    return total + int.from_bytes(part[8 * words :], "little")


class Connection(asyncio.BufferedProtocol):
    """Sends and receives frames. Frames wait until `listen` says who hears them.

    Large frames are received straight into memory of their own, and their tensors are views of it.

    Args:
        limits: what the decoder accepts before `listen` says otherwise.
        refused: told the reason of every frame that is dropped.
    """

    def __init__(self, limits: wire.Limits, refused: Callable[[str], None]) -> None:
        self.limits = limits
        self.refused = refused
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""
        self.queued = 0
        """Bytes that wait to be written."""
        self.bytes_out = self.bytes_in = self.frames_out = 0
        self.heard_at = asyncio.get_running_loop().time()
        """When bytes last came."""
        self._queue: deque[Parts] = deque()
        self._paused = False
        self._transport: asyncio.Transport | None = None
        self._hear: Callable[[wire.Frame], None] | None = None
        self._waiting: wire.Frame | None = None
        """A frame that nobody has asked for yet; nothing behind it is parsed, as it may be for somebody else."""
        self._frame_came = asyncio.Event()
        self._chunk = bytearray(_CHUNK)
        self._view = memoryview(self._chunk)
        self._begin = self._end = 0
        """What of the chunk has come and is not parsed."""
        self._large: memoryview | None = None
        """The large frame that is coming, from its envelope on."""
        self._filled = 0

    # ------------------------------------------------------------------ sending

    async def made(self) -> None:
        """Until the connection stands."""
        while self._transport is None and not self.lost.done():
            await asyncio.sleep(0)

    def send(self, parts: Parts) -> int:
        """Write a frame in its envelope when its turn comes; returns how many bytes that are."""
        length = sum(map(len, parts))
        self._queue.append(parts)
        self.queued += length
        self._pump()
        return length

    def _pump(self) -> None:
        while self._queue and not self._paused and self._transport is not None and not self.lost.done():
            parts = self._queue.popleft()
            length = sum(map(len, parts))
            self.queued -= length
            self.bytes_out += length
            self.frames_out += 1
            if length <= _SMALL:
                self._transport.write(b"".join(parts))
            else:
                envelope, prefix, header, *body = parts
                self._transport.write(b"".join([envelope, prefix, header]))
                for part in body:
                    self._transport.write(part)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def close(self) -> None:
        """End the connection once what was handed to the socket is out."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def flushed(self) -> None:
        """Until nothing waits to be written any more, or the connection has ended."""
        while not self.lost.done() and (
            self.queued or (self._transport is not None and self._transport.get_write_buffer_size())
        ):
            await asyncio.sleep(0.002)

    # ------------------------------------------------------------------ receiving

    def listen(self, hear: Callable[[wire.Frame], None], limits: wire.Limits) -> None:
        """Hand every frame from now on, and those that wait, to somebody."""
        self.limits, self._hear = limits, hear
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            hear(waiting)
        self._go_on()

    async def next_frame(self, seconds: float) -> wire.Frame:
        """The next frame, before `listen`.

        Raises:
            WireError: none came in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._waiting is None:
                    if self.lost.done():
                        raise WireError("closed", "the other side ended the connection")
                    self._frame_came.clear()
                    await self._frame_came.wait()
        except TimeoutError:
            raise WireError("silent", f"the other side said nothing for {seconds:g} seconds") from None
        frame, self._waiting = self._waiting, None
        asyncio.get_running_loop().call_soon(self._go_on)
        return frame

    def _go_on(self) -> None:
        """Parse what came while a frame waited for somebody to hear it."""
        self.resume_reading()
        self._guarded(self._parse)

    def pause_reading(self) -> None:
        """Take nothing more off the socket."""
        if self._transport is not None and not self.lost.done() and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on with it."""
        if self._transport is not None and not self.lost.done() and not self._transport.is_reading():
            self._transport.resume_reading()

    # ------------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self._queue.clear()
        self.queued = 0
        self._large = None
        self._frame_came.set()

    def eof_received(self) -> None:
        return None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :] if self._large is None else self._large[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self.bytes_in += count
        self.heard_at = asyncio.get_running_loop().time()
        if self._large is None:
            self._end += count
            self._guarded(self._parse)
        else:
            self._filled += count
            if self._filled == len(self._large):
                whole, self._large = self._large, None
                self._guarded(lambda: self._take(whole, copy=False))

    def _guarded(self, parse: Callable[[], None]) -> None:
        try:
            parse()
        except WireError as error:
            self.refused(error.reason)
            self.abort()

    def _parse(self) -> None:
        """Take all whole frames out of the chunk, and make room for the rest of the last one."""
        while self._waiting is None and not self.lost.done() and self._end - self._begin >= _HEAD:
            head = self._view[self._begin : self._begin + _HEAD]
            prefix = head[FRAMING_BYTES:]
            expected, _, _ = _ENVELOPE.unpack_from(head)
            length = FRAMING_BYTES + wire.peek(prefix, self.limits)
            if crc32(prefix) != expected:
                raise WireError("corrupt", "a prefix did not come as it was sent")
            here = self._end - self._begin
            if length <= here:
                self._take(self._view[self._begin : self._begin + length], copy=True)
                self._begin += length
            elif length > _CHUNK:
                # Its body is to be aligned, as its tensors will be views of it.
                offset = -(length - wire.body_bytes(prefix)) % 64
                self._large = memoryview(bytearray(offset + length))[offset:]
                self._large[:here] = self._view[self._begin : self._end]
                self._filled, self._begin, self._end = here, 0, 0
                return
            else:
                break
        here = self._end - self._begin
        if self._begin:
            self._chunk[:here] = self._chunk[self._begin : self._end]
            self._begin, self._end = 0, here

    def _take(self, whole: memoryview, *, copy: bool) -> None:
        """One whole frame in its envelope."""
        _, header_sum, body_sum = _ENVELOPE.unpack_from(whole)
        frame = whole[FRAMING_BYTES:]
        body = len(frame) - wire.body_bytes(frame)
        if crc32(frame[wire.PREFIX_BYTES : body]) != header_sum or _word_sum(frame[body:]) & _WORD != body_sum:
            self.refused("corrupt")
            return
        try:
            decoded = wire.decode(frame, self.limits, copy=copy)
        except WireError as error:
            self.refused(error.reason)
            return
        if self._hear is not None:
            self._hear(decoded)
        else:
            self._waiting = decoded
            self.pause_reading()
            self._frame_came.set()
