"""Learning: plain SGD, averaging and the limit cases of the programs."""

import numpy as np
import pytest
import torch

from covey.learning.mixing import mix
from covey.learning.mixture import Mixture
from tests.conftest import models_of, simulate, table
from tests.examples import PROGRAMS, SLOW, Recorded, run_program


def test_one_node_alone_trains_as_plain_sgd_does():
    tables = table(
        network={"nodes": 1, "latency": 0.0, "bandwidth": None},
        program={"kind": "gossip", "topology": "complete"},
        task={"batch_size": 2000, "local_steps": 2},
        rounds=3,
    )
    world, _ = simulate(tables)
    learner = world.task.learner
    module = learner._make(0)
    data = learner.data.train
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for _ in range(6):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(data.inputs.float() / 16), data.targets).backward()
        optimizer.step()
    assert torch.allclose(world.nodes[0].model, learner.layout.flatten(module), atol=1e-5)


def test_full_gradients_are_those_of_torch():
    class Differentiates(Recorded):
        async def run(self, node):
            gradient = await node.gradient(full=True)
            self.seen.append(gradient)
            metrics = await node.evaluate(split="train")
            assert metrics["loss"] == pytest.approx(gradient.loss, abs=1e-5)

    world, _, seen = run_program(Differentiates(), network={"nodes": 1})
    data, module = world.task.learner.data.train, world.task.learner._make(0)
    loss = torch.nn.functional.cross_entropy(module(data.inputs.float() / 16), data.targets)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
    assert torch.allclose(seen[0].vector, expected, atol=1e-6)
    assert seen[0].samples == len(data)


def test_what_is_sent_is_what_the_tensor_held():
    """Engines share memory, so a sent tensor is never written; training and mixing make new ones."""

    class Keeps(Recorded):
        async def run(self, node):
            before = node.model
            copy = before.clone()
            update = await node.train()
            assert torch.equal(before, copy)
            assert torch.equal(update.start, copy)
            assert torch.allclose(update.delta, update.model - copy)
            node.model = Mixture([before, update.model], [0.25, 0.75])
            assert torch.allclose(node.model, 0.25 * copy + 0.75 * update.model, atol=1e-6)
            self.seen.append(torch.equal(before, copy))

    _, _, seen = run_program(Keeps(), network={"nodes": 2})
    assert seen == [True, True]


def test_a_mixture_that_waits_twice_is_computed_once():
    """A node that takes a mixture as its model and trains from it, too, must not have two threads compute it."""

    class Counted(Mixture):
        __slots__ = ()
        begun = 0

        def tensor(self):
            Counted.begun += 1
            return super().tensor()

    learner = simulate(table(rounds=1))[0].task.learner
    waiting = [Counted([learner.first_model], [float(k)]) for k in (2, 3)]
    mix([*waiting, *waiting], learner)
    assert Counted.begun == 2
    assert all(torch.equal(one.value, k * learner.first_model) for k, one in zip((2.0, 3.0), waiting, strict=True))


def test_sums_of_many_models_are_in_float64_also_if_they_are_computed_together():
    world, _ = simulate(table(rounds=1))
    learner, size = world.task.learner, world.task.learner.layout.size
    models = [*torch.randn(300, size, generator=torch.Generator().manual_seed(1)).mul(1e3)]
    weights = np.random.default_rng(1).dirichlet(np.ones(300)).tolist()
    exact = (torch.stack(models).double() * torch.tensor(weights, dtype=torch.float64)[:, None]).sum(0).float()

    short = [Mixture(models[:90], weights[:90]), Mixture(models[1:80], weights[1:80])]
    long = [Mixture(models, weights), Mixture(models[::-1], weights[::-1])]
    alone = [Mixture(one.models, one.weights).tensor() for one in (*short, *long)]
    mix([*long, *short], learner)
    assert torch.equal(long[0].value, alone[2])
    assert torch.equal(long[1].value, alone[3])
    assert torch.allclose(long[0].value, exact, rtol=1e-6, atol=0)
    assert all(torch.allclose(one.value, by, atol=1e-4) for one, by in zip((*short, *long), alone, strict=True))


def test_averaging_over_the_complete_graph_makes_all_models_one():
    world, _ = simulate(table(program={"kind": "gossip", "topology": "complete"}, rounds=2))
    models = models_of(world)
    assert torch.allclose(models, models[:1].expand_as(models), atol=1e-6)


def test_metropolis_hastings_keeps_the_mean_of_the_models():
    program = {"kind": "gossip", "topology": "star", "schedule": {"kind": "periodic", "every": 100}}
    one, _ = simulate(table(program=program, rounds=1))
    many, _ = simulate(table(program=program, rounds=6))
    assert torch.allclose(models_of(one).double().mean(0), models_of(many).double().mean(0), atol=1e-6)


def test_fedavg_with_everybody_and_one_step_is_sgd_on_the_union():
    task = {"batch_size": 10_000, "local_steps": 1, "partition": "iid"}
    federated, _ = simulate(table(program={"kind": "fedavg"}, network={"nodes": 12}, task=task))
    alone, _ = simulate(table(program={"kind": "gossip", "topology": "complete"}, network={"nodes": 1}, task=task))
    assert torch.allclose(federated.nodes[0].model, alone.nodes[0].model, atol=1e-5)


def test_the_proximal_term_of_fedprox_holds_clients_back():
    task = {"local_steps": 10}
    free, _ = simulate(table(program={"kind": "fedavg"}, task=task, rounds=1))
    none, _ = simulate(table(program={"kind": "fedavg", "work": {"proximal_mu": 0.0}}, task=task, rounds=1))
    held, _ = simulate(table(program={"kind": "fedavg", "work": {"proximal_mu": 2.0}}, task=task, rounds=1))
    start = free.task.learner.first_model
    assert torch.equal(models_of(free), models_of(none))
    assert (held.nodes[0].model - start).norm() < 0.8 * (free.nodes[0].model - start).norm()


def test_ad_psgd_changes_the_sum_of_models_by_training_alone():
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    world, _ = simulate(table(program=PROGRAMS["ad-psgd"], task=task, network=SLOW, rounds=20))
    start = torch.stack([world.task.learner.initial(id) for id in range(world.size)]).double()
    end = models_of(world).double()
    assert torch.allclose(start.sum(0), end.sum(0), atol=1e-5)
    assert (end - end.mean(0)).square().sum() < 0.2 * (start - start.mean(0)).square().sum()


def test_gossip_learning_without_training_keeps_within_what_it_began_with():
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    world, _ = simulate(table(program=PROGRAMS["gossip-learning"], task=task, rounds=15))
    start = torch.stack([world.task.learner.initial(id) for id in range(world.size)])
    end = models_of(world)
    assert (end <= start.max(0).values + 1e-6).all()
    assert (end >= start.min(0).values - 1e-6).all()
    assert all(int(node.state["age"]) > 0 for node in world.nodes)


@pytest.mark.parametrize("mode", ["update", "merge-update", "update-merge"])
def test_every_mode_of_gossip_learning_learns(mode):
    program = {**PROGRAMS["gossip-learning"], "mode": mode}
    _, written = simulate(table(program=program, rounds=30, evaluation={"every": 0, "samples": None}))
    accuracy = [value for node, _, name, value in written.figures if node >= 0 and name == "accuracy"]
    assert sum(accuracy) / len(accuracy) > 0.5
