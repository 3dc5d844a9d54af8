"""Malformed orders of launchers and malformed reports of hosts: one line, and nothing hangs."""

import asyncio
import math
import threading
import time

import msgspec
import pytest
import torch

from covey.messages import wire
from covey.parts.errors import CoveyError, RunError
from covey.runtime.emulation.host.run import _ORDERS, HostRun
from covey.runtime.emulation.launcher.launcher import Launcher
from covey.runtime.emulation.transport.address import Address
from covey.runtime.emulation.transport.connection import Corrupted
from covey.runtime.emulation.transport.handshake import LAUNCHER, Caller, say
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.conftest import Written, table
from tests.hosts import answering, token_file
from tests.puppets import READY, share, snapshots
from tests.strangers import Control, Impostor, call, orders, running, soon, tables, within

# ---------------------------------------------------------------------- launchers that talk nonsense


GARBLED = {
    "an unknown word": [("do", {}), "The launcher sent 'do' instead of one of orders"],
    "orders that are none": [("orders", {"orders": b"\xc1"}), "DecodeError"],
    "orders without the orders": [("orders", {}), "KeyError: 'orders'"],
    "orders that lack something": [("orders", {"orders": msgspec.msgpack.encode({"owners": []})}), "ValidationError"],
}


@pytest.mark.parametrize("case", GARBLED)
def test_orders_that_make_no_sense_end_the_run_but_not_the_host(served, case):
    (tag, payload), text = GARBLED[case]

    async def main():
        control = Control(await call(served[1], Caller("this run", LAUNCHER)))
        say(control.connection, tag, payload)
        failed = await control.until("failed")
        assert text in failed.payload["text"]
        assert "\n" not in failed.payload["text"]
        await control.connection.lost

    within(main())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"owners": [2, 1, 1]}, "The orders of host 0 must name an owner, of 3 hosts"),
        ({"hosts": ["127.0.0.1:1"]}, "The orders of host 0 must name an owner, of 1 hosts"),
        ({"owners": [0]}, "Got 1 owners, 0 to 0, and"),
        ({"owners": [0, 1, 3]}, "Got 3 owners, 0 to 3, and"),
        ({"hosts": ["nowhere"]}, "An address must be"),
        ({"experiment": {"rounds": 1}}, "The 'program' of the experiment is missing"),
        ({"buffer_bytes": -1}, "and -1 bytes"),
    ],
)
def test_orders_that_contradict_themselves_end_the_run_but_not_the_host(served, change, text):
    async def main():
        control = Control(await call(served[1], Caller("this run", LAUNCHER)))
        right = msgspec.msgpack.decode(orders(served[1], tables()))
        say(control.connection, "orders", {"orders": msgspec.msgpack.encode({**right, **change})})
        answer = await control.frames.get()
        assert answer.tag == "failed"
        assert text in answer.payload["text"]
        assert "\n" not in answer.payload["text"]
        control.connection.abort()

    within(main())


@pytest.mark.parametrize(
    ("tag", "payload"),
    [("what", {}), ("park", {}), ("park", {"round": "x"}), ("gone", {}), ("restore", {})],
)
def test_nonsense_amid_a_run_ends_it_but_not_the_host(served, tag, payload):
    async def main():
        async with running(served, tables()) as (_, control):
            say(control.connection, tag, payload)
            failed = await control.until("failed")
            assert "\n" not in failed.payload["text"]
            await control.connection.lost

    within(main())


def test_a_launcher_whose_bytes_are_no_frames_is_left(served):
    host, _ = served

    async def main():
        async with running(served, tables()) as (_, control):
            control.connection.send(Corrupted(wire.encode_parts({"round": 3}, tag="park"), 7))
            await control.connection.lost

    within(main())
    assert sum(host.refused.values()) == 1


def test_a_flood_of_orders_is_read_no_faster_than_it_is_obeyed(served, monkeypatch):
    waiting, on_frame, order = [], HostRun._on_frame, HostRun._order
    obeys = threading.Event()

    def counted(run, frame):
        on_frame(run, frame)
        waiting.append(run._frames.qsize())

    async def obeyed(run):
        while waiting and not obeys.is_set():
            await asyncio.sleep(0.01)
        return await order(run)

    monkeypatch.setattr(HostRun, "_on_frame", counted)
    monkeypatch.setattr(HostRun, "_order", obeyed)

    async def main():
        control = Control(await call(served[1], Caller("this run", LAUNCHER)))
        say(control.connection, "orders", {"orders": orders(served[1], tables())})
        order = wire.encode_parts({"filling": bytes(1000)}, tag="what")
        for _ in range(5000):
            control.connection.send(order)
        await soon(lambda: len(waiting) >= _ORDERS)
        await asyncio.sleep(0.1)
        obeys.set()
        await control.connection.lost
        # Two reads of 256 KiB may be on their way, with 240 orders each.
        assert max(waiting) < _ORDERS + 600

    within(main())


# ---------------------------------------------------------------------- hosts that talk nonsense to the launcher


def launched(says, folder, wait="5s"):
    """Run an experiment on an impostor."""
    written = Written()

    async def main():
        listening = Address("127.0.0.1", 0).listen()
        address = Address.of(listening)
        engine = {"kind": "emulation", "hosts": [str(address)], "token_file": str(token_file(folder)), "wait": wait}
        experiment = Experiment.from_table(table(network={"nodes": 2}, engine=engine))
        prepared = prepare(experiment, **experiment.engine.compute_settings())
        READY.update(prepared.task.signature())
        server = answering(listening, says)
        try:
            async with asyncio.timeout(20):
                return await Launcher(prepared, experiment.engine, written, None, None).run()
        finally:
            server.close()
            prepared.task.close()

    return within(main())


def packed(commits=(), figures=(), events=()):
    return {"rows": msgspec.msgpack.encode((list(commits), list(figures), list(events), []))}


def heartbeat(**figures):
    condition = {"acting": 2, "idle": 0, "waits": [], "evaluates": False}
    return {"time": 1.0, "figures": msgspec.msgpack.encode(figures), **condition}


ROW = (0, 1, 0.5, 0.1, *[0] * 9, *[0.0] * 4)
NONSENSE = {
    "an unknown word": ("hello", {}, "Host 0 sent the unknown report 'hello'."),
    "a word of the code": ("other", {}, "Host 0 sent the unknown report 'other'."),
    "readiness twice": ("ready", READY, "Host 0 sent a malformed report: InvalidStateError"),
    "rows that are none": ("rows", {"rows": b"\xc1"}, "Host 0 sent a malformed report: DecodeError"),
    "rows without rows": ("rows", {}, "Host 0 sent a malformed report: KeyError"),
    "a short row": ("rows", packed([ROW[:5]]), "Host 0 sent a malformed report: ValidationError"),
    "a round after the last": ("rows", packed([(0, 7, *ROW[2:])]), "Host 0 reports round 7, which is not in [0, 6]."),
    "a count that is too large": ("rows", packed([(*ROW[:6], 1 << 63, *ROW[7:])]), "Host 0 sent a malformed"),
    "a time that is none": ("rows", packed([(0, 1, math.nan, *ROW[3:])]), "Host 0 sent a malformed report"),
    "an event at no time": (
        "rows",
        packed(events=[(math.nan, 0, "left", "")]),
        "Host 0 sent a malformed report",
    ),
    "a figure of a far round": (
        "rows",
        packed(figures=[(0, 1 << 40, "x", 1.0)]),
        "Host 0 reports round 1099511627776",
    ),
    "an average of a far round": ("average", share(1 << 40, [1.0]), "Host 0 reports round 1099511627776, which is"),
    "an average of too many": (
        "average",
        share(2, [1.0] * 3),
        "Host 0 reports a share of an average that does not fit",
    ),
    "a short average": (
        "average",
        {**share(2, [1.0]), "total": torch.zeros(1)},
        "Host 0 reports a share of an average",
    ),
    "a far snapshot": ("snapshots", snapshots([0], 1 << 40), "Host 0 reports round 1099511627776, which is not in"),
    "a heartbeat of no number": (
        "heartbeat",
        heartbeat(memory=math.nan),
        "Host 0 sent a malformed report: ValidationError",
    ),
    "a heartbeat at no time": (
        "heartbeat",
        {**heartbeat(), "time": math.nan},
        "Host 0 sent a malformed report: Validation",
    ),
    "an end at no time": ("done", {"models": torch.zeros(2, 650), "time": math.inf}, "Host 0 sent a malformed"),
    "another's node": ("rows", packed([(5, *ROW[1:])]), "Host 0 reports for node 5, which is not its own."),
    "no node": ("rows", packed(figures=[(-1, 1, "accuracy", 1.0)]), "Host 0 reports for node -1"),
    "another's event": ("rows", packed(events=[(0.0, 9, "left", "")]), "Host 0 reports for node 9"),
    "a heartbeat without figures": (
        "heartbeat",
        {"figures": b"", "time": 0.0},
        "Host 0 sent a malformed report",
    ),
    "a short model": (
        "learned",
        {"node": 0, "models": torch.zeros(1, 3)},
        "Host 0 reports an impossible learned state",
    ),
    "nobody's model": (
        "learned",
        {"node": 9, "models": torch.zeros(1, 650)},
        "Host 0 reports for node 9, which is not",
    ),
    "no models": ("done", {"time": 1.0}, "Host 0 is done and has not reported the results of all of its nodes."),
    "no snapshots": ("snapshots", {"nodes": [0]}, "Host 0 reports an impossible learned state: 'models' is missing"),
    "a row of a table that holds more than plain values": (
        "rows",
        {"rows": msgspec.msgpack.encode(([], [], [], [(0.0, 0, "x", {"y": [1]})]))},
        "Host 0 adds a value to the table 'x' that is not a plain one.",
    ),
    "an average of nothing": ("average", {"round": 1}, "Host 0 sent a malformed report"),
    "a failure of no kind": ("failed", {}, "Host 0 sent a malformed report: KeyError"),
    "a failure of a strange kind": ("failed", {"kind": "told", "text": "It broke."}, "It broke."),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_a_host_that_talks_nonsense_ends_the_run_with_one_line(case, tmp_path):
    tag, payload, text = NONSENSE[case]

    def says(connection, frame):
        if frame.tag == "orders":
            say(connection, "ready", READY)
        elif frame.tag == "go":
            say(connection, tag, payload)

    with pytest.raises(CoveyError) as caught:
        launched(Impostor(says), tmp_path)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("when", ["orders", "go"])
@pytest.mark.parametrize("kind", ["prefix", "body"])
def test_a_host_whose_bytes_are_no_frames_ends_the_run_with_one_line(when, kind, tmp_path):
    def says(connection, frame):
        if frame.tag == when:
            good = wire.encode_parts(READY, tag="ready")
            if kind == "prefix":
                connection._transport.write(bytes(4) + good[0])
            connection.send(Corrupted(good, 7))
        elif frame.tag == "orders":
            say(connection, "ready", READY)

    with pytest.raises(RunError, match=r"^Host 0 at 127\.0\.0\.1:\d+ sent a damaged frame \(corrupt\)\.$"):
        launched(Impostor(says), tmp_path)


def test_a_host_that_fails_while_it_makes_ready_ends_the_run_at_once(tmp_path):
    def says(connection, frame):
        say(connection, "failed", {"kind": "DataError", "text": "There is no such file here."})

    began = time.monotonic()
    with pytest.raises(CoveyError, match=r"^There is no such file here\.$"):
        launched(Impostor(says), tmp_path, wait="60s")
    assert time.monotonic() - began < 15


def test_a_host_that_does_not_hold_the_token_or_says_nothing_is_named(tmp_path):
    class Silent(asyncio.Protocol):
        pass

    class Web(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(b"HTTP/1.1 400 Bad Request\r\n" * 5)

    for server in (Web, Silent):
        with pytest.raises(RunError, match=r"^1 of 1 hosts are missing after 0\.5 seconds: 0 at 127\.0\.0\.1"):
            launched(server, tmp_path, wait="500ms")


def test_who_cannot_be_called_may_call(served):
    _, address = served

    async def main():
        # The host calls host 1 all the time, without an answer.
        async with running(served, tables("tests.strangers:Floods"), buffer=1 << 20) as (run, _):
            await soon(lambda: run.stage.refused["queue-full"] > 10)
            peer = await call(address, Caller("this run", 1))
            heard = []
            peer.listen(heard.append, wire.DEFAULT)
            await soon(lambda: len(heard) > 10)
            peer.abort()

    within(main())
