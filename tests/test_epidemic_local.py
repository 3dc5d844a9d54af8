"""Epidemic Learning by own choice: nodes with degrees of their own, among those that they reach."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.topology import EpidemicLocal, RandomRegular, Torus
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, table


@given(st.data(), st.integers(3, 40), st.integers(0, 99), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_every_node_sends_to_as_many_as_its_own_degree_says(data, nodes, seed, t):
    degrees = data.draw(st.lists(st.integers(1, nodes - 1), min_size=nodes, max_size=nodes))
    graph = EpidemicLocal(degree=degrees).ready(Setting(nodes, seed)).at(t)
    assert graph.out_degrees.tolist() == degrees
    assert graph.in_degrees.sum() == sum(degrees)
    least = min(degrees)
    drawn = EpidemicLocal(degree=least, most=max(degrees)).ready(Setting(nodes, seed))
    assert ((drawn.at(t).out_degrees >= least) & (drawn.at(t).out_degrees <= max(degrees))).all()
    assert drawn.at(t).out_degrees.tolist() == drawn.at(t + 1).out_degrees.tolist()


@given(st.integers(1, 6), st.integers(0, 99), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_nodes_send_to_random_ones_of_those_that_they_reach(degree, seed, t):
    setting = Setting(12, seed)
    for among in (Torus(), RandomRegular(degree=3)):
        topology = EpidemicLocal(degree=degree, among=among).ready(setting)
        graph, reached = topology.at(t), among.at(t)
        edges, possible = ({*zip(g.sources.tolist(), g.targets.tolist(), strict=True)} for g in (graph, reached))
        assert edges <= possible
        assert graph.out_degrees.tolist() == np.minimum(degree, reached.out_degrees).tolist()


def test_every_reachable_node_is_as_likely_as_any_other():
    topology = EpidemicLocal(degree=[1, 2, 3] * 4, among=Torus()).ready(Setting(12))
    counts = np.zeros((12, 12))
    for t in range(2000):
        graph = topology.at(t)
        counts[graph.sources, graph.targets] += 1
    reached = topology.among.at(0)
    expected = 2000 * np.array([1, 2, 3] * 4)[reached.sources] / 4
    off = np.abs(counts[reached.sources, reached.targets] - expected)
    assert (off < 5 * np.sqrt(expected * (1 - expected / 2000))).all()


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ({"degree": [1, 2, 3]}, "must have one entry for each node. Got 3 instead (nodes is 12)."),
        ({"degree": [1, 12] * 6}, "must be an int in [1, nodes) or a list, each an int in [1, nodes)."),
        ({"degree": [0] * 12}, "must be an int in [1, nodes) or a list, each an int in [1, nodes)."),
        (
            {"degree": 4, "most": 3},
            "must be at least its 'degree', which is then no list. Got 3 instead (degree is 4).",
        ),
        ({"degree": [4] * 12, "most": 5}, "must be at least its 'degree', which is then no list. Got 5 instead"),
        ({"degree": 4, "most": 12}, "The 'most' of the topology epidemic-local must be an int in [1, nodes)."),
    ],
)
def test_degrees_that_cannot_be_are_refused(topology, message):
    with pytest.raises(ConfigurationError) as caught:
        EpidemicLocal(**topology).ready(Setting(12))
    assert message in str(caught.value)


def test_epidemic_learning_over_reachable_nodes_learns():
    topology = {"kind": "epidemic-local", "degree": 1, "most": 3, "among": "torus"}
    world, _ = simulate(table(program={"kind": "gossip", "topology": topology}, rounds=30))
    models = models_of(world)
    assert (models - models.mean(0)).norm(dim=1).max() < 0.5 * models.norm(dim=1).min()
    assert math.isfinite(float(models.norm()))
