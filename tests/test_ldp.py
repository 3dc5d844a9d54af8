"""Protected training: clipped gradients of samples, noise, Poisson batches, and what they guarantee."""

import numpy as np
import pytest
import torch

from covey.learning.batches import Parts
from covey.learning.chunks import batch_keys, batches_of
from covey.learning.ldp import poisson
from covey.learning.node import LearningNode
from covey.parts.errors import ConfigurationError, ProgramError
from covey.privacy.accounting import account, gaussian, sampled_gaussian
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from tests.conftest import models_of, simulate, table
from tests.examples import Recorded

PASSES = {"clip": 1e6, "noise": 0.0, "sampling": "passes"}


class TrainsOnce(Recorded):
    """Each node trains once and keeps the update."""

    async def run(self, node: LearningNode) -> None:
        async for _ in node.rounds():
            self.seen.append((node.id, await node.train()))


def updates(**task):
    tables = table(task=task, rounds=1, network={"nodes": 4}, evaluation={"every": 0})
    tables["program"] = f"{__name__}:TrainsOnce"
    world, _ = simulate(tables)
    return world, [update for _, update in sorted(world.program.seen, key=lambda one: one[0])]


@pytest.mark.parametrize("model", ["logistic", {"kind": "mlp", "hidden": [12]}])
@pytest.mark.parametrize("optimizer", [{"kind": "sgd", "lr": 0.2, "momentum": 0.5}, {"kind": "adam", "lr": 0.01}])
def test_without_noise_and_with_large_norms_it_is_plain_training(model, optimizer):
    task = {"model": model, "optimizer": optimizer, "local_steps": 3, "batch_size": 16}
    plain = [update.model for update in updates(**task)[1]]
    private = [update.model for update in updates(**task, ldp=PASSES)[1]]
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(plain, private, strict=True))


def test_each_gradient_is_clipped_alone():
    clip, lr = 0.05, 0.3
    world, found = updates(
        model="mlp", optimizer={"kind": "sgd", "lr": lr}, batch_size=20, ldp={**PASSES, "clip": clip}
    )
    learner = world.task.learner
    start = learner.first_model
    expected = []
    for holder in range(4):
        module = learner.module()
        (plan,) = [batches_of(learner, [one], keys(one), [1], None, None) for one in [training(world, holder)]]
        total = torch.zeros(learner.layout.trainable)
        for sample in plan.samples[0, 0].tolist():
            module.zero_grad()
            output = module(learner.data.scaled(learner.data.train.inputs[[sample]]))
            torch.nn.functional.cross_entropy(output, learner.data.train.targets[[sample]]).backward()
            gradient = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
            total += gradient * min(1.0, clip / float(gradient.norm()))
        expected.append(start - lr * total / 20)
    assert all(torch.allclose(update.model, wanted, atol=1e-6) for update, wanted in zip(found, expected, strict=True))


def training(world, holder):
    """The training that a node has submitted in round 0."""
    from covey.learning.jobs import Training
    from covey.learning.node import Work

    node = world.nodes[holder]
    return Training(
        holder=holder, start=world.task.learner.first_model, work=Work(), stream=node.stream, round=0, call=0
    )


def keys(one):
    return batch_keys([one])


def test_noise_has_its_deviation_and_is_another_at_every_node():
    ldp = {"clip": 1e-4, "noise": 1e4, "sampling": "passes"}
    world, found = updates(model="mlp", optimizer={"kind": "sgd", "lr": 0.5}, batch_size=20, local_steps=4, ldp=ldp)
    moved = torch.stack([update.model - world.task.learner.first_model for update in found])
    # Four steps of lr * noise * clip / batch.
    assert float(moved.std()) == pytest.approx(0.5 * 1.0 / 20 * 2.0, rel=0.02)
    assert float(torch.corrcoef(moved).fill_diagonal_(0.0).abs().max()) < 0.05


def test_poisson_batches_have_the_expected_size_and_are_independent():
    parts = Parts([np.arange(50), np.arange(50, 80)])
    secrets = [bytes([number]) * 32 for number in range(2)]
    plan = poisson(parts, np.array([0, 1]), secrets, [4000, 4000], 10)
    counts_JT = (plan.samples >= 0).sum(2)
    assert counts_JT.mean(1) == pytest.approx([10.0, 10.0], rel=0.02)
    assert counts_JT.var(1) == pytest.approx([50 * 0.2 * 0.8, 30 * (1 / 3) * (2 / 3)], rel=0.1)
    assert set(plan.samples[1].ravel()) - {-1} == set(range(50, 80))
    assert counts_JT[0].min() < counts_JT[0].max()
    used = [np.bincount(batch[batch >= 0], minlength=50) for batch in plan.samples[0]]
    assert max(map(max, used)) == 1
    assert np.sum(used, 0) == pytest.approx(800, rel=0.2)
    everyone = poisson(parts, np.array([1]), secrets[:1], [2], 99)
    assert (np.sort(everyone.samples[0]) == np.arange(50, 80)).all()


def test_a_protected_run_learns_and_resumes_to_the_bit():
    task = {"ldp": {"clip": 1.0, "noise": 0.5}, "local_steps": 2, "batch_size": 64}
    tables = table(task=task, network={"nodes": 4}, checkpoint={"every": 3}, rounds=6, evaluation={"every": 6})
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(whole), models_of(resumed))
    task["ldp"]["seeds"] = "fresh"
    first, second = (models_of(simulate({**tables, "task": {**tables["task"], **task}, "rounds": 1})[0]) for _ in "ab")
    assert not torch.equal(first, second)
    accuracies = [value for _, round, name, value in written.figures if name == "accuracy" and round == 6]
    assert np.mean(accuracies) > 0.3  # Guessing is 0.1.


def test_the_epsilon_is_that_of_sampled_noise():
    pytest.importorskip("dp_accounting")
    task = {"ldp": {"clip": 1.0, "noise": 1.5}, "batch_size": 8, "local_steps": 3}
    prepared = prepare(Experiment.from_table(table(task=task, rounds=10)))
    (found,) = account(prepared.mechanisms())
    fewest = int(prepared.task.learner.parts.sizes.min())
    assert found.epsilon == min(sampled_gaussian(8 / fewest, 1.5, 30, 1e-5).values())
    assert found.protects == "one sample of a node"
    task["ldp"]["sampling"] = "passes"
    (passes,) = account(prepare(Experiment.from_table(table(task=task, rounds=10))).mechanisms())
    assert passes.epsilon == pytest.approx(gaussian(10 / 1.5**2, 1e-5))  # A pass in every round.
    assert passes.epsilon > found.epsilon


class Differentiates(Recorded):
    async def run(self, node: LearningNode) -> None:
        await node.gradient()


NET = (
    "import torch\n"
    "class Net(torch.nn.Sequential):\n"
    "    def __init__(self):\n"
    "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10))\n"
)


def test_what_would_void_the_protection_is_refused(in_folder, monkeypatch):
    (in_folder / "mixing_net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(in_folder))

    def refused(**task):
        with pytest.raises(ConfigurationError) as caught:
            prepare(Experiment.from_table(table(task={"ldp": {"clip": 1.0, "noise": 1.0}, **task})))
        return str(caught.value)

    assert "must have no BatchNorm, which mixes the samples of a batch. Got BatchNorm1d '2'" in refused(
        model="mixing_net:Net"
    )
    assert "The task has both 'clip' (2) and that of 'ldp' (1)" in refused(clip=2.0)
    assert "The 'precision' of a task with 'ldp' must be 'float32'" in refused(precision="bf16")
    assert "must be one of covey's" in refused(optimizer={"kind": "torch.optim:AdamW"})
    assert "The 'noise' of the task's ldp must be a number in [0, inf)" in refused(ldp={"clip": 1.0, "noise": -1.0})
    assert "The 'clip' of the task's ldp must be" in refused(ldp={"clip": 0.0, "noise": 1.0})
    tables = table(task={"ldp": {"clip": 1.0, "noise": 1.0}}, rounds=1)
    tables["program"] = f"{__name__}:Differentiates"
    with pytest.raises(ProgramError, match="A gradient of a task with 'ldp' would have no noise"):
        simulate(tables)
