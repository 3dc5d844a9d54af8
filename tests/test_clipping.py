"""Gradients are clipped as torch clips them, in every kernel."""

import pytest
import torch
from torch.nn import functional as F

from covey.learning.node import Work
from covey.parts.errors import ConfigurationError
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate
from tests.test_objectives import by_kernel, learner, train

KERNELS = ["stacked", "vmap", "module"]


def made(kernel, **settings):
    return learner("mlp", kernel="module", **settings) if kernel == "module" else by_kernel(kernel, **settings)


def by_torch(made, clip, momentum, steps, proximal):
    """The training of node 0 in plain torch, each step on all of its samples."""
    module = made.module()
    parameters = [*module.parameters()]
    start = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.SGD(parameters, 0.1, momentum)
    own = torch.from_numpy(made.parts.of(0))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(module(made.data.train.inputs[own]), made.data.train.targets[own])
        pull = sum((now - before).square().sum() for now, before in zip(parameters, start, strict=True))
        (loss + proximal / 2 * pull).backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
    return made.layout.flatten(module)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("clip", [0.01, 1e6])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_training_is_that_of_torch(kernel, clip, momentum):
    found = made(kernel, clip=clip, optimizer={"kind": "sgd", "lr": 0.1, "momentum": momentum})
    size = int(found.parts.sizes[0])
    (update,) = train(found, [Work(steps=4, batch_size=size, proximal=0.3)])
    expected = by_torch(found, clip, momentum, 4, 0.3)
    assert torch.allclose(update.model, expected, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_node_is_clipped_by_itself_and_no_step_is_longer(kernel):
    found = made(kernel, clip=0.05, optimizer={"kind": "sgd", "lr": 0.1})
    for update in train(found, [Work(steps=1)] * 3):
        assert update.delta.norm() == pytest.approx(0.1 * 0.05, rel=1e-3)


def test_a_limit_that_is_not_reached_changes_nothing():
    usual, limited = (models_of(simulate(table(task=task))[0]) for task in ({}, {"clip": 1e9}))
    assert torch.allclose(usual, limited, atol=1e-6)


def test_hosts_clip_too(tmp_path):
    tables = table(task={"clip": 0.02}, network={"nodes": 3}, rounds=2)
    outcome, _ = emulate(tables, tmp_path)
    assert torch.allclose(outcome.models, models_of(simulate(tables)[0]), atol=1e-5)


def test_a_wrong_limit_is_one_line():
    with pytest.raises(ConfigurationError, match=r"^The 'clip' of the task must be a number in \(0, inf\)"):
        simulate(table(task={"clip": 0}))
