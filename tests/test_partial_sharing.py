"""Sharings that send a part of a model, and the average of what arrives."""

import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.compression import largest
from covey.engines.simulation import mixing
from covey.node import Mixture, Pull
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, EPIDEMIC


def naive(models, weights, pulls):
    """One number after the other."""
    result = [sum(w * float(m[p]) for m, w in zip(models, weights, strict=True)) for p in range(len(models[0]))]
    for pull in pulls:
        for place, value in zip(pull.places.tolist(), pull.values.tolist(), strict=True):
            result[place] += pull.weight * (value - float(models[0][place]))
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
            places = torch.from_numpy(np.sort(draw.choice(size, draw.integers(0, size + 1), replace=False)))
            values = torch.from_numpy(draw.normal(size=len(places)).astype(np.float32))
            pulls.append(Pull(places, values, float(draw.random())))
        expected.append(naive(models, weights, pulls))
        mixtures.append(Mixture(models, weights, pulls))
    learner = types.SimpleNamespace(
        layout=types.SimpleNamespace(size=mixing._SMALL + 1 if large else size),
        device=torch.device("cpu"),
        mix=lambda rows: [row() for row in rows],
    )
    mixing.settle(mixtures, learner)
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


def test_the_largest_are_those_furthest_from_zero():
    assert largest(torch.tensor([0.0, -5.0, 1.0, 4.0, -2.0]), 3).tolist() == [1, 3, 4]
