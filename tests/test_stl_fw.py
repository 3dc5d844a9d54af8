"""STL-FW: the learned matrix against a dense reference, the paper's figures, and its use in a run."""

import warnings
from itertools import islice

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from covey.decentralized.topology import RandomRegular
from covey.decentralized.topology.facts import facts
from covey.decentralized.topology.stl_fw import STLFW, Permutations, label_shares
from covey.decentralized.topology.stl_fw import frank_wolfe as learned_with
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.conftest import simulate, table
from tests.examples import BLOBS

EXPERIMENT = """
rounds = 4
[program]
kind = "gossip"
topology = { kind = "stl-fw", budget = 3 }
[task]
dataset = "digits"
model = "logistic"
partition = { kind = "shards", per_node = 2 }
[network]
nodes = 12
"""


def frank_wolfe(shares, regularization, seed=0):
    return learned_with(shares, regularization, np.random.default_rng(seed))


def dense(weights):
    sources, targets, values = weights.edges
    n = weights.permutation_SN.shape[1]
    matrix = np.zeros((n, n))
    matrix[targets, sources] = values
    matrix[np.arange(n), np.arange(n)] = 1 - matrix.sum(1)
    return matrix


def heterogeneity(matrix, shares):
    return ((matrix @ shares - shares.mean(0)) ** 2).sum() / len(shares)


def objective(matrix, shares, regularization):
    return heterogeneity(matrix, shares) + regularization * ((matrix - 1 / len(shares)) ** 2).sum() / len(shares)


def gradient(matrix, shares, regularization):
    n = len(shares)
    return 2 / n * ((matrix @ shares - shares.mean(0)) @ shares.T + regularization * (matrix - 1 / n))


def reference(shares, regularization):
    """The values of the objective after each step, as the paper has it."""
    matrix, ids = np.eye(len(shares)), np.arange(len(shares))
    while True:
        towards = np.zeros_like(matrix)
        towards[ids, linear_sum_assignment(gradient(matrix, shares, regularization))[1]] = 1
        change = towards - matrix
        gain = -(gradient(matrix, shares, regularization) * change).sum()
        curve = 2 / len(shares) * (((change @ shares) ** 2).sum() + regularization * (change**2).sum())
        matrix = matrix + min(max(gain / curve, 0), 1) * change
        yield objective(matrix, shares, regularization)


def shards(seed, nodes=100, classes=10):
    held = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), 2 * nodes // classes))
    counts = np.zeros((nodes, classes), dtype=np.int64)
    np.add.at(counts, (np.arange(nodes)[:, None], held.reshape(nodes, 2)), 7)
    return counts


def drawn(topology, counts, seed=1):
    topology.ready(Setting(len(counts), seed, label_counts=counts))
    return topology.at(0)


NODES, SEEDS = st.integers(2, 30), st.integers(0, 999)
REGULARIZATION = st.sampled_from([1e-4, 0.1, 3.0])


def dirichlet(seed, nodes, classes=4):
    return np.random.default_rng(seed).dirichlet([0.2] * classes, nodes)


@given(SEEDS, NODES, REGULARIZATION)
@settings(max_examples=40, deadline=None)
def test_every_step_is_doubly_stochastic_sparse_and_downhill(seed, nodes, regularization):
    shares = dirichlet(seed, nodes)
    before = objective(np.eye(nodes), shares, regularization)
    alone = heterogeneity(np.eye(nodes), shares)
    assert before == pytest.approx(alone + regularization * (nodes - 1) / nodes)
    for steps, weights in enumerate(islice(frank_wolfe(shares, regularization), 8), 1):
        matrix = dense(weights)
        assert np.abs(matrix.sum(0) - 1).max() < 1e-12
        assert matrix.min() > -1e-12
        assert weights.coefficients_S.sum() == pytest.approx(1, abs=1e-12)
        assert weights.largest_degree <= steps
        off = (matrix - np.diag(np.diag(matrix))) > 1e-15
        assert weights.largest_degree == max(off.sum(0).max(), off.sum(1).max())
        after = objective(matrix, shares, regularization)
        assert after <= before + 1e-12
        assert after <= 16 / (steps + 2) * (regularization + alone)
        before = after


@given(SEEDS, NODES, REGULARIZATION)
@settings(max_examples=20, deadline=None)
def test_the_gradient_of_the_reference_is_that_of_the_objective(seed, nodes, regularization):
    draw, shares = np.random.default_rng(seed), dirichlet(seed, nodes)
    matrix = dense(next(iter(frank_wolfe(shares, regularization))))
    along = np.eye(nodes)[draw.permutation(nodes)] - matrix
    up, down = (objective(matrix + h * along, shares, regularization) for h in (1e-4, -1e-4))
    slope = (gradient(matrix, shares, regularization) * along).sum()
    assert (up - down) / 2e-4 == pytest.approx(slope, abs=1e-6)


@given(SEEDS, st.integers(2, 60), st.sampled_from([1e-3, 0.1, 1.0]))
@settings(max_examples=40, deadline=None)
def test_no_permutation_is_much_better_than_the_chosen_one(seed, nodes, regularization):
    shares = dirichlet(seed, nodes)
    weights = Permutations.identity(nodes)
    for after in islice(frank_wolfe(shares, regularization), 6):
        cost = gradient(dense(weights), shares, regularization)
        best = cost[linear_sum_assignment(cost)].mean()
        assert cost[np.arange(nodes), after.permutation_SN[-1]].mean() <= best + 0.021 * cost.std()
        weights = after


@pytest.mark.parametrize("kind", ["shards", "dirichlet"])
def test_the_objective_after_each_step_is_that_of_the_plain_algorithm(kind):
    for seed in range(3):
        shares = label_shares(shards(seed)) if kind == "shards" else dirichlet(seed, 200, 10)
        found = [objective(dense(weights), shares, 0.1) for weights in islice(frank_wolfe(shares, 0.1), 12)]
        assert found == pytest.approx(list(islice(reference(shares, 0.1), 12)), rel=0.02)


def test_equal_labels_leave_the_weights_alone_to_learn():
    shares = np.tile([0.5, 0.3, 0.2], (20, 1))
    for weights in islice(frank_wolfe(shares, 0.1), 4):
        assert heterogeneity(dense(weights), shares) < 1e-28
        assert weights.largest_degree == len(weights.coefficients_S) - 1


@given(st.sampled_from([2, 3, 5, 10]), st.integers(1, 6), SEEDS)
@settings(max_examples=20, deadline=None)
def test_nodes_of_one_class_hear_every_class_after_as_many_steps_as_there_are_others(classes, each, seed):
    order = np.random.default_rng(seed).permutation(classes * each)
    shares = np.eye(classes)[order % classes]
    *_, last = islice(frank_wolfe(shares, 1e-9), classes - 1)
    assert np.allclose(dense(last) @ shares, 1 / classes, atol=1e-9)


def test_everybody_equal_is_where_it_ends():
    shares = dirichlet(0, 6)
    *_, last = islice(frank_wolfe(shares, 0.5), 300)
    assert np.abs(dense(last) - 1 / 6).max() < 1e-4
    *_, last = islice(frank_wolfe(dirichlet(0, 2), 0.5), 300)
    assert dense(last).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert list(frank_wolfe(np.ones((1, 3)) / 3, 0.1)) == []


@given(SEEDS, st.integers(3, 25))
@settings(max_examples=20, deadline=None)
def test_renumbering_the_nodes_renumbers_the_matrix(seed, nodes):
    # Random shares have no ties, but costs are rounded.
    draw, shares = np.random.default_rng(seed), dirichlet(seed, nodes)
    order = draw.permutation(nodes)
    plain = [objective(dense(weights), shares, 1.0) for weights in islice(frank_wolfe(shares, 1.0), 3)]
    other = [objective(dense(weights), shares[order], 1.0) for weights in islice(frank_wolfe(shares[order], 1.0), 3)]
    assert plain == pytest.approx(other, rel=0.1)


def test_two_shards_a_node_give_the_figures_of_the_algorithm():
    bands = {2: (0.10, 0.12, 0.085), 5: (0.020, 0.026, 0.009), 10: (0.0095, 0.0115, 0.0016)}
    for seed in range(2):
        counts = shards(seed)
        assert 0.50 <= objective(np.eye(100), label_shares(counts), 0.1) <= 0.56
        for budget, (low, high, most) in bands.items():
            graph = drawn(STLFW(budget=budget), counts)
            assert graph.in_degrees.max() <= budget
            assert graph.out_degrees.max() <= budget
            found = facts(graph, "given", counts)
            assert low <= found.neighbourhood_heterogeneity + 0.1 * found.noise_left <= high
            assert found.neighbourhood_heterogeneity <= most
            chance = facts(drawn(RandomRegular(degree=budget), counts), label_counts=counts)
            assert chance.neighbourhood_heterogeneity > 1.5 * found.neighbourhood_heterogeneity
        assert 0.3 < (1 - found.spectral_gap) ** 2 < 0.4


@given(SEEDS, st.integers(3, 20), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_a_graph_keeps_its_budget_and_says_what_it_falls_into(seed, nodes, budget):
    assume(budget < nodes)
    counts = np.random.default_rng(seed).integers(0, 20, (nodes, 3)) + 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        graph = drawn(STLFW(budget=budget), counts)
        again = drawn(STLFW(budget=budget), counts)
    assert max(graph.in_degrees.max(), graph.out_degrees.max()) <= budget
    assert (graph.sources.tolist(), graph.weights.tolist()) == (again.sources.tolist(), again.weights.tolist())
    parts = facts(graph, "given").components
    assert bool(said) == (parts > 1)
    if parts > 1:
        assert f"The graph of the topology stl-fw has {parts} unconnected parts" in str(said[0].message)
        whole = drawn(STLFW(budget=budget, until_connected=True), counts)
        assert facts(whole, "given").components == 1


def test_what_learning_lacks_is_reported():
    counts = np.eye(10, dtype=np.int64)[np.arange(100) % 10]
    with pytest.warns(UserWarning, match="Give it a higher 'budget' than 1, or until_connected = true"):
        drawn(STLFW(budget=1), counts)
    with pytest.warns(UserWarning, match="Give it more 'steps' than 1"):
        drawn(STLFW(budget=9, steps=1), counts)


@pytest.mark.parametrize(
    ("topology", "counts", "said"),
    [
        (STLFW(budget=5), np.ones((5, 2), int), "'budget' of the topology stl-fw must be an int in [1, nodes). Got 5"),
        (STLFW(budget=1), np.ones((1, 2), int), "must be an int in [1, nodes). Got 1 instead (nodes is 1)"),
        (
            STLFW(budget=2),
            np.diag([3, 0, 2]),
            "Every node must hold samples, so that labels can be balanced. Node 1 has",
        ),
    ],
)
def test_what_cannot_be_balanced_is_refused(topology, counts, said):
    with pytest.raises(ConfigurationError) as caught:
        drawn(topology, counts)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("budget", 0, "'budget' of the topology stl-fw must be an int in [1, nodes). Got 0 instead."),
        ("regularization", 0, "'regularization' of the topology stl-fw must be a number in (0, 1e+06]. Got 0 instead."),
        ("regularization", float("inf"), "must be a number in (0, 1e+06]. Got inf instead."),
        ("regularization", float("nan"), "must be a number in (0, 1e+06]. Got nan instead."),
        ("regularization", 1e308, "must be a number in (0, 1e+06]. Got 1e+308 instead."),
        ("steps", 0, "'steps' of the topology stl-fw must be an int in [1, inf). Got 0 instead."),
    ],
)
def test_impossible_parameters_are_refused(key, value, said):
    with pytest.raises(ConfigurationError) as caught:
        STLFW(**{"budget": 3, key: value})
    assert said in str(caught.value)


@pytest.mark.parametrize("row", [[0.5, 0.4], [1.5, -0.5], [float("nan"), 1.0]])
def test_rows_that_are_no_shares_are_named(row):
    with pytest.raises(ConfigurationError, match=r"with the sum 1\. Row 1 is"):
        next(frank_wolfe(np.array([[0.5, 0.5], row]), 0.1))


def test_data_without_classes_cannot_be_balanced():
    task = {"dataset": {"kind": "linear-regression", "samples": 60, "test_samples": 10}, "model": "linear"}
    with pytest.raises(ConfigurationError, match="stl-fw needs data with classes"):
        simulate(table(task=task, program={"kind": "gossip", "topology": {"kind": "stl-fw", "budget": 3}}))


def test_models_are_merged_by_what_was_learned_in_one_direction():
    world, _ = simulate(
        table(task=BLOBS, program={"kind": "gossip", "topology": {"kind": "stl-fw", "budget": 2}}, rounds=1)
    )
    graph: Graph = world.program.topology.at(0)
    assert world.program.aggregation.kind == "given"
    assert not graph.is_undirected
    assert [node.messages_out for node in world.nodes] == graph.out_degrees.tolist()


def test_a_saved_graph_gives_the_same_run_to_the_bit(in_folder, covey):
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    assert covey("run", "experiment.toml", "--out", "learned")[0] == 0
    code, out, err = covey("check", "learned/run.toml", "--save-graph", "edges.txt")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if line.startswith("saved")]
    topology = line.partition("topology = ")[2]
    assert topology == '{ kind = "edges", file = "edges.txt", directed = true }'
    assert "squared distance of a node's class shares from the mean ones" in out
    assert covey("run", "experiment.toml", "--set", f"program.topology={topology}", "--out", "read")[0] == 0
    learned, read = (np.load(in_folder / name / "models.npy") for name in ("learned", "read"))
    assert np.array_equal(learned, read)


def test_a_graph_that_cannot_be_saved_is_refused(in_folder, covey):
    (in_folder / "experiment.toml").write_text(EXPERIMENT)
    for settings_, said in (
        (["program.topology=random-matching"], "must be the same in every round, but random-matching draws a new one"),
        (['program={kind="fedavg",clients=2}'], "The program fedavg has no graph to save."),
    ):
        code, _, err = covey("check", "experiment.toml", "--save-graph", "edges.txt", "--set", *settings_)
        assert (code, said in err) == (2, True), err
    code, _, err = covey("check", "experiment.toml", "--save-graph", "nowhere/edges.txt")
    assert (code, "nowhere/edges.txt cannot be written: No such file" in err) == (2, True), err
