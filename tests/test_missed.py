"""Lost messages and dead neighbours: the number of further messages that are missed, and the time of rounds."""

from collections import defaultdict

import pytest
import torch

from covey.messages import wire
from covey.runtime import patience
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate

NODES, ROUNDS, DEAD = 24, 60, 3
BLOBS = {"dataset": {"kind": "gaussian-blobs", "samples": 480, "test_samples": 60}, "batch_size": 8}
GRAPHS = {
    "epidemic-oracle": {"kind": "epidemic-oracle", "degree": 4},
    "epidemic-local": {"kind": "epidemic-local", "degree": 4},
    "random-regular": {"kind": "random-regular", "degree": 4},
}
TAKES = 0.54
"""The seconds of the rounds if all messages arrive."""


def tables(graph, loss=0.0, patience="50ms", rounds=ROUNDS, **changes):
    network = {"nodes": NODES, "latency": "5ms", "compute": 2000, "loss": loss, "bandwidth": None}
    network |= changes.pop("network", {})
    program = {"kind": "gossip", "topology": GRAPHS[graph], "patience": patience}
    task = {**BLOBS, "model": "logistic"}
    return table(program=program, task=task, rounds=rounds, network=network, evaluation={"every": 0}, **changes)


@pytest.fixture
def heard(monkeypatch):
    """Which messages each node received in each round, by tag, and which it missed."""
    heard, receive = {}, patience._receive

    async def listen(node, senders, t, tag, timeout, reception):
        inbox = await receive(node, senders, t, tag, timeout, reception)
        in_vain = {*inbox.missing} - {*inbox.lost}
        heard[t, int(node.id), tag] = ({*senders}, {message.sender for message in inbox}, in_vain)
        return inbox

    monkeypatch.setattr(patience, "_receive", listen)
    return heard


def missed_share(heard, dead=()):
    """The share of messages of the living that were not received."""
    expected = sum(len(senders - {*dead}) for senders, _, _ in heard.values())
    return 1 - sum(len(got - {*dead}) for _, got, _ in heard.values()) / expected


@pytest.mark.parametrize("loss", [0.0, pytest.param(0.02, marks=pytest.mark.slow), 0.1])
@pytest.mark.parametrize("patience", ["20ms", "200ms"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_what_is_lost_is_all_that_is_missed(graph, patience, loss, heard):
    world, _ = simulate(tables(graph, loss, patience))
    assert {node.round for node in world.nodes} == {ROUNDS}
    # Of 5,760 messages so many are lost, give or take three deviations.
    assert missed_share(heard) == pytest.approx(loss, abs=0.002 + 3 * (loss / 5760) ** 0.5)
    assert world.now < TAKES * (1.1 if loss < 0.05 else 2.5)


@pytest.mark.parametrize("loss", [0.0, 0.05])
@pytest.mark.parametrize("graph", ["epidemic-oracle", "random-regular"])
def test_the_living_hear_each_other_while_one_is_dead(graph, loss, heard):
    world, _ = simulate(tables(graph, loss, faults=[{"kind": "kill", "nodes": [DEAD], "at": "53ms"}]))
    assert missed_share(heard, [DEAD]) < loss + 0.01
    waits, meetings = defaultdict(int), defaultdict(int)
    for (_, node, _), (senders, got, in_vain) in heard.items():
        waits[node] += DEAD in in_vain
        meetings[node] += DEAD in senders - got
    # Each message after 1, 2, 4 ... that it does not wait for.
    assert all(2 ** waits[node] - 1 <= 2 * meetings[node] + 1 for node in waits)
    assert world.now < TAKES + 0.05 * 20


@pytest.mark.parametrize(
    ("sharing", "loss"), [("full", 0.0), ("full", 0.02), ("full", 0.1), ("secure-aggregation", 0.1)]
)
def test_who_misses_gradients_is_received_with_its_model(sharing, loss, heard):
    made = tables("epidemic-oracle", loss, faults=[{"kind": "kill", "nodes": [DEAD], "at": "53ms"}], rounds=30)
    cliques = {"kind": "d-cliques", "size": 5}
    made["program"] = {
        "kind": "clique-averaging",
        "lr": 0.1,
        "topology": cliques,
        "sharing": sharing,
        "patience": "50ms",
    }
    simulate(made)
    assert missed_share(heard, [DEAD]) == pytest.approx(loss, abs=0.004 + 0.1 * loss)


def test_one_lost_message_costs_no_patience_and_not_the_next(heard, monkeypatch):
    from covey.runtime.simulation.world import World

    graph = tables("epidemic-oracle", 1e-9, "10s", rounds=8)
    whole, _ = simulate(graph)
    post, lost = World.post, []

    def losing(world, node, receivers, payload, tag, round):
        if node.id == 5 and round == 3 and tag == "":
            lost.append(receivers[0])
            receivers = receivers[1:]
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", losing)
    heard.clear()
    world, _ = simulate(graph)
    missed = {(t, node): senders - got for (t, node, _), (senders, got, _) in heard.items() if senders - got}
    assert missed == {(3, lost[0]): {5}}
    assert world.now == pytest.approx(whole.now, abs=1e-3)
    assert not any(node.state["patience.silent"] for node in world.nodes)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_run_that_loses_messages_is_resumed_to_the_bit(graph):
    # So many that nodes are late, say so and are waited for.
    made = tables(graph, 0.3, "30ms", rounds=12, checkpoint={"every": 5}, network={"bandwidth": "5Mbit/s"})
    whole, written = simulate(made)
    assert any(node.state.get("patience.late") for node in whole.nodes)
    assert [round for round, _ in written.checkpoints] == [5, 10]
    for _, checkpoint in written.checkpoints:
        resumed, _ = simulate(made, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
        assert torch.equal(models_of(resumed), models_of(whole))
        assert resumed.now == whole.now


def test_heartbeats_are_not_among_what_was_dropped():
    world, written = simulate(tables("epidemic-oracle", 0.05, rounds=20))
    assert all(node.mail.dropped == 0 for node in world.nodes)
    assert {name for _, _, name, _ in written.of_hosts if name.startswith("dropped/")} == {"dropped/lost"}


def test_where_messages_overtake_each_other_one_that_is_lost_does_not_cost_the_next(heard):
    simulate(tables("epidemic-oracle", 0.02, "200ms", network={"queue": "fair", "bandwidth": "5Mbit/s"}))
    skipped = sum(len(senders - got - in_vain) for senders, got, in_vain in heard.values())
    in_vain = sum(len(in_vain) for *_, in_vain in heard.values())
    assert in_vain > 100
    assert skipped < 0.05 * in_vain


def test_hosts_lose_messages_and_no_time(tmp_path):
    made = tables("epidemic-oracle", 0.05, "2s", rounds=10, network={"nodes": 8, "compute": 1e5, "latency": 0.0})
    made["program"]["topology"]["degree"] = 3
    outcome, written = emulate(made, tmp_path)
    assert outcome.finished
    assert len(written.rows) == 80
    # Some twelve messages are lost; each would take two seconds.
    assert max(row[2] for row in written.rows) < 12
