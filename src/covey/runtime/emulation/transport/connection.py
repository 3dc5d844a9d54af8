"""Connections that carry frames between two hosts, or between the launcher and a host.

On the stream, a CRC-32 of its prefix precedes every frame, and a seal follows it: 20 bytes together. A frame with a
right prefix and a wrong seal is dropped. After a wrong prefix the start of the next frame is unknown, so the connection
ends.
"""

import asyncio
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from covey.messages import wire
from covey.parts.errors import WireError
from covey.runtime.emulation.transport import tls
from covey.runtime.emulation.transport.door import shown
from covey.runtime.emulation.transport.sealing import TAG_BYTES, Seal

_CRC = struct.Struct("<I")
FRAMING_BYTES = _CRC.size + TAG_BYTES
"""The bytes of every frame on a socket beyond its own length."""
_HEAD = _CRC.size + wire.PREFIX_BYTES
_FIRST_CHUNK, _CHUNK = 1 << 13, 1 << 18
"""The buffers of a stranger's connection, and of an admitted one."""
_SMALL = 1 << 16
"""The size up to which frames are copied together and written at once."""
_HIGH_WATER = 1 << 20
_OUT_OF_STEP = 32
"""The number of successive frames with a wrong seal after which the two ends count as out of step."""

Parts = Sequence[bytes | memoryview]


def loop_time() -> float:
    """The seconds of the event loop's clock, which timers use."""
    return asyncio.get_running_loop().time()


"""The pieces of a frame, from `wire.encode_parts`."""


class Corrupted(list[bytes | memoryview]):
    """The pieces of a frame of which one byte after the prefix changes in transit.

    Args:
        parts: the frame.
        number: decides the byte and its change.
    """

    def __init__(self, parts: Parts, number: int) -> None:
        super().__init__(parts)
        self._number = number

    def change(self, sealed: bytes | memoryview) -> bytes:
        """Change one byte of a sealed frame."""
        changed = bytearray(sealed)
        changed[self._number % len(changed)] ^= 1 + self._number % 255
        return bytes(changed)


def readdressed(parts: Parts, receiver: int) -> list[bytes | memoryview]:
    """The same frame for another receiver, with a shared body."""
    prefix, *rest = parts
    return [wire.readdressed(bytes(prefix), receiver), *rest]


class Connection(asyncio.BufferedProtocol):
    """A connection that sends and receives frames. Received frames wait until `listen` sets their handler.

    Large frames are received directly into separate memory, and their tensors are views of it.

    Args:
        limits: the limits of the decoder before `listen`.
        refused: called with the reason of every dropped frame.
        secured: read nothing before `secure`.
    """

    def __init__(self, limits: wire.Limits, refused: Callable[[str], None], *, secured: bool = False) -> None:
        self.limits = limits
        self.refused = refused
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""
        self.queued = 0
        """The bytes that wait to be written."""
        self.bytes_out = self.frames_out = 0
        """The bytes and frames that were written to the socket."""
        self.received_at = loop_time()
        """The time at which bytes last arrived. The launcher declares a silent host lost."""
        self.unsent = 0
        """The number of frames that waited to be written when the connection ended."""
        self._sealing, self._opening = Seal(), Seal()
        """The seals of sent and of received frames."""
        self._unopened = 0
        """The number of successive frames with a wrong seal."""
        self._queue: deque[tuple[Parts, Seal]] = deque()
        self._paused = secured
        """True if writing is paused."""
        self._ended = False
        self._transport: asyncio.Transport | None = None
        self._on_frame: Callable[[wire.Frame], None] | None = None
        self._waiting: wire.Frame | None = None
        """A frame that is not taken yet. Nothing after it is parsed, because its handler may be another."""
        self._frame_came = asyncio.Event()
        self._chunk = memoryview(bytearray(_FIRST_CHUNK))
        self._begin = self._end = 0
        """The part of the chunk that is received and not parsed."""
        self._large: memoryview | None = None
        """The large frame that is being received, from its checksum on."""
        self._filled = 0

    # ------------------------------------------------------------------ sending

    async def made(self) -> None:
        """Wait until the connection is established."""
        while self._transport is None and not self.lost.done():
            await asyncio.sleep(0)

    async def secure(self, context: ssl.SSLContext, seconds: float) -> None:
        """Start TLS at the side that was called.

        Raises:
            WireError: the caller does not show a valid certificate in time.
        """
        await self.made()
        assert self._transport is not None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                self._transport, self, context, server_side=True, ssl_handshake_timeout=seconds
            )
        except OSError as error:
            self.abort()
            raise tls.why(error) from error
        if secured is None:
            # asyncio returns None if the other side has hung up.
            raise tls.why(ConnectionResetError())
        self._paused = False
        self.connection_made(secured)

    @property
    def shown_name(self) -> str | None:
        """The owner of the certificate that the other side showed."""
        assert self._transport is not None
        return tls.named_by(self._transport.get_extra_info("ssl_object"))

    @property
    def shown_mark(self) -> str:
        """The mark of the certificate that the other side showed."""
        assert self._transport is not None
        return tls.mark_of(self._transport.get_extra_info("ssl_object"))

    @property
    def is_made(self) -> bool:
        """True if it was ever established."""
        return self._transport is not None

    @property
    def here(self) -> str:
        """The address of this end; empty with TLS, whose certificates identify both ends."""
        return self._address("sockname")

    @property
    def there(self) -> str:
        """The address of the other end; empty with TLS."""
        return self._address("peername")

    def _address(self, name: str) -> str:
        assert self._transport is not None
        where = self._transport.get_extra_info(name)
        if where is None or self._transport.get_extra_info("ssl_object") is not None:
            return ""
        return shown(where)

    def seal(self, sending: bytes, receiving: bytes) -> None:
        """Set the keys of the seals of all later frames.

        Args:
            sending, receiving: the key of each direction.
        """
        self._sealing, self._opening = Seal(sending), Seal(receiving)

    def send(self, parts: Parts) -> None:
        """Queue a frame for writing."""
        if not self.lost.done():
            self._queue.append((parts, self._sealing))
            self.queued += FRAMING_BYTES + sum(map(len, parts))
            self._pump()

    def _pump(self) -> None:
        while self._queue and not self._paused and self._transport is not None and not self.lost.done():
            parts, seal = self._queue.popleft()
            prefix, *rest = parts
            sealed = seal.seal(prefix, rest)
            if isinstance(parts, Corrupted):
                sealed = parts.change(sealed)
            length = _HEAD + len(sealed)
            self.queued -= length
            self.bytes_out += length
            self.frames_out += 1
            head = [_CRC.pack(crc32(prefix)), prefix]
            if length <= _SMALL:
                self._transport.write(b"".join([*head, sealed]))
            else:
                self._transport.write(b"".join(head))
                self._transport.write(sealed)

    @property
    def waiting(self) -> int:
        """The number of frames that wait to be written."""
        return len(self._queue)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def close(self) -> None:
        """End the connection after all written bytes have left."""
        self._ended = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, or as soon as it is established."""
        self._ended = self._paused = True
        if self._transport is not None:
            self._transport.abort()

    async def flushed(self) -> None:
        """Wait until nothing is left to be written, or the connection has ended."""
        while not self.lost.done() and (
            self.queued or (self._transport is not None and self._transport.get_write_buffer_size())
        ):
            await asyncio.sleep(0.002)

    async def has_room(self) -> None:
        """Wait until little is left to be written, or the connection has ended. For large data in pieces."""
        while not self.lost.done() and self.queued > _HIGH_WATER:
            await asyncio.sleep(0.002)

    # ------------------------------------------------------------------ receiving

    def listen(self, on_frame: Callable[[wire.Frame], None], limits: wire.Limits) -> None:
        """Set the handler of all later and waiting frames, and the limits of the decoder."""
        self.limits, self._on_frame = limits, on_frame
        chunk = memoryview(bytearray(_CHUNK))
        chunk[: self._end] = self._chunk[: self._end]
        self._chunk = chunk
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            on_frame(waiting)
        self._continue()

    async def next_frame(self, seconds: float) -> wire.Frame:
        """Receive the next frame, before `listen`.

        Raises:
            WireError: none arrived in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._waiting is None:
                    if self.lost.done():
                        raise WireError("closed", "the other side ended the connection")
                    self._frame_came.clear()
                    await self._frame_came.wait()
        except TimeoutError:
            raise WireError("silent", f"the other side was silent for {seconds:g} seconds") from None
        frame, self._waiting = self._waiting, None
        asyncio.get_running_loop().call_soon(self._continue)
        return frame

    def _continue(self) -> None:
        """Parse the bytes that arrived while a frame waited to be taken."""
        self.resume_reading()
        self._guarded(self._parse)

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        if self._transport is not None and not self.lost.done() and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue to read from the socket."""
        if self._transport is not None and not self.lost.done() and not self._transport.is_reading():
            self._transport.resume_reading()

    # ------------------------------------------------------------------ called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._ended:
            transport.abort()
            return
        if self._paused:
            transport.pause_reading()  # The next bytes are TLS.
            return
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        self.unsent = len(self._queue)
        self._queue.clear()
        self.queued = 0
        self._large = None
        self._frame_came.set()

    def eof_received(self) -> None:
        return None

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._chunk[self._end :] if self._large is None else self._large[self._filled :]

    def buffer_updated(self, count: int) -> None:
        self.received_at = loop_time()
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
        """Parse all complete frames of the chunk, and make room for the rest of the last one."""
        while self._waiting is None and not self.lost.done() and self._end - self._begin >= _HEAD:
            head = self._chunk[self._begin : self._begin + _HEAD]
            prefix = head[_CRC.size :]
            (expected,) = _CRC.unpack_from(head)
            length = FRAMING_BYTES + wire.peek(prefix, self.limits)
            if crc32(prefix) != expected:
                raise WireError("corrupt", "a prefix was changed in transit")
            here = self._end - self._begin
            if length <= here:
                whole = self._chunk[self._begin : self._begin + length]
                self._begin += length
                self._take(whole, copy=True)
            elif length > len(self._chunk):
                # The body must be aligned, as tensors will be views of it. Memory is used only when it is written to,
                # so an announced gigabyte costs nothing.
                offset = -(length - TAG_BYTES - wire.body_bytes(prefix)) % 64
                self._large = np.empty(offset + length, np.uint8).data[offset:]
                self._large[:here] = self._chunk[self._begin : self._end]
                self._filled, self._begin, self._end = here, 0, 0
                return
            else:
                break
        here = self._end - self._begin
        if self._begin:
            self._chunk[:here] = self._chunk[self._begin : self._end]
            self._begin, self._end = 0, here

    def _take(self, whole: memoryview, *, copy: bool) -> None:
        """Open and decode one complete frame, with its checksum and its seal."""
        if not self._opening.open(whole[_CRC.size :]):
            self.refused("corrupt")
            self._unopened += 1
            if self._unopened == _OUT_OF_STEP:
                raise WireError("out-of-step", "seals no longer fit: frames were removed or inserted")
            return
        self._unopened = 0
        frame = whole[_CRC.size : -TAG_BYTES]
        try:
            decoded = wire.decode(frame, self.limits, copy=copy)
        except WireError as error:
            self.refused(error.reason)
            return
        if self._on_frame is not None:
            self._on_frame(decoded)
        else:
            self._waiting = decoded
            self.pause_reading()
            self._frame_came.set()
