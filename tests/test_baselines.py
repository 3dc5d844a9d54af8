"""The baselines of decentralized learning, against oracles in NumPy that are written from the papers."""

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.data import from_arrays
from covey.decentralized.d2 import D2
from covey.decentralized.gossip import Gossip
from covey.decentralized.gradient_tracking import GradientTracking
from covey.decentralized.quasi_global import QuasiGlobal
from covey.decentralized.relay_sgd import RelaySGD, Sum
from covey.decentralized.topology import Edges, FromNetworkx, Ring
from covey.decentralized.weights import second_eigenvalue, smallest_eigenvalue
from covey.learning.models import Module
from covey.learning.running_node import RunningLearningNode
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.node import Message
from tests.conftest import begun, models_of, simulate, table
from tests.examples import BLOBS
from tests.hosts import emulate
from tests.test_views import watched

LR, FEATURES, EACH = 0.05, 3, 8
PROGRAMS = {"d2": D2, "gradient-tracking": GradientTracking, "quasi-global-momentum": QuasiGlobal}


class Quadratic:
    """Linear regression in which every node has another function of its own features.

    Shapes: N nodes, S samples of each, P weights, the last of which is the bias.
    """

    def __init__(self, nodes, seed, *, alike=False):
        draw = np.random.default_rng(seed)
        inputs_NSF = draw.standard_normal((nodes, EACH, FEATURES)) * draw.uniform(0.5, 1.5, (nodes, 1, FEATURES))
        truth_NF = draw.standard_normal((nodes, FEATURES)) * 2.0
        targets_NS = np.einsum("nsf,nf->ns", inputs_NSF, truth_NF) + draw.standard_normal((nodes, 1))
        if alike:
            inputs_NSF, targets_NS = (np.broadcast_to(one[:1], one.shape) for one in (inputs_NSF, targets_NS))
        inputs = inputs_NSF.reshape(-1, FEATURES).astype(np.float32)
        targets = targets_NS.reshape(-1).astype(np.float32)
        columns = {"node": np.repeat(np.arange(nodes), EACH)}
        self.dataset = from_arrays(inputs, targets, test=(inputs, targets), columns=columns)
        self.given_NSP = self.inputs_NSP = np.concatenate([inputs_NSF, np.ones((nodes, EACH, 1))], axis=2)
        self.given_NS = self.targets_NS = targets_NS

    def gradient(self, models_NP):
        errors_NS = np.einsum("nsp,np->ns", self.inputs_NSP, models_NP) - self.targets_NS
        return 2.0 / EACH * np.einsum("nsp,ns->np", self.inputs_NSP, errors_NS)

    def trained(self, models_NP, steps, correction_NP=0.0):
        for _ in range(steps):
            models_NP = models_NP - LR * (self.gradient(models_NP) + correction_NP)
        return models_NP

    def optimum(self):
        """The model with the lowest loss over all nodes, P."""
        inputs = self.inputs_NSP.reshape(-1, FEATURES + 1)
        return np.linalg.lstsq(inputs, self.targets_NS.reshape(-1), rcond=None)[0]

    def run(self, program, steps=1, rounds=6, **task):
        """The models before and after a run, N x P each. From then on, nodes are in the order of the run."""
        task = {
            "dataset": self.dataset,
            "model": "linear",
            "partition": {"kind": "natural", "by": "node"},
            "batch_size": 1000,
            "local_steps": steps,
            "optimizer": {"kind": "sgd", "lr": LR},
            "same_start": False,
            **task,
        }
        changes = {"task": task, "network": {"nodes": len(self.inputs_NSP)}, "evaluation": {"every": 0}}
        tables = table(rounds=rounds, **changes)
        tables["program"] = program
        world, _ = simulate(tables)
        learner = world.task.learner
        order = [int(learner.parts.of(node.id)[0]) // EACH for node in world.nodes]
        self.inputs_NSP, self.targets_NS = self.given_NSP[order], self.given_NS[order]
        starts = torch.stack([learner.initial(node.id) for node in world.nodes])
        return starts.double().numpy(), models_of(world).double().numpy()


@st.composite
def graphs(draw):
    """Connected graphs."""
    nodes, seed = draw(st.integers(2, 8)), draw(st.integers(0, 999))
    graph = networkx.gnp_random_graph(nodes, 0.4, seed=seed)
    graph.add_edges_from((node, int(node * 0.7)) for node in range(1, nodes))
    return graph


def metropolis(graph, own=0.0):
    """The Metropolis-Hastings weights of a graph, N x N, of which nodes keep a share for themselves."""
    degree, matrix = dict(graph.degree), np.zeros((len(graph), len(graph)))
    for left, right in graph.edges:
        matrix[left, right] = matrix[right, left] = 1.0 / (1 + max(degree[left], degree[right]))
    matrix += np.diag(1.0 - matrix.sum(1))
    return own * np.eye(len(graph)) + (1.0 - own) * matrix


def d_psgd(x, weights, problem, steps, rounds):
    for _ in range(rounds):
        x = weights @ problem.trained(x, steps)
    return x


def d_squared(x, weights, problem, steps, rounds):
    """x(t+1) = W (2 x(t) - x(t-1) - g(t) + g(t-1)), where g is what training takes away."""
    before = change_before = None
    for _ in range(rounds):
        change = x - problem.trained(x, steps)
        inner = x - change if before is None else 2 * x - before - change + change_before
        before, change_before, x = x, change, weights @ inner
    return x


def tracking(x, weights, problem, rounds):
    """y(t+1) = W y(t) + g(t+1) - g(t), x(t+1) = W (x(t) - lr y(t))."""
    g = problem.gradient(x)
    y = g
    for _ in range(rounds):
        x = weights @ (x - LR * y)
        g, last = problem.gradient(x), g
        y = weights @ y + g - last
    return x


def k_gt(x, weights, problem, steps, rounds):
    """K-GT: corrections c change by (W - I) z, where z is the mean step of a round."""
    c = np.zeros_like(x)
    for _ in range(rounds):
        trained = problem.trained(x, steps, c)
        z = (x - trained) / (LR * steps)
        c, x = c + weights @ z - z, weights @ trained
    return x


def quasi_global(x, weights, problem, steps, rounds, beta):
    m = np.zeros_like(x)
    for _ in range(rounds):
        mixed = weights @ problem.trained(x, steps, beta * m)
        m, x = beta * m + (1 - beta) * (x - mixed) / (LR * steps), mixed
    return x


def relayed(x, graph, problem, steps, rounds):
    """Every node takes the mean of what all trained, as late as they are far; while that is not, its own."""
    far, count, trained = dict(networkx.all_pairs_shortest_path_length(graph)), len(x), []
    for t in range(rounds):
        trained.append(problem.trained(x, steps))
        late = {(i, j): t + 1 - max(far[i][j], 1) for i in range(count) for j in range(count)}
        arrived = [
            [trained[late[i, j]][j] if late[i, j] >= 0 else trained[t][i] for j in range(count)] for i in range(count)
        ]
        x = np.array(arrived).mean(1)
    return x


@given(graphs(), st.integers(0, 999), st.sampled_from([1, 3]))
@settings(max_examples=6, deadline=None)
def test_programs_compute_what_the_papers_say(graph, seed, steps):
    problem, topology = Quadratic(len(graph), seed), FromNetworkx(graph=graph)
    weights, lazy = metropolis(graph), metropolis(graph, own=0.5)
    start, found = problem.run(D2(topology=topology), steps)
    assert np.allclose(found, d_squared(start, lazy, problem, steps, 6), atol=2e-4)
    _, found = problem.run(GradientTracking(topology=topology), steps)
    assert np.allclose(found, k_gt(start, weights, problem, steps, 6), atol=2e-4)
    if steps == 1:
        assert np.allclose(found, tracking(start, weights, problem, 6), atol=2e-4)
    _, found = problem.run(QuasiGlobal(topology=topology, beta=0.8), steps)
    assert np.allclose(found, quasi_global(start, weights, problem, steps, 6, 0.8), atol=2e-4)
    tree = networkx.Graph()
    tree.add_nodes_from(graph)  # In their order, which a search would change.
    tree.add_edges_from(networkx.bfs_tree(graph, 0).edges)
    _, found = problem.run(RelaySGD(topology=FromNetworkx(graph=tree)), steps)
    assert np.allclose(found, relayed(start, tree, problem, steps, 6), atol=2e-4)


@pytest.mark.parametrize(
    ("program", "far"),
    [
        (Gossip(topology=Ring()), True),
        (D2(topology=Ring()), False),
        (GradientTracking(topology=Ring()), False),
        (RelaySGD(topology="chain"), False),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_corrections_reach_the_optimum_where_d_psgd_does_not(program, far):
    problem = Quadratic(4, 1)
    _, found = problem.run(program, rounds=120, optimizer={"kind": "sgd", "lr": 0.1})
    distance = np.abs(found - problem.optimum()).max()
    assert distance > 0.05 if far else distance < 5e-4


@pytest.mark.parametrize("steps", [1, 3])
def test_nodes_with_the_same_data_do_as_d_psgd(steps):
    problem = Quadratic(5, 2, alike=True)
    lazy = {"kind": "lazy", "own": 0.3}
    _, expected = problem.run(Gossip(topology=Ring(), aggregation=lazy), steps, same_start=True)
    for program in (
        D2(topology=Ring(), aggregation=lazy),
        GradientTracking(topology=Ring(), aggregation=lazy),
    ):
        assert np.allclose(problem.run(program, steps, same_start=True)[1], expected, atol=1e-5)


@pytest.mark.parametrize("overlap", [False, True])
def test_without_momentum_quasi_global_momentum_is_d_psgd(overlap):
    problem = Quadratic(5, 3)
    _, expected = problem.run(Gossip(topology=Ring(), overlap=overlap))
    _, found = problem.run(QuasiGlobal(topology=Ring(), beta=0.0, overlap=overlap))
    assert np.array_equal(found, expected)


def test_in_rounds_without_training_d_squared_mixes_alone():
    """With training in every other round it is D² with the square of W."""
    problem, graph = Quadratic(6, 4), networkx.cycle_graph(6)
    schedule, topology = {"kind": "periodic", "every": 2}, FromNetworkx(graph=graph)
    start, found = problem.run(D2(topology=topology, schedule=schedule), rounds=8)
    square = np.linalg.matrix_power(metropolis(graph, own=0.5), 2)
    assert np.allclose(found, d_squared(start, square, problem, 1, 4), atol=1e-4)


def test_d_squared_averages_under_masks_as_in_the_open():
    problem = Quadratic(6, 5)
    open_, hidden = (D2(topology="complete", sharing=sharing) for sharing in ("full", "secure-aggregation"))
    assert np.allclose(problem.run(open_)[1], problem.run(hidden)[1], atol=1e-3)


@pytest.mark.parametrize("topology", ["chain", "star", "tree", {"kind": "tree", "children": 3}])
def test_relayed_sums_are_the_exact_mean_after_as_many_rounds_as_the_tree_is_wide(topology, monkeypatch):
    train, first = RunningLearningNode.train, {}

    async def still(node):
        """Train, and return the model that the node began with."""
        update = await train(node)
        update.model = first.setdefault(node.id, update.start)
        return update

    monkeypatch.setattr(RunningLearningNode, "train", still)
    wide = {"chain": 6, "star": 2, "tree": 4}.get(topology if isinstance(topology, str) else "", 3)
    problem = Quadratic(7, 6)
    for rounds, exact in ((wide - 1, False), (wide, True), (wide + 2, True)):
        start, found = problem.run(RelaySGD(topology=topology), rounds=rounds)
        first.clear()
        assert np.allclose(found, start.mean(0), atol=1e-6) == exact


class Normalized(torch.nn.Sequential):
    """A frozen layer, one with statistics, and one that is trained."""

    def __init__(self):
        first = torch.nn.Linear(10, 16).requires_grad_(False)
        super().__init__(first, torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 4))


@pytest.mark.parametrize(
    "program",
    [
        {"kind": "d2", "topology": "ring"},
        {"kind": "d2", "topology": "ring", "sharing": {"kind": "full", "share": ["3.*"], "buffers": "keep"}},
        {"kind": "gradient-tracking", "topology": "ring"},
        {"kind": "quasi-global-momentum", "topology": "ring"},
        {"kind": "relay-sgd", "topology": "chain"},
    ],
    ids=lambda program: program["kind"],
)
def test_corrections_act_on_what_is_trained_alone(program, overheard):
    world, _ = simulate(table(program=program, task={**BLOBS, "model": Module(factory=Normalized)}, rounds=12))
    layout, first = world.task.learner.layout, world.task.learner.first_model
    frozen = layout.averaged - layout.trainable
    sent = {len(value) for m in overheard for value in m.payload.values() if isinstance(value, torch.Tensor)}
    assert max(sent) <= layout.size - frozen
    for model in models_of(world):
        assert torch.equal(model[layout.trainable : layout.averaged], first[layout.trainable : layout.averaged])
        assert (model[-16:] > 0).all()  # Variances.
    assert torch.isfinite(models_of(world)).all()


@pytest.mark.parametrize("kind", [*PROGRAMS, "relay-sgd"])
def test_in_real_time_models_are_those_of_the_simulation(kind, tmp_path):
    topology = "tree" if kind == "relay-sgd" else "ring"
    tables = table(program={"kind": kind, "topology": topology}, task=BLOBS, rounds=4)
    tables["network"] = {"nodes": 5, "latency": 0.0, "bandwidth": None, "compute": 1e6}
    world, _ = simulate(tables)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)


def test_lost_messages_leave_relayed_sums_with_fewer_models():
    program = {"kind": "relay-sgd", "topology": "tree", "patience": "50ms"}
    world, _ = simulate(table(program=program, network={"loss": 0.2}, rounds=30, evaluation={"every": 30}))
    assert [node.round for node in world.nodes] == [30] * 12
    models = models_of(world)
    assert (models - models.mean(0)).norm(dim=1).max() < 0.5 * models.norm(dim=1).min()


def test_sums_of_more_models_than_there_are_are_rejected():
    world = begun(table(program={"kind": "relay-sgd", "topology": "tree"}))
    node = world.nodes[0]
    counts = [0, -1, 12, 1.5, True, "1", 11]
    inbox = [Message(1, "", 0, {"sum": node.model, "count": count}, 0) for count in counts]
    assert [sum.count for sum in node.usable(inbox, Sum, sum=world.program.selection.entry)] == [11]


LOSSY = {"losses": ("message loss",)}


@pytest.mark.parametrize(
    ("program", "setting", "message"),
    [
        (
            D2(topology=Ring(), aggregation="metropolis-hastings"),
            {},
            "The weights of the program d2 must be such that the smallest eigenvalue of their matrix is above -0.3333. "
            "Got those of metropolis-hastings over ring instead, with -0.3333; aggregation = 'lazy' raises it.",
        ),
        (
            D2(topology={"kind": "epidemic-oracle", "degree": 3}, aggregation="mean"),
            {},
            "The 'topology' of the program d2 must be static. Got epidemic-oracle instead.",
        ),
        (
            D2(topology="star", aggregation={"kind": "lazy", "rule": "mean"}),
            {},
            "The weights of the program d2 must be symmetric. Got those of lazy over star instead, 0.04167 from node 1 "
            "to 0 and 0.25 back.",
        ),
        (
            D2(topology="exponential", aggregation={"kind": "lazy", "rule": "mean"}),
            {},
            "The weights of the program d2 must be symmetric. Got those of lazy over exponential instead, 0 from node 1 "
            "to 0 and 0.1 back.",
        ),
        (
            D2(topology=Ring(), sharing={"kind": "top-k", "budget": 0.3}),
            {},
            "The 'sharing' of the program d2 must be exact, such as 'full'. Got top-k instead.",
        ),
        (D2(topology=Ring(), overlap=True), {}, "The 'overlap' of the program d2 must be false. Got true instead."),
        (
            D2(topology=Ring(), schedule={"kind": "skiptrain", "budget": 3}),
            {},
            "The 'schedule' of the program d2 must be the same for all nodes. Got skiptrain instead.",
        ),
        (
            D2(topology=Ring(), patience=1.0),
            {},
            "The 'patience' of the program d2 must be left out. Got 1.0 instead.",
        ),
        (
            D2(topology=Ring()),
            LOSSY,
            "The program d2 needs every message, and the experiment has message loss. Use 'gossip' with a 'patience' "
            "instead.",
        ),
        (
            GradientTracking(topology=Ring()),
            LOSSY,
            "The program gradient-tracking needs every message, and the experiment has message loss. Use 'gossip' with "
            "a 'patience' instead.",
        ),
        (
            GradientTracking(topology={"kind": "epidemic-local", "degree": 2}),
            {},
            "The weights of the program gradient-tracking must be doubly stochastic, or the mean of all models would "
            "drift. Got those of mean over epidemic-local instead.",
        ),
        (
            GradientTracking(topology=Ring(), aggregation="median"),
            {},
            "The weights of the program gradient-tracking must be fixed. Got those of median over ring instead.",
        ),
        (
            GradientTracking(topology=Ring()),
            {"adds_gradients": False},
            "The program gradient-tracking corrects gradients, so the 'optimizer' of the task must be 'sgd'.",
        ),
        (
            QuasiGlobal(topology=Ring()),
            {"adds_gradients": False},
            "The program quasi-global-momentum corrects gradients, so the 'optimizer' of the task must be 'sgd'.",
        ),
        (
            RelaySGD(topology=Ring()),
            {},
            "The 'topology' of the program relay-sgd must be a tree, such as 'chain', 'tree', 'star' or one that spans "
            "another topology, { kind = 'tree', of = ... }. Got ring instead.",
        ),
        (
            Gossip(topology=Ring(), aggregation={"kind": "lazy", "rule": "median"}),
            {},
            "The 'rule' of the aggregation lazy must have fixed weights. Got median instead.",
        ),
    ],
)
def test_combinations_without_meaning_are_refused(program, setting, message):
    with pytest.raises(ConfigurationError) as caught:
        program.check(Setting(12, **setting))
    assert str(caught.value) == message


def test_a_check_names_the_smallest_eigenvalue():
    program = D2(topology=Ring()).ready(Setting(12))
    said = "the smallest eigenvalue of their matrix is 0.3333, and must be above -0.3333"
    assert program.findings() == {"weights": said}


def test_an_optimizer_without_added_gradients_is_known_before_the_run():
    task = {"optimizer": "adam"}
    with pytest.raises(ConfigurationError, match="the 'optimizer' of the task must be 'sgd'"):
        simulate(table(program={"kind": "gradient-tracking", "topology": "ring"}, task=task))
    simulate(table(program={"kind": "d2", "topology": "ring"}, task=task, rounds=1))


@given(graphs(), st.floats(0.0, 0.9))
@settings(max_examples=30, deadline=None)
def test_lazy_weights_move_eigenvalues_towards_one(graph, own):
    program = Gossip(topology=FromNetworkx(graph=graph), aggregation={"kind": "lazy", "own": own})
    program.ready(Setting(len(graph)))
    merging = program.graph(0).mixing("given")
    assert np.allclose(merging.toarray(), metropolis(graph, own))
    expected = np.linalg.eigvalsh(metropolis(graph))
    assert smallest_eigenvalue(merging) == pytest.approx(own + (1 - own) * expected[0])
    assert second_eigenvalue(merging) == pytest.approx(own + (1 - own) * expected[-2])


def test_eigenvalues_of_a_large_graph_are_those_of_all_and_the_same_in_every_process():
    merging = Gossip(topology={"kind": "random-regular", "degree": 6}).ready(Setting(700)).graph(0).mixing("given")
    expected = np.linalg.eigvalsh(merging.toarray())
    found = [(smallest_eigenvalue(merging), second_eigenvalue(merging)) for _ in range(2)]
    assert found[0] == found[1] == pytest.approx((expected[0], expected[-2]))


def test_lazy_weights_are_by_default_those_of_the_topology(tmp_path):
    (tmp_path / "edges.txt").write_text("0 1 0.4\n1 2 0.2\n")
    program = Gossip(topology=Edges(file=tmp_path / "edges.txt"), aggregation="lazy").ready(Setting(3))
    assert program.graph(0).weights.tolist() == pytest.approx([0.2, 0.2, 0.1, 0.1])


def test_messages_of_gradient_tracking_show_models_and_gradients(monkeypatch):
    _, views, _ = watched(monkeypatch, program={"kind": "gradient-tracking", "topology": "ring"})
    models, gradients = ([view for view in views if view.gradient == gradient] for gradient in (False, True))
    assert len(models) == len(gradients) == 2 * 2 * 3
    assert {view.round for view in views if view.start is not None} == {0}
    for model, gradient in zip(models, gradients, strict=True):
        if model.start is not None:
            assert torch.allclose(model.values, model.start - 0.3 * gradient.values, atol=1e-6)


def test_relayed_sums_show_the_mean_of_those_behind_an_edge(monkeypatch):
    _, views, _ = watched(monkeypatch, program={"kind": "relay-sgd", "topology": "tree"})
    behind = {(view.receiver, view.senders[0], view.round): set(view.senders) for view in views}
    assert behind[0, 1, 0] == {1}
    assert behind[0, 1, 1] == {1, 3, 4}
    assert behind[0, 1, 2] == {1, 3, 4, 7, 8, 9, 10}
    assert behind[5, 2, 2] == {2, 0, 6, 1}
    assert behind[5, 11, 2] == {11}
