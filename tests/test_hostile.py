"""Attacks of strangers and peers: each is counted under its reason, and the host then serves a right launcher."""

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path

import msgspec
import pytest
import torch

from covey.messages import wire
from covey.parts.errors import WireError
from covey.runtime.emulation.host.host import _STRANGERS, open_connection
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller, greet, say
from tests.hosts import TOKEN, answering
from tests.strangers import (
    NODES,
    PATIENCE,
    Control,
    Impostor,
    call,
    eventually,
    frame,
    orders,
    running,
    sealed,
    soon,
    tables,
    within,
)

# ---------------------------------------------------------------------- who calls


def test_a_wrong_token_is_refused(served):
    host, address = served
    with pytest.raises(WireError, match="bad-token"):
        within(call(address, Caller("a run", LAUNCHER), b"another secret, which is wrong"))
    assert host.refused == {"bad-token": 1}


def test_who_skips_the_handshake_is_refused(served):
    host, address = served

    async def main():
        connection = await open_connection(0, address, TOKEN, None, lambda reason: None)
        say(connection, "orders", {"orders": b""})
        await connection.next_frame(5)
        assert (await connection.next_frame(5)).payload == {"reason": "bad-handshake"}

    within(main())
    assert host.refused == {"bad-handshake": 1}


def test_a_recorded_handshake_proves_nothing_a_second_time(served):
    host, address = served
    said = []

    async def main():
        connection = await open_connection(0, address, TOKEN, None, lambda reason: None)
        send = connection.send
        connection.send = lambda parts: said.append(parts) or send(parts)
        await greet(connection, TOKEN, Caller("a run", LAUNCHER), 0)
        connection.abort()
        await soon(lambda: host._run is None)
        again = await open_connection(0, address, TOKEN, None, lambda reason: None)
        again.send(said[0])
        await again.next_frame(5)
        assert (await again.next_frame(5)).payload == {"reason": "bad-token"}

    within(main())
    assert host.refused == {"bad-token": 1}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\nUser-Agent: curious\r\nAccept: */*\r\n\r\n", "bad-magic"),
        (bytes(64), "bad-magic"),
        (sealed(frame(payload={"x": bytes(1 << 13)})), "oversized"),
        (sealed(frame(payload={"x": torch.zeros(1)})), "oversized"),
        (b"\xff" + sealed(frame())[1:], "corrupt"),
        (b"short", "silent"),
        (b"", "silent"),
    ],
)
def test_what_is_no_handshake_is_refused_under_its_reason(served, said, reason):
    host, address = served
    with socket.create_connection((address.host, address.port)) as stranger:
        stranger.sendall(said)
        stranger.settimeout(5)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while stranger.recv(1 << 16):
                pass
        assert time.monotonic() - began < PATIENCE + 3.0
    eventually(lambda: reason in host.refused)
    assert set(host.refused) <= {reason, "closed", "silent"}


def test_reasons_are_not_the_strangers_words(served):
    host, address = served

    async def main():
        for word in ("made up", ["a list"], "busy"):
            connection = await open_connection(0, address, TOKEN, None, lambda reason: None)
            say(connection, "refused", {"reason": word})
            await connection.next_frame(5)
            await connection.next_frame(5)

    within(main())
    assert host.refused == {"refused": 2, "busy": 1}


def test_a_caller_that_is_slow_but_right_is_let_in(served):
    _, address = served

    async def main():
        connection = await open_connection(0, address, TOKEN, None, lambda reason: None)
        await asyncio.sleep(0)
        transport = connection._transport
        write = transport.write
        slow = []

        def byte_by_byte(data):
            later = asyncio.get_running_loop().call_later
            slow.extend(later(n * 0.0005, write, data[n : n + 1]) for n in range(len(data)))

        class Slow:
            def __getattr__(self, name):
                return byte_by_byte if name == "write" else getattr(transport, name)

        connection._transport = Slow()
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await greet(connection, TOKEN, Caller("a run", LAUNCHER), 0)
        assert len(slow) > 150
        connection.abort()

    within(main())


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_burst_of_connections_leaves_nothing_behind_and_keeps_no_caller_out(served):
    host, address = served
    where = (address.host, address.port)
    before, began = open_files(), time.monotonic()
    for _ in range(5):
        wave = []
        for number in range(400):
            wave.append(socket.create_connection(where, timeout=5))
            if number == 100:
                # Among those that say nothing one comes that holds the token.
                with pytest.raises(WireError, match="wrong-run"):
                    within(call(address, Caller("a run", 1)))
        assert len(host._strangers) <= _STRANGERS
        for stranger in wave:
            stranger.close()
    assert time.monotonic() - began < 12.0, "2,000 are to take less than at 10,000 a minute"
    eventually(lambda: not host._strangers)
    eventually(lambda: open_files() <= before)
    assert set(host.refused) <= {"too-many-strangers", "closed", "silent", "wrong-run"}
    assert host.refused["too-many-strangers"] > 0
    assert sum(host.refused.values()) >= 1900


# ---------------------------------------------------------------------- hosts of the run, and of others


@pytest.mark.parametrize(
    ("run", "who", "reason"),
    [
        ("another run", 1, "wrong-run"),
        ("this run", 0, "wrong-host"),
        ("this run", NODES, "wrong-host"),
        ("this run", -7, "wrong-host"),
        ("another run", LAUNCHER, "busy"),
    ],
)
def test_who_is_not_of_the_run_is_not_let_in(served, run, who, reason):
    host, address = served

    async def main():
        async with running(served, tables()) as (site, _):
            connection = await open_connection(0, address, TOKEN, None, lambda reason: None)
            with pytest.raises(WireError, match=reason):
                await greet(connection, TOKEN, Caller(run, who), 0)
            # Its further frames reach no node.
            connection.send(frame())
            with pytest.raises(WireError, match="closed"):
                await connection.next_frame(5)
            assert site.stage.program.heard == []

    within(main())
    assert host.refused == ({} if reason == "busy" else {reason: 1})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (frame(sender=2), "spoofed-sender"),
        (frame(sender=0), "spoofed-sender"),
        (frame(sender=99), "spoofed-sender"),
        (frame(receiver=1), "wrong-receiver"),
        (frame(receiver=1 << 31), "wrong-receiver"),
        (frame(payload={"model": torch.tensor([1.0, float("nan")])}), "not-finite"),
        (frame(payload={"model": torch.tensor([float("inf")], dtype=torch.float16)}), "not-finite"),
        ([*frame()[:-1], b"other bytes"], "bad-header"),
    ],
)
def test_a_peer_gets_through_with_nothing_but_right_frames(served, wrong, reason):
    host, address = served

    async def main():
        async with running(served, tables()) as (run, control):
            peer = await call(address, Caller("this run", 1))
            if reason == "bad-header":
                prefix, header = wire.encode_parts({"n": 1}, tag="x", sender=1)
                peer.send([prefix, b"\xff" + header[1:]])
                refused = host.refused
            else:
                peer.send(wrong)
                refused = run.stage.nodes[0].mail.drops if reason == "not-finite" else run.stage.refused
            peer.send(frame(number=1, payload={"n": 2}))
            await soon(lambda: run.stage.program.heard)
            assert run.stage.program.heard == [(1, {"n": 2})]
            assert refused == {reason: 1}
            figures = msgspec.msgpack.decode((await control.until("heartbeat")).payload["figures"])
            while f"dropped/{reason}" not in figures:
                figures = msgspec.msgpack.decode((await control.until("heartbeat")).payload["figures"])

    within(main())


def test_what_was_refused_before_a_run_is_not_of_it(served):
    host, address = served
    with pytest.raises(WireError, match="bad-token"):
        within(call(address, Caller("a run", LAUNCHER), b"another secret, which is wrong"))

    async def main():
        async with running(served, tables()) as (_, control):
            with pytest.raises(WireError, match="wrong-run"):
                await call(address, Caller("another run", 1))
            figures = msgspec.msgpack.decode((await control.until("heartbeat")).payload["figures"])
            assert {name: value for name, value in figures.items() if name.startswith("dropped/")} == {
                "dropped/wrong-run": 1.0
            }

    within(main())
    assert host.refused == {"bad-token": 1, "wrong-run": 1}


def test_who_calls_before_the_nodes_begin_is_to_come_again(served):
    host, address = served

    async def main():
        control = Control(await call(address, Caller("this run", LAUNCHER)))
        say(control.connection, "orders", {"orders": orders(address, tables())})
        await control.until("ready")
        peer = await open_connection(0, address, TOKEN, None, lambda reason: None)
        with pytest.raises(WireError, match="busy"):
            await greet(peer, TOKEN, Caller("this run", 1), 0)
        say(control.connection, "go", {"elapsed": 0.0, "returning": False})
        (await call(address, Caller("this run", 1))).send(frame(payload={"n": 7}))
        await soon(lambda: host._run.stage is not None and host._run.stage.program.heard == [(1, {"n": 7})])
        control.connection.abort()

    within(main())
    assert host.refused == {}


def test_numbers_that_are_not_finite_are_rejected_in_the_senders_name_and_flood_no_other_node(served):
    _, address = served

    async def main():
        async with running(served, tables()) as (run, control):
            peer = await call(address, Caller("this run", 2))
            for number in range(150):
                peer.send(frame(sender=2, number=number, payload={"x": torch.tensor([float("nan")])}))
            events = []
            while len(events) < 100:
                rows = msgspec.msgpack.decode((await control.until("rows")).payload["rows"])
                events += rows[2]
            assert {tuple(event[1:]) for event in events} == {(0, "rejected", "message of node 2: 'x' is not finite")}
            await soon(lambda: run.stage.nodes[0].mail.drops == {"not-finite": 150})
            await control.until("heartbeat")
            assert len(events) == 100
            assert control.frames.empty(), "the others are only counted"

    within(main())


@pytest.mark.parametrize(
    "model",
    [torch.zeros(3), torch.zeros(650, dtype=torch.float64), torch.zeros(650, dtype=torch.int64), "no tensor", None],
)
def test_the_program_rejects_what_is_no_model_of_its_own(served, model):
    _, address = served
    gossip = {"kind": "gossip", "topology": "complete"}

    async def main():
        async with running(served, tables(gossip, rounds=1)) as (_, control):
            peers = [await call(address, Caller("this run", who)) for who in (1, 2)]
            peers[0].send(frame(payload={} if model is None else {"model": model}, tag="", round=0))
            peers[1].send(frame(sender=2, payload={"model": torch.zeros(650)}, tag="", round=0))
            events, commits = [], []
            while not commits:
                rows = msgspec.msgpack.decode((await control.until("rows")).payload["rows"])
                commits, events = commits + rows[0], events + rows[2]
            wrong = "it has no 'model'" if model is None else "its 'model' is not 650 float32 numbers"
            assert [event[1:] for event in events] == [[0, "rejected", f"message of node 1: {wrong}"]]
            await control.until("done")

    within(main())


def test_a_server_continues_without_updates_that_are_wrong(served):
    _, address = served

    async def main():
        async with running(served, tables("fedavg", rounds=1)) as (run, control):
            peers = [await call(address, Caller("this run", who)) for who in (1, 2)]
            peers[0].send(frame(payload={"model": torch.zeros(3), "samples": "many"}, tag="update", round=0))
            peers[1].send(frame(sender=2, payload={"model": torch.ones(650), "samples": 9}, tag="update", round=0))
            final = (await control.until("learned")).payload
            assert final["node"] == 0
            assert torch.equal(final["models"][0], torch.ones(650))
            await control.until("done")
            assert run.stage.nodes[0].mail.drops["unusable"] == 1

    within(main())


def test_pushes_that_are_wrong_are_counted_and_flood_no_other_node(served):
    _, address = served
    program = {"kind": "gossip-learning", "topology": "complete", "period": "1h"}

    async def main():
        async with running(served, tables(program)) as (run, control):
            peer = await call(address, Caller("this run", 1))
            for number in range(150):
                peer.send(frame(number=number, tag="model", payload={"model": torch.zeros(650), "age": "old"}))
            await soon(lambda: run.stage.nodes[0].mail.drops == {"unusable": 150})
            events = []
            while len(events) < 100:
                events += msgspec.msgpack.decode((await control.until("rows")).payload["rows"])[2]
            assert [event[3] for event in events][:1] == ["message of node 1: its 'age' is not an int in [0, 2**53)"]
            await control.until("heartbeat")
            assert len(events) == 100
            assert control.frames.empty(), "the others are only counted"
            assert run.stage.nodes[0].mail.dropped == 150

    within(main())


# ---------------------------------------------------------------------- too much


def test_what_does_not_fit_into_an_inbox_is_dropped(served):
    _, address = served
    most = 1 << 20

    async def main():
        async with running(served, tables("tests.strangers:Ignores"), buffer=most) as (run, _):
            peer = await call(address, Caller("this run", 1))
            for number in range(30):
                peer.send(frame(number=number, payload={"x": torch.zeros(25_000)}))
            await soon(lambda: run.stage.nodes[0].mail.drops == {"inbox-full": 25})
            mail = run.stage.nodes[0].mail
            assert most / 2 - 110_000 < mail.held <= most / 2
            for number in range(30, 1000):
                # Small ones take more memory than they are long.
                peer.send(frame(number=number))
            await soon(lambda: run.stage.nodes[0].mail.drops["inbox-full"] > 900)
            assert mail.held <= most / 2 + 2000
            other = await call(address, Caller("this run", 2))
            refused = run.stage.nodes[0].mail.drops["inbox-full"]
            for number in range(2):
                other.send(frame(sender=2, number=number, payload={"x": torch.zeros(25_000)}))
            await soon(lambda: mail.count(("x", None)) > 2 and mail._present(("x", None)).count(2) == 2)
            assert run.stage.nodes[0].mail.drops["inbox-full"] == refused, (
                "what the one floods leaves room for the other"
            )
            peer.send(frame(number=1000, payload={"x": torch.zeros(most // 4)}))
            await peer.lost  # No queue and no inbox has room for it, so it is not even read.

    within(main())
    assert served[0].refused == {"oversized": 1}


def test_what_does_not_fit_before_a_slow_downlink_is_dropped(served):
    _, address = served
    slow = tables()
    slow["network"]["bandwidth"] = "1Mbit/s"

    async def main():
        async with running(served, slow, buffer=1 << 20) as (run, _):
            peer = await call(address, Caller("this run", 1))
            for number in range(30):
                peer.send(frame(number=number, payload={"x": torch.zeros(25_000)}))
            # The first is in as soon as it is here: it came at the rate of the uplink.
            await soon(lambda: run.stage.refused == {"downlink-full": 19})

    within(main())


def test_a_peer_that_stops_reading_costs_no_more_than_the_buffer_and_one_that_continues_gets_what_was_kept(served):
    most = 1 << 20

    async def main():
        listening = Address("127.0.0.1", 0).listen()
        others = str(Address.of(listening))
        called = Impostor(lambda connection, frame: connection.pause_reading())
        server = answering(listening, called)
        async with running(served, tables("tests.strangers:Floods"), buffer=most, others=others) as (run, _):
            await soon(lambda: run.stage.refused["queue-full"] > 200)
            assert run.peers.backlog <= most
            connection = run.peers._routes[1].connection
            assert connection._transport.get_write_buffer_size() <= (1 << 20) + 200_000
            heard, peer = [], called.connection
            peer.listen(heard.append, wire.DEFAULT)
            await soon(lambda: len(heard) > 100)
            for _ in range(20):  # A slow reader.
                peer.pause_reading()
                await asyncio.sleep(0.02)
                peer.resume_reading()
                await asyncio.sleep(0.005)
                assert run.peers.backlog <= most
            numbers = [frame.number for frame in heard]
            assert numbers == sorted({*numbers})
            peer.abort()
        server.close()

    within(main())


def test_what_waits_for_a_host_that_does_not_answer_is_bounded(served):
    async def main():
        async with running(served, tables("tests.strangers:Floods"), buffer=1 << 20) as (run, _):
            await soon(lambda: run.stage.refused["queue-full"] > 100)
            assert run.peers.backlog <= 1 << 20

    within(main())
