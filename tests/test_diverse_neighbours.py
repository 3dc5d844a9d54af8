"""Diverse neighbours: regular graphs whose neighbourhoods are as balanced as cliques, and gradients averaged in them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.topology.diverse_neighbours import DiverseNeighbours, _apart, neighbourhood_skew, switch
from covey.decentralized.topology.facts import facts
from covey.decentralized.topology.random_graphs import random_regular
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS
from tests.test_d_cliques import one_class_each, shards


def drawn(nodes, counts, seed=1, **changes):
    topology = DiverseNeighbours(**{"degree": 4, **changes})
    topology.ready(Setting(nodes, seed, label_counts=counts))
    return topology.at(0)


def ends_of(graph):
    return np.stack([graph.sources, graph.targets])[:, graph.sources < graph.targets]


@given(nodes=st.integers(6, 30), degree=st.sampled_from([3, 4, 5]), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_graphs_are_connected_and_regular(nodes, degree, seed):
    counts = np.random.default_rng(seed).integers(0, 9, (nodes, 5)) + 1
    graph = drawn(
        nodes + nodes * degree % 2,
        np.concatenate([counts, counts[:1]])[: nodes + nodes * degree % 2],
        seed,
        degree=degree,
    )
    assert graph.is_undirected
    assert facts(graph).components == 1
    assert set(graph.in_degrees.tolist()) == {degree}


@pytest.mark.parametrize(("counts", "before", "after"), [(shards(100), 0.45, 0.16), (one_class_each(100), 0.6, 0.14)])
def test_neighbourhoods_hold_the_labels_as_all_nodes_do(counts, before, after):
    random, diverse = (drawn(100, counts, degree=9, switches=switches) for switches in (0, None))
    skews = [neighbourhood_skew(ends_of(graph), counts) for graph in (random, diverse)]
    assert skews[0].mean() > before
    assert skews[1].mean() < after
    graph = diverse.mixing("mean").toarray() > 0
    pooled = graph @ counts
    expected = np.abs(pooled / pooled.sum(1, keepdims=True) - counts.sum(0) / counts.sum()).sum(1)
    assert skews[1] == pytest.approx(expected)


def test_every_switch_lessens_the_skew():
    draw = np.random.default_rng(1)
    counts = draw.integers(0, 20, (40, 6)) + 1
    edges = np.stack(random_regular(40, 4, draw))
    before = neighbourhood_skew(edges, counts).sum()
    for _ in range(50):
        switch(edges, counts, 7, draw)
        after = neighbourhood_skew(edges, counts).sum()
        assert after <= before + 1e-9
        before = after
    ends = edges[:, _apart(edges, draw).ravel()].ravel()
    assert len(set(ends.tolist())) == len(ends) > 8


def test_gradients_are_averaged_among_neighbours():
    task = {**BLOBS, "batch_size": 1000, "optimizer": {"kind": "sgd", "lr": 0.3}}
    topology = {"kind": "diverse-neighbours", "degree": 11}
    averaging = {"kind": "clique-averaging", "lr": 0.3, "topology": topology}
    together, _ = simulate(table(task=task, program=averaging, rounds=3))
    plain, _ = simulate(table(task=task, program={"kind": "gossip", "topology": topology}, rounds=3))
    assert torch.allclose(models_of(together), models_of(plain), atol=1e-5)
    assert all(node.messages_out == 3 * 2 * 11 for node in together.nodes)
    few, _ = simulate(table(task=task, program={**averaging, "topology": {**topology, "degree": 4}}, rounds=1))
    alone, _ = simulate(table(task=task, program={"kind": "gossip", "topology": {**topology, "degree": 4}}, rounds=1))
    assert not torch.allclose(models_of(few), models_of(alone), atol=1e-4)
    assert torch.allclose(models_of(few).mean(0), models_of(alone).mean(0), atol=1e-6)


def test_data_without_classes_have_no_diverse_neighbours():
    task = {"dataset": {"kind": "linear-regression", "samples": 60, "test_samples": 10}, "model": "linear"}
    program = {"kind": "gossip", "topology": {"kind": "diverse-neighbours", "degree": 4}}
    with pytest.raises(ConfigurationError, match="needs data with classes, to balance them in every neighbourhood"):
        simulate(table(task=task, program=program))


def test_a_degree_without_a_graph_is_refused():
    with pytest.raises(ConfigurationError, match="'degree' of the topology diverse-neighbours must be even"):
        drawn(13, one_class_each(13), degree=5)
    with pytest.raises(ConfigurationError, match="must be at least 3 to connect more than three nodes"):
        drawn(12, one_class_each(12), degree=2)
