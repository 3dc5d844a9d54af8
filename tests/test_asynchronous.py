"""Queued AD-PSGD, both SWIFTs, both SwarmSGDs and asynchronous Epidemic Learning: oracles written from the papers."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.swarm import Swarm
from covey.decentralized.swift import Swift
from covey.decentralized.topology.static import Complete, Ring, Star
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.mailbox import Mailbox
from covey.runtime.simulation.world import World
from tests.conftest import begun, models_of, simulate, table

NODES = 7
NETWORK = {
    "nodes": NODES,
    "latency": {"kind": "uniform", "low": 0.002, "high": 0.05},
    "bandwidth": None,
    "compute": {"kind": "log-normal", "median": 300, "sigma": 0.8},
}
STILL = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""


@pytest.fixture
def happened(monkeypatch):
    """The events of a run in their order: (what, node, peer, payload), and the model of every commit."""
    events, worlds = [], []
    post, deliver, complete, made = World.post, Mailbox.deliver, World.complete, World.__init__

    def sent(world, node, receivers, payload, tag, round):
        events.append(("sent", node.id, list(receivers), dict(payload)))
        return post(world, node, receivers, payload, tag, round)

    def delivered(mail, message):
        (node,) = [node.id for node in worlds[-1].nodes if node.mail is mail]
        events.append(("delivered", node, message.sender, dict(message.shared)))
        deliver(mail, message)

    async def committed(world, node):
        events.append(("committed", node.id, None, node.model.double()))
        await complete(world, node)

    monkeypatch.setattr(World, "__init__", lambda world, *a, **k: (worlds.append(world), made(world, *a, **k))[1])
    monkeypatch.setattr(World, "post", sent)
    monkeypatch.setattr(Mailbox, "deliver", delivered)
    monkeypatch.setattr(World, "complete", committed)
    return events


def replay(events, own_of, merged):
    """Check the model of every commit against `merged(node, own, received)`, with the newest model of each sender.

    Args:
        events: the events of a run.
        own_of: selects, from the payloads that a node sent, the model that it trained.
        merged: the expected model; it may change `received`.
    """
    own, received = {}, defaultdict(dict)
    for what, node, peer, content in events:
        if what == "sent" and own_of(content):
            own[node] = content["model"].double()
        elif what == "delivered":
            received[node][peer] = content["model"].double()
        elif what == "committed":
            assert torch.allclose(content, merged(node, own[node], received[node]), atol=1e-5)


def mean_of_all(node, own, received):
    found = torch.stack([own, *received.values()]).mean(0)
    received.clear()
    return found


# ---------------------------------------------------------------------- pushes and pings


@pytest.mark.parametrize("kind", ["ad-psgd-queued", "swift-push", "asynchronous-epidemic"])
def test_a_node_averages_its_trained_model_with_the_newest_of_each_sender(kind, happened):
    simulate(table(program={"kind": kind, "fanout": 2}, network=NETWORK))
    # Answers hold no new model.
    replay(happened, lambda payload: payload.get("ping", kind != "ad-psgd-queued"), mean_of_all)
    assert sum(what == "delivered" for what, *_ in happened) > 40


def test_every_ping_is_answered_at_once_with_the_last_trained_model(happened):
    world, _ = simulate(table(program={"kind": "ad-psgd-queued", "fanout": 2}, network=NETWORK))
    trained = {node.id: world.task.learner.first_model for node in world.nodes}
    answers = 0
    for index, (what, node, peer, content) in enumerate(happened):
        if what == "sent" and content.get("ping"):
            trained[node] = content["model"]
            assert len(set(peer)) == 2
            assert node not in peer
        elif what == "delivered" and content.get("ping"):
            later = (e[3] for e in happened[index + 1 :] if e[:3] == ("sent", node, [peer]) and "ping" not in e[3])
            answer = next(later, None)  # The run ends before the last answers.
            if answer is not None:
                assert torch.equal(answer["model"], trained[node])
                answers += 1
    assert answers >= 0.8 * 2 * 6 * NODES


def test_epidemic_learning_pushes_to_reachable_nodes_and_waits_for_a_time(overheard):
    program = {"kind": "asynchronous-epidemic", "topology": "ring", "fanout": 4, "wait": "1s"}
    world, _ = simulate(table(program=program, network=NETWORK, rounds=3))
    assert all({(m.sender - r) % NODES for r in m.receivers} == {1, NODES - 1} for m in overheard)
    assert world.now > 3.0
    withdrawn = {"kind": "asynchronous-epidemic", "fanout": 6}
    network = {**NETWORK, "uplink": "100kbit/s", "compute": 200}
    _, written = simulate(table(program=withdrawn, network=network, rounds=4))
    assert {value for _, t, name, value in written.figures if (name, t) == ("withdrawn", 4)} <= {4.0, 5.0}


# ---------------------------------------------------------------------- SWIFT


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("memory", [True, False])
def test_swift_averages_with_the_stored_models_of_its_neighbours(memory, every, happened):
    topology = {"kind": "star"}
    program = {"kind": "swift", "topology": topology, "memory": memory, "every": every}
    task = {"optimizer": {"kind": "sgd", "lr": 0.3}}
    world, _ = simulate(table(program=program, network=NETWORK, task=task))
    graph, first = world.program.topology.at(0), world.task.learner.first_model.double()
    degrees, rounds = graph.in_degrees, dict.fromkeys(range(NODES), 0)

    def merged(node, own, received):
        rounds[node] += 1
        if rounds[node] % every:
            return own
        near = graph.senders(node)
        weights = {j: 1.0 / (1 + max(degrees[node], degrees[j])) for j in near}
        stored = {j: received.get(j, first) for j in near}
        if not memory:
            stored = {j: received[j] for j in near if j in received}
            weights = {j: weights[j] / ((len(stored) + 1) / (len(near) + 1)) for j in stored}
            received.clear()
        own = own * (1.0 - sum(weights[j] for j in stored))
        return own + sum(weights[j] * model for j, model in stored.items())

    replay(happened, lambda payload: True, merged)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=6, max_size=6))
def test_weights_by_influence_keep_the_mean_in_expectation(rounds):
    program = Swift(topology=Star(), weights="influence")
    program.check(Setting(6, seed=1))
    weights = np.zeros((6, 6))
    for node in range(6):
        near = program.topology.at(0).senders(node)

        class Kept:
            models, rounds = dict.fromkeys(near), {j: rounds[j] for j in near}

        weights[node, list(near)] = program.weights_of(NodeId(node), rounds[node], Kept)
    flow = weights * np.array(rounds)[:, None]
    assert np.allclose(flow, flow.T)
    assert (weights >= 0).all()
    assert (weights.sum(1) <= 1 + 1e-9).all()


def test_a_model_of_a_node_that_is_no_neighbour_is_rejected():
    class Stranger(Swift):
        kind = "swift"

        async def run(self, node):
            if node.id == 0:
                node.send(NodeId(3), {"model": node.model, "round": 0}, tag="model")
            await super().run(node)

    _, written = simulate(table(program=Stranger(topology=Ring()), network=NETWORK))
    rejected = [(node, detail) for _, node, kind, detail in written.happened if kind == "rejected"]
    assert rejected == [(3, "message of node 0: it is not a neighbour of node 3")]


# ---------------------------------------------------------------------- SwarmSGD


def test_a_pair_of_swarm_takes_its_mean_and_only_training_moves_the_mean_of_all():
    world, _ = simulate(table(program={"kind": "swarm"}, network=NETWORK, task=STILL, rounds=5))
    models = torch.stack([world.task.learner.initial(node) for node in range(NODES)]).double()
    mean = models.mean(0)
    for t in range(5):
        pairs = world.program.interactions(world.nodes[0], t).pairs
        assert len(pairs) == NODES // 2
        for one, other in pairs:
            models[[one, other]] = models[[one, other]].mean(0)
    assert torch.allclose(models_of(world).double(), models, atol=1e-6)
    assert torch.allclose(models_of(world).double().mean(0), mean, atol=1e-6)


@pytest.mark.parametrize("n", [5, 10])
def test_an_interaction_shrinks_the_distance_to_the_mean_by_the_expected_factor(n):
    node, draw = begun(table(network={"nodes": n})).nodes[0], np.random.default_rng(3)
    program = Swarm(topology=Complete())
    program.check(Setting(n, seed=1))
    program.prepare(Setting(n, seed=1, parameters=3))
    factors = []
    for t in range(600):
        for one, other in program.interactions(node, t).pairs:
            x = draw.standard_normal(n)
            x -= x.mean()
            before = (x**2).sum()
            x[[one, other]] = x[[one, other]].mean()
            factors.append((x**2).sum() / before)
    error = np.std(factors) / np.sqrt(len(factors))
    assert abs(np.mean(factors) - (1 - 1 / (n - 1))) < 4 * error


def test_local_steps_of_swarm_are_geometric_with_the_given_mean():
    program = {"kind": "swarm", "mean_steps": 3}
    world, _ = simulate(table(program=program, network={**NETWORK, "latency": 0.0}, rounds=40, evaluation={"every": 0}))
    interactions = 2 * 40 * (NODES // 2)
    assert sum(node.steps for node in world.nodes) / interactions == pytest.approx(3.0, rel=0.2)


def test_copies_without_the_latest_steps_move_both_ends_by_half_their_difference(happened):
    network = {**NETWORK, "latency": 0.0}
    world, _ = simulate(table(program={"kind": "swarm-non-blocking"}, network=network, rounds=8))
    first = world.task.learner.first_model
    offers = {}
    for what, node, _, content in happened:
        if what == "sent":
            offers.setdefault(node, content["model"])
    # The first copy of every node is its initial model, although it has trained.
    assert len(offers) == NODES
    assert sum(torch.equal(copy, first) for copy in offers.values()) >= 2
    still, _ = simulate(table(program={"kind": "swarm-non-blocking"}, network=network, task=STILL, rounds=8))
    starts = torch.stack([still.task.learner.initial(node) for node in range(NODES)])
    assert torch.allclose(models_of(still).mean(0), starts.mean(0), atol=1e-6)
    spread = [(models - models.mean(0)).norm() for models in (starts, models_of(still))]
    assert spread[1] < 0.3 * spread[0]


MISTAKES = {
    "swift over a directed graph": (
        {"kind": "swift", "topology": "exponential"},
        "'topology' of the program swift must be static and undirected. Got exponential instead",
    ),
    "swift over a graph that changes": (
        {"kind": "swift", "topology": "random-matching"},
        "'topology' of the program swift must be static and undirected. Got random-matching instead",
    ),
    "swarm without waiting, over a directed graph": (
        {"kind": "swarm-non-blocking", "topology": "exponential"},
        "'topology' of the program swarm-non-blocking must be static and undirected",
    ),
    "more pings than peers": (
        {"kind": "ad-psgd-queued", "fanout": NODES},
        r"'fanout' of the program ad-psgd-queued must be an int in \[1, nodes\). Got 7 instead",
    ),
    "more pushes than peers": ({"kind": "swift-push", "fanout": NODES}, r"must be an int in \[1, nodes\). Got 7"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_clear_line(case):
    program, message = MISTAKES[case]
    with pytest.raises(ConfigurationError, match=message):
        begun(table(program=program, network=NETWORK))
