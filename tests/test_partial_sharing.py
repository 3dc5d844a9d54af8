"""Sharings that send a part of a model, and the average of the received parts."""

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.aggregation.linear import Mean
from covey.decentralized.sharing.fft import FFT
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.top_k import TopK
from covey.decentralized.topology import Complete
from covey.learning import mixing
from covey.learning.mixture import Mixture, Pull
from covey.messages import wire
from covey.messages.compression import largest
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.node import Inbox, Message
from tests.conftest import models_of, simulate, stated_bytes, table
from tests.examples import BLOBS, EPIDEMIC, Keeping


def naive(models, weights, pulls):
    """One number after the other."""
    result = [sum(w * float(m[p]) for m, w in zip(models, weights, strict=True)) for p in range(len(models[0]))]
    for pull in pulls:
        for index, value in zip(pull.indices.tolist(), pull.values.tolist(), strict=True):
            result[index] += pull.weight * (value - float(models[0][index]))
    return torch.tensor(result)


@pytest.mark.parametrize("large", [False, True])
@given(seed=st.integers(0, 1000), nodes=st.integers(1, 5), size=st.integers(1, 12))
def test_partial_averages_of_many_nodes_are_those_of_each_number(large, seed, nodes, size):
    draw = np.random.default_rng(seed)
    mixtures, expected = [], []
    for _ in range(nodes):
        models = [torch.from_numpy(draw.normal(size=size).astype(np.float32)) for _ in range(draw.integers(1, 4))]
        weights = draw.dirichlet([1.0] * len(models)).tolist()
        pulls = []
        for _ in range(draw.integers(0, 4)):
            indices = torch.from_numpy(np.sort(draw.choice(size, draw.integers(0, size + 1), replace=False)))
            values = torch.from_numpy(draw.normal(size=len(indices)).astype(np.float32))
            pulls.append(Pull(indices, values, float(draw.random())))
        expected.append(naive(models, weights, pulls))
        mixtures.append(Mixture(models, weights, pulls))
    learner = types.SimpleNamespace(
        layout=types.SimpleNamespace(size=mixing.SMALL + 1 if large else size),
        device=torch.device("cpu"),
        mix=lambda rows: [row() for row in rows],
    )
    mixing.mix(mixtures, learner)
    for mixture, wanted in zip(mixtures, expected, strict=True):
        assert torch.allclose(mixture.tensor(), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["random", "top-k"])
@pytest.mark.parametrize("topology", ["ring", EPIDEMIC])
def test_with_the_whole_budget_all_is_shared_to_the_bit(kind, topology):
    outcomes = []
    for sharing in ("full", {"kind": kind, "budget": 1.0}):
        world, _ = simulate(table(task=BLOBS, program={"kind": "gossip", "topology": topology, "sharing": sharing}))
        outcomes.append(models_of(world))
    assert torch.equal(*outcomes)


@pytest.mark.parametrize("common", [False, True])
def test_random_indices_are_others_in_each_round_and_at_each_node_unless_they_are_common(common, overheard):
    sharing = {"kind": "random", "budget": 0.2, "common": common}
    still = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}}
    # Nobody's model changes, so that values are the same where indices are.
    simulate(table(program={"kind": "gossip", "topology": "ring", "sharing": sharing}, task=still, rounds=3))
    sent = {tuple(message.payload["values"].tolist()) for message in overheard}
    assert len(sent) == (3 if common else 3 * 12)


@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-42, 3.5, -3.5, 1e38, float("inf")]), min_size=1), st.data())
def test_the_largest_are_those_furthest_from_zero_and_the_first_of_equals(score, data):
    count = data.draw(st.integers(1, len(score)))
    by_distance = sorted(range(len(score)), key=lambda index: (-abs(score[index]), index))
    assert largest(torch.tensor(score), count).tolist() == sorted(by_distance[:count])


def test_the_largest_are_as_many_as_asked_for_where_numbers_are_none():
    assert largest(torch.tensor([float("nan"), 1.0, float("nan"), 2.0]), 1).tolist() == [0]


@pytest.mark.parametrize("budget", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["random", "top-k", "jwins", "fft"])
def test_packed_values_are_the_same_values_in_the_bytes_that_are_stated(kind, budget):
    pytest.importorskip("pcodec")
    outcomes, sent = [], []
    for values in ("raw", "pcodec"):
        sharing = {"kind": kind, "budget": budget, "values": values}
        world, _ = simulate(table(program={"kind": "gossip", "topology": "ring", "sharing": sharing}, rounds=4))
        outcomes.append(models_of(world))
        sent.append(sum(node.bytes_out for node in world.nodes))
        stated = stated_bytes(world) * len(world.nodes) * 4
        assert sent[-1] == pytest.approx(stated, rel=0.1)
    assert torch.equal(*outcomes)
    assert sent[1] < 0.95 * sent[0]


def packing(parameters=1000, kind=TopK):
    """The sharing as two processes have it."""
    for _ in range(2):
        sharing = kind(budget=0.5, values="pcodec")
        sharing.ready(Setting(2, parameters=parameters))
        yield sharing


def round_of(node, start=None):
    """Round 0 of one of two nodes."""
    pair = Complete()
    pair.ready(Setting(2))
    return Round(node, pair, 0, Mean(), None, start=start)


def arrived(payload):
    """A message of node 1, as another process reads it."""
    return Message(1, "", 0, wire.decode(wire.encode(payload)).payload, 0)


def test_packed_values_are_read_from_the_wire():
    pytest.importorskip("pcodec")
    sender, receiver = packing()
    model = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    node = Keeping(id=1, model=model, state={})
    ((_, payload),) = sender.outgoing(round_of(node, torch.zeros(1000)))
    (got,) = receiver.contributions(round_of(node), Inbox([arrived(payload)]))
    assert torch.equal(got.values, model[largest(model, 500)])
    assert got.indices.tolist() == largest(model, 500).tolist()


def test_packed_frequencies_are_read_from_the_wire():
    pytest.importorskip("pcodec")
    sender, receiver = packing(kind=FFT)
    model = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    node = Keeping(id=1, model=model, state={})
    ((_, payload),) = sender.outgoing(round_of(node, torch.zeros(1000)))
    (got,) = receiver.contributions(round_of(node), Inbox([arrived(payload)]))
    numbers = torch.view_as_real(torch.fft.rfft(model, norm="ortho")).flatten()
    assert len(got.values) == 2 * round(0.5 * 501)
    assert torch.equal(got.values, numbers[got.indices])


@pytest.mark.parametrize("values", [torch.zeros(1001), torch.full((1000,), float("inf"))])
def test_packed_values_that_no_model_has_are_rejected_by_all(values):
    pytest.importorskip("pcodec")
    sender, receiver = packing()
    payload = sender._values.describe(values)
    rejected = []
    node = types.SimpleNamespace(model=torch.zeros(1), reject=lambda message, why: rejected.append(why))
    assert sender.contributions(round_of(node), Inbox([Message(1, "", 0, payload, 0)])) == []
    assert receiver.contributions(round_of(node), Inbox([arrived(payload)])) == []
    assert len(rejected) == 2


def test_values_in_another_form_than_agreed_are_rejected():
    rejected = []
    node = types.SimpleNamespace(model=torch.zeros(1), reject=lambda message, why: rejected.append(why))
    sharing = TopK(budget=0.5)
    sharing.ready(Setting(2, parameters=10))
    assert (
        sharing.contributions(
            round_of(node), Inbox([arrived({"values": torch.zeros(10, dtype=torch.uint8)}), arrived({})])
        )
        == []
    )
    assert rejected == ["its values are no float32 numbers"] * 2


def test_packed_values_need_their_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pcodec", None)
    with pytest.raises(ConfigurationError) as refused:
        next(packing())
    assert str(refused.value) == (
        "The 'values' of the sharing top-k must be 'raw' unless pcodec is installed. Got 'pcodec' instead; "
        "pip install 'covey[pcodec]' brings it."
    )
