"""Noise on models: Zip-DL, Muffliato, and the stream of normal numbers that both draw from."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.decentralized.sharing.muffliato import chebyshev
from covey.decentralized.sharing.zip_dl import cancelling, deviations
from covey.decentralized.weights import second_eigenvalue
from covey.learning.noise import Noise
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, ConfigurationWarning
from covey.privacy.attacks.knowledge import read_knowledge
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import check, prepare
from tests.conftest import Overheard, models_of, simulate, table

STILL = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False, "model": "logistic"}
"""Nodes with different models that nobody trains."""


def gossip(sharing, topology="ring", **changes):
    program = {"kind": "gossip", "topology": topology, "sharing": sharing}
    return table(program=program, evaluation={"every": 0}, **changes)


def starts_of(world):
    return torch.stack([world.task.learner.initial(node) for node in range(world.size)])


def edges(tmp_path, pairs):
    file = tmp_path / "edges.txt"
    file.write_text("".join(f"{left} {right}\n" for left, right in pairs))
    return {"kind": "edges", "file": str(file), "directed": False}


# ------------------------------------------------------------------ normal numbers


def test_the_stream_is_normal_and_follows_from_all_of_its_key():
    keys = [bytes(32), b"\x01" + bytes(31), bytes(31) + b"\x01"]
    drawn = torch.stack([Noise(key).normal(200_001) for key in keys])
    assert torch.equal(drawn[0], Noise(keys[0]).normal(200_001))
    numbers = drawn.double()
    moments = [float((numbers**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0.0, 1.0, 0.0, 3.0], abs=0.03)
    assert torch.corrcoef(numbers)[0, 1:].abs().max() < 0.01  # Every byte of the key counts.
    assert abs(float((numbers[:, :-1] * numbers[:, 1:]).mean())) < 0.01
    cuts = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    found = torch.stack([(numbers < cut).double().mean() for cut in cuts])
    assert torch.allclose(found, torch.special.ndtr(cuts), atol=0.003)
    assert float(numbers.abs().max()) > 4.0


@given(st.integers(0, 70_000))
@settings(max_examples=10)
def test_a_stream_gives_as_many_numbers_as_are_asked_for(count):
    found = Noise(bytes(32)).normal(count)
    assert found.shape == (count,)
    assert torch.isfinite(found).all()


# ------------------------------------------------------------------ noise that cancels


@st.composite
def weights_of_a_node(draw):
    """Weights of neighbours and of the node itself, regular or not."""
    parts = np.array(draw(st.lists(st.floats(0.05, 1.0), min_size=2, max_size=8)))
    return (parts / parts.sum()).tolist()


@given(weights_of_a_node(), st.floats(0.001, 100.0))
@settings(max_examples=30, deadline=None)
def test_noises_cancel_under_any_weights(weights, sigma):
    noises = torch.stack([*cancelling(Noise(bytes(32)), weights, sigma, 2000)])
    left = (torch.tensor(weights).unsqueeze(1) * noises).sum(0)
    assert left.norm() <= 1e-6 * noises.norm()


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.1, 0.2, 0.3, 0.4], [0.45, 0.05, 0.5], [0.5, 0.5]])
def test_the_deviation_and_covariance_of_noises_are_those_of_the_paper(weights):
    noises = torch.stack([*cancelling(Noise(b"k" * 32), weights, 0.7, 100_000)]).double()
    weights_D, count = np.array(weights), len(weights)
    base = 0.7 / min(deviations(weights)[:-1])
    formula = [
        ((count - 1) / count) ** 2
        + sum(weights_D[j] ** 2 for j in range(count) if j != v) / (count * weights_D[v]) ** 2
        for v in range(count)
    ]
    assert noises.std(1).numpy() == pytest.approx(base * np.sqrt(formula), rel=0.02)
    assert min(noises[:-1].std(1)) == pytest.approx(0.7, rel=0.02)
    # Z = A Y of independent Y, straight from the paper.
    map_DD = np.eye(count) - weights_D[None, :] / (count * weights_D[:, None])
    expected = base**2 * map_DD @ map_DD.T
    assert np.cov(noises.numpy()) == pytest.approx(expected, abs=0.02 * expected.max())


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_zip_dl_keeps_the_mean_of_all_models_over_any_graph(data):
    nodes = data.draw(st.integers(3, 9))
    rest = data.draw(st.sets(st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)), max_size=12))
    pairs = [*((node, (node + 1) % nodes) for node in range(nodes)), *((a, b) for a, b in rest if a != b)]
    left, right = np.array(pairs).T
    graph = Graph.undirected(nodes, left, right)
    models = torch.randn(nodes, 500, dtype=torch.float64)
    merged = torch.zeros_like(models)
    for node in range(nodes):
        weights = dict(zip(graph.senders(node), graph.metropolis(node), strict=True))
        weights[node] = 1.0 - sum(weights.values())
        noises = cancelling(Noise(bytes([node]) * 32), [*weights.values()], 1.0, 500)
        for receiver, noise in zip(weights, noises, strict=True):
            merged[receiver] += weights[receiver] * (models[node] + noise.double())
    assert torch.allclose(merged.mean(0), models.mean(0), atol=1e-6)
    assert not torch.allclose(merged, torch.from_numpy(graph.mixing().toarray()) @ models, atol=1e-3)


def test_zip_dl_in_a_run_keeps_the_mean_and_its_messages_add_up_to_the_model(overheard: list[Overheard], tmp_path):
    star = edges(tmp_path, [(0, node) for node in range(1, 12)] + [(1, 2), (2, 3)])
    world, _ = simulate(gossip({"kind": "zip-dl", "sigma": 0.5}, star, task=STILL, rounds=1))
    starts, ended = starts_of(world), models_of(world)
    assert torch.allclose(ended.mean(0), starts.mean(0), atol=1e-5)
    graph = world.program.topology.at(0)
    sent = {(one.sender, one.receivers[0]): one.payload["model"] for one in overheard}
    weights = world.program.graph(0).mixing("given").toarray()
    for node in range(12):
        # The limit of the protection: who has all messages and the node's own copy knows the model.
        own = (ended[node] - sum(weights[node, peer] * sent[peer, node] for peer in graph.senders(node))) / weights[
            node, node
        ]
        whole = weights[node, node] * own + sum(
            weights[node, peer] * sent[node, peer] for peer in graph.receivers(node)
        )
        assert torch.allclose(whole, starts[node], atol=1e-4)
    noises = torch.cat([sent[pair] - starts[pair[0]] for pair in sent])
    assert float(noises.std()) >= 0.5 * 0.97


@pytest.mark.parametrize("kind", ["zip-dl", "muffliato"])
def test_without_noise_it_is_d_psgd_to_the_bit(kind):
    plain, _ = simulate(gossip("full"))
    without, _ = simulate(gossip({"kind": kind, "sigma": 0.0}))
    assert torch.equal(models_of(plain), models_of(without))
    assert [node.bytes_out for node in plain.nodes] == [node.bytes_out for node in without.nodes]


def test_on_a_complete_graph_the_second_step_returns_the_exact_mean():
    world, _ = simulate(gossip({"kind": "zip-dl", "sigma": 3.0, "steps": 2}, "complete", task=STILL, rounds=1))
    mean = starts_of(world).mean(0)
    assert torch.allclose(models_of(world), mean.expand(12, -1), atol=1e-5)
    once, _ = simulate(gossip({"kind": "zip-dl", "sigma": 3.0}, "complete", task=STILL, rounds=1))
    left = (models_of(once) - mean).std()
    assert float(left) == pytest.approx(3.0 / 12**0.5, rel=0.05)  # One step leaves the noise of twelve senders.


# ------------------------------------------------------------------ Muffliato


def test_muffliato_moves_the_mean_by_noise_of_variance_sigma_squared_over_n():
    world, _ = simulate(gossip({"kind": "muffliato", "sigma": 2.0}, "complete", task=STILL, rounds=1))
    drift = models_of(world).mean(0) - starts_of(world).mean(0)
    assert float(drift.var()) == pytest.approx(4.0 / 12, rel=0.2)


@pytest.mark.parametrize("accelerated", [False, True])
def test_muffliato_is_the_recurrence_of_the_paper(accelerated, overheard):
    sharing = {"kind": "muffliato", "sigma": 1.0, "steps": 4, "accelerated": accelerated}
    world, _ = simulate(gossip(sharing, task=STILL, rounds=1))
    first = {one.sender: one.payload["model"] for one in overheard if not one.tag}
    weights = torch.from_numpy(world.program.graph(0).mixing("given").toarray())
    values = np.linalg.eigvalsh(weights.numpy())
    least = 1.0 - values[-2]
    factor = 2 * (1 - (least * (1 - least / 4)) ** 0.5) / (1 - least / 2) ** 2 if accelerated else 1.0
    before = torch.stack([first[node] for node in range(12)]).double()
    now = weights @ before
    for _ in range(3):
        before, now = now, factor * weights @ now + (1 - factor) * before
    assert torch.allclose(models_of(world).double(), now, atol=1e-5)
    assert (factor > 1.0) == accelerated


def test_chebyshev_steps_reach_the_mean_sooner():
    far = {}
    for accelerated in (False, True):
        sharing = {"kind": "muffliato", "sigma": 1.0, "steps": 12, "accelerated": accelerated}
        models = models_of(simulate(gossip(sharing, task=STILL, rounds=1))[0])
        far[accelerated] = float((models - models.mean(0)).norm())
    assert far[True] < 0.3 * far[False]
    ring = Graph.undirected(4, np.array([0, 2]), np.array([1, 3]))
    apart = Graph(4, ring.sources, ring.targets, np.full(4, 0.5))
    with pytest.raises(ConfigurationError, match="needs a connected topology"):
        chebyshev(1.0 - second_eigenvalue(apart.mixing("given")), "the sharing muffliato")


def test_anticorrelated_noise_has_the_deviation_and_takes_back_the_last(overheard):
    sharing = {"kind": "muffliato", "sigma": 0.5, "anticorrelated": True}
    task = {**STILL, "same_start": True, "model": "mlp"}
    simulate(gossip(sharing, "complete", task=task, rounds=2))
    models = {(one.round, one.sender): one.payload["model"].double() for one in overheard}
    mean = torch.stack([models[0, node] for node in range(12)]).mean(0)
    start = simulate(gossip("full", task=task, rounds=1))[0].task.learner.first_model.double()
    first = torch.stack([models[0, node] - start for node in range(12)])
    second = torch.stack([models[1, node] - mean for node in range(12)])
    assert float(first.std()) == pytest.approx(0.5, rel=0.02)
    assert float(second.std()) == pytest.approx(0.5, rel=0.02)
    assert float((first * second).mean()) == pytest.approx(-0.5 * 0.25, rel=0.05)


# ------------------------------------------------------------------ engines, secrets, combinations


def test_noise_is_on_the_trained_numbers_alone_and_buffers_are_averaged(in_folder, monkeypatch):
    (in_folder / "norm_noise.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10))\n"
        "        self[1].weight.requires_grad_(False)\n"
    )
    monkeypatch.syspath_prepend(str(in_folder))
    task = {"model": "norm_noise:Net", "optimizer": {"kind": "sgd", "lr": 0.0}}
    noised, _ = simulate(gossip({"kind": "zip-dl", "sigma": 1.0}, task=task, rounds=1))
    plain, _ = simulate(gossip("full", task=task, rounds=1))
    for piece in plain.task.learner.layout.pieces:
        ours, theirs = (models_of(world)[:, piece.start : piece.stop] for world in (noised, plain))
        assert torch.allclose(ours, theirs, atol=1e-6) == (piece.role != "trained"), piece


def test_keys_are_secret_fresh_where_asked_and_no_two_messages_have_the_same_noise(overheard):
    sharing = {"kind": "zip-dl", "sigma": 1.0}
    task = {**STILL, "same_start": True}

    def sent(**changes):
        overheard.clear()
        simulate(gossip({**sharing, **changes}, task=task, rounds=1))
        return torch.stack([one.payload["model"] for one in overheard])

    seeded = sent()
    assert torch.equal(seeded, sent())
    assert not torch.equal(seeded, sent(seeds="fresh"))
    correlation = torch.corrcoef(seeded)
    assert (correlation - torch.eye(len(seeded)))[correlation < 0.99].abs().max() < 0.75  # -1/2 within a node.
    assert len(torch.unique(seeded, dim=0)) == len(seeded)


def test_every_protecting_run_resumes_to_the_bit():
    sharing = {"kind": "muffliato", "sigma": 0.1, "steps": 2, "anticorrelated": True}
    tables = gossip(sharing, checkpoint={"every": 2}, rounds=5)
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(whole), models_of(resumed))


@pytest.mark.parametrize(
    ("sharing", "program", "said"),
    [
        (
            {"kind": "zip-dl", "sigma": -1.0},
            {},
            "The 'sigma' of the sharing zip-dl must be a number in \\[0, inf\\). Got -1.0",
        ),
        ({"kind": "zip-dl"}, {}, "The 'sigma' of the sharing zip-dl is missing"),
        (
            {"kind": "zip-dl", "sigma": 1.0},
            {"topology": "star", "aggregation": "mean"},
            "must be symmetric. Got those of mean over star instead, 0.08333 from node 1 to 0 and 0.5 back",
        ),
        (
            {"kind": "zip-dl", "sigma": 1.0},
            {"aggregation": "median"},
            "The weights of the sharing zip-dl must be fixed. Got those of median over ring",
        ),
        (
            {"kind": "zip-dl", "sigma": 1.0},
            {"topology": {"kind": "epidemic-local", "degree": 3}},
            "must be symmetric. Got those of mean over epidemic-local",
        ),
        (
            {"kind": "muffliato", "sigma": 1.0, "accelerated": True},
            {
                "topology": {"kind": "redrawn", "topology": "torus", "every": 2},
                "aggregation": "metropolis-hastings",
            },
            "'accelerated' of the sharing muffliato must be false",
        ),
        (
            {"kind": "zip-dl", "sigma": 1.0},
            {"kind": "clique-averaging", "lr": 0.1, "topology": {"kind": "random-cliques", "size": 4}},
            "adds noise to models only, and gradients are sent, too",
        ),
        (
            {"kind": "zip-dl", "sigma": 1.0},
            {"patience": None, "lossy": True},
            "The 'patience' of the program gossip must be given",
        ),
    ],
)
def test_what_would_void_the_noise_is_refused(sharing, program, said):
    program = dict(program)
    lossy = program.pop("lossy", False)
    tables = table(program={"kind": "gossip", "topology": "ring", "sharing": sharing, **program})
    if lossy:
        tables["network"]["loss"] = 0.1
    with pytest.raises(ConfigurationError, match=said):
        check(Experiment.from_table(tables))


def test_isolated_nodes_and_weights_without_an_own_share_are_refused(tmp_path):
    alone = {"kind": "erdos-renyi", "probability": 0.05, "connected": False}
    with pytest.raises(ConfigurationError, match=r"needs a neighbour of every node, and node \d+ has none"):
        check(Experiment.from_table(gossip({"kind": "zip-dl", "sigma": 1.0}, alone)))
    file = tmp_path / "weighted.txt"
    file.write_text("".join(f"{node} {(node + 1) % 12} 0.5\n" for node in range(12)))
    topology = {"kind": "edges", "file": str(file), "directed": False}
    with pytest.raises(ConfigurationError, match=r"above 0 on a node's own model. Got 0 at node 0"):
        check(Experiment.from_table(gossip({"kind": "zip-dl", "sigma": 1.0}, topology)))
    check(Experiment.from_table(gossip({"kind": "muffliato", "sigma": 1.0}, topology)))


def test_a_node_that_meets_no_other_in_a_round_sends_nothing():
    program = {"kind": "gossip", "topology": "random-matching", "sharing": {"kind": "zip-dl", "sigma": 0.5}}
    world, _ = simulate(table(program=program, network={"nodes": 5}, rounds=3, task=STILL, evaluation={"every": 0}))
    assert torch.allclose(models_of(world).mean(0), starts_of(world).mean(0), atol=1e-5)
    assert sum(node.mail.messages_in for node in world.nodes) == 3 * 4


def test_patience_without_losses_is_allowed_with_a_warning():
    program = {"kind": "gossip", "topology": "ring", "patience": "1s", "sharing": {"kind": "zip-dl", "sigma": 0.6}}
    with pytest.warns(ConfigurationWarning, match="cancels only if .* has a 'patience'"):
        check(Experiment.from_table(table(program=program, rounds=2, task=STILL)))


def test_losses_are_allowed_with_a_warning_that_states_the_drift():
    program = {"kind": "gossip", "topology": "ring", "patience": "1s", "sharing": {"kind": "zip-dl", "sigma": 0.6}}
    tables = table(program=program, network={"loss": 0.2}, rounds=2, task=STILL, evaluation={"every": 0})
    with pytest.warns(
        ConfigurationWarning, match=r"moves the mean of all models\s+by noise of standard deviation 0\.017"
    ):
        check(Experiment.from_table(tables))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)
        world, _ = simulate(tables)
    assert torch.isfinite(models_of(world)).all()


@pytest.mark.parametrize("sharing", [{"kind": "zip-dl", "sigma": 0.3, "steps": 2, "seeds": "seeded"}])
def test_both_engines_end_with_the_same_models(sharing, tmp_path):
    tables = gossip(sharing, rounds=3, network={"nodes": 4, "latency": 0.0, "bandwidth": None})
    simulated = covey.run(tables, out=tmp_path / "simulated", quiet=True)
    tables["engine"] = {"kind": "emulation", "nodes_per_process": 2}
    emulated = covey.run(tables, out=tmp_path / "emulated", quiet=True)
    assert np.allclose(emulated.models, simulated.models, atol=1e-5)
    tables["program"]["sharing"] = {**sharing, "seeds": None}
    assert prepare(Experiment.from_table(tables)).program.sharing._fresh


def test_attacks_see_the_models_of_every_averaging_step(tmp_path):
    sharing = {"kind": "muffliato", "sigma": 0.1, "steps": 3}
    run = covey.run(gossip(sharing, rounds=2, observer={"nodes": [0]}), out=tmp_path / "run", quiet=True)
    known = read_knowledge(run)
    assert sorted((view.senders[0], view.round) for view in known.views) == sorted(
        [(1, 0), (11, 0), (1, 1), (11, 1)] * 3
    )
    assert not known.rejected
    known.prepared.task.close()
