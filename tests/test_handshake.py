"""An attacker between two ends, or in place of one, gets only bytes in transit, and can send no message."""

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from covey.messages import wire
from covey.parts.errors import RunError, WireError
from covey.runtime.emulation.host.host import open_connection
from covey.runtime.emulation.transport import handshake
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import _OUT_OF_STEP, FRAMING_BYTES, Connection
from covey.runtime.emulation.transport.handshake import LAUNCHER, LIMITS, Caller, admit, greet, say, welcome
from covey.runtime.emulation.transport.sealing import OPEN_KEY, Seal
from tests.conftest import table
from tests.hosts import TOKEN, hosts, launch
from tests.strangers import Control, call, eventually, frame, orders, running, sealed, soon, tables, within
from tests.test_connection import Pipe

QUICK = table(rounds=2, network={"nodes": 2, "latency": 0.0, "bandwidth": None, "compute": 1e6})

# ---------------------------------------------------------------------- two ends, and what is between them


class End:
    """One of two ends; what it writes goes nowhere by itself."""

    def __init__(self):
        self.refused, self.heard, self.pipe = Counter(), [], Pipe()
        self.connection = Connection(LIMITS, lambda reason: self.refused.update([reason]))
        self.connection.connection_made(self.pipe)

    def listen(self):
        self.connection.listen(lambda frame: self.heard.append(dict(frame.payload)), wire.DEFAULT)

    def take(self):
        """The bytes that it has written since the last call."""
        written = bytes(self.pipe.written)
        self.pipe.written.clear()
        return written

    def feed(self, data):
        rest = memoryview(data)
        while len(rest) and self.pipe.open:
            buffer = self.connection.get_buffer(-1)
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            self.connection.buffer_updated(count)
            rest = rest[count:]

    def says(self, *payloads):
        """The bytes of some frames that it sends, each by itself."""
        said = []
        for payload in payloads:
            self.connection.send(wire.encode_parts(payload))
            said.append(self.take())
        return said


async def hand_on(left, right, change=lambda who, data: data):
    """Hand everything that two ends write to the other one, until cancelled."""
    while True:
        for who, one, other in (("caller", left, right), ("callee", right, left)):
            if data := one.take():
                other.feed(change(who, data))
        await asyncio.sleep(0)


async def met(change=lambda who, data: data, tokens=(TOKEN, TOKEN)):
    """(the caller, the callee), whose handshake is over; raises what either says of it."""
    caller, callee = End(), End()

    async def let_in():
        welcome(callee.connection, tokens[1], await admit(callee.connection, tokens[1], 1.0))

    between = asyncio.create_task(hand_on(caller, callee, change))
    try:
        await asyncio.gather(let_in(), greet(caller.connection, tokens[0], Caller("a run", 1), 0))
    finally:
        between.cancel()
    for end in (caller, callee):
        end.listen()
    return caller, callee


ABC = [{"n": 0}, {"x": b"y" * 100_000}, {"n": 2}]


@pytest.mark.parametrize(
    ("order", "heard"),
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 0, 1, 2], [0]),
        ([0, 2, 1], [0]),
        ([1, 2], []),
        ([1, 0, 2], [2]),
    ],
)
def test_frames_open_in_their_own_index_alone(order, heard):
    async def main():
        caller, callee = await met()
        said = caller.says(*ABC)
        for number in order:
            callee.feed(said[number])
        assert callee.heard == [ABC[number] for number in heard]
        assert callee.refused["corrupt"] == len(order) - len(heard)
        assert not caller.heard

    within(main())


def test_a_frame_that_is_sent_back_to_its_sender_does_not_open():
    async def main():
        for which in (0, 1):
            ends = await met()
            one, other = ends[which], ends[1 - which]
            (own,) = one.says({"n": 1})
            one.feed(own)
            assert (one.heard, one.refused) == ([], {"corrupt": 1})
            other.feed(own)
            assert other.heard == [{"n": 1}]

    within(main())


def test_a_frame_of_another_connection_does_not_open():
    async def main():
        (first, _), (_, second) = await met(), await met()
        second.feed(first.says({"n": 1})[0])
        assert (second.heard, second.refused) == ([], {"corrupt": 1})

    within(main())


def test_each_changed_bit_is_noticed_and_the_next_frame_is_received():
    async def main():
        caller, callee = await met()
        prefix = 4 + wire.PREFIX_BYTES
        (length,) = map(len, caller.says({"n": 1}))
        callee.connection._opening._count += 1
        for bit in range(8 * prefix, 8 * length, 5):
            changed, right = map(bytearray, caller.says({"n": 1}, {"n": 2}))
            changed[bit // 8] ^= 1 << bit % 8
            callee.feed(changed)
            callee.feed(right)
            assert callee.heard == [{"n": 2}]
            assert callee.pipe.open
            callee.heard.clear()
        for bit in range(0, 8 * prefix, 31):
            caller, callee = await met()
            (changed,) = map(bytearray, caller.says({"n": 1}))
            changed[bit // 8] ^= 1 << bit % 8
            callee.feed(changed)
            assert not callee.heard
            assert not callee.pipe.open

    within(main())


def test_a_frame_that_is_cut_short_is_never_received():
    async def main():
        caller, callee = await met()
        first, second = caller.says({"x": b"y" * 500}, {"n": 2})
        callee.feed(first[:-1] + second + bytes(200))
        assert not callee.heard
        assert not callee.pipe.open  # Behind it nobody knows where a frame begins.
        assert callee.refused["corrupt"] == 1

    within(main())


def test_frames_that_everybody_can_seal_are_none_once_there_are_keys():
    async def main():
        _, callee = await met()
        callee.feed(sealed(wire.encode_parts({"n": 1}, tag="orders")))
        assert (callee.heard, callee.refused) == ([], {"corrupt": 1})

    within(main())


def test_a_connection_on_which_nothing_opens_any_more_ends():
    async def main():
        caller, callee = await met()
        caller.says({"n": 0})  # It is lost, so all behind it come in the place of another.
        for said in caller.says(*[{"n": 1}] * _OUT_OF_STEP):
            callee.feed(said)
        assert not callee.heard
        assert callee.refused == {"corrupt": _OUT_OF_STEP, "out-of-step": 1}
        assert not callee.pipe.open

    within(main())


def test_nothing_of_what_is_sent_can_be_read_on_the_way():
    async def main():
        caller, callee = await met()
        secret = b"a number that nobody else may know"
        for end in (caller, callee):
            for payload in ({"x": secret}, {"x": secret * 5000}):
                (said,) = end.says(payload)
                assert secret not in said
                assert len(said) == wire.size(payload) + FRAMING_BYTES

    within(main())


def test_both_directions_and_all_connections_have_keys_of_their_own():
    keys = []

    async def main():
        for _ in range(3):
            for end in await met():
                keys.extend((end.connection._sealing._key.key, end.connection._opening._key.key))

    within(main())
    assert len(set(keys)) == 6
    assert OPEN_KEY not in keys
    for first in range(0, 12, 4):
        assert keys[first : first + 2] == keys[first + 3 : first + 1 : -1]


@pytest.mark.parametrize("who", ["caller", "callee"])
@pytest.mark.parametrize("name", ["run", "who", "callee", "where", "nonce", "key", "proof"])
def test_whatever_is_changed_in_a_handshake_admits_no_caller(who, name):
    """As it is changed by somebody who can seal as everybody can."""
    seals = {"caller": (Seal(), Seal()), "callee": (Seal(), Seal())}
    changed = []

    def change(speaker, data):
        opening, sealing = seals[speaker]
        whole = memoryview(bytearray(data))
        if not opening.open(whole[4:]):
            return data
        decoded = wire.decode(whole[4:-16])
        payload = dict(decoded.payload)
        if speaker == who and name in payload:
            value = payload[name]
            payload[name] = (
                value + 1 if isinstance(value, int) else value[1:] + ("x" if name in ("run", "where") else b"x")
            )
            changed.append(name)
        prefix, *rest = wire.encode_parts(payload, tag=decoded.tag)
        return sealed([prefix, *rest], sealing)

    async def main():
        try:
            caller, callee = await met(change)
        except WireError as error:
            return error.reason
        for one, other in ((caller, callee), (callee, caller)):
            other.feed(one.says({"n": 1})[0])
        return [*caller.heard, *callee.heard]

    came = within(main())
    if changed:
        assert came in ("bad-token", "wrong-address"), came
    else:
        assert came == [{"n": 1}, {"n": 1}]


def test_a_proof_that_is_sent_back_to_who_made_it_proves_nothing():
    async def main():
        caller, callee = End(), End()
        calling = asyncio.create_task(greet(caller.connection, TOKEN, Caller("a run", 1), 0))
        admitting = asyncio.create_task(admit(callee.connection, TOKEN, 1.0))
        await asyncio.sleep(0)
        challenge = callee.take()
        caller.feed(challenge)
        while not (hello := caller.take()):
            await asyncio.sleep(0)
        opened = memoryview(bytearray(hello))
        assert Seal().open(opened[4:])
        said = wire.decode(opened[4:-16]).payload
        back = Seal()
        back._count = 1
        caller.feed(sealed(wire.encode_parts({"key": said["key"], "proof": said["proof"]}, tag="welcome"), back))
        with pytest.raises(WireError, match="bad-token"):
            await calling
        admitting.cancel()

    within(main())


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"short"])
def test_a_public_key_that_is_none_ends_the_handshake(key, monkeypatch):
    class Weak:
        public = key

        def secret(self, public):
            return b"s" * 32

    async def main():
        caller = End()
        monkeypatch.setattr(handshake, "KeyPair", Weak)
        calling = asyncio.create_task(greet(caller.connection, TOKEN, Caller("a run", 1), 0))
        callee = End()
        between = asyncio.create_task(hand_on(caller, callee))
        guest = await admit(callee.connection, TOKEN, 1.0)
        monkeypatch.undo()
        with pytest.raises(WireError, match="bad-handshake"):
            welcome(callee.connection, TOKEN, guest)
        between.cancel()
        calling.cancel()

    within(main())


def test_ends_with_different_tokens_do_not_meet():
    for tokens in ((TOKEN, b"another secret"), (b"another secret", TOKEN)):
        with pytest.raises(WireError, match="bad-token"):
            within(met(tokens=tokens))


# ---------------------------------------------------------------------- over sockets


class Relay:
    """Listens where a host should, and hands on what it gets.

    Args:
        target: another host.
        inject: the bytes that it sends to that host by itself after so many bytes of the caller.
    """

    def __init__(self, target, inject=b"", after=0):
        self.target, self.inject, self.after = target, inject, after
        self.passed = 0

    async def __call__(self, reader, writer):
        theirs, ours = await asyncio.open_connection(self.target.host, self.target.port)
        back = asyncio.create_task(self.pump(theirs, writer))
        await self.pump(reader, ours, injects=True)
        await asyncio.wait([back])

    async def pump(self, reader, writer, injects=False):
        try:
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                self.passed += injects * len(chunk)
                if injects and self.inject and self.passed > self.after:
                    writer.write(self.inject)
                    self.inject = b""
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


@contextmanager
def relaying(relay):
    """A relay on a thread of its own; where it listens."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listening = Address("127.0.0.1", 0).listen()
    listening.setblocking(False)

    async def serve():
        return await asyncio.start_server(relay, sock=listening)

    async def settle():
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(5)
    try:
        yield Address.of(listening)
    finally:
        asyncio.run_coroutine_threadsafe(settle(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_the_launchers_proof_for_one_host_opens_no_other(tmp_path):
    with hosts(1) as ((host, address),), relaying(Relay(address)) as absent:
        with pytest.raises(RunError, match=r"^Host 0 at \S+: it was reached by another address than its own: .*\.$"):
            launch(QUICK, tmp_path, [absent], wait="5s")
        assert host._run is None
        assert host.refused == {"wrong-address": 1}
        assert launch(QUICK, tmp_path, [address])[0].finished


def test_who_relays_all_bytes_of_a_launcher_can_add_no_order(tmp_path, monkeypatch):
    # As if the two addresses were one.
    monkeypatch.setattr(Connection, "_address", lambda connection, name: "here")
    order = sealed(wire.encode_parts({}, tag="die"))
    with hosts(1) as ((host, address),), relaying(Relay(address, order, after=1000)) as relay:
        with pytest.raises(RunError, match="Host 0"):
            launch(QUICK, tmp_path, [relay], wait="5s", restarts=0)
        eventually(lambda: host._run is None)
        assert host.refused == {"corrupt": 1}
        assert launch(QUICK, tmp_path, [address])[0].finished


def test_a_host_is_called_by_its_number():
    with hosts(1) as (served,):

        async def other():
            host, address = served
            async with running(served, tables()):
                with pytest.raises(WireError, match="wrong-host"):
                    await call(address, Caller("this run", 1), callee=2)
                assert host.refused == {"wrong-host": 1}

        within(other())
        eventually(lambda: served[0]._run is None)
        served[0].refused.clear()

        async def numbered():
            host, address = served
            control = Control(await call(address, Caller("this run", LAUNCHER), callee=1))
            say(control.connection, "orders", {"orders": orders(address, tables())})
            await control.until("ready")
            assert host._run.stage.me == 1
            control.connection.abort()

        within(numbered())


def test_the_token_is_in_nothing_that_a_host_says(tmp_path):
    """A launcher that names the secret's file as one of the experiment's reads nothing of it."""
    secret = tmp_path / "token"
    secret.write_bytes(TOKEN)
    program = {"kind": "gossip", "topology": {"kind": "edges", "file": str(secret)}}
    task = {"partition": {"kind": "file", "file": str(secret)}}
    cases = [
        {"program": program},
        {"task": task},
        {"engine": {"kind": "emulation", "hosts_file": str(secret), "token_file": str(secret)}},
    ]

    async def main(change):
        control = Control(await call(served[1], Caller("this run", LAUNCHER)))
        packed = orders(served[1], tables(), change=change)
        say(control.connection, "orders", {"orders": packed})
        said = (await control.until("failed")).payload["text"]
        assert TOKEN.decode() not in said
        await control.connection.lost
        return said

    with hosts(1) as (served,):
        said = []
        for change in cases:
            eventually(lambda: served[0]._run is None)
            said.append(within(main(change)))
        assert "(the token)" in said[0]
        assert "(the token)" in said[1]
        assert said[2] == "The orders of a host must not name an engine."


def test_a_peer_whose_bytes_are_tampered_with_leaves_the_others_alone():
    with hosts(1) as (served,):

        async def main():
            host, address = served
            async with running(served, tables()) as (run, _):
                bad = await call(address, Caller("this run", 1))
                good = await call(address, Caller("this run", 2))
                bad._transport.write(sealed(frame()))
                for number in range(_OUT_OF_STEP + 1):
                    bad.send(frame(number=number))
                    good.send(frame(sender=2, number=number, payload={"x": torch.zeros(10)}))
                await bad.lost
                await soon(lambda: len(run.stage.program.heard) == _OUT_OF_STEP + 1)
                assert {sender for sender, _ in run.stage.program.heard} == {2}
                assert not good.lost.done()
                assert host.refused == {"corrupt": _OUT_OF_STEP, "out-of-step": 1}
                again = await call(address, Caller("this run", 1))
                again.send(frame(payload={"n": 7}))
                await soon(lambda: run.stage.program.heard[-1] == (1, {"n": 7}))

        within(main())


def test_a_caller_of_an_older_handshake_is_refused():
    with hosts(1, patience=0.4) as ((host, address),):

        async def main():
            connection = await open_connection(0, address, TOKEN, None, lambda reason: None)
            await connection.next_frame(5)
            say(connection, "hello", {"run": "x", "who": -1, "nonce": bytes(32), "proof": bytes(32)})
            assert (await connection.next_frame(5)).payload == {"reason": "bad-handshake"}

        within(main())
        assert host.refused == {"bad-handshake": 1}
