"""The baselines of federated learning: the papers' lines, their limits, and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.federated.fedavg import FedAvg
from covey.learning.mixture import Mixture
from covey.parts.errors import ConfigurationError, CoveyError
from covey.parts.nodes import NodeId
from covey.parts.parameters import param
from covey.runtime.prepared import prepare
from tests.conftest import begun, models_of, simulate, table
from tests.examples import BLOBS, NODES, Recorded
from tests.hosts import emulate
from tests.test_views import watched
from tests.untrained import MIXED, tensors

CLIENTS = NODES - 1
UNEVEN = {**BLOBS, "partition": {"kind": "quantity", "alpha": 5.0}, "batch_size": 8}


def federated(kind="fedavg", *, task=UNEVEN, rounds=4, network=None, **program):
    """The tables of a small federation whose clients hold different numbers of samples."""
    made = {"kind": kind, **program} if isinstance(kind, str) else kind
    return table(task=task, program=made, rounds=rounds, network=network or {})


def optimizer(**changes):
    return {**UNEVEN, "optimizer": {"kind": "sgd", "lr": 0.3, **changes}}


def server(tables):
    return simulate(tables)[0].nodes[0].model


def by_round(overheard):
    """(the server's message, the clients' messages by sender) of each round."""
    for t in range(1 + max(message.round for message in overheard)):
        (order,) = [m.payload for m in overheard if (m.tag, m.round) == ("model", t)]
        yield order, {m.sender: m.payload for m in overheard if (m.tag, m.round) == ("update", t)}


# ---------------------------------------------------------------------- FedNova


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.5)])
def test_fednova_is_the_papers(momentum, mu, overheard):
    work = {"epochs": 2, "proximal_mu": mu}
    x = server(federated("fednova", task=optimizer(momentum=momentum), work=work)).double().numpy()
    played = list(by_round(overheard))
    steps = {sender: 2 * -(-answer["samples"] // 8) for sender, answer in played[0][1].items()}
    assert len({*steps.values()}) > 1
    for t, (order, answers) in enumerate(played):
        start, weights = order["model"].double().numpy(), {}
        for sender, k in steps.items():
            a = c = 0.0
            for _ in range(k):
                c = momentum * c + 1.0
                a = (1 - 0.3 * mu) * a + 1.0 if mu else a + c
            weights[sender] = a
            assert answers[sender]["normaliser"] == pytest.approx(a)
        p = {sender: answer["samples"] for sender, answer in answers.items()}
        p = {sender: n / sum(p.values()) for sender, n in p.items()}
        tau = sum(p[i] * (steps[i] if mu else weights[i]) for i in p)
        mean = sum(p[i] * (answers[i]["model"].double().numpy() - start) / weights[i] for i in p)
        after = played[t + 1][0]["model"].double().numpy() if t + 1 < len(played) else x
        assert np.allclose(after, start + tau * mean, atol=3e-6)


# ---------------------------------------------------------------------- SCAFFOLD


def by_hand(world, option, rounds, steps, chosen, eta):
    """SCAFFOLD in float64 on full batches of logistic regression, with the data of a world: x, c and all c_i."""
    learner, split = world.task.learner, world.task.learner.data.train
    module = learner._make(0)
    shapes = [p.shape for p in module.parameters()]

    def gradient(y, client):
        own = torch.from_numpy(learner.parts.of(client - 1))
        leaf = y.clone().requires_grad_()
        weight, bias = (p.view(s) for p, s in zip(leaf.split([s.numel() for s in shapes]), shapes, strict=True))
        loss = torch.nn.functional.cross_entropy(split.inputs[own].double() @ weight.T + bias, split.targets[own])
        (found,) = torch.autograd.grad(loss, leaf)
        return found

    x = learner.first_model.double()
    c, own = torch.zeros_like(x), torch.zeros(CLIENTS + 1, len(x), dtype=torch.float64)
    for t in range(rounds):
        moves, changes = [], []
        for i in chosen(t):
            y = x.clone()
            for _ in range(steps):
                y -= 0.3 * (gradient(y, i) - own[i] + c)
            new = gradient(x, i) if option == 1 else own[i] - c + (x - y) / (steps * 0.3)
            moves.append(y - x)
            changes.append(new - own[i])
            own[i] = new
        x = x + eta * torch.stack(moves).mean(0)
        c = c + len(moves) / CLIENTS * torch.stack(changes).mean(0)
    return x, c, own[1:]


@pytest.mark.parametrize("option", [1, 2])
@pytest.mark.parametrize("count", [CLIENTS, 4])
def test_scaffold_is_the_papers(option, count):
    whole = {**UNEVEN, "batch_size": 1000}
    tables = federated(
        "scaffold", task=whole, clients=count, option=option, work={"steps": 3}, server_optimizer=0.7, rounds=5
    )
    world, _ = simulate(tables)
    x, c, own = by_hand(world, option, 5, 3, world.program.clients.chosen, 0.7)
    assert torch.allclose(world.nodes[0].model.double(), x, atol=1e-5)
    assert torch.allclose(world.nodes[0].state["control"].double(), c, atol=1e-5)
    kept = [node.state.get("control", torch.zeros(len(x))) for node in world.nodes[1:]]
    assert torch.allclose(torch.stack(kept).double(), own, atol=1e-5)
    if count == CLIENTS:
        assert torch.allclose(c, own.mean(0), atol=1e-10)
    assert c.abs().max() > 1e-2


DROPS = {
    "over-selection": {"clients": {"kind": "over-selection", "count": 2, "factor": 2}},
    "deadline": {"clients": 4, "patience": "300ms"},
    "losses": {"clients": 4, "patience": "2s"},
}


@pytest.mark.parametrize("how", DROPS)
def test_the_control_of_scaffold_is_the_mean_of_those_that_counted(how):
    network = {"compute": {"kind": "log-normal", "median": 60, "sigma": 1.0}, "loss": 0.2 if how == "losses" else 0.0}
    world, _ = simulate(federated("scaffold", task=UNEVEN, network=network, rounds=12, **DROPS[how]))
    server = world.nodes[0].state
    own, dropped = torch.zeros(CLIENTS, len(world.nodes[0].model), dtype=torch.float64), 0
    for i, node in enumerate(world.nodes[1:]):
        counts = node.state.get("trained", -1) == server["counted"][node.id]
        dropped += not counts
        found = node.state.get("control" if counts else "before")
        own[i] = 0.0 if found is None else found.double()
    assert dropped
    assert torch.allclose(server["control"].double(), own.mean(0), atol=1e-5)
    assert own.abs().max() > 1e-2


def test_scaffold_doubles_the_traffic(overheard):
    world, _ = simulate(federated("scaffold", rounds=2))
    plain, _ = simulate(federated(rounds=2))
    ratio = sum(node.bytes_out for node in world.nodes) / sum(node.bytes_out for node in plain.nodes)
    assert 1.7 < ratio < 2.1


@pytest.mark.parametrize("wrong", [{"momentum": 0.9}, {"kind": "adam", "lr": 0.01}])
def test_scaffold_refuses_optimizers_with_a_state(wrong):
    line = (
        "The program scaffold divides changes by their steps, so the task's 'optimizer' must be 'sgd' without momentum."
    )
    with pytest.raises(ConfigurationError) as caught:
        begun(federated("scaffold", task=optimizer(**wrong)))
    assert str(caught.value) == line


def test_fednova_refuses_optimizers_that_do_not_add_gradients():
    with pytest.raises(ConfigurationError, match="'optimizer' must add gradients"):
        begun(federated("fednova", task=optimizer(kind="adam", lr=0.01)))
    begun(federated("fednova", task=optimizer(momentum=0.9)))


def test_scaffold_sends_no_gradient_that_ldp_does_not_protect():
    ldp = {"ldp": {"clip": 1.0, "noise": 1.0}}
    with pytest.raises(ConfigurationError, match="The 'option' of the program scaffold must be 2 in a task with 'ldp'"):
        begun(federated("scaffold", task=ldp, option=1))
    begun(federated("scaffold", task=ldp, option=2))


def test_scaffold_refuses_a_work_that_cannot_correct_gradients():
    with pytest.raises(ConfigurationError, match="The 'work' of the program scaffold must take a 'correction'"):
        begun(federated("scaffold", work="tests.test_fedavg:Doubled"))


@pytest.mark.parametrize("kind", ["fednova", "scaffold"])
def test_servers_see_models_and_controls(kind, monkeypatch):
    world, views, _ = watched(monkeypatch, program={"kind": kind, "up": {"kind": "top-k", "budget": 0.4}}, rounds=3)
    seen = [view for view in views if view.receiver == 0]
    gradients = [view for view in seen if view.gradient]
    assert len(seen) - len(gradients) == 3 * CLIENTS
    if kind == "fednova":
        assert not gradients
        return
    for view in gradients:
        if view.round == 2:
            assert torch.allclose(view.values, world.nodes[view.senders[0]].state["control"], atol=1e-6)
    assert len(gradients) == 3 * CLIENTS


# ---------------------------------------------------------------------- limits, over random configurations

SMALL = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "count": st.integers(2, CLIENTS),
        "steps": st.integers(1, 3),
        "lr": st.sampled_from([0.05, 0.3]),
        "aggregation": st.sampled_from(["given", "mean", "median"]),
        "momentum": st.sampled_from([0.0, 0.9]),
        "partition": st.sampled_from(["iid", {"kind": "quantity", "alpha": 2.0}]),
    }
)


def drawn(config, kind="fedavg", rounds=2, **program):
    """The tables of a drawn configuration."""
    rule = {"kind": "sgd", "lr": config["lr"], "momentum": config["momentum"]}
    task = {**BLOBS, "partition": config["partition"], "batch_size": 8, "optimizer": rule}
    parts = {"clients": config["count"], "aggregation": config["aggregation"], "work": {"steps": config["steps"]}}
    tables = federated(kind, task=task, rounds=rounds, **{**parts, **program})
    return {**tables, "seed": config["seed"], "evaluation": {"every": 0}}


@given(config=SMALL)
@settings(max_examples=6, deadline=None)
def test_relatives_are_fedavg_to_the_bit_where_they_must(config):
    plain = server(drawn(config))
    for kind, parts in {
        "fednova": {},
        "fedavg": {
            "work": {"steps": config["steps"], "proximal_mu": 0.0},
            "server_optimizer": {"kind": "sgd", "eta": 1},
        },
    }.items():
        assert torch.equal(server(drawn(config, kind, **parts)), plain)
    halved = {"server_optimizer": {"kind": "sgd", "eta": 0.5}}
    momentum = {"server_optimizer": {"kind": "momentum", "eta": 0.5, "beta": 0.0}}
    assert torch.equal(server(drawn(config, **halved)), server(drawn(config, "fednova", **momentum)))


@given(config=SMALL, kind=st.sampled_from(["fedavg", "fednova", "scaffold", "fedsgd"]), adaptive=st.booleans())
@settings(max_examples=6, deadline=None)
def test_nothing_moves_without_a_learning_rate(config, kind, adaptive):
    still = {**config, "lr": 0.0, "momentum": 0.0}
    parts = {"server_optimizer": "yogi"} if adaptive else {}
    world, _ = simulate(drawn(still, kind, **parts))
    first = world.task.learner.first_model
    assert torch.allclose(world.nodes[0].model, first, atol=1e-6 if adaptive else 1e-7)


@given(seed=st.integers(0, 2**31), count=st.integers(101, 250), spread=st.sampled_from([1.0, 1e4]))
@settings(max_examples=15, deadline=None)
def test_sums_over_many_clients_do_not_depend_on_their_order(seed, count, spread):
    draw = torch.Generator().manual_seed(seed)
    models = torch.randn(count, 40, generator=draw) * spread
    weights = torch.rand(count, generator=draw, dtype=torch.float64)
    weights /= weights.sum()
    order = torch.randperm(count, generator=draw)
    one, other = (Mixture([*models[some]], weights[some].tolist()).tensor() for some in (torch.arange(count), order))
    exact = (weights @ models.double()).float()
    assert torch.allclose(one, other, rtol=2e-7, atol=1e-12)
    assert torch.allclose(one, exact, rtol=2e-7, atol=1e-12)


def test_sums_do_not_depend_on_workers():
    tables = federated("fednova", network={"nodes": 121}, rounds=2, task={**BLOBS, "batch_size": 8})
    one, two = (server({**tables, "engine": {"kind": "simulation", "workers": count}}) for count in (1, 3))
    assert torch.equal(one, two)


# ---------------------------------------------------------------------- server optimisers


@pytest.mark.parametrize("kind", ["adam", "yogi"])
def test_moments_may_be_corrected_and_begin_with_zero(kind, overheard):
    rule = {"kind": kind, "eta": 0.05, "v_0": "zero", "bias_correction": True}
    end = server(federated(server_optimizer=rule)).double().numpy()
    played = list(by_round(overheard))
    x = played[0][0]["model"].double().numpy()
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, (order, answers) in enumerate(played, 1):
        origin = order["model"].double().numpy()
        assert np.allclose(origin, x, atol=1e-5)
        total = sum(answer["samples"] for answer in answers.values())
        d = sum(a["samples"] / total * (a["model"].double().numpy() - origin) for a in answers.values())
        m = 0.9 * m + 0.1 * d
        v = 0.99 * v + 0.01 * d**2 if kind == "adam" else v - 0.01 * d**2 * np.sign(v - d**2)
        x = x + 0.05 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3)
    assert np.allclose(end, x, atol=1e-5)


# ---------------------------------------------------------------------- deadlines and over-selection

SLOW = {"compute": {"kind": "log-normal", "median": 500, "sigma": 1.0}}


def test_over_selection_keeps_the_first_answers(overheard):
    clients = {"kind": "over-selection", "count": 6}
    world, _ = simulate(federated(clients=clients, rounds=1, network=SLOW, aggregation="mean"))
    ((_, answers),) = by_round(overheard)
    assert len(world.program.clients.chosen(0)) == 8
    arrived = sorted((m.time, m.sender) for m in overheard if m.tag == "update")[:6]
    expected = torch.stack([answers[sender]["model"] for _, sender in arrived]).double().mean(0)
    assert torch.allclose(world.nodes[0].model.double(), expected, atol=1e-6)


def test_over_selection_needs_the_number_of_clients_that_count():
    with pytest.raises(
        ConfigurationError, match="The 'count' or the 'fraction' of the client-selection over-selection"
    ):
        begun(federated(clients="over-selection"))


def test_the_clients_of_few_rounds_are_remembered_and_drawn_again_the_same():
    chosen = begun(federated(clients=2)).program.clients
    first = [chosen.chosen(t) for t in range(200)]
    assert len(chosen._chosen) <= 64
    assert [chosen.chosen(t) for t in range(200)] == first


@pytest.mark.parametrize("parts", [{"patience": "60ms"}, {"clients": {"kind": "over-selection", "count": 8}}])
def test_late_answers_are_discarded_and_enter_no_later_round(parts, overheard):
    world, _ = simulate(federated(rounds=3, network=SLOW, aggregation="mean", **parts))
    played = list(by_round(overheard))
    at = {m.round: m.time for m in overheard if m.tag == "model"}
    late = [m for m in overheard if m.tag == "update" and m.time > at.get(m.round + 1, np.inf)]
    assert late
    assert world.nodes[0].mail.drops["late"] + world.nodes[0].mail.drops["ended"] + world.nodes[0].mail.drops["unread"]
    for t in (0, 1):
        answers = sorted((m.time, m.payload["model"]) for m in overheard if (m.tag, m.round) == ("update", t))
        counted = [model.double() for time, model in answers if time < at[t + 1] - 0.00505]
        assert 2 < len(counted) < CLIENTS
        assert torch.allclose(played[t + 1][0]["model"].double(), torch.stack(counted).mean(0), atol=1e-6)


def test_a_fraction_of_the_clients_is_chosen():
    world = begun(federated(clients={"kind": "uniform", "fraction": 0.3}))
    assert len(world.program.clients.chosen(0)) == 3
    with pytest.raises(ConfigurationError, match="The 'fraction' of the client-selection uniform replaces 'count'"):
        begun(federated(clients={"kind": "uniform", "fraction": 0.3, "count": 2}))


# ---------------------------------------------------------------------- what clients keep


def test_clients_of_fedbn_keep_their_statistics_and_tensors(overheard):
    task = {**MIXED, "same_start": True}
    tables = federated(task=task, share=["body*", "head*"], average_buffers=False, rounds=3)
    world, written = simulate(tables)
    kept, shared = tensors(world, "norm"), tensors(world, "body")
    assert {m.payload["model"].numel() for m in overheard if "model" in m.payload} == {54 + 28}
    assert torch.equal(shared[1:], shared[1:2].expand(CLIENTS, -1))
    assert len({tuple(row.tolist()) for row in kept[1:]}) == CLIENTS
    assert {node for node, *_ in written.figures if node >= 0} == set(range(1, NODES))


# ---------------------------------------------------------------------- without communication


def test_local_and_centralised_training_are_sgd_on_other_data():
    task = {**BLOBS, "batch_size": 1000, "local_steps": 2}
    alone, _ = simulate(federated("local", task=task, rounds=2))
    once, _ = simulate(federated("fedavg", task=task, rounds=1))
    assert not any(node.bytes_out for node in alone.nodes)
    first, _ = simulate(federated("local", task=task, rounds=1))
    mean = models_of(first)[1:].double()
    samples = torch.tensor([node.data.samples for node in first.nodes[1:]], dtype=torch.float64)
    assert torch.allclose(once.nodes[0].model.double(), samples / samples.sum() @ mean, atol=1e-6)
    central, _ = simulate(federated("centralised", task=task, rounds=2))
    union, _ = simulate(
        table(task=task, program={"kind": "gossip", "topology": "complete"}, network={"nodes": 1}, rounds=2)
    )
    assert torch.allclose(central.nodes[0].model, union.nodes[0].model, atol=1e-6)


@pytest.mark.parametrize("kind", ["fednova", "scaffold"])
def test_both_engines_agree(kind, tmp_path):
    network = {"latency": "1ms", "bandwidth": "100Mbit/s", "compute": 20_000.0}
    tables = federated(kind, network=network, server_optimizer={"kind": "momentum", "beta": 0.5})
    world, _ = simulate(tables)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(world), atol=1e-5)


@pytest.mark.parametrize("old", [{"work": {"proximal": 0.1}}, {"work": {"lr": 0.1}}, {"server_optimizer": {"lr": 1.0}}])
def test_old_names_are_refused_with_the_known_ones(old):
    with pytest.raises(CoveyError, match=r"Unknown key '(proximal|lr)' of the .*(proximal_mu|eta_l|eta)"):
        prepare(begun(federated(**old)).prepared.experiment)


# ---------------------------------------------------------------------- what a client's answer may be


class Diverged(FedAvg):
    """Client 3 answers with numbers that are not finite, or for a round that is over."""

    kind = "fedavg"
    late: int = param("The rounds by which its answers are late.", default=0)

    async def take_part(self, node):
        if node.id != 3:
            await super().take_part(node)
            return
        async for t in node.rounds():
            await node.receive(tag="model", round=t, senders=[NodeId(0)])
            answer = {"model": torch.full_like(node.model, 1e6 if self.late else np.nan), "samples": 1 << 40}
            if t >= self.late:
                node.send(NodeId(0), answer, tag="update", round=t - self.late)


@pytest.mark.parametrize("late", [0, 1])
def test_an_answer_that_is_not_finite_or_for_another_round_never_touches_the_model(late):
    world, written = simulate(federated(Diverged(patience="1s", late=late), rounds=3))
    assert world.nodes[0].model.abs().max() < 10
    if late:
        assert world.nodes[0].mail.drops["late"] == 2
    else:
        details = [detail for _, node, kind, detail in written.happened if (node, kind) == (3, "rejected")]
        assert details == ["'model' in its message 'update' is not finite"] * 3


# ---------------------------------------------------------------------- the requests that baselines are made of


@given(
    model=st.sampled_from(["logistic", "mlp"]),
    rule=st.sampled_from([{"kind": "sgd", "lr": 0.3, "momentum": 0.9}, {"kind": "adam"}]),
    batch_size=st.integers(1, 30),
)
@settings(max_examples=4, deadline=None)
def test_training_on_the_own_samples_is_training_and_judging_is_evaluating_to_the_bit(model, rule, batch_size):
    judged = []

    class Asks(Recorded):
        given: bool = param("Whether the samples are given.", default=False)

        async def run(self, node):
            async for _ in node.rounds():
                own = {"on": node.samples("train")} if self.given else {}
                node.model = (await node.train(**own)).model
            outputs = await node.predict(on=node.samples("test"))
            judged.append((node.judge(outputs), await node.evaluate(split="test")))

    task = {**BLOBS, "model": model, "optimizer": rule, "batch_size": batch_size, "local_steps": 3}
    plain, given = (simulate(table(task=task, program=Asks(given=own), rounds=2))[0] for own in (False, True))
    assert torch.equal(models_of(plain), models_of(given))
    assert all(one == other for one, other in judged)
