"""Trees: of a number of children, and those that span another topology."""

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.topology import RandomRegular, Tree
from covey.decentralized.topology.static import is_tree
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting


@given(st.integers(2, 60), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_trees_are_trees(nodes, children):
    graph = Tree(children=children).ready(Setting(nodes)).at(0)
    assert is_tree(graph)
    assert graph.in_degrees.max() <= children + 1
    if children == 1:
        assert networkx.utils.graphs_equal(
            networkx.Graph(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True)), networkx.path_graph(nodes)
        )


@given(st.integers(6, 40).filter(lambda n: n % 2 == 0), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_spanning_tree_has_the_shortest_paths_of_its_graph(nodes, seed):
    setting, inner = Setting(nodes, seed), RandomRegular(degree=3)
    tree, whole = Tree(of=inner).ready(setting).at(0), inner.ready(setting).at(0)
    edges, among = ({*zip(g.sources.tolist(), g.targets.tolist(), strict=True)} for g in (tree, whole))
    assert is_tree(tree)
    assert edges <= among
    far = [networkx.single_source_shortest_path_length(networkx.Graph(list(pairs)), 0) for pairs in (edges, among)]
    assert far[0] == far[1]


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ({"kind": "epidemic-oracle", "degree": 3}, "must be static and undirected. Got epidemic-oracle instead."),
        ("exponential", "must be static and undirected. Got exponential instead."),
        ({"kind": "erdos-renyi", "probability": 0.0, "connected": False}, "must be connected. Got erdos-renyi instead"),
    ],
)
def test_a_tree_spans_static_connected_graphs(of, message):
    with pytest.raises(ConfigurationError, match=message):
        Tree(of=of).ready(Setting(12)).at(0)
