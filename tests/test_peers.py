"""The connections of a host to the others: counted bytes are written bytes, and dropped frames are counted, too."""

import asyncio
from collections import Counter

from covey.messages import wire
from covey.runtime.emulation.transport.connection import FRAMING_BYTES, Connection, readdressed
from covey.runtime.emulation.transport.peers import Peers
from tests.test_connection import Pipe, stream_of


async def unanswered(host: int) -> Connection:
    await asyncio.Event().wait()
    raise AssertionError


class Network:
    """Host 0 of two, and what it says of its connections."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self.heard: list[wire.Frame] = []
        self.broken: list[int] = []

        def refuse(reason: str) -> None:
            self.refused[reason] += 1

        options = {"token": b"secret", "run": "a run", "rounds": 5, "limits": wire.DEFAULT, "most": 1 << 20}
        self.from_host: list[tuple[int, wire.Frame]] = []
        options |= {"from_host": lambda host, frame: self.from_host.append((host, frame))}
        options |= {"refused": refuse, "broken": self.broken.append}
        self.peers = Peers(0, [0, 1], call=unanswered, deliver=self.heard.append, **options)

    def connection(self) -> Connection:
        made = Connection(wire.DEFAULT, lambda reason: None)
        made.connection_made(Pipe())
        made.send(wire.encode_parts({}, tag="welcome"))
        return made

    def send(self) -> int:
        parts = wire.encode_parts({"x": b"payload"}, sender=0, receiver=1)
        length = sum(map(len, parts))
        self.peers.send(1, length, lambda: readdressed(parts, 1))
        return length


def on_a_loop(test):
    asyncio.run(test())


def test_what_waits_on_a_connection_that_ends_is_counted_and_was_not_sent():
    async def test():
        network = Network()
        connection = network.connection()
        handshake = connection.bytes_out
        network.peers.accept(1, connection)
        length = network.send()
        connection.pause_writing()
        for _ in range(3):
            network.send()
        assert (network.peers.frames_out, network.peers.payload_bytes_out) == (1, length)
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert network.refused == {"connection-lost": 3}
        assert network.broken == [1]
        assert (network.peers.frames_out, network.peers.payload_bytes_out) == (1, length)
        assert network.peers.socket_bytes_out == handshake + FRAMING_BYTES + length

    on_a_loop(test)


def test_a_connection_that_another_one_replaces_is_reported_as_broken_before_anything_is_received_over_that():
    async def test():
        network = Network()
        for connection in (network.connection(), network.connection()):
            network.peers.accept(1, connection)
        assert network.broken == [1]
        await asyncio.sleep(0)
        assert network.broken == [1]

    on_a_loop(test)


def test_what_waits_for_a_connection_that_another_replaces_is_counted():
    async def test():
        network = Network()
        first, second = network.connection(), network.connection()
        network.peers.accept(1, first)
        first.pause_writing()
        network.send()
        network.peers.accept(1, second)
        network.send()
        first.connection_lost(None)
        await asyncio.sleep(0)
        assert network.refused == {"connection-lost": 1}
        assert network.peers.frames_out == 1

    on_a_loop(test)


def test_what_waits_for_a_host_that_goes_away_is_counted():
    async def test():
        network = Network()
        network.send()
        network.peers.drop(1)
        assert network.refused == {"away": 1}
        network.peers.take_up(1)
        connection = network.connection()
        network.peers.accept(1, connection)
        connection.pause_writing()
        network.send()
        network.peers.drop(1)
        network.send()
        connection.connection_lost(None)
        await asyncio.sleep(0)
        assert network.refused == {"away": 3}

    on_a_loop(test)


def test_a_connection_that_was_given_up_takes_nothing_more():
    async def test():
        network = Network()
        connection = network.connection()
        connection.abort()
        before = connection.bytes_out
        connection.send([b"x" * 100])
        connection.connection_lost(None)
        assert connection.bytes_out == before
        assert connection.unsent == 1

    on_a_loop(test)


def test_a_round_that_never_comes_is_no_round():
    async def test():
        network = Network()
        connection = network.connection()
        network.peers.accept(1, connection)
        rounds = enumerate((None, 0, 4, 5, 1 << 40))
        stream = stream_of(wire.encode_parts({}, sender=1, round=round, number=number) for number, round in rounds)
        connection.get_buffer(0)[: len(stream)] = stream
        connection.buffer_updated(len(stream))
        assert [frame.round for frame in network.heard] == [None, 0, 4]
        assert network.refused == {"wrong-round": 2}

    on_a_loop(test)
