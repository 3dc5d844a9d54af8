"""PowerGossip: low-rank differences along edges, and the state of both ends of an edge."""

import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import MetropolisHastings
from covey.decentralized.sharing.power_gossip import PowerGossip
from covey.decentralized.sharing.round import Round
from covey.decentralized.topology.static import Complete
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.content import entries_of, usable
from covey.runtime.experiment import Experiment
from covey.runtime.node import Inbox, Message
from covey.runtime.prepared import check
from covey.runtime.simulation.world import World
from tests.conftest import begun, models_of, simulate, stated_bytes, table
from tests.examples import BLOBS, Keeping, pieces_of

ROOT = Path(__file__).parent.parent
SHAPES = ((6, 4), (6,), (2, 3, 5))
"""A layer with its bias, and a tensor that is a matrix of 2 x 15."""
SIZE = sum(map(math.prod, SHAPES))
STILL = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
MLP = {**BLOBS, "model": {"kind": "mlp", "hidden": [7]}, "batch_size": 8}


def gossip(topology="ring", task=MLP, **changes):
    """The tables of a small experiment; `rank`, `iterations` and the program's own keys among the changes."""
    sharing = {"kind": "power-gossip", **{key: changes.pop(key) for key in ("rank", "iterations") if key in changes}}
    own = {key: changes.pop(key) for key in ("patience", "aggregation", "overlap") if key in changes}
    return table(program={"kind": "gossip", "topology": topology, "sharing": sharing, **own}, task=task, **changes)


class Last(Aggregation):
    """Takes the last model that came: no average."""


class End(Keeping):
    """One of two nodes, with what a sharing asks of it."""

    def __init__(self, id, model):
        self.id, self.model, self.state, self.rejected = id, model, {}, []

    def usable(self, messages, content, **entries):
        return usable(self, messages, content, entries)

    def reject(self, message, reason):
        self.rejected.append(reason)


class Edge:
    """Two nodes that exchange one message after the other, and lose chosen ones."""

    def __init__(self, models, shapes=SHAPES, **parameters):
        self.sharing = PowerGossip(**parameters)
        setting, pair = Setting(2, 5, sum(map(math.prod, shapes)), pieces_of(shapes)), Complete()
        pair.ready(setting)
        self.sharing.ready(setting)
        self.sharing.check_with(pair, MetropolisHastings())
        self.pair = pair
        self.ends = [End(id, model) for id, model in enumerate(models)]
        self.t = 0

    def round(self, end):
        return Round(end, self.pair, self.t, MetropolisHastings(), None)

    def exchange(self, lost=(), change=None):
        """One round of one exchange; `lost` are the ends that do not hear the other."""
        sent = []
        for end in self.ends:
            ((receivers, payload),) = self.sharing.outgoing(self.round(end))
            assert receivers == [1 - end.id]
            payload = dict(entries_of(payload, end))
            if change is not None:
                change(end.id, payload)
            sent.append(Message(end.id, "", self.t, payload, wire.size(payload)))
        for end in self.ends:
            inbox = Inbox([] if end.id in lost else [sent[1 - end.id]])
            end.model = self.sharing.merge(self.round(end), inbox)
        self.t += 1
        return sent

    def factors(self):
        return [end.state["sharing.factors"] for end in self.ends]

    def together(self):
        """Whether both ends have the same factors, to the bit."""
        a, b = (factors.numpy().tobytes() for factors in self.factors())
        return a == b

    @property
    def apart(self):
        """The largest difference of the two models."""
        return float((self.ends[0].model - self.ends[1].model).abs().max())


def models(seed, size=SIZE):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(2, size)).astype(np.float32)).unbind()


@given(seed=st.integers(0, 1000), rank=st.integers(1, 4), lost=st.lists(st.sampled_from([(), (0,), (1,), (0, 1)])))
@settings(max_examples=40, deadline=None)
def test_both_ends_have_the_same_factors_whatever_is_lost(seed, rank, lost):
    edge = Edge(models(seed), rank=rank)
    draw = np.random.default_rng(seed)
    agreed = True
    for gone in lost:
        before = [end.model for end in edge.ends]
        marks = [int(message["mark"]) for message in edge.exchange(gone)]
        assert (marks[0] == marks[1]) == agreed
        matrices = torch.ones(SIZE, dtype=torch.bool).index_fill_(0, edge.sharing._vectors, False)
        for end, model in zip(edge.ends, before, strict=True):
            moved = bool((end.model != model)[matrices].any())
            assert moved == (agreed and end.id not in gone)
        # If only one end received the other's message, it continues alone for one exchange, which then shows it.
        agreed = not agreed or len(gone) != 1
        assert edge.together() == agreed
        for end in edge.ends:
            end.model = end.model + torch.from_numpy(draw.normal(size=SIZE).astype(np.float32))


def test_ends_that_differ_begin_anew_from_the_same_directions_and_then_continue():
    edge = Edge(models(1), rank=2)
    edge.exchange()
    assert edge.together()
    edge.exchange(lost=[1])
    assert not edge.together()
    edge.exchange()
    assert edge.together()
    assert torch.equal(edge.factors()[0][0], edge.sharing._start(3))
    before = edge.apart
    for _ in range(40):
        edge.exchange()
    assert edge.together()
    assert edge.apart < 1e-3 * before


def test_a_node_that_falls_back_to_an_older_round_is_noticed():
    edge = Edge(models(2))
    edge.exchange()
    old = dict(edge.ends[0].state)
    for lost in ((), (0,), (), ()):
        edge.exchange(lost)
    kept = edge.ends[0].model
    edge.ends[0].state = {**old, "sharing.next": edge.t}
    edge.exchange()
    assert torch.equal(edge.ends[0].model[:24], kept[:24])
    edge.exchange()
    assert edge.together()


@given(seed=st.integers(0, 1000), rank=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_as_many_directions_as_the_difference_has_make_gossip_exact(seed, rank):
    draw = np.random.default_rng(seed)
    first = torch.from_numpy(draw.normal(size=(9, 6)).astype(np.float32))
    low = torch.from_numpy((draw.normal(size=(9, rank)) @ draw.normal(size=(rank, 6))).astype(np.float32))
    edge = Edge([first.flatten(), (first + low).flatten()], shapes=((9, 6),), rank=rank)
    mean, before = (first + low / 2).flatten(), edge.apart
    edge.exchange()
    assert edge.apart > 0.05 * before
    edge.exchange()
    # The remainder of the first exchange lies in the directions that it found.
    assert edge.apart < 5e-3 * before
    assert torch.allclose(edge.ends[0].model, mean, atol=5e-3 * before)


@pytest.mark.parametrize("side", [0, 1])
def test_the_whole_smaller_side_of_a_matrix_makes_gossip_exact(side):
    shapes = ((4, 9),) if side else ((9, 4),)
    edge = Edge(models(3, 36), shapes=shapes, rank=100)
    mean = (edge.ends[0].model + edge.ends[1].model) / 2
    for _ in range(1 + side):
        edge.exchange()
    assert torch.allclose(edge.ends[0].model, mean, atol=1e-6)
    assert torch.allclose(edge.ends[1].model, mean, atol=1e-6)


def test_a_difference_that_vanished_for_a_while_is_found_again():
    edge = Edge(models(4), rank=2)
    edge.ends[1].model = edge.ends[0].model
    for _ in range(4):
        edge.exchange()
        assert torch.equal(edge.ends[0].model, edge.ends[1].model)
        assert edge.together()
    edge.ends[1].model = models(5)[0]
    before = edge.apart
    for _ in range(60):
        edge.exchange()
    assert edge.apart < 1e-3 * before


@given(seed=st.integers(0, 1000), rank=st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_an_exchange_brings_the_two_closer_and_leaves_their_sum(seed, rank):
    edge = Edge(models(seed), rank=rank)
    total = sum(end.model.double() for end in edge.ends)
    for _ in range(5):
        before = (edge.ends[0].model - edge.ends[1].model).norm()
        edge.exchange()
        assert (edge.ends[0].model - edge.ends[1].model).norm() <= before + 1e-5
        assert torch.allclose(sum(end.model.double() for end in edge.ends), total, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("factor", torch.zeros(7), "its 'factor' is not 8 float32 numbers"),
        ("factor", torch.zeros(8, dtype=torch.float64), "its 'factor' is not 8 float32 numbers"),
        ("factor", torch.zeros(8, 1), "its 'factor' is not 8 float32 numbers"),
        ("factor", None, "its 'factor' is not 8 float32 numbers"),
        ("mark", 3, "its 'mark' is not 1 int64 number"),
        ("mark", torch.zeros(0, dtype=torch.int64), "its 'mark' is not 1 int64 number"),
        ("vectors", torch.zeros(5), "its 'vectors' is not 6 float32 numbers"),
        ("vectors", [1.0], "its 'vectors' is not 6 float32 numbers"),
    ],
)
def test_a_wrong_message_is_rejected_and_counts_as_lost(name, value, why):
    edge = Edge(models(6))
    edge.exchange()
    edge.exchange()
    kept = edge.ends[1].model

    def spoil(sender, payload):
        if sender == 0:
            payload[name] = value

    edge.exchange(change=spoil)
    assert [end.rejected for end in edge.ends] == [[], [why]]
    assert torch.equal(edge.ends[1].model, kept)
    for _ in range(2):
        edge.exchange()
    assert edge.together()


# ---------------------------------------------------------------------- in a network


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("topology", ["star", {"kind": "random-regular", "degree": 4}])
def test_the_sum_over_all_nodes_stays_where_nothing_is_learned(topology, iterations):
    tables = gossip(topology, {**STILL, "model": MLP["model"]}, rank=2, iterations=iterations, rounds=12)
    starts = models_of(begun(tables)).double()
    world, _ = simulate(tables)
    ends = models_of(world).double()
    assert torch.allclose(ends.sum(0), starts.sum(0), atol=1e-4)
    assert (ends - ends.mean(0)).norm() < 0.7 * (starts - starts.mean(0)).norm()


@pytest.mark.parametrize("patience", [None, "60ms"])
def test_both_ends_of_every_edge_have_the_same_factors(patience):
    changes = {"patience": patience, "network": {"loss": 0.2}} if patience else {}
    world, _ = simulate(gossip({"kind": "random-regular", "degree": 4}, rank=2, rounds=9, **changes))
    graph = world.program.topology.at(0)
    same = 0
    for node in world.nodes:
        for row, peer in enumerate(graph.senders(node.id)):
            theirs = world.nodes[peer].state["sharing.factors"][graph.senders(peer).index(node.id)]
            same += torch.equal(node.state["sharing.factors"][row], theirs)
    assert same == 48 if patience is None else 20 < same < 48


def test_messages_hold_the_numbers_of_one_side_in_turn(overheard):
    rank, rounds = 2, 4
    world, _ = simulate(gossip(rank=rank, rounds=rounds))
    features, classes = 10, 4
    shapes = [piece.shape for piece in world.task.learner.layout.pieces if len(piece.shape) == 2]
    assert shapes == [(7, features), (classes, 7)]
    numbers = [rank * (7 + classes), rank * (features + 7)]
    for message in overheard:
        assert message.payload["factor"].shape == (numbers[message.round % 2],)
        assert message.payload["vectors"].shape == (7 + classes,)
        assert len(message.payload) == 3
    assert len(overheard) == 12 * 2 * rounds
    sent = sum(len(message.encoded) for message in overheard)
    assert sent / 12 / rounds == stated_bytes(world)


def test_further_exchanges_of_a_round_have_tags_and_no_vectors(overheard):
    world, _ = simulate(gossip(iterations=3, rounds=2))
    one = [(m.round, m.tag, "vectors" in m.payload) for m in overheard if (m.sender, m.receivers) == (0, [1])]
    tags = [("power-gossip 0", False), ("power-gossip 1", False), ("", True)]
    assert one == [(t, tag, vectors) for t in range(2) for tag, vectors in tags]
    sent = sum(len(message.encoded) for message in overheard)
    assert sent / 12 / 2 == stated_bytes(world)


@pytest.mark.parametrize("changes", [{"iterations": 2}, {"overlap": True}, {"aggregation": "mean", "rank": 3}])
def test_a_run_continues_from_a_checkpoint_to_the_bit(changes):
    tables = gossip(rounds=7, checkpoint={"every": 3}, **changes)
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(written.checkpoints[0][1])).payload)
    assert torch.equal(models_of(whole), models_of(resumed))
    assert all(
        torch.equal(a.state["sharing.factors"], b.state["sharing.factors"])
        for a, b in zip(whole.nodes, resumed.nodes, strict=True)
    )
    assert set(whole.nodes[0].state) == {"sharing.factors", "sharing.next"}


def test_nodes_that_leave_and_return_are_received_again():
    churn = {"kind": "rate", "mean_up": "300ms", "mean_down": "50ms"}
    network = {"churn": churn, "compute": {"kind": "constant", "samples_per_second": 1000.0}}
    world, written = simulate(gossip("torus", patience="60ms", network=network, rounds=20))
    assert {kind for _, _, kind, _ in written.happened} >= {"left", "returned"}
    assert not [event for event in written.happened if event[2] == "rejected"]
    assert torch.isfinite(models_of(world)).all()


REFUSED = [
    (
        {"topology": {"kind": "epidemic-oracle", "degree": 2}},
        "The sharing power-gossip needs a static undirected graph, because both ends of an edge continue from their "
        "last exchange, and epidemic-oracle is not static. Use topology 'random-regular' or 'torus'.",
    ),
    ({"topology": "exponential", "aggregation": "mean"}, "exchange, and exponential is directed. Use topology"),
    (
        {"topology": "star", "aggregation": "mean"},
        "The sharing power-gossip needs the same weight at both ends of an edge, and the aggregation mean gives others. "
        "Use aggregation 'metropolis-hastings'.",
    ),
    (
        {"aggregation": "tests.test_power_gossip:Last"},
        "needs a weight for each neighbour, and the aggregation tests.test_power_gossip:Last has none. Use aggregation",
    ),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_cannot_be_is_refused_before_the_run(changes, words):
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        check(Experiment.from_table(gossip(**changes)))


def test_given_weights_are_taken_where_they_are_symmetric(in_folder):
    pairs = [(i, (i + 1) % 12, 0.1 + 0.02 * i) for i in range(12)]
    rows = [row for a, b, weight in pairs for row in (f"{a} {b} {weight}", f"{b} {a} {weight}")]
    edges = {"kind": "edges", "file": "edges.txt", "directed": True}
    (in_folder / "edges.txt").write_text("\n".join(rows))
    tables = gossip(edges, {**STILL, "model": MLP["model"]}, aggregation="given", rounds=30)
    starts = models_of(begun(tables)).double()
    world, _ = simulate(tables)
    assert torch.allclose(models_of(world).double().sum(0), starts.sum(0), atol=1e-4)
    (in_folder / "edges.txt").write_text("\n".join([*rows[:-1], "0 11 0.4"]))
    with pytest.raises(ConfigurationError, match="the aggregation given gives others"):
        check(Experiment.from_table(tables))


def test_a_model_of_vectors_alone_is_refused():
    with pytest.raises(
        ConfigurationError, match="needs a tensor of two or more dimensions, and the shared part of this model"
    ):
        PowerGossip().ready(Setting(4, 0, 7, pieces_of(((3,), (4,)))))


def test_the_experiment_of_the_document_runs(monkeypatch):
    (text,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs/systems/power-gossip.md").read_text(), flags=re.M | re.S)
    world, _ = simulate({**tomllib.loads(text), "rounds": 2})
    assert isinstance(world, World)
    assert world.program.sharing.kind == "power-gossip"
