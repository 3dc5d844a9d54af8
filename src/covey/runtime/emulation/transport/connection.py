"""Frames over a stream: one connection between two hosts, or between the launcher and a host.

Every frame travels between a CRC-32 of its prefix and the seal of the whole, 20 bytes in all. A frame whose prefix is
right and whose seal is not is dropped; behind a wrong prefix nobody knows where the next frame begins, so the
connection ends there.
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
"""What every frame costs on a socket beyond its own length."""
_HEAD = _CRC.size + wire.PREFIX_BYTES
_FIRST_CHUNK, _CHUNK = 1 << 13, 1 << 18
"""The buffer of a stranger's connection, and of one that somebody listens to."""
_SMALL = 1 << 16
"""Frames up to here are copied together and written at once."""
_HIGH_WATER = 1 << 20
_OUT_OF_STEP = 32
"""Frames in a row that do not open, after which the two ends count as being at different ones."""

Parts = Sequence[bytes | memoryview]


def loop_time() -> float:
    """Seconds on the clock of the event loop, which is the one that timers go by."""
    return asyncio.get_running_loop().time()


"""The pieces of a frame, as `wire.encode_parts` gives them."""


class Corrupted(list[bytes | memoryview]):
    """The pieces of a frame of which one byte changes on its way, behind its prefix.

    Args:
        parts: the frame.
        number: decides which byte, and how.
    """

    def __init__(self, parts: Parts, number: int) -> None:
        super().__init__(parts)
        self._number = number

    def change(self, sealed: bytes | memoryview) -> bytes:
        """What comes of what was sealed."""
        changed = bytearray(sealed)
        changed[self._number % len(changed)] ^= 1 + self._number % 255
        return bytes(changed)


def readdressed(parts: Parts, receiver: int) -> list[bytes | memoryview]:
    """The same frame for another receiver; what is large is shared."""
    prefix, *rest = parts
    return [wire.readdressed(bytes(prefix), receiver), *rest]


class Connection(asyncio.BufferedProtocol):
    """Sends and receives frames. Frames wait until `listen` says who hears them.

    Large frames are received straight into memory of their own, and their tensors are views of it.

    Args:
        limits: what the decoder accepts before `listen` says otherwise.
        refused: told the reason of every frame that is dropped.
        secured: whether nothing is read before `secure`.
    """

    def __init__(self, limits: wire.Limits, refused: Callable[[str], None], *, secured: bool = False) -> None:
        self.limits = limits
        self.refused = refused
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended."""
        self.queued = 0
        """Bytes that wait to be written."""
        self.bytes_out = self.frames_out = 0
        """What was handed to the socket."""
        self.heard_at = loop_time()
        """When bytes last came; the launcher takes a host for gone that has been silent for too long."""
        self.unsent = 0
        """Frames that still waited to be written when the connection ended."""
        self._sealing, self._opening = Seal(), Seal()
        """Of what is sent, and of what comes."""
        self._unopened = 0
        """Frames in a row whose seal was wrong."""
        self._queue: deque[tuple[Parts, Seal]] = deque()
        self._paused = secured
        """Whether nothing is written now."""
        self._ended = False
        self._transport: asyncio.Transport | None = None
        self._on_frame: Callable[[wire.Frame], None] | None = None
        self._waiting: wire.Frame | None = None
        """A frame that nobody has asked for yet; nothing behind it is parsed, as it may be for somebody else."""
        self._frame_came = asyncio.Event()
        self._chunk = memoryview(bytearray(_FIRST_CHUNK))
        self._begin = self._end = 0
        """What of the chunk has come and is not parsed."""
        self._large: memoryview | None = None
        """The large frame that is coming, from its sum on."""
        self._filled = 0

    # ------------------------------------------------------------------ sending

    async def made(self) -> None:
        """Until the connection stands."""
        while self._transport is None and not self.lost.done():
            await asyncio.sleep(0)

    async def secure(self, context: ssl.SSLContext, seconds: float) -> None:
        """Go over to TLS, at the side that was called.

        Raises:
            WireError: the caller does not show what the context wants, or not in time.
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
            # What asyncio returns where the other side hung up meanwhile.
            raise tls.why(ConnectionResetError())
        self._paused = False
        self.connection_made(secured)

    @property
    def shown_name(self) -> str | None:
        """Whom the certificate names that the other side showed."""
        assert self._transport is not None
        return tls.named_by(self._transport.get_extra_info("ssl_object"))

    @property
    def is_made(self) -> bool:
        """Whether it stood at some time."""
        return self._transport is not None

    @property
    def here(self) -> str:
        """The address of this end; empty under TLS, where a certificate says more."""
        return self._address("sockname")

    @property
    def there(self) -> str:
        """The address of the other end; empty under TLS."""
        return self._address("peername")

    def _address(self, name: str) -> str:
        assert self._transport is not None
        where = self._transport.get_extra_info(name)
        if where is None or self._transport.get_extra_info("ssl_object") is not None:
            return ""
        return shown(where)

    def seal(self, sending: bytes, receiving: bytes) -> None:
        """Seal with these keys what is sent from now on, and take nothing that is sealed with others.

        Args:
            sending, receiving: the key of either direction.
        """
        self._sealing, self._opening = Seal(sending), Seal(receiving)

    def send(self, parts: Parts) -> None:
        """Write a frame when its turn comes."""
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
        """Frames that wait to be written."""
        return len(self._queue)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def close(self) -> None:
        """End the connection once what was handed to the socket is out."""
        self._ended = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once, or as soon as it stands."""
        self._ended = self._paused = True
        if self._transport is not None:
            self._transport.abort()

    async def flushed(self) -> None:
        """Until nothing waits to be written any more, or the connection has ended."""
        while not self.lost.done() and (
            self.queued or (self._transport is not None and self._transport.get_write_buffer_size())
        ):
            await asyncio.sleep(0.002)

    async def has_room(self) -> None:
        """Until little waits to be written, or the connection has ended: for who has much to send, piece by piece."""
        while not self.lost.done() and self.queued > _HIGH_WATER:
            await asyncio.sleep(0.002)

    # ------------------------------------------------------------------ receiving

    def listen(self, on_frame: Callable[[wire.Frame], None], limits: wire.Limits) -> None:
        """Hand every frame from now on, and those that wait, to somebody."""
        self.limits, self._on_frame = limits, on_frame
        chunk = memoryview(bytearray(_CHUNK))
        chunk[: self._end] = self._chunk[: self._end]
        self._chunk = chunk
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            on_frame(waiting)
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
        if self._ended:
            transport.abort()
            return
        if self._paused:
            transport.pause_reading()  # What comes now is TLS.
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
        self.heard_at = loop_time()
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
            head = self._chunk[self._begin : self._begin + _HEAD]
            prefix = head[_CRC.size :]
            (expected,) = _CRC.unpack_from(head)
            length = FRAMING_BYTES + wire.peek(prefix, self.limits)
            if crc32(prefix) != expected:
                raise WireError("corrupt", "a prefix did not come as it was sent")
            here = self._end - self._begin
            if length <= here:
                whole = self._chunk[self._begin : self._begin + length]
                self._begin += length
                self._take(whole, copy=True)
            elif length > len(self._chunk):
                # Its body is to be aligned, as its tensors will be views of it. Memory takes no room before something
                # is written there: a promise of a gigabyte costs nothing.
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
        """One whole frame, with its sum and its seal."""
        if not self._opening.open(whole[_CRC.size :]):
            self.refused("corrupt")
            self._unopened += 1
            if self._unopened == _OUT_OF_STEP:
                raise WireError("out-of-step", "nothing opens any more: frames were taken out, or put in between")
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
