"""Topologies: the properties of each, for any accepted size."""

import math

import networkx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chisquare

from covey.decentralized.gossip import Gossip
from covey.decentralized.topology import (
    Chain,
    Complete,
    Edges,
    EpidemicLocal,
    EpidemicOracle,
    ErdosRenyi,
    Exponential,
    FromNetworkx,
    Grid,
    OnePeerExponential,
    RandomMatching,
    RandomRegular,
    Redrawn,
    Ring,
    SmallWorld,
    Star,
    Torus,
    Tree,
)
from covey.decentralized.topology.edges import save_edges
from covey.decentralized.topology.facts import facts
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting


def prepared(topology, nodes, seed=1):
    topology.ready(Setting(nodes, seed))
    return topology


SIZES = st.integers(4, 40)
TOPOLOGIES = st.one_of(
    st.sampled_from(
        [
            Ring(),
            Chain(),
            Tree(),
            Star(),
            Complete(),
            Exponential(),
            OnePeerExponential(),
            RandomMatching(),
            Torus(),
            Grid(),
        ]
    ),
    st.builds(RandomRegular, degree=st.integers(2, 12)),
    st.builds(EpidemicOracle, degree=st.integers(1, 12)),
    st.builds(EpidemicLocal, degree=st.integers(1, 12)),
    st.builds(ErdosRenyi, probability=st.floats(0.5, 1.0)),
    st.builds(SmallWorld, neighbours=st.sampled_from([2, 4]), rewiring=st.floats(0.0, 0.3)),
    st.builds(Redrawn, topology=st.builds(EpidemicOracle, degree=st.integers(2, 4)), every=st.integers(1, 5)),
)
CONNECTED = (Ring, Chain, Tree, Star, Complete, Torus, Grid, RandomRegular, ErdosRenyi, SmallWorld, Exponential)


@given(TOPOLOGIES, SIZES, st.integers(0, 10), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_every_graph_keeps_its_promises(topology, nodes, t, seed):
    try:
        graph = prepared(topology, nodes, seed).at(t)
    except ConfigurationError:
        assume(False)
    pairs = set(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True))
    assert len(pairs) == len(graph.sources)
    assert all(a != b and 0 <= a < nodes and 0 <= b < nodes for a, b in pairs)
    assert [(s, i) for i in range(nodes) for s in graph.senders(i)] == sorted(pairs, key=lambda p: (p[1], p[0]))
    in_turn = sorted(pairs, key=lambda p: (p[0], (p[1] - p[0]) % nodes))
    assert [(i, r) for i in range(nodes) for r in graph.receivers(i)] == in_turn
    if not topology.one_way():
        assert graph.is_undirected
        mixing = graph.mixing()
        assert np.abs(mixing.sum(0) - 1).max() < 1e-12
        assert np.abs(mixing.sum(1) - 1).max() < 1e-12
        assert mixing.min() >= 0
        for node in (0, nodes - 1):
            row = mixing[[node]].toarray()[0]
            assert np.allclose(row[list(graph.senders(node))], graph.metropolis(node))
    assert np.abs(graph.mixing("mean").sum(1) - 1).max() < 1e-12
    if isinstance(topology, CONNECTED):
        assert facts(graph).components == 1
    if isinstance(topology, RandomRegular | EpidemicOracle):
        assert set(graph.in_degrees.tolist()) == {topology.degree}
    if isinstance(topology, EpidemicLocal):
        assert set(graph.out_degrees.tolist()) == {topology.degree}
    again = prepared(topology, nodes, seed).at(t)
    assert again.sources.tolist() == graph.sources.tolist()
    assert again.targets.tolist() == graph.targets.tolist()


@pytest.mark.parametrize("topology", [EpidemicOracle(degree=4), EpidemicLocal(degree=4), RandomMatching()])
def test_dynamic_graphs_change_with_the_round_and_the_seed(topology):
    draws = [prepared(topology, 30, seed).at(t).sources.tolist() for seed in (1, 2) for t in (0, 1)]
    assert len({tuple(draw) for draw in draws}) == 4


def test_a_redrawn_graph_lasts_its_time():
    topology = prepared(Redrawn(topology=RandomRegular(degree=3), every=3), 20)
    drawn = [tuple(topology.at(t).sources.tolist()) for t in range(9)]
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]


@pytest.mark.parametrize(("n", "s"), [(10, 2), (20, 4), (33, 8), (12, 11), (5, 2)])
@pytest.mark.parametrize("kind", [EpidemicOracle, EpidemicLocal])
def test_epidemic_graphs_contract_as_the_theory_says(kind, n, s):
    topology = prepared(kind(degree=s), n)
    values = np.random.default_rng(0).standard_normal(n)
    values -= values.mean()
    draws = [((topology.at(t).mixing("mean") @ values) ** 2).sum() / (values**2).sum() for t in range(600)]
    beta, error = topology.contraction(), np.std(draws) / math.sqrt(len(draws))
    assert abs(np.mean(draws) - beta) <= 3 * error + 1e-12


@pytest.mark.parametrize("kind", [EpidemicOracle, EpidemicLocal])
def test_talking_to_everybody_is_an_all_reduce(kind):
    mixing = prepared(kind(degree=8), 9).at(3).mixing("mean").toarray()
    assert np.allclose(mixing, 1 / 9)


def test_the_in_degree_of_epidemic_local_is_binomial():
    n, s = 40, 5
    topology = prepared(EpidemicLocal(degree=s), n)
    degrees = np.concatenate([topology.at(t).in_degrees for t in range(300)])
    bins = np.arange(1, 11)
    observed = [(degrees <= 1).sum(), *((degrees == k).sum() for k in bins[1:-1]), (degrees >= 10).sum()]
    law = binom(n - 1, s / (n - 1))
    expected = np.array([law.cdf(1), *(law.pmf(k) for k in bins[1:-1]), law.sf(9)]) * len(degrees)
    assert chisquare(observed, expected).pvalue > 0.001


@pytest.mark.parametrize("topology", [EpidemicOracle(degree=3), EpidemicOracle(degree=8), EpidemicLocal(degree=3)])
def test_every_edge_is_as_likely_as_any_other(topology):
    n = 12
    prepared(topology, n)
    counts = np.zeros((n, n))
    for t in range(1500):
        graph = topology.at(t)
        counts[graph.sources, graph.targets] += 1
    off = counts[~np.eye(n, dtype=bool)]
    sample = np.triu(counts)[np.triu_indices(n, 1)] if not topology.one_way() else off
    # Edges of one regular graph depend on each other, which makes the statistic smaller, not larger.
    assert chisquare(sample).pvalue > 0.001


@pytest.mark.parametrize("n", [2, 4, 8, 16, 6, 12])
def test_one_peer_exponential_averages_exactly_after_log_n_rounds_for_powers_of_two(n):
    topology = prepared(OnePeerExponential(), n)
    product = np.eye(n)
    for t in range(math.ceil(math.log2(n))):
        product = topology.at(t).mixing("mean").toarray() @ product
    assert np.allclose(product, 1 / n) == (n & (n - 1) == 0)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 12, 33])
def test_exponential_graphs_weigh_what_arrives_and_what_is_there_alike(n):
    offsets = [2**k for k in range(math.ceil(math.log2(n)))]
    shifts = [np.roll(np.eye(n), offset, axis=0) for offset in offsets]
    gossip = Gossip(topology=Exponential())
    assert gossip.aggregation.kind == "mean"
    static = prepared(gossip.topology, n).at(0).mixing("mean").toarray()
    assert np.allclose(static, (np.eye(n) + sum(shifts)) / (1 + len(offsets)), atol=1e-15)
    one_peer = prepared(OnePeerExponential(), n)
    for t in range(2 * len(offsets)):
        expected = (np.eye(n) + shifts[t % len(offsets)]) / 2
        assert np.allclose(one_peer.at(t).mixing("mean").toarray(), expected, atol=1e-15)


def test_large_graphs_take_time_by_their_edges():
    graph = prepared(EpidemicOracle(degree=8), 20_000).at(0)
    assert set(graph.in_degrees.tolist()) == {8}
    sparse = prepared(ErdosRenyi(probability=1e-4, connected=False), 20_000).at(0)
    assert abs(len(sparse.sources) - 40_000) < 1500


def test_edge_files_and_networkx_graphs(tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text("# a path\n0 1 0.5\n1 2 0.25  # weighted\n")
    graph = prepared(Edges(file=path), 3).at(0)
    assert graph.is_undirected
    assert graph.given(1) == (0.5, 0.25)
    assert graph.mixing("given").toarray().tolist() == [[0.5, 0.5, 0.0], [0.5, 0.25, 0.25], [0.0, 0.25, 0.75]]
    assert not prepared(Edges(file=path, directed=True), 3).at(0).is_undirected
    taken = prepared(FromNetworkx(graph=networkx.petersen_graph()), 10).at(5)
    assert set(taken.in_degrees.tolist()) == {3}
    assert taken.is_undirected


@given(TOPOLOGIES, SIZES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_saved_graph_is_read_as_it_was(tmp_path_factory, topology, nodes, weighted):
    try:
        graph = prepared(topology, nodes).at(0)
    except ConfigurationError:
        assume(False)
    if weighted:
        weights = np.random.default_rng(0).random(len(graph.sources))
        graph = Graph(nodes, graph.sources, graph.targets, weights)
    file = tmp_path_factory.mktemp("graph") / "edges.txt"
    read = Edges(file=file, directed=save_edges(graph, file))
    assert read.weighted == weighted
    again = prepared(read, nodes).at(0)
    assert (again.sources.tolist(), again.targets.tolist()) == (graph.sources.tolist(), graph.targets.tolist())
    if weighted:
        assert again.weights.tolist() == graph.weights.tolist()
    assert read.directed == (not graph.is_undirected or weighted)


def test_a_file_of_edges_with_weights_is_merged_by_them(tmp_path):
    for text, kind in (("2\n0 1 0.5 # half\n", "given"), ("0 1\n", "metropolis-hastings"), ("", "metropolis-hastings")):
        (tmp_path / "edges.txt").write_text(text)
        assert Gossip(topology=Edges(file=tmp_path / "edges.txt")).aggregation.kind == kind
    assert Gossip(topology=Edges(file=tmp_path / "absent.txt")).aggregation.kind == "metropolis-hastings"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0 1\n1 1\n",
            "Line 2 of .* must be two different node ids in .0, 3. and perhaps a weight, or one .* Got '1 1' instead.",
        ),
        ("0 9\n", "Line 1 of"),
        ("0 -1\n", "Line 1 of"),
        ("0 1 2 3\n", "Line 1 of"),
        ("a b\n", "Line 1 of"),
        ("0 1 nan\n", "Line 1 of"),
        ("3\n", "Line 1 of"),
        ("0 1\n", "has no edge of node 2"),
        ("0 1 1.0\n1 2\n", "weights to some edges and not to others"),
        ("0 1 0.2\n1 2 0.1\n1 0 0.4\n", r"Line 3 of .* must give the edge 1 0 the weight of an earlier line, 0.2"),
    ],
)
def test_a_bad_edge_file_names_its_line(text, message, tmp_path):
    path = tmp_path / "edges.txt"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        prepared(Edges(file=path), 3)


@pytest.mark.parametrize(
    ("topology", "nodes", "message"),
    [
        (
            EpidemicOracle(degree=5),
            5,
            "The 'degree' of the topology epidemic-oracle must be an int in [1, nodes). Got 5 instead",
        ),
        (
            EpidemicOracle(degree=3),
            5,
            "The 'degree' of the topology epidemic-oracle must be even if the number of nodes is odd.",
        ),
        (
            EpidemicLocal(degree=9),
            4,
            "The 'degree' of the topology epidemic-local must be an int in [1, nodes) or a list, each an int in "
            "[1, nodes). Got 9 instead",
        ),
        (RandomRegular(degree=1), 6, "must be at least 2 to connect more than two nodes"),
        (RandomRegular(degree=3), 7, "must be even if the number of nodes is odd"),
        (
            Torus(rows=4),
            10,
            "The 'rows' of the topology torus must divide the number of nodes. Got 4 instead (nodes is 10).",
        ),
        (Torus(), 13, "needs a number of nodes that is a product of two sides. Got 13 instead"),
        (Ring(), 1, "The topology ring needs at least 2 nodes. Got 1 instead."),
        (
            SmallWorld(neighbours=3),
            10,
            "The 'neighbours' of the topology small-world must be an even int. Got 3 instead.",
        ),
        (
            ErdosRenyi(probability=0.0),
            9,
            "The 'probability' of the topology erdos-renyi must be high enough for a connected graph.",
        ),
        (
            Edges(file="nowhere.txt"),
            3,
            "The 'file' of the topology edges, 'nowhere.txt', cannot be read: No such file or directory.",
        ),
        (FromNetworkx(graph=networkx.path_graph(4)), 3, "must have as many nodes as the network. Got 4 instead"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(topology, nodes, message):
    with pytest.raises(ConfigurationError) as caught:
        prepared(topology, nodes).at(0)
    assert message in str(caught.value)


def test_facts_of_a_known_graph():
    found = facts(prepared(Ring(), 8).at(0))
    assert (found.nodes, found.edges, found.directed, found.components, found.diameter) == (8, 8, False, 1, 4)
    assert found.spectral_gap == pytest.approx(1 - (1 + 2 * math.cos(2 * math.pi / 8)) / 3)
    assert found.doubly_stochastic
    assert facts(Graph(3, np.array([0, 1]), np.array([1, 0]))).components == 2
    assert not facts(prepared(Star(), 5).at(0), "mean").doubly_stochastic
    assert found.noise_left == pytest.approx((3 / 9 * 8 - 1) / 8)
    assert found.node_heterogeneity is None
    counts = np.eye(2, dtype=np.int64)[np.arange(8) % 2] * 5
    found = facts(prepared(Ring(), 8).at(0), label_counts=counts)
    assert found.node_heterogeneity == pytest.approx(1 / 2)
    assert found.neighbourhood_heterogeneity == pytest.approx(2 * (2 / 3 - 1 / 2) ** 2)
    assert facts(prepared(Complete(), 8).at(0), label_counts=counts).neighbourhood_heterogeneity < 1e-30
    large = facts(prepared(RandomRegular(degree=4), 1000).at(0))
    assert 0.1 < large.spectral_gap < 0.5
