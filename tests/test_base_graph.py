"""The base-(k+1) graph: the exact mean after one cycle, for every number of nodes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.topology.base_graph import BaseGraph, cycle
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, NODES


def check_cycle(n, degree):
    product = np.eye(n)
    for graph in cycle(n, degree):
        assert graph.is_undirected
        assert graph.in_degrees.max() <= degree
        weights = graph.mixing("given").toarray()
        assert np.abs(weights - weights.T).max() < 1e-14
        assert np.abs(weights.sum(0) - 1).max() < 1e-12
        assert weights.min() >= -1e-12
        product = weights @ product
    assert np.abs(product - 1 / n).max() < 1e-10


def test_one_cycle_gives_small_networks_the_exact_mean():
    for degree in range(1, 6):
        for n in range(degree + 1, 41):
            check_cycle(n, degree)


@given(n=st.integers(41, 200), degree=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_one_cycle_gives_every_node_the_exact_mean(n, degree):
    check_cycle(n, degree)


@pytest.mark.parametrize(
    ("n", "lengths"), [(25, [9, 6, 5, 2]), (32, [5, 5, 3]), (6, [4, 2]), (5, [5, 3, 3, 1]), (2, [1]), (12, [5, 3, 2])]
)
def test_cycles_are_as_short_as_the_paper_makes_them(n, lengths):
    assert [len(cycle(n, degree)) for degree in range(1, len(lengths) + 1)] == lengths


def test_cycles_grow_with_the_logarithm_of_the_number_of_nodes():
    for degree in (1, 2, 3):
        assert all(
            len(cycle(n, degree)) <= 2 * math.floor(math.log(n) / math.log(degree + 1) + 1e-9) + 2
            for n in (*range(degree + 1, 40), 97, 240, 399, 5000)
        )


def test_as_many_peers_as_there_are_is_an_all_reduce():
    (only,) = cycle(9, 8)
    assert np.allclose(only.mixing("given").toarray(), 1 / 9)


@pytest.mark.parametrize("degree", [1, 3])
def test_gossip_agrees_on_the_mean_after_one_cycle_and_not_before(degree):
    task = {**BLOBS, "optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    program = {"kind": "gossip", "topology": {"kind": "base-graph", "degree": degree}}
    spread = []
    for rounds in range(len(cycle(NODES, degree)) + 1):
        world, _ = simulate(table(program=program, task=task, rounds=max(rounds, 1)))
        start = torch.stack([world.task.learner.initial(id) for id in range(NODES)])
        models = models_of(world) if rounds else start
        assert torch.allclose(models.mean(0), start.mean(0), atol=1e-6)
        spread.append(float((models - start.mean(0)).norm()))
    assert spread[-1] < 1e-5
    assert all(now < before for before, now in pairwise(spread))
    assert spread[-2] > 1e-2


def test_its_graphs_come_again_and_have_no_more_edges_than_it_says():
    topology = BaseGraph(degree=2)
    topology.ready(Setting(25))
    assert topology.at(6) is topology.at(0)
    assert max(topology.at(t).in_degrees.max() for t in range(6)) == 2


@pytest.mark.parametrize(("degree", "nodes"), [(0, 5), (5, 5)])
def test_a_degree_that_cannot_be_is_refused(degree, nodes):
    with pytest.raises(ConfigurationError, match="The 'degree' of the topology base-graph must be an int in"):
        BaseGraph(degree=degree).ready(Setting(nodes))
