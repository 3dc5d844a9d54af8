"""JWINS and its baseline over frequencies: the recursion of the paper, limit cases, and malformed messages."""

import math
import tomllib
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.aggregation.linear import MetropolisHastings
from covey.decentralized.sharing import Sharing
from covey.decentralized.sharing.round import Round
from covey.decentralized.topology import Ring
from covey.learning.mixture import Mixture
from covey.messages import wire
from covey.messages.codecs import decode_indices, encode_indices
from covey.messages.compression import largest
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, build
from covey.runtime.experiment import Experiment
from covey.runtime.node import Inbox, Message
from covey.runtime.prepared import prepare
from tests.conftest import models_of, simulate, table
from tests.examples import Keeping

SIZE = 77
NODES = 5


class Fleet:
    """Nodes that share without an engine; what training does to a model is the test's."""

    def __init__(self, sharing, nodes=NODES, size=SIZE, seed=0):
        self.sharing = build(Sharing, sharing)
        self.draw = np.random.default_rng(seed)
        with warnings.catch_warnings(action="ignore"):
            self.sharing.ready(Setting(nodes, seed, size))
        self.topology = Ring()
        self.topology.ready(Setting(nodes))
        self.graph, self.t = self.topology.at(0), 0
        self.rejected: list[str] = []
        self.nodes = [self._node(id, size, seed) for id in range(nodes)]

    def _node(self, id, size, seed):
        def random(purpose, *key):
            return np.random.default_rng([seed, id, *key])

        def reject(message, why):
            self.rejected.append(why)

        return Keeping(id=id, state={}, model=self.noise(size), random=random, reject=reject)

    def round(self, node, start=None):
        return Round(node, self.topology, self.t, MetropolisHastings(), None, start=start)

    def noise(self, size=SIZE):
        return torch.from_numpy(self.draw.normal(size=size).astype(np.float32))

    def send(self, changes):
        """Train all by given changes, and send: the model before of each, and the payloads."""
        starts, payloads = [], []
        for node, change in zip(self.nodes, changes, strict=True):
            start = node.model
            node.model = start + change
            ((_, payload),) = self.sharing.outgoing(self.round(node, start))
            starts.append(start)
            payloads.append(payload)
        return starts, payloads

    def merge(self, payloads):
        for node in self.nodes:
            heard = [
                Message(sender, "", self.t, wire.decode(wire.encode(payloads[sender])).payload, 0)
                for sender in self.graph.senders(node.id)
            ]
            merged = self.sharing.merge(self.round(node), Inbox(heard))
            node.model = merged.tensor() if isinstance(merged, Mixture) else merged
        self.t += 1


class Paper:
    """One node as the paper has it, in double precision and with every transform."""

    def __init__(self, sharing, model):
        self.sharing, self.model = sharing, model.double()
        transform = sharing._transform
        self.forward = (lambda x: x) if transform is None else transform.forward
        self.inverse = (lambda c: c) if transform is None else transform.inverse
        self.parts = 1 if transform is None else transform.parts
        self.importance = torch.zeros_like(self.forward(self.model))

    def select(self, change, indices):
        """Train; the coefficients, and by how much what was sent fails to be what changed most."""
        self.start, self.model = self.model, self.model + change.double()
        moved = self.forward(self.model - self.start)
        score = self.importance + moved if self.sharing.accumulation else moved
        if self.sharing.accumulation and not self.sharing.averaging_changes:
            self.importance = score.clone()
        sizes = score.view(-1, self.parts).norm(dim=1)
        others = torch.ones(len(sizes), dtype=torch.bool)
        others[indices] = False
        self.importance.view(-1, self.parts)[indices] = 0.0
        return self.forward(self.model), float(sizes[others].max() - sizes[indices].min()) if others.any() else 0.0

    def average(self, coefficients):
        self.model = self.inverse(coefficients)
        if self.sharing.accumulation and self.sharing.averaging_changes:
            self.importance = self.importance + self.forward(self.model - self.start)


SHARINGS = [
    {"kind": "jwins"},
    {"kind": "jwins", "budget": 0.2, "wavelet": "db3", "level": 2},
    {"kind": "jwins", "budget": 0.2, "wavelet": "none"},
    {"kind": "jwins", "alphas": [0.1, 1.0], "probabilities": [0.7, 0.3], "wavelet": "haar"},
    {"kind": "jwins", "averaging_changes": False},
    {"kind": "jwins", "averaging_changes": False, "wavelet": "none"},
    {"kind": "jwins", "accumulation": False},
    {"kind": "fft", "budget": 0.2},
    {"kind": "fft", "budget": 0.2, "averaging_changes": False},
    {"kind": "fft", "budget": 0.999},
]


def sent_indices(sharing, payload):
    size, count = sharing._size, len(payload["values"]) // sharing._parts
    return decode_indices(payload["indices"], size, count) if "indices" in payload else torch.arange(size)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
@given(seed=st.integers(0, 1000), size=st.sampled_from([SIZE, 78, 96]))
@settings(max_examples=3, deadline=None)
def test_models_and_importance_are_those_of_the_papers_recursion(sharing, seed, size):
    fleet = Fleet(sharing, size=size, seed=seed)
    papers = [Paper(fleet.sharing, node.model) for node in fleet.nodes]
    for _ in range(5):
        changes = [fleet.noise(size) for _ in fleet.nodes]
        _, payloads = fleet.send(changes)
        indices = [sent_indices(fleet.sharing, payload) for payload in payloads]
        own = []
        for paper, change, chosen in zip(papers, changes, indices, strict=True):
            coefficients, lack = paper.select(change, chosen)
            assert lack < 1e-4
            own.append(coefficients)
        fleet.merge(payloads)
        for node, paper in zip(fleet.nodes, papers, strict=True):
            total = own[node.id].clone()
            for sender, weight in zip(fleet.graph.senders(node.id), fleet.graph.metropolis(node.id), strict=True):
                at = indices[sender]
                pairs, mine, theirs = (x.view(-1, paper.parts) for x in (total, own[node.id], own[sender]))
                pairs[at] += weight * (theirs[at] - mine[at])
            paper.average(total)
            assert torch.allclose(node.model.double(), paper.model, atol=1e-4)
            if fleet.sharing.accumulation:
                now = paper.forward(node.model.double())
                importance = now - node.state["sharing.reference"].double()
                assert torch.allclose(importance, paper.importance, atol=1e-4)


@pytest.mark.parametrize("sharing", SHARINGS[:4], ids=str)
def test_what_was_sent_is_of_no_importance_right_afterwards(sharing):
    fleet = Fleet(sharing)
    fleet.merge(fleet.send([fleet.noise() for _ in fleet.nodes])[1])
    for _ in range(3):
        before = [node.state.get("sharing.averaged", node.model) for node in fleet.nodes]
        _, payloads = fleet.send([fleet.noise() for _ in fleet.nodes])
        for node, start, payload in zip(fleet.nodes, before, payloads, strict=True):
            importance = start - node.state["sharing.reference"]
            sent = sent_indices(fleet.sharing, payload)
            assert torch.equal(importance[sent], torch.zeros(len(sent)))
            assert len(sent) == fleet.sharing._size or importance.abs().max() > 0
        fleet.merge(payloads)


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_values_are_the_coefficients_as_they_are_at_increasing_indices(sharing):
    fleet = Fleet(sharing)
    _, payloads = fleet.send([fleet.noise() for _ in fleet.nodes])
    for node, payload in zip(fleet.nodes, payloads, strict=True):
        transform, size = fleet.sharing._transform, fleet.sharing._size
        own = node.model if transform is None else transform.forward(node.model)
        indices = sent_indices(fleet.sharing, payload)
        assert torch.equal(own.view(size, -1)[indices].view(-1), payload["values"])
        assert (indices[1:] > indices[:-1]).all()
        fraction = fleet.sharing.fraction(fleet.round(node))
        assert len(indices) == round(fraction * size)


@pytest.mark.parametrize("kind", ["jwins", "fft"])
def test_whatever_keeps_changing_is_sent_in_the_end(kind):
    fleet = Fleet({"kind": kind, "budget": 0.1}, nodes=3)
    drifts = [fleet.noise() for _ in fleet.nodes]
    seen: set[int] = set()
    for _ in range(40):
        _, payloads = fleet.send(drifts)
        seen.update(sent_indices(fleet.sharing, payloads[0]).tolist())
        fleet.merge(payloads)
    transform = fleet.sharing._transform
    change = transform.forward(drifts[0]).view(transform.size, -1).norm(dim=1)
    steady = (change > 0.25 * change.max()).nonzero().view(-1)
    assert len(steady) > 0.4 * transform.size
    assert set(steady.tolist()) <= seen


def final_models(sharing, **changes):
    return models_of(simulate(table(program={"kind": "gossip", "topology": "ring", "sharing": sharing}, **changes))[0])


@pytest.mark.parametrize("averaging_changes", [True, False])
@pytest.mark.parametrize("sharing", [{"kind": "jwins", "alphas": [1.0]}, {"kind": "fft", "budget": 1.0}], ids=str)
def test_sending_all_coefficients_is_d_psgd_to_the_bit(sharing, averaging_changes):
    models = final_models({**sharing, "averaging_changes": averaging_changes})
    assert torch.equal(models, final_models("full"))


def test_coefficients_that_are_all_sent_now_and_then_are_averaged_as_the_models_are():
    nearly = {"kind": "jwins", "alphas": [1.0, 0.4], "probabilities": [1.0 - 1e-9, 1e-9]}
    assert torch.allclose(final_models(nearly), final_models("full"), atol=1e-6)


@pytest.mark.parametrize("identity", [{"wavelet": "none"}, {"level": 0}], ids=str)
@pytest.mark.parametrize("accumulation", [True, False])
def test_without_wavelets_and_random_fractions_it_is_top_k_to_the_bit(identity, accumulation):
    parts = {"budget": 0.6, "accumulation": accumulation}
    models = final_models({"kind": "jwins", **parts, **identity})
    assert torch.equal(models, final_models({"kind": "top-k", **parts}))


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_equal_models_without_training_stay(sharing):
    fleet = Fleet(sharing)
    for node in fleet.nodes:
        node.model = fleet.nodes[0].model
    for _ in range(3):
        fleet.merge(fleet.send([torch.zeros(SIZE)] * NODES)[1])
    for node in fleet.nodes:
        assert torch.allclose(node.model, fleet.nodes[0].model, atol=1e-6)


LOW = """
kind = "jwins"
alphas = [0.05, 1.0]
probabilities = [0.95, 0.05]
"""


@pytest.mark.parametrize(
    ("text", "alphas", "mean"),
    [('kind = "jwins"', {0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 1.0}, 2.4 / 7), (LOW, {0.05, 1.0}, 0.0975)],
)
def test_fractions_are_drawn_anew_with_their_probabilities(text, alphas, mean):
    fleet = Fleet(tomllib.loads(text), nodes=40)
    drawn = []
    for node in fleet.nodes:
        for fleet.t in range(100):
            drawn.append(fleet.sharing.fraction(fleet.round(node)))
    drawn = np.array(drawn)
    assert set(drawn) == alphas
    assert abs(drawn.mean() - mean) < 3 * drawn.std() / math.sqrt(len(drawn))
    by_node = drawn.reshape(40, 100)
    assert len({tuple(row) for row in by_node}) == 40


def test_from_the_cap_on_all_is_sent_without_indices():
    sharing = build(Sharing, {"kind": "jwins", "alphas": [0.2, 0.5, 0.6], "probabilities": [0.5, 0.25, 0.25]})
    assert sharing.fractions() == [(0.2, 0.5), (1.0, 0.25), (1.0, 0.25)]
    fleet = Fleet({"kind": "jwins", "alphas": [0.5]})
    _, payloads = fleet.send([fleet.noise() for _ in fleet.nodes])
    assert [set(payload) for payload in payloads] == [{"values"}] * NODES


def test_an_inbox_holds_a_round_in_which_all_neighbours_send_all():
    rare = {"kind": "jwins", "alphas": [0.05, 1.0], "probabilities": [0.95, 0.05]}
    program = {"kind": "gossip", "topology": "torus", "sharing": rare}
    prepared = prepare(Experiment.from_table(table(program=program, rounds=20)))
    assert prepared.played.received[0] >= 4 * prepared.task.model_bytes - 400


# ------------------------------------------------------------------------------------------------------------ bad inputs

COEFFICIENTS = 87
GOOD = {"values": torch.zeros(2), "indices": encode_indices(torch.tensor([3, 5]), COEFFICIENTS)}
NO_NUMBERS = "its values are no float32 numbers"
BAD = [
    ({**GOOD, "values": torch.zeros(3)}, None),
    ({**GOOD, "values": torch.zeros(2, dtype=torch.float64)}, NO_NUMBERS),
    ({**GOOD, "values": torch.zeros(2, 1)}, NO_NUMBERS),
    ({**GOOD, "values": torch.tensor(0.0)}, NO_NUMBERS),
    ({**GOOD, "values": 3.0}, NO_NUMBERS),
    ({"indices": GOOD["indices"]}, NO_NUMBERS),
    ({"values": torch.zeros(2)}, "it has no indices"),
    ({"values": torch.zeros(COEFFICIENTS + 1)}, "it has no indices"),
    ({**GOOD, "indices": "3 and 5"}, "it has no indices"),
    ({**GOOD, "indices": torch.tensor([3, 5])}, None),
    ({**GOOD, "indices": encode_indices(torch.tensor([3, 400]), 500)}, None),
]
"""Messages, and what is said of them; None where that is the affair of the code of the indices."""


@pytest.mark.parametrize(("payload", "why"), BAD)
def test_a_message_that_is_none_is_rejected_and_counts_as_absent(payload, why):
    fleet = Fleet({"kind": "jwins"})
    assert fleet.sharing._size == COEFFICIENTS
    node, sender = fleet.nodes[0], fleet.graph.senders(0)[0]
    good, bad = (Inbox([Message(sender, "", 0, message, 0)]) for message in (GOOD, payload))
    assert fleet.sharing.contributions(fleet.round(node), good)[0].indices.tolist() == [3, 5]
    fleet.send([fleet.noise() for _ in fleet.nodes])
    own = node.model
    merged = fleet.sharing.merge(fleet.round(node), bad)
    assert len(fleet.rejected) == 1
    assert why in (None, *fleet.rejected)
    assert torch.allclose(merged, own, atol=1e-5)


def test_half_a_frequency_is_rejected():
    fleet = Fleet({"kind": "fft", "budget": 0.3})
    payload = {"values": torch.zeros(3), "indices": encode_indices(torch.tensor([3]), fleet.sharing._size)}
    assert fleet.sharing.contributions(fleet.round(fleet.nodes[0]), Inbox([Message(1, "", 0, payload, 0)])) == []
    assert fleet.rejected == ["it holds 3 numbers, and a coefficient is 2"]


FRACTIONS = "a list, each a number in (0, 1]"


@pytest.mark.parametrize(
    ("parameters", "reported"),
    [
        ({"budget": 0.2, "alphas": [0.1]}, "The 'budget' of the sharing jwins replaces 'alphas' and"),
        ({"alphas": []}, "The 'alphas' of the sharing jwins must be at least one fraction. Got [] instead."),
        ({"alphas": [0.2, 1.5]}, f"The 'alphas' of the sharing jwins must be {FRACTIONS}. Got [0.2, 1.5] instead."),
        ({"alphas": [0.0]}, f"The 'alphas' of the sharing jwins must be {FRACTIONS}. Got [0.0] instead."),
        (
            {"alphas": [0.1, 1.0], "probabilities": [0.9, 0.2]},
            "The 'probabilities' of the sharing jwins must be 2 numbers, one for each alpha, with the sum 1. "
            "Got [0.9, 0.2] instead.",
        ),
        (
            {"alphas": [0.1, 1.0], "probabilities": [1.0]},
            "The 'probabilities' of the sharing jwins must be 2 numbers, one for each alpha, with the sum 1. "
            "Got [1.0] instead.",
        ),
        ({"wavelet": "sim2"}, "Unknown 'wavelet' of the sharing jwins: 'sim2'; did you mean 'sym2'?"),
    ],
)
def test_wrong_parameters_are_refused(parameters, reported):
    with pytest.raises(ConfigurationError) as caught:
        build(Sharing, {"kind": "jwins", **parameters})
    assert str(caught.value).startswith(reported)


def test_a_level_too_high_for_the_model_is_lowered_and_reported_once():
    blobs = {"dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 60}, "model": "logistic"}
    program = {"kind": "gossip", "topology": "ring", "sharing": {"kind": "jwins", "level": 9}}
    with warnings.catch_warnings(record=True) as reported:
        simulate(table(program=program, task=blobs, rounds=2))
    assert [str(warning.message) for warning in reported] == [
        "The 'level' of the sharing jwins is 9, but sym2 can halve a model of 44 numbers only 3 times: 3 is used."
    ]


def test_it_cannot_send_while_a_node_trains():
    program = {"kind": "gossip", "topology": "ring", "sharing": "jwins", "overlap": True}
    with pytest.raises(ConfigurationError, match="Set 'overlap' to false"):
        simulate(table(program=program))
    assert Experiment.from_table(table(program={**program, "overlap": False}))


@given(seed=st.integers(0, 1000), size=st.integers(1, 40), levels=st.integers(1, 50))
def test_the_largest_are_the_largest_and_of_equal_ones_the_first(seed, size, levels):
    draw = np.random.default_rng(seed)
    score = torch.from_numpy(draw.integers(-levels, levels, size).astype(np.float32))
    for count in range(1, size + 1):
        wanted = sorted(sorted(range(size), key=lambda index: (-abs(float(score[index])), index))[:count])
        assert largest(score, count).tolist() == wanted
