"""MATCHA: matchings, their probabilities and weight, and rounds without messages."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from covey.decentralized.topology import (
    Complete,
    EpidemicOracle,
    ErdosRenyi,
    Exponential,
    Grid,
    RandomRegular,
    Redrawn,
    Ring,
    Star,
    Torus,
)
from covey.decentralized.topology.matcha import Matcha, laplacian, matchings, probabilities
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, NODES
from tests.test_emulation import QUICK, assert_agree


def prepared(topology, nodes, seed=1):
    topology.ready(Setting(nodes, seed))
    return topology


def connectivity(n, left, right, weights):
    return np.linalg.eigvalsh(laplacian(n, left, right, weights))[1]


@given(n=st.integers(2, 16), density=st.floats(0.1, 1.0), seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_the_edges_of_any_graph_fall_into_few_matchings(n, density, seed):
    draw = np.random.default_rng(seed)
    left, right = np.nonzero(np.triu(draw.random((n, n)) < density, 1))
    assume(len(left))
    order = draw.permutation(len(left))
    left, right = left[order], right[order]
    found = matchings(n, left, right)
    largest = np.bincount(np.concatenate([left, right])).max()
    assert set(found.tolist()) == set(range(found.max() + 1))
    assert found.max() + 1 <= largest + 1
    for number in range(found.max() + 1):
        ends = np.concatenate([left[found == number], right[found == number]])
        assert len(set(ends.tolist())) == len(ends)


def test_an_even_ring_is_two_matchings_and_an_odd_one_three():
    for n in (4, 12, 13, 31):
        assert len(prepared(Matcha(topology=Ring(), budget=0.5), n).plan().probability_M) == 2 + n % 2


SMALL = [
    # A triangle with a tail, the house, and a square with a diagonal.
    (4, [(0, 1), (1, 2), (0, 2), (2, 3)]),
    (5, [(0, 1), (1, 2), (2, 3), (0, 3), (0, 4), (1, 4)]),
    (4, [(0, 1), (1, 2), (2, 3), (0, 3), (0, 2)]),
    (6, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
]


@pytest.mark.parametrize(("n", "edges"), SMALL)
@pytest.mark.parametrize("budget", [0.2, 0.5, 0.8])
def test_no_probabilities_on_a_grid_connect_better(n, edges, budget):
    left, right = np.array(edges).T
    matching = matchings(n, left, right)
    count = int(matching.max()) + 1
    found = probabilities(n, left, right, matching, budget)
    assert ((found >= 0) & (found <= 1)).all()
    assert found.sum() <= budget * count + 1e-4
    steps = np.linspace(0, 1, 41)
    tried = np.stack(np.meshgrid(*[steps] * (count - 1)), -1).reshape(-1, count - 1)
    tried = np.column_stack([tried, np.clip(budget * count - tried.sum(1), 0, 1)])
    tried = tried[tried.sum(1) <= budget * count + 1e-9]
    parts = np.stack([laplacian(n, left, right, (matching == number) * 1.0) for number in range(count)])
    best = np.linalg.eigvalsh(np.tensordot(tried, parts, 1))[:, 1].max()
    assert connectivity(n, left, right, found[matching]) >= 0.998 * best
    assert best > 0


@given(seed=st.integers(0, 999), nodes=st.integers(6, 24), budget=st.floats(0.1, 0.9))
@settings(max_examples=20, deadline=None)
def test_the_probabilities_connect_at_least_as_well_as_equal_ones(seed, nodes, budget):
    plan = prepared(Matcha(topology=ErdosRenyi(probability=0.5), budget=budget), nodes, seed).plan()
    edges = nodes, plan.left_E, plan.right_E
    found = connectivity(*edges, plan.probability_M[plan.matching_E])
    assert found >= 0.998 * connectivity(*edges, np.full(len(plan.left_E), budget))
    assert 0 < plan.contraction < 1


@pytest.mark.parametrize("base", [Ring(), Grid(), RandomRegular(degree=3), Star()])
@pytest.mark.parametrize("periodic", [False, True])
def test_rounds_contract_as_planned_and_no_weight_does_better(base, periodic):
    n = 12
    topology = prepared(Matcha(topology=base, budget=0.4, periodic=periodic), n)
    plan, count = topology.plan(), len(topology.plan().probability_M)
    edges = n, plan.left_E, plan.right_E
    # Every set of active matchings, and how likely it is.
    sets = np.array([[0] * count, [1] * count] if periodic else list(itertools.product((0, 1), repeat=count)))
    alone = np.where(sets, plan.probability_M, 1 - plan.probability_M).prod(1)
    chances = np.array([0.6, 0.4]) if periodic else alone
    drawn = np.stack([laplacian(*edges, active[plan.matching_E].astype(float)) for active in sets])
    mean, square = np.tensordot(chances, drawn, 1), np.tensordot(chances, drawn @ drawn, 1)

    def contraction(weight):
        return np.linalg.eigvalsh(np.eye(n) - 1 / n - 2 * weight * mean + weight**2 * square)[-1]

    assert contraction(plan.weight) == pytest.approx(plan.contraction, rel=1e-9)
    assert topology.contraction() == plan.contraction
    assert min(contraction(plan.weight * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2)) > plan.contraction


@pytest.mark.parametrize("base", [Grid(), RandomRegular(degree=3)])
def test_matchings_are_active_as_often_as_planned_each_by_its_own_chance(base):
    n, rounds = 12, 600
    topology = prepared(Matcha(topology=base, budget=0.4), n)
    plan = topology.plan()
    number = {frozenset(pair): m for *pair, m in zip(plan.left_E, plan.right_E, plan.matching_E, strict=True)}
    active = np.zeros((rounds, len(plan.probability_M)))
    for t in range(rounds):
        graph = topology.at(t)
        weights = graph.mixing("given").toarray()
        assert np.allclose(weights, weights.T)
        assert np.allclose(weights.sum(0), 1)
        found = [number[frozenset(pair)] for pair in zip(graph.sources, graph.targets, strict=True)]
        active[t, found] = 1
        assert len(found) == 2 * np.isin(plan.matching_E, found).sum()
    chance = plan.probability_M
    assert (np.abs(active.mean(0) - chance) <= 4 * np.sqrt(chance * (1 - chance) / rounds) + 1e-12).all()
    together = np.cov(active.T)
    assert np.abs(together - np.diag(np.diag(together))).max() < 0.05


@pytest.mark.parametrize("base", [Torus(), RandomRegular(degree=3), Complete()])
@pytest.mark.parametrize("periodic", [False, True])
def test_the_whole_budget_is_the_whole_graph_with_its_best_constant_weight(base, periodic):
    topology = prepared(Matcha(topology=base, budget=1.0, periodic=periodic), 12)
    plan = topology.plan()
    assert (plan.probability_M == 1).all()
    values = np.linalg.eigvalsh(laplacian(12, plan.left_E, plan.right_E, np.ones(len(plan.left_E))))
    assert plan.weight == pytest.approx(2 / (values[1] + values[-1]), rel=1e-4)
    assert topology.at(3).targets.tolist() == topology.topology.at(0).targets.tolist()


def test_matchings_of_one_size_send_what_the_budget_says():
    for base, n, degree in ((Ring(), 12, 2), (Torus(), 16, 4)):
        plan = prepared(Matcha(topology=base, budget=0.3), n).plan()
        assert 2 * plan.probability_M[plan.matching_E].sum() / n <= 0.3 * degree + 1e-9


def test_the_control_has_all_edges_or_none():
    topology = prepared(Matcha(topology=Torus(), budget=0.4, periodic=True), 16)
    counts = [len(topology.at(t).sources) for t in range(400)]
    assert set(counts) == {0, 64}
    assert 0.3 < np.mean(counts) / 64 < 0.5


def test_rounds_in_which_nobody_talks_pass_in_both_engines(tmp_path):
    matcha = {"kind": "matcha", "topology": "ring", "budget": 0.2, "periodic": True}
    topology = prepared(Matcha(topology=Ring(), budget=0.2, periodic=True), NODES, 3)
    silent = [len(topology.at(t).sources) == 0 for t in range(8)]
    assert silent.count(True) > 1
    assert silent.count(False) > 0
    assert_agree(table(program={"kind": "gossip", "topology": matcha}, network=QUICK, rounds=8), tmp_path, 2)


def test_cliques_that_wait_for_labels_and_redrawn_rounds_work_too():
    over_cliques = {"kind": "matcha", "topology": {"kind": "d-cliques", "size": 4, "swaps": 20}, "budget": 0.5}
    for topology in (over_cliques, {"kind": "redrawn", "topology": over_cliques, "every": 2}):
        program = {"kind": "gossip", "topology": topology, "schedule": {"kind": "skiptrain"}}
        world, _ = simulate(table(program=program, task=BLOBS, rounds=3))
        assert models_of(world).isfinite().all()
        assert world.program.aggregation.kind == "given"


class Apart(Ring):
    """Two halves that do not talk."""

    def draw(self, setting, t):
        half = setting.nodes // 2
        ids = np.arange(half - 1)
        return Graph.undirected(setting.nodes, np.concatenate([ids, ids + half]), np.concatenate([ids, ids + half]) + 1)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (EpidemicOracle(degree=2), "must be static and undirected. Got epidemic-oracle instead."),
        (Exponential(), "must be static and undirected. Got exponential instead."),
        (Redrawn(topology=Ring(), every=2), "must be static and undirected. Got redrawn instead."),
        (Apart(), "must be connected. Got tests.test_matcha:Apart, which is not connected, instead."),
    ],
)
def test_a_graph_that_cannot_be_cut_is_refused(base, message):
    with pytest.raises(ConfigurationError) as caught:
        prepared(Matcha(topology=base, budget=0.5), 12)
    assert str(caught.value) == f"The 'topology' of the topology matcha {message}"


def test_a_budget_that_cannot_be_is_refused():
    with pytest.raises(ConfigurationError, match="The 'budget' of the topology matcha must be a number in"):
        Matcha(topology=Ring(), budget=0.0)
