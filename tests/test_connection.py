"""Frames over a stream, without a network: with any splits they arrive as they were sent, or not at all."""

import asyncio
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.messages import wire
from covey.runtime.emulation.transport import connection as module
from covey.runtime.emulation.transport.connection import FRAMING_BYTES, Connection, readdressed
from tests.test_wire import PAYLOADS

LIMITS = wire.Limits(frame=1 << 20, header=1 << 12)


class Pipe(asyncio.Transport):
    """Keeps what is written, and whether anybody reads."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.reading, self.open = True, True

    def write(self, data):
        self.written += data

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def is_reading(self):
        return self.reading

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def abort(self):
        self.open = False

    close = abort


class Line:
    """A connection to which a test gives bytes; what came of them."""

    def __init__(self, *, listens=True, limits=LIMITS):
        self.heard, self.refused, self.pipe = [], Counter(), Pipe()
        self.connection = Connection(limits, lambda reason: self.refused.update([reason]))
        self.connection.connection_made(self.pipe)
        if listens:
            self.listen(limits)

    def listen(self, limits=LIMITS):
        self.connection.listen(lambda frame: self.heard.append(bytes_of(frame)), limits)

    def feed(self, data, pieces=(1 << 20,)):
        """Give it bytes in pieces of some lengths, as long as it reads; what it did not take."""
        rest, lengths = memoryview(data), cycle(pieces)
        while len(rest) and self.pipe.open and self.pipe.reading:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), next(lengths), len(rest))
            assert count, "asyncio ends a connection that has no room"
            buffer[:count] = rest[:count]
            self.connection.buffer_updated(count)
            rest = rest[count:]
        return rest


def bytes_of(frame):
    numbers = {"sender": frame.sender, "receiver": frame.receiver, "round": frame.round, "number": frame.number}
    return wire.encode(dict(frame.payload), tag=frame.tag, **numbers)


def on_a_loop(test):
    """Connections want a loop that runs."""

    async def main():
        test()

    asyncio.run(main())


@st.composite
def sized(draw):
    """A payload whose frame is about as long as something changes: the two buffers, and what is written at once."""
    length = draw(st.sampled_from([module._FIRST_CHUNK, module._SMALL, module._CHUNK, 3 * module._CHUNK]))
    length += draw(st.integers(-140, 60))
    return {"x": torch.arange(length, dtype=torch.int64).to(torch.uint8), "n": draw(st.integers(0, 1000))}


NUMBERS = st.tuples(st.integers(0, 9), st.none() | st.integers(0, 2**40), st.integers(0, 2**64 - 1))
MESSAGES = st.lists(st.tuples(PAYLOADS | sized(), st.text(max_size=3), NUMBERS), min_size=1, max_size=5)
PIECES = st.lists(
    st.integers(1, 100) | st.integers(1000, 1 << 19) | st.integers(module._CHUNK - 9, module._CHUNK + 9),
    min_size=1,
    max_size=5,
).map(lambda pieces: [*pieces, 5000])


def frames_of(messages):
    return [
        wire.encode_parts(payload, tag=tag, sender=sender, round=round, number=number)
        for payload, tag, (sender, round, number) in messages
    ]


def stream_of(frames):
    """The bytes that a connection writes for some frames."""
    line = Line()
    for parts in frames:
        line.connection.send(parts)
    return bytes(line.pipe.written)


@given(MESSAGES, PIECES)
@settings(deadline=None)
def test_frames_come_as_they_were_sent_in_whatever_pieces(messages, pieces):
    def test():
        frames = frames_of(messages)
        sent = [b"".join(parts) for parts in frames]
        stream = stream_of(frames)
        assert len(stream) == sum(map(len, sent)) + len(sent) * FRAMING_BYTES
        line = Line()
        assert not line.feed(stream, pieces)
        assert line.heard == sent
        assert not line.refused

    on_a_loop(test)


@given(MESSAGES.filter(lambda messages: len(messages) > 1), PIECES, st.integers(0, 4))
@settings(deadline=None, max_examples=50)
def test_frames_before_somebody_listens_wait_in_their_order(messages, pieces, asked):
    async def main():
        frames = frames_of(messages)
        sent = [b"".join(parts) for parts in frames]
        line = Line(listens=False)
        rest, taken = stream_of(frames), []
        for _ in range(min(asked, len(sent))):
            rest = line.feed(rest, pieces)
            taken.append(bytes_of(await line.connection.next_frame(1.0)))
            await asyncio.sleep(0)
        rest = line.feed(rest, pieces)
        line.listen()
        line.feed(rest, pieces)
        assert taken + line.heard == sent
        assert not line.refused

    asyncio.run(main())


@given(MESSAGES, PIECES, st.data())
@settings(deadline=None, max_examples=200)
def test_a_changed_byte_is_noticed_and_changes_no_frame_that_is_received(messages, pieces, data):
    def test():
        frames = frames_of(messages)
        sent = [b"".join(parts) for parts in frames]
        stream = bytearray(stream_of(frames))
        # Small offsets as often as large ones: most of a large frame is body.
        at = data.draw(st.integers(0, min(200, len(stream) - 1)) | st.integers(0, len(stream) - 1))
        stream[at] ^= data.draw(st.integers(1, 255))
        line = Line()
        line.feed(stream, pieces)
        assert sum(line.refused.values()) == 1
        damaged = next(n for n in range(len(sent)) if at < sum(map(len, sent[: n + 1])) + FRAMING_BYTES * (n + 1))
        in_frame = at - sum(map(len, sent[:damaged])) - FRAMING_BYTES * damaged
        ends = in_frame < 4 + wire.PREFIX_BYTES
        assert line.pipe.open is not ends
        assert line.heard == sent[:damaged] + ([] if ends else sent[damaged + 1 :])

    on_a_loop(test)


@given(MESSAGES, PIECES, st.data())
@settings(deadline=None, max_examples=100)
def test_what_is_lost_doubled_or_put_in_between_changes_no_frame_that_is_received(messages, pieces, data):
    def test():
        frames = frames_of(messages)
        sent = [b"".join(parts) for parts in frames]
        stream = stream_of(frames)
        begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(stream))] * 2)))
        other = data.draw(st.just(b"") | st.just(2 * stream[begin:end]) | st.binary(max_size=100))
        line = Line()
        line.feed(stream[:begin] + other + stream[end:], pieces)
        whole = sum(FRAMING_BYTES + len(frame) for frame in sent)
        before = next(
            (n for n in range(len(sent)) if begin < FRAMING_BYTES * (n + 1) + sum(map(len, sent[: n + 1]))), 0
        )
        assert line.heard[:before] == sent[:before] or begin == whole
        assert all(frame in sent for frame in line.heard)

    on_a_loop(test)


@given(st.binary(max_size=300), PIECES)
@settings(deadline=None)
def test_noise_ends_the_connection_or_waits_for_more(noise, pieces):
    def test():
        line = Line()
        line.feed(noise, pieces)
        assert not line.heard
        assert line.pipe.open is (len(noise) < FRAMING_BYTES + wire.PREFIX_BYTES)
        assert line.pipe.open is not bool(line.refused)

    on_a_loop(test)


def damaged_prefix(rest=b"", **changes):
    """The pieces of a frame in whose prefix something is wrong although its sum is right."""
    fields = {"magic": b"CVYF", "version": 2, "flags": 0, "zero": 0, "header": 0, "body": 0}
    numbers = {**fields, "sender": 0, "receiver": 0, "round": -1, "number": 0, **changes}
    return [wire._PREFIX.pack(*numbers.values()), rest]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"magic": b"HTTP"}, "bad-magic"),
        ({"version": 1}, "bad-version"),
        ({"flags": 1}, "bad-version"),
        ({"body": 1 << 60}, "oversized"),
        ({"header": 1 << 13}, "oversized"),
        ({"round": -2}, "bad-header"),
    ],
)
def test_each_kind_of_wrong_prefix_ends_the_connection_under_its_reason(changes, reason):
    def test():
        line = Line()
        line.feed(stream_of([damaged_prefix(**changes), *frames_of([({}, "", (0, None, 0))])]))
        assert line.refused == {reason: 1}
        assert not line.pipe.open
        assert not line.heard

    on_a_loop(test)


def test_a_frame_that_is_no_message_is_dropped_and_the_next_one_received():
    def test():
        line = Line()
        line.feed(stream_of([damaged_prefix(b"12345", header=5), *frames_of([({"n": 1}, "", (0, None, 0))])]))
        assert line.refused == {"bad-header": 1}
        assert len(line.heard) == 1

    on_a_loop(test)


def test_a_frame_goes_to_other_receivers():
    def test():
        parts = wire.encode_parts({"x": torch.arange(5000.0)}, sender=3, round=7, number=10)
        line = Line()
        line.feed(stream_of(readdressed(parts, receiver) for receiver in range(3)))
        frames = [wire.decode(frame) for frame in line.heard]
        assert [(frame.sender, frame.receiver, frame.round, frame.number) for frame in frames] == [
            (3, receiver, 7, 10) for receiver in range(3)
        ]

    on_a_loop(test)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_promise_of_a_gigabyte_takes_no_memory():
    def test():
        lines = [Line(limits=wire.DEFAULT) for _ in range(8)]
        before = resident()
        for line in lines:
            line.feed(stream_of([damaged_prefix(body=(1 << 30) - 200)]) + bytes(1 << 20))
            assert line.pipe.open
        assert resident() - before < 64 << 20

    on_a_loop(test)


def test_a_connection_that_was_given_up_before_it_stood_ends_when_it_stands():
    def test():
        connection, pipe = Connection(LIMITS, print), Pipe()
        connection.abort()
        connection.connection_made(pipe)
        assert not pipe.open

    on_a_loop(test)


def test_who_has_much_to_send_waits_until_it_is_on_its_way():
    async def test():
        connection = Connection(LIMITS, print)
        connection.connection_made(Pipe())
        await asyncio.wait_for(connection.has_room(), 5)
        connection.pause_writing()
        connection.send([b"x"] * 3 + [b"x" * (2 << 20)])
        waiting = asyncio.create_task(connection.has_room())
        await asyncio.sleep(0.02)
        assert not waiting.done()
        connection.resume_writing()
        await asyncio.wait_for(waiting, 5)
        connection.pause_writing()
        connection.send([b"x"] * 3 + [b"x" * (2 << 20)])
        connection.connection_lost(None)
        await asyncio.wait_for(connection.has_room(), 5)

    asyncio.run(test())


def test_nothing_is_kept_for_a_connection_that_has_ended():
    def test():
        line = Line()
        line.connection.pause_writing()
        line.connection.send([b"x" * 100])
        assert line.connection.queued == 100 + FRAMING_BYTES
        line.connection.connection_lost(None)
        line.connection.send([b"x" * 100])
        assert line.connection.queued == 0

    on_a_loop(test)
