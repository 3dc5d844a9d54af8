"""Messages between names in an emulation: what each host knows, and what it makes of frames that are wrong."""

import threading
from time import monotonic, sleep

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.decentralized.shatter import Shatter
from covey.messages import wire
from covey.messages.crypto import lock
from covey.parts.errors import ConfigurationError
from covey.runtime.emulation.host.names import WORD, Names, _key
from covey.runtime.emulation.launcher import sampling
from covey.runtime.emulation.launcher.sampling import Draws
from covey.runtime.runs.observed import holder_of
from covey.runtime.sampler import simulated_secret
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate, hosts, launch

OWNERS = [0, 0, 1, 1, 2, 2, 3, 3]


def shares(placement="others", t=0, owners=OWNERS):
    overlay = Shatter(virtual_nodes=3, degree=4, placement=placement).overlay(len(owners))
    return Draws(overlay, owners, simulated_secret(1)).shares(t)


@settings(max_examples=15)
@given(t=st.integers(0, 50), hosts=st.integers(3, 5))
def test_a_relay_is_neither_ends_host_and_knows_no_name(t, hosts):
    owners = [node % hosts for node in range(8)]
    found = shares(t=t, owners=owners)
    senders = {(way.sender, way.receiver): host for host, one in enumerate(found) for way in one.outgoing}
    receivers = {(way.sender, way.receiver): (host, way) for host, one in enumerate(found) for way in one.incoming}
    assert len(senders) == len(receivers) == 8 * 3 * 4
    for host, one in enumerate(found):
        for way in one.outgoing:
            end, other = receivers[way.sender, way.receiver]
            assert (way.ticket, way.key) == (other.ticket, other.key)
            if end == host:
                assert way.via == other.via == host
            else:
                assert way.via == other.via
                assert way.via not in (host, end)
                (relayed,) = [passed for passed in found[way.via].relayed if passed.ticket == way.ticket]
                assert (relayed.source, relayed.target) == (host, end)
        mine = {virtual.id for virtual in one.virtual}
        assert {way.sender for way in one.outgoing} == {way.receiver for way in one.incoming} == mine
    tickets = [way.ticket for one in found for way in one.outgoing]
    assert len(set(tickets)) == len(tickets)
    assert not any("key" in field for field in type(found[0].relayed[0]).__struct_fields__)


def test_virtual_nodes_at_their_own_place_have_no_relays():
    found = shares("own")
    receivers = {way.ticket: host for host, one in enumerate(found) for way in one.incoming}
    assert not any(one.relayed for one in found)
    assert all(way.via == receivers[way.ticket] for one in found for way in one.outgoing)


def test_fewer_than_three_hosts_are_refused():
    program = {"kind": "shatter", "virtual_nodes": 2, "degree": 2}
    engine = {"kind": "emulation", "nodes_per_process": 6}
    with pytest.raises(ConfigurationError) as error:
        covey.check({**table(program=program), "engine": engine})
    assert str(error.value) == (
        "The engine must have at least 3 hosts for the virtual nodes of the program shatter: a relay must be neither "
        "end's host. Got 2 instead. With placement = 'own' there are no relays, and addresses tell all."
    )
    covey.check({**table(program={**program, "placement": "own"}), "engine": engine})
    covey.check({**table(program=program), "engine": {"kind": "emulation"}})
    faults = [{"kind": "corrupt", "nodes": [1], "at": 0.1, "probability": 0.5}]
    program["patience"] = 1.0
    with pytest.raises(ConfigurationError, match="strikes messages by their ends"):
        covey.check({**table(program=program, faults=faults), "engine": {"kind": "emulation"}})


def test_an_observer_of_an_emulation_sees_names_alone(tmp_path):
    program = {"kind": "shatter", "virtual_nodes": 2, "degree": 2}
    _, written = emulate(table(program=program, rounds=2, observer={"nodes": [1]}), tmp_path, 3)
    frames = [wire.decode(frame, wire.FILES) for _, _, frame in written.seen]
    chunks = [frame for frame in frames if set(frame.payload) == {"number", "values", "layout"}]
    assert len(chunks) == 2 * 2 * 2
    for frame in chunks:
        assert min(frame.sender, frame.receiver) >= 12
        assert holder_of(written.truths, 12, frame.receiver) == 1
        assert frame.number == 0


class Stage:
    """The stage of a host, as far as names need it."""

    me, rounds, most, limits = 2, 5, 10_000, wire.DEFAULT

    def __init__(self):
        self.refused, self.passed, self.arrived, self.rejected = [], [], [], []
        self.peers = self.traffic = self
        self.nodes = dict.fromkeys(range(8), self)
        self.id = 0

    def refuse(self, reason):
        self.refused.append(reason)

    def reject(self, node, sender, detail, reason):
        self.rejected.append(reason)

    def send_word(self, host, tag, payload):
        assert tag == WORD
        self.passed.append((host, payload))

    def arrive(self, node, message):
        self.arrived.append(message)


def framed(way, t, number=0, **change):
    entries = {"sender": way.sender, "receiver": way.receiver, "round": t, **change}
    values = entries.pop("values", np.ones(3, np.float32))
    box = lock(_key(way, number), wire.encode({"values": values}, **entries))
    return {"round": t, "ticket": way.ticket, "number": number, "box": np.frombuffer(box, np.uint8)}


def packed(share):
    return np.frombuffer(msgspec.msgpack.encode(share), np.uint8)


@pytest.fixture
def names():
    found = Names(Stage())
    found.take(packed(shares(t=1)[2]))
    return found


def first_incoming(t=1):
    return next(way for way in shares(t=t)[2].incoming if way.via != 2)


def test_a_message_comes_by_its_relay_alone(names):
    way = first_incoming()
    names.take_word(way.via, framed(way, 1))
    (message,) = names._stage.arrived
    assert (message.sender, message.name, message.key, message.number) == (
        way.sender,
        way.receiver,
        (f"@{way.receiver}", 1),
        0,
    )
    names.take_word((way.via + 1) % 4, framed(way, 1))
    assert names._stage.refused == ["wrong-ticket"]
    assert len(names._stage.arrived) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ticket": 5}, "wrong-ticket"),
        ({"ticket": "x"}, "wrong-ticket"),
        ({"round": "1"}, "wrong-ticket"),
        ({"round": 5}, "wrong-ticket"),
        ({"round": -1}, "wrong-ticket"),
        ({"round": 0}, "late"),
        ({"box": b"no"}, "wrong-ticket"),
        ({"box": np.zeros(40, np.uint8)}, "wrong-box"),
        ({"box": np.zeros(40)}, "wrong-box"),
        ({"number": 1}, "wrong-box"),
        ({"number": None}, "wrong-ticket"),
        ({"number": 1 << 40}, "wrong-box"),
    ],
    ids=str,
)
def test_wrong_frames_are_refused(names, change, reason):
    way = first_incoming()
    names.take_word(way.via, {**framed(way, 1), **change})
    assert names._stage.refused == [reason]
    assert not names._stage.arrived


@pytest.mark.parametrize("change", [{"sender": 1}, {"receiver": 1}, {"round": 2}, {"round": None}], ids=str)
def test_the_sender_cannot_take_another_name(names, change):
    way = first_incoming()
    names.take_word(way.via, framed(way, 1, **change))
    assert names._stage.refused == ["wrong-box"]


def test_numbers_that_are_not_finite_are_dropped(names):
    way = first_incoming()
    names.take_word(way.via, framed(way, 1, values=np.full(3, np.nan, np.float32)))
    assert names._stage.rejected == ["not-finite"]


def test_a_relay_passes_frames_of_their_source_on(names):
    passed = shares(t=1)[2].relayed[0]
    frame = {"round": 1, "ticket": passed.ticket, "number": 0, "box": np.zeros(9, np.uint8)}
    names.take_word(passed.source, frame)
    assert names._stage.passed == [(passed.target, frame)]
    names.take_word(passed.target, frame)
    assert names._stage.refused == ["wrong-ticket"]


def test_frames_of_a_later_round_wait_for_its_share_up_to_a_limit(names):
    way = first_incoming(2)
    names.take_word(way.via, framed(way, 2))
    assert not names._stage.arrived
    for _ in range(2):
        names.take_word(0, {"round": 2, "ticket": 1, "number": 0, "box": np.zeros(6000, np.uint8)})
    assert names._stage.refused == ["queue-full"]
    names.take(packed(shares(t=2)[2]))
    assert len(names._stage.arrived) == 1
    assert names._stage.refused == ["queue-full", "wrong-ticket"]


def test_frames_that_wait_are_limited_though_their_boxes_are_empty(names):
    for number in range(50):
        names.take_word(0, {"round": 2, "ticket": 1, "number": number, "box": np.zeros(0, np.uint8)})
    kept = [word for _, word in names._early]
    assert 0 < len(kept) < 50
    assert names._stage.refused == ["queue-full"] * (50 - len(kept))


SHATTER = {"kind": "shatter", "virtual_nodes": 2, "degree": 4}


def test_a_run_that_lost_a_host_has_the_names_and_models_of_one_that_did_not(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling.secrets, "randbits", lambda bits: simulated_secret(3))
    tables = table(program=SHATTER, rounds=12, checkpoint={"every": 4}, network={"compute": 2e3})
    with hosts(3) as running:
        host = running[1][0]

        def cut():
            late = monotonic() + 30
            while monotonic() < late:
                sleep(0.002)
                run = host._run
                if run is not None and run.stage is not None and run.stage.nodes[5].round > 5:
                    run.task.get_loop().call_soon_threadsafe(run.control.abort)
                    return

        cutter = threading.Thread(target=cut)
        cutter.start()
        outcome, written = launch(tables, tmp_path, [address for _, address in running])
        cutter.join()
    world, _ = simulate(tables)
    assert outcome.finished
    assert "rolled back" in [kind for _, _, kind, _ in written.happened]
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)


def test_a_run_goes_on_without_a_node_and_resumes_under_other_names(tmp_path):
    faults = [{"kind": "kill", "nodes": [3], "at": 0.05}]
    tables = table(program={**SHATTER, "patience": 0.1}, rounds=5, faults=faults, observer={"nodes": [1]})
    outcome, written = emulate(tables, tmp_path, 3)
    assert outcome.finished
    rounds = {node: max(row[1] for row in written.rows if row[0] == node) for node in range(12) if node != 3}
    assert set(rounds.values()) == {5}
    tables = table(program=SHATTER, rounds=4, checkpoint={"every": 2}, observer={"nodes": [1]})
    _, first = emulate(tables, tmp_path, 3)
    again, second = emulate(tables, tmp_path, 3, checkpoint=dict(first.checkpoints)[2])
    assert again.finished
    assert set(second.truths) == {"names/2"}
    assert not np.array_equal(second.truths["names/2"], first.truths["names/0"][2:])
