"""EquiTopo: the graphs of shifts, and their rate of mixing for any number of nodes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.gossip import Gossip
from covey.decentralized.topology import Redrawn
from covey.decentralized.topology.equitopo import EquiTopoDynamic, EquiTopoStatic, circulant
from covey.decentralized.topology.facts import facts
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting


def prepared(topology, nodes, seed=1):
    topology.ready(Setting(nodes, seed))
    return topology


def mixing(topology, t=0):
    return topology.at(t).mixing("given").toarray()


@given(n=st.integers(2, 60), shifts=st.integers(1, 12), directed=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_the_static_graph_is_connected_circulant_and_doubly_stochastic(n, shifts, directed, seed):
    topology = prepared(EquiTopoStatic(shifts=shifts, directed=directed), n, seed)
    graph, weights = topology.at(0), mixing(topology)
    assert facts(graph, "given").components == 1
    assert graph.in_degrees.max() <= (1 if directed else 2) * shifts
    assert np.allclose(np.roll(weights, (1, 1), (0, 1)), weights)
    assert np.allclose([weights.sum(0), weights.sum(1)], 1, atol=1e-12)
    assert np.allclose(np.diag(weights), 1 / n)
    if not directed:
        assert np.allclose(weights, weights.T)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("n", [2, 7, 12])
def test_all_shifts_together_are_an_all_reduce(n, directed):
    weights = circulant(n, np.arange(1, n), directed).mixing("given").toarray()
    assert np.allclose(weights, 1 / n, atol=1e-12)


@given(n=st.integers(2, 60), seed=st.integers(0, 99), t=st.integers(0, 5), eta=st.floats(0.1, 1.0))
@settings(max_examples=80, deadline=None)
def test_a_dynamic_round_pairs_as_many_nodes_as_a_shift_allows(n, seed, t, eta):
    topology = prepared(EquiTopoDynamic(eta=eta), n, seed)
    graph, weights = topology.at(t), mixing(topology, t)
    assert graph.is_undirected
    assert graph.in_degrees.max() == 1
    assert np.allclose([weights.sum(0), weights.sum(1)], 1, atol=1e-12)
    assert np.allclose(graph.weights, eta * (n - 1) / n)
    distances = np.minimum((graph.targets - graph.sources) % n, (graph.sources - graph.targets) % n)
    assert len(set(distances.tolist())) == 1
    cycles = math.gcd(n, int(distances[0]))
    assert len(graph.sources) // 2 == cycles * (n // cycles // 2)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize(("n", "eta"), [(2, 0.5), (9, 0.5), (12, 0.9)])
def test_dynamic_rounds_contract_as_the_formula_says(n, eta, directed):
    topology = prepared(EquiTopoDynamic(eta=eta, directed=directed), n)
    beta = topology.contraction()
    draws = np.stack([mixing(topology, t) for t in range(400)])
    values, vectors = np.linalg.eigh(np.mean(draws.transpose(0, 2, 1) @ draws, 0) - 1 / n)
    # The largest eigenvalue of a mean of draws is biased upwards, so fresh ones tell how slow that direction is.
    fresh = np.array([((mixing(topology, t) @ vectors[:, -1]) ** 2).sum() for t in range(400, 800)])
    error = 4 * fresh.std() / math.sqrt(len(fresh)) + 1e-12
    assert fresh.mean() <= beta + error
    assert values[-1] >= beta - error


@pytest.mark.parametrize(("directed", "factor"), [(True, 1 - 2 / 23), (False, 1 / 2 - 3 / 46)])
def test_shifts_of_the_static_graph_contract_as_the_theory_says(directed, factor):
    # Every shift connects a prime number of nodes, so none is drawn again.
    n, shifts = 23, 4
    values = np.random.default_rng(0).standard_normal(n)
    values -= values.mean()
    draws = []
    for seed in range(300):
        weights = mixing(prepared(EquiTopoStatic(shifts=shifts, directed=directed), n, seed))
        draws.append(((weights @ values) ** 2).sum() / (values**2).sum())
    assert abs(np.mean(draws) - factor / shifts) <= 3 * np.std(draws) / math.sqrt(len(draws))


def test_mixing_does_not_slow_down_with_more_nodes():
    found = [prepared(EquiTopoDynamic(), n).contraction() for n in (10, 100, 1000, 10_000)]
    assert max(found) < 0.51
    gaps = [facts(prepared(EquiTopoStatic(shifts=12), n).at(0), "given").spectral_gap for n in (50, 500)]
    assert min(gaps) > 0.2


def test_what_is_redrawn_keeps_its_weights():
    topology = Redrawn(topology=EquiTopoStatic(shifts=1), every=2)
    assert Gossip(topology=topology).aggregation.kind == "given"
    prepared(topology, 101)
    drawn = [topology.at(t).weights.tolist() + topology.at(t).sources.tolist() for t in range(6)]
    assert drawn[0] == drawn[1]
    assert len({tuple(graph) for graph in drawn}) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: EquiTopoStatic(shifts=0),
            "The 'shifts' of the topology equitopo-static must be an int in [1, inf). Got 0 instead.",
        ),
        (
            lambda: EquiTopoDynamic(eta=0.0),
            "The 'eta' of the topology equitopo-dynamic must be a number in (0, 1]. Got 0.0 instead.",
        ),
        (
            lambda: prepared(EquiTopoDynamic(), 1),
            "The topology equitopo-dynamic needs at least 2 nodes. Got 1 instead.",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert str(caught.value) == message
