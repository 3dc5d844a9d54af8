"""The parts of fedavg: server optimisers against the paper's lines, aggregations, client work, and all of them together."""

import numpy as np
import pytest
import torch

from covey.aggregation.aggregation import Aggregation
from covey.federated.client_selection import ClientSelection
from covey.federated.client_work import ClientWork
from covey.federated.server_optimizers import ServerOptimizer
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from tests.conftest import begun, models_of, simulate, table
from tests.examples import BLOBS
from tests.hosts import emulate

UNEVEN = {**BLOBS, "partition": {"kind": "quantity", "alpha": 5.0}}
MIXED_UP = {
    "clients": 7,
    "work": {"proximal_mu": 0.1, "epochs": 1},
    "aggregation": "median",
    "server_optimizer": {"kind": "yogi", "eta": 0.05},
}
"""FedProx, with the median of seven clients and FedYogi."""
TERNARY = {"kind": "ternary", "budget": 0.2}


def federated(**parts):
    """The tables of a small federation whose clients hold different numbers of samples."""
    changes = {name: parts.pop(name) for name in ("rounds", "network", "checkpoint") if name in parts}
    return table(**{"task": UNEVEN, "program": {"kind": "fedavg", **parts}, "rounds": 4, **changes})


def rounds_of(overheard):
    """(what the server sent, [(samples, what a client answered)]) of each round, in float64."""
    for t in range(1 + max(message.round for message in overheard)):
        (origin,) = [m.payload["model"] for m in overheard if (m.tag, m.round) == ("model", t)]
        answers = [m for m in overheard if (m.tag, m.round) == ("update", t)]
        yield (
            origin.double().numpy(),
            [(m.payload["samples"], m.payload["model"].double().numpy()) for m in answers],
        )


# ---------------------------------------------------------------------- server optimisers


def fedavgm(x, delta, m, v, lr=1.0, beta=0.9):
    m = beta * m + delta
    return x + lr * m, m, v


def fedopt(second, lr, beta_1, tau=1e-3):
    """Algorithm 2 of "Adaptive Federated Optimization" (Reddi et al., 2021)."""

    def step(x, delta, m, v):
        m = beta_1 * m + (1 - beta_1) * delta
        v = second(v, delta**2)
        return x + lr * m / (np.sqrt(v) + tau), m, v

    return step


ORACLES = {
    "sgd": (lambda x, delta, m, v: (x + delta, m, v), {}, 0.0),
    "sgd, slow": (lambda x, delta, m, v: (x + 0.3 * delta, m, v), {"eta": 0.3}, 0.0),
    "momentum": (fedavgm, {}, 0.0),
    "adagrad": (fedopt(lambda v, square: v + square, 0.1, 0.0), {}, 1e-6),
    "adam": (fedopt(lambda v, square: 0.99 * v + 0.01 * square, 0.1, 0.9), {}, 1e-6),
    "yogi": (fedopt(lambda v, square: v - 0.01 * square * np.sign(v - square), 0.01, 0.9), {}, 1e-6),
    "yogi, adaptive": (
        fedopt(lambda v, square: v - 0.2 * square * np.sign(v - square), 0.02, 0.5, 1e-2),
        {"eta": 0.02, "beta_1": 0.5, "beta_2": 0.8, "tau": 1e-2},
        1e-4,
    ),
}
"""One step of the server, the optimiser's parameters where they are not its defaults, and v before the first step."""


@pytest.mark.parametrize("name", ORACLES)
def test_the_server_moves_as_the_paper_has_it(name, overheard):
    step, parameters, before = ORACLES[name]
    world, _ = simulate(federated(server_optimizer={"kind": name.partition(",")[0], **parameters}))
    played = list(rounds_of(overheard))
    assert len({samples for samples, _ in played[0][1]}) > 1
    x = played[0][0]
    m, v = np.zeros_like(x), np.full_like(x, before)
    for origin, answers in played:
        assert np.allclose(origin, x, atol=2e-6)
        total = sum(samples for samples, _ in answers)
        delta = sum(samples / total * (model - origin) for samples, model in answers)
        x, m, v = step(origin, delta, m, v)
    assert np.allclose(world.nodes[0].model.numpy(), x, atol=2e-6)
    assert np.abs(x - played[0][0]).max() > 1e-3


def test_momentum_without_any_is_sgd():
    plain, _ = simulate(federated(server_optimizer=0.5))
    ours, _ = simulate(federated(server_optimizer={"kind": "momentum", "eta": 0.5, "beta": 0.0}))
    assert torch.equal(models_of(plain), models_of(ours))


# ---------------------------------------------------------------------- aggregations, selections, work


@pytest.mark.parametrize("clients", [1, 4, 7])
@pytest.mark.parametrize(("aggregation", "merged"), [("mean", np.mean), ("median", np.median)])
def test_the_server_itself_has_no_voice(clients, aggregation, merged, overheard):
    world, _ = simulate(federated(clients=clients, aggregation=aggregation, rounds=1))
    ((_, answers),) = rounds_of(overheard)
    assert len(answers) == clients
    expected = merged(np.stack([model for _, model in answers]), axis=0)
    assert np.allclose(world.nodes[0].model.numpy(), expected, atol=1e-6)


def test_the_median_of_compressed_changes_is_the_median_of_what_was_sent(overheard):
    parts = {"aggregation": "median", "server_optimizer": {"kind": "adam"}}
    exact, _ = simulate(federated(up={"kind": "top-k", "budget": 1.0}, **parts))
    plain, _ = simulate(federated(**parts))
    assert torch.allclose(models_of(exact)[0], models_of(plain)[0], atol=1e-5)


def test_what_the_way_down_lost_is_kept_where_clients_answer_whole_models(overheard):
    _, written = simulate(federated(down=TERNARY, aggregation="mean", rounds=3, checkpoint={"every": 1}))
    copies = [payload["state/0/down.copy"].double().numpy() for _, payload in written.checkpoints]
    models = [payload["models"][0].double().numpy() for _, payload in written.checkpoints]
    answers = [m.payload["model"].double().numpy() for m in overheard if (m.tag, m.round) == ("update", 1)]
    assert np.abs(copies[1] - models[0]).max() > 1e-3
    assert np.allclose(models[1], models[0] + np.mean(answers, axis=0) - copies[1], atol=1e-6)


class FirstThree(ClientSelection):
    """The same clients in every round."""

    def chosen(self, t):
        return [NodeId(client) for client in (1, 2, 3)]


class Doubled(ClientWork):
    """Trains twice as many steps in every second round."""

    async def train(self, node, model, t):
        return await node.train(model, steps=1 + t % 2)


class Half(ServerOptimizer):
    """Goes half the way."""

    def step(self, change, node):
        return 0.5 * change


class Largest(Aggregation):
    """The largest of each number."""

    def merge(self, node, graph, own, contributions):
        return torch.stack([own, *(arrived.values for arrived in contributions)]).amax(0)


def test_parts_of_ones_own_stand_in_every_index(overheard):
    here = "tests.test_fedavg"
    parts = {"clients": "FirstThree", "work": "Doubled", "server_optimizer": "Half", "aggregation": "Largest"}
    world, _ = simulate(federated(**{name: f"{here}:{part}" for name, part in parts.items()}, rounds=2))
    assert [node.steps for node in world.nodes[:6]] == [0, 3, 3, 3, 0, 0]
    x = None
    for origin, answers in rounds_of(overheard):
        assert x is None or np.allclose(origin, x, atol=1e-6)
        x = origin + 0.5 * (np.max([model for _, model in answers], axis=0) - origin)
    assert np.allclose(world.nodes[0].model.numpy(), x, atol=1e-6)


# ---------------------------------------------------------------------- all together


def test_fedprox_with_median_and_fedyogi_learns_the_same_in_both_engines(tmp_path):
    tables = federated(**MIXED_UP, network={"latency": "1ms", "bandwidth": "100Mbit/s", "compute": 20_000.0})
    world, _ = simulate(tables)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)
    learner = world.task.learner
    before, after = learner.evaluate([learner.first_model, world.nodes[0].model], learner.split("test"))
    assert after["loss"] < 0.8 * before["loss"]


@pytest.mark.parametrize(
    "ways", [{}, {"up": TERNARY, "down": TERNARY}, {"down": "int8"}], ids=["whole", "both", "down"]
)
@pytest.mark.parametrize("optimizer", ["momentum", "adagrad", "yogi"])
def test_a_resumed_run_is_the_same_to_the_bit(ways, optimizer):
    tables = federated(**{**MIXED_UP, **ways, "server_optimizer": optimizer}, rounds=7, checkpoint={"every": 3})
    whole, written = simulate(tables)
    assert [round for round, _ in written.checkpoints] == [3, 6]
    for _, payload in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert torch.equal(models_of(resumed), models_of(whole))
        assert torch.equal(
            resumed.nodes[0].state["server_optimizer.first"], whole.nodes[0].state["server_optimizer.first"]
        )


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        (
            {"aggregation": "metropolis-hastings"},
            "The aggregation metropolis-hastings needs an undirected graph, but that of clients and their server is "
            "directed. Use aggregation 'mean'.",
        ),
        (
            {"clients": 12},
            "The 'count' of the client-selection uniform must be an int in [1, nodes). Got 12 instead (nodes is 12).",
        ),
        (
            {"work": {"steps": 2, "epochs": 3}},
            "The 'epochs' of the client-work local replace 'steps'. Got both, 3 and 2.",
        ),
        (
            {"server_optimizer": -1.0},
            "The 'eta' of the server-optimizer sgd must be a number in (0, inf). Got -1.0 instead.",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_line(parts, line):
    with pytest.raises(ConfigurationError) as caught:
        begun(federated(**parts))
    assert str(caught.value) == line


def test_a_client_keeps_the_model_that_the_server_sent_last():
    short, long = (models_of(simulate(federated(rounds=rounds))[0]) for rounds in (3, 4))
    assert all(torch.equal(model, short[0]) for model in long[1:])
    assert not torch.equal(long[0], short[0])
