"""DivShare: its invariants, and an oracle written from the paper."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.divshare import DivShare, Push, Queue
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.parts.pieces import Piece
from covey.runtime.mailbox import Mailbox
from covey.runtime.node import Message
from covey.runtime.simulation.checkpoints import restore
from covey.runtime.simulation.world import World
from tests.conftest import begun, models_of, simulate, table
from tests.hosts import emulate

STILL = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""
DIVSHARE = {"kind": "divshare", "omega": 0.125, "fanout": 3, "cutting": "random"}
NARROW = {"nodes": 8, "latency": "1ms", "bandwidth": None, "uplink": "80kbit/s", "compute": 200}
"""A training takes 80 ms, in which the uplink carries two or three of the 24 fragments."""
WIDE = {**NARROW, "latency": 0.0, "uplink": None}


def starts_of(world):
    """N x P, the models before any round."""
    return torch.stack([world.task.learner.initial(node.id) for node in world.nodes])


def prepared(parameters=40, nodes=6, **parameters_of_program):
    """A prepared program, and a node of a world that has not begun."""
    program = DivShare(**parameters_of_program)
    program.check(Setting(nodes, seed=1))
    program.prepare(Setting(nodes, seed=1, parameters=parameters))
    return program


@cache
def waiting():
    """A world in which nothing happens."""
    return begun(table())


class Alone:
    """A node without a run, of a network of any size."""

    def __init__(self, id, nodes=6):
        self.node, self.nodes = waiting().nodes[id], nodes
        self.node.arrived(tag="fragment")

    def __getattr__(self, name):
        return getattr(self.node, name)


def merged_of(program, node, own):
    """The own numbers after a round's average with what has arrived."""
    return program._fragments.mean(own, program.receive(node, t=3))


def queued(node, program, entries):
    """Fragments that have arrived: (sender, number, round, value)."""
    for sender, number, round, value in entries:
        values = torch.full((program._fragments.sizes[number],), value)
        push = {"number": number, "values": values, "layout": program._fragments.digest, "round": round}
        node.node.mail.deliver(Message(NodeId(sender), "fragment", None, push, 0))


# ---------------------------------------------------------------------- one round


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 1.0), st.integers(50, 300))
def test_fragments_cover_every_number_once_for_any_omega(omega, parameters):
    program = prepared(parameters, omega=omega, fanout=2)
    fragments = program._fragments
    assert fragments.count == int(1 / omega + 1e-9)
    held = torch.cat([fragments.indices(number) for number in range(fragments.count)])
    assert sorted(held.tolist()) == list(range(parameters))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.data())
def test_every_fragment_goes_to_as_many_distinct_peers_and_never_to_its_sender(nodes, data):
    fanout = data.draw(st.integers(1, nodes - 1))
    order = data.draw(st.sampled_from(["random", "oldest-first"]))
    program = prepared(nodes=nodes, omega=0.2, fanout=fanout, order=order)
    node = Alone(data.draw(st.integers(0, nodes - 1)), nodes)
    entries = program.entries(node, [-1] * 5, t=data.draw(st.integers(0, 5)))
    assert len(entries) == len(set(entries)) == 5 * fanout
    assert Counter(number for _, number in entries) == dict.fromkeys(range(5), fanout)
    assert all(0 <= peer < nodes and peer != node.id for peer, _ in entries)


ARRIVED = st.lists(
    st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 9), st.floats(-9, 9, width=32)), max_size=25
)


@settings(max_examples=30, deadline=None)
@given(ARRIVED)
def test_every_number_is_the_mean_of_the_own_and_of_the_newest_of_each_sender(entries):
    program = prepared(parameters=41, omega=0.25, fanout=2)
    node, own = Alone(0), torch.linspace(-1.0, 1.0, 41)
    queued(node, program, entries)
    merged = merged_of(program, node, own).tensor()
    newest = {}
    for sender, number, _, value in sorted(entries, key=lambda entry: entry[2]):
        newest[sender, number] = value
    expected = own.double()
    for number in range(4):
        values = [value for (_, of), value in newest.items() if of == number]
        at = program._fragments.indices(number)
        expected[at] = (own[at].double() + sum(values)) / (1 + len(values))
    assert torch.allclose(merged.double(), expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(ARRIVED)
def test_the_weights_of_a_number_sum_to_one(entries):
    program = prepared(parameters=41, omega=0.25, fanout=2)
    node = Alone(0)
    queued(node, program, [(sender, number, round, 5.0) for sender, number, round, _ in entries])
    assert torch.allclose(merged_of(program, node, torch.full((41,), 5.0)).tensor(), torch.full((41,), 5.0))


def test_small_tensors_fall_into_the_last_fragment_and_spread_deals_them_to_all():
    pieces = (Piece("weight", "trained", 0, 40, (40,)), Piece("bias", "trained", 40, 44, (4,)))
    for cutting, holders in (("per-tensor", {7}), ("spread", {0, 1, 2, 3})):
        program = DivShare(omega=0.125, fanout=1, cutting=cutting)
        program.prepare(Setting(4, seed=1, parameters=44, pieces=pieces))
        of_bias = {k for k in range(8) for index in program._fragments.indices(k).tolist() if index >= 40}
        assert of_bias == holders


WRONG = {
    "layout": ({"layout": "0"}, "its fragments have another layout"),
    "number": ({"number": 4}, "its fragment is number 4, and there are 4"),
    "length": ({"values": torch.zeros(3)}, "its fragment 0 is not 10 float32 numbers"),
    "round": ({"round": -1}, "its 'round' is not an int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_fragment_that_does_not_fit_is_dropped_counted_and_named(case, monkeypatch):
    program, node = prepared(omega=0.25, fanout=2), Alone(0)
    changed, reason = WRONG[case]
    right = {"number": 0, "values": torch.zeros(10), "layout": program._fragments.digest, "round": 0}
    node.node.mail.deliver(Message(NodeId(3), "fragment", None, {**right, **changed}, 0))
    said = []
    monkeypatch.setattr(World, "event", lambda world, *happened: said.append(happened))
    before = node.node.mail.drops["unusable"]
    merged = merged_of(program, node, torch.ones(40))
    assert torch.equal(merged.tensor(), torch.ones(40))
    assert node.node.mail.drops["unusable"] == before + 1
    assert said
    assert said[0][:2] == (0, "rejected")
    assert re.match(rf"message of node 3: {re.escape(reason)}", said[0][2])


MISTAKES = {
    "omega of nothing": ({"omega": 0}, r"'omega' of the program divshare must be a number in \(0, 1\]. Got 0 instead"),
    "omega of more": ({"omega": 1.5}, r"'omega' of the program divshare must be a number in \(0, 1\]. Got 1.5 instead"),
    "too many peers": ({"fanout": 12}, r"'fanout' of the program divshare must be an int in \[1, nodes\). Got 12"),
    "too many fragments": ({"omega": 0.001}, r"'omega' of the program divshare must give 1 to 650 fragments"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line(case):
    changed, message = MISTAKES[case]
    with pytest.raises(ConfigurationError, match=message):
        begun(table(program={**DIVSHARE, **changed}))


def test_a_link_that_carries_nothing_is_refused():
    with pytest.raises(ConfigurationError, match=r"The 'rate' of .* must be a rate .*above 0|\(0, ") as refused:
        begun(table(program=DIVSHARE, network={"uplink": "0bit/s"}))
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("lr", [0.0, 0.3])
def test_whole_models_to_everybody_are_averaged_in_full_every_round(lr, overheard):
    task = {"optimizer": {"kind": "sgd", "lr": lr}, "same_start": False}
    world, _ = simulate(table(program={**DIVSHARE, "omega": 1.0, "fanout": 7}, network=WIDE, task=task, rounds=4))
    trained = {(message.sender, message.payload["round"]): message.payload["values"] for message in overheard}
    for node in world.nodes:
        # The models of a moment arrive after it: those of the others are of the round before.
        models = [trained[peer, 3 if peer == node.id else 2] for peer in range(8)]
        assert torch.allclose(node.model.double(), torch.stack(models).double().mean(0), atol=1e-6)
    if not lr:
        assert torch.allclose(torch.stack([trained[n, 1] for n in range(8)]), starts_of(world), atol=1e-6)
        assert torch.allclose(torch.stack([trained[n, 2] for n in range(8)]), starts_of(world).mean(0), atol=1e-6)


def test_whole_models_that_stay_in_the_queue_are_swift_by_pushes():
    network = {**WIDE, "compute": {"kind": "log-normal", "median": 200, "sigma": 0.5}}
    programs = ({**DIVSHARE, "omega": 1.0, "withdraw": False}, {"kind": "swift-push", "fanout": 3})
    divshare, swift = (models_of(simulate(table(program=program, network=network))[0]) for program in programs)
    assert torch.allclose(divshare, swift, atol=1e-5)


def test_nodes_train_at_their_own_pace_and_withdraw_what_an_uplink_cannot_carry(overheard):
    _, wide = simulate(table(program=DIVSHARE, network={**NARROW, "uplink": None}))
    assert not any(value < 1.0 for _, _, name, value in wide.figures if name == "sent")
    assert sum(row[9] for row in wide.rows if row[1] == 6) == 8 * 24 * 5  # All of a round arrive within the next.
    overheard.clear()
    narrow, written = simulate(table(program=DIVSHARE, network=NARROW, observer={"nodes": [*range(8)]}))
    assert [row[:3] for row in sorted(written.rows)] == [row[:3] for row in sorted(wide.rows)]
    for node in narrow.nodes:
        offered = [wire.size(message.payload, message.tag) for message in overheard if message.sender == node.id]
        sent = [value for id, _, name, value in written.figures if (id, name) == (node.id, "sent")]
        assert len(sent) == 5
        assert max(sent) < 0.25
        assert node.messages_out == 24 * (sum(sent) + 1)
        assert node.bytes_out < 0.5 * sum(offered)
    assert {name for _, _, name, _ in written.figures} >= {"staleness", "overwritten", "sent"}
    arrived: Counter[int] = Counter()
    for time, node, frame in sorted(written.seen):
        sender = wire.decode(frame).sender
        arrived[sender] += 8 * len(frame) if node != sender else 0
        assert arrived[sender] <= 80_000 * time
    assert sorted(arrived) == [*range(8)]


def test_without_withdrawing_all_fragments_come_late(overheard):
    world, written = simulate(table(program={**DIVSHARE, "withdraw": False}, network=NARROW))
    assert all(node.messages_out == 6 * 24 for node in world.nodes)
    late = [value for _, t, name, value in written.figures if (t, name) == (6, "staleness")]
    withdrawing = simulate(table(program=DIVSHARE, network=NARROW))[1].figures
    assert max(late) > max(value for _, t, name, value in withdrawing if (t, name) == (6, "staleness"))


def test_slow_nodes_are_received_and_delay_no_other(monkeypatch):
    received, deliver = Counter(), Mailbox.deliver
    monkeypatch.setattr(
        Mailbox, "deliver", lambda mail, message: (received.update([message.sender]), deliver(mail, message))[1]
    )
    compute = {"kind": "stragglers", "samples_per_second": 200, "fraction": 0.25, "slowdown": 10}
    world, _ = simulate(table(program=DIVSHARE, network={**NARROW, "compute": compute}, rounds=1000, duration="2.44s"))
    slow = {node.id for node in world.nodes if world.speeds[node.id] == 20}
    assert len(slow) == 2
    assert {node.round for node in world.nodes if node.id in slow} == {3}
    assert {node.round for node in world.nodes if node.id not in slow} == {30}
    assert all(received[node] >= 24 for node in slow)


def test_numbers_that_no_node_sent_stay_as_they_are(monkeypatch):
    arrived, worlds, deliver = {node: set() for node in range(3)}, [], Mailbox.deliver

    def listen(mail, message):
        (receiver,) = [node for node in range(3) if worlds[-1].nodes[node].mail is mail]
        if not mail.ended:
            arrived[receiver].add(message["number"])
        deliver(mail, message)

    made = World.__init__
    monkeypatch.setattr(World, "__init__", lambda world, *a, **k: (worlds.append(world), made(world, *a, **k))[1])
    monkeypatch.setattr(Mailbox, "deliver", listen)
    network, program = {**NARROW, "nodes": 3, "uplink": "60kbit/s"}, {**DIVSHARE, "omega": 0.0625, "fanout": 1}
    world, _ = simulate(table(program=program, network=network, task=STILL, rounds=3))
    starts = starts_of(world)
    for node in world.nodes:
        assert 0 < len(arrived[node.id]) < 16
        for number in range(16):
            indices = world.program._fragments.indices(number)
            moved = node.model[indices] != starts[node.id][indices]
            assert moved.float().mean() > 0.5 if number in arrived[node.id] else not moved.any()


def test_oldest_first_sends_every_fragment_again_after_the_same_time():
    gaps = {}
    for order in ("random", "oldest-first"):
        program = {**DIVSHARE, "order": order, "fanout": 1}
        world, _ = simulate(table(program=program, network=NARROW, rounds=30))
        sent = [node.state["sent"] for node in world.nodes]
        assert {len(each) for each in sent} == {8}
        gaps[order] = 18 - min(map(min, sent))
    # The uplink carries about 3 of the 8 fragments of a round.
    assert gaps["oldest-first"] <= 4
    assert gaps["oldest-first"] <= gaps["random"]


def test_a_peer_that_disappears_costs_no_other_anything():
    faults = [{"kind": "kill", "nodes": [3], "at": "300ms"}]
    world, _ = simulate(table(program=DIVSHARE, network={**NARROW, "uplink": None}, faults=faults, rounds=10))
    assert {node.round for node in world.nodes if node.id != 3} == {10}
    assert world.nodes[3].mail.drops["away"] > 24
    assert torch.isfinite(models_of(world)).all()


@settings(max_examples=6, deadline=None)
@given(st.floats(0, 1), st.sampled_from(["80kbit/s", "600kbit/s", None]), st.integers(0, 50))
def test_a_run_that_is_resumed_anywhere_loses_nothing_that_was_delivered(cut, uplink, seed):
    network = {
        **NARROW,
        "nodes": 4,
        "uplink": uplink,
        "latency": "30ms",
        "compute": {"kind": "log-normal", "median": 200},
    }
    tables = table(program={**DIVSHARE, "fanout": 2}, network=network, rounds=4, seed=seed, evaluation={"every": 0})
    tables |= {"checkpoint": {"every": 1, "keep": 99}, "observer": {"nodes": [0, 1, 2, 3]}}
    whole, written = simulate(tables)
    _, checkpoint = written.checkpoints[int(cut * (len(written.checkpoints) - 1))]
    checkpoint = wire.decode(wire.encode(checkpoint)).payload
    restore(resumed := begun(tables), checkpoint)
    assert all(max(node.keep(Queue).sent, default=-1) < max(node.round - 1, 0) for node in resumed.nodes)
    again, more = simulate(tables, checkpoint=checkpoint)
    clocks, posted, ended = checkpoint["clocks"], checkpoint["posted"], checkpoint["ended"]

    def known(rows):
        return Counter((node, (f := wire.decode(frame)).sender, f.number) for _, node, frame in rows)

    times = known([row for row in written.seen if row[0] <= clocks[row[1]]]) + known(more.seen)
    assert set(times.values()) <= {1}
    delivered = {key for key in known(written.seen) if key[2] < posted[key[1]] and not ended[key[0]]}
    assert times.keys() >= delivered
    assert [node.round for node in again.nodes] == [node.round for node in whole.nodes]
    assert all(len(node.keep(Queue).queued) == 16 for node in again.nodes)


@pytest.mark.slow
def test_both_engines_serve_as_many_fragments_of_shaped_links(tmp_path):
    network = {**NARROW, "nodes": 6, "uplink": "100kbit/s", "compute": 100}
    tables = table(program={**DIVSHARE, "fanout": 5}, network=network, rounds=15, evaluation={"every": 0})
    _, simulated = simulate(tables)
    outcome, emulated = emulate(tables, tmp_path)
    assert outcome.finished
    served = []
    for written in (simulated, emulated):
        last = {row[0]: row for row in sorted(written.rows)}
        # The messages of the last round still queue. On a busy machine rounds take longer, and links carry more in each.
        served.append(sum((row[8] - 40) / row[2] for row in last.values()))
    assert served[1] == pytest.approx(served[0], rel=0.1)
    assert served[0] < 0.2 * 6 * 40 / 0.16


def test_the_entries_of_a_message_are_those_of_a_fragment_and_its_round(overheard):
    simulate(table(program=DIVSHARE, network=NARROW, rounds=2))
    assert {tuple(message.payload) for message in overheard} == {("number", "values", "layout", "round")}
    rounds = [message.payload["round"] for message in overheard if message.sender == 0]
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(rounds))
    assert Push(number=0, values=torch.zeros(1), layout="", round=0).round == 0
