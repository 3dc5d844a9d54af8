"""Modules of the user's own that are less tidy than ours."""

import pytest
import torch
from torch import nn

from covey.node import Work
from covey.task.layout import Layout
from covey.task.models import Dense, Module
from tests.test_kernels import OPTIMIZERS, learner, reference, trained

FEATURES = 3 * 16 * 16


class Frozen(nn.Module):
    """Its first layer and one bias are not trained; the frozen bias lies between trained parameters."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 12).requires_grad_(False)
        self.second = nn.Linear(12, 12)
        self.second.bias.requires_grad_(False)
        self.last = nn.Linear(12, 10)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x.flatten(1))))))


@pytest.mark.parametrize("kernel", ["module", "vmap"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_parameters_are_not_moved_by_training(kernel, optimizer):
    made = learner(Module(factory=Frozen), optimizer=optimizer, kernel=kernel)
    for holder, training in enumerate(trained(made)):
        model = training.update.model
        expected = reference(made, holder, optimizer)
        assert torch.allclose(model, expected, atol=2e-3 if optimizer == "adam" else 2e-4)
        assert torch.equal(model[made.layout.trainable :], made.first_model[made.layout.trainable :])


@pytest.mark.parametrize("kernel", ["module", "vmap"])
def test_the_proximal_term_leaves_frozen_parameters_alone(kernel):
    made = learner(Module(factory=Frozen), optimizer="decay", kernel=kernel)
    for training in trained(made, Work(steps=5, proximal=0.5)):
        model = training.update.model
        assert torch.equal(model[made.layout.trainable :], made.first_model[made.layout.trainable :])
        assert not torch.equal(model, made.first_model)


def test_frozen_parameters_come_after_the_trained_ones():
    module = Frozen()
    layout = Layout(module)
    assert [piece.name for piece in layout.parameters] == ["second.weight", "last.weight", "last.bias"]
    assert [piece.name for piece in layout.frozen] == ["first.weight", "first.bias", "second.bias"]
    assert layout.size == sum(p.numel() for p in module.parameters())
    flat = layout.flatten(module)
    assert torch.equal(layout.views(flat)["second.bias"], module.second.bias)


def test_a_dense_model_that_is_frozen_in_part_or_derived_is_not_stacked():
    class Tempered(Dense):
        def forward(self, x):
            return super().forward(x) / 2

    def partly_frozen():
        module = Dense([FEATURES, 12, 10])
        module.layers[0].requires_grad_(False)
        return module

    for factory in (partly_frozen, lambda: Tempered([FEATURES, 12, 10])):
        made = learner(Module(factory=factory), optimizer="decay")
        assert made.kernel_name == "module"
        assert torch.allclose(trained(made)[0].update.model, reference(made, 0, "decay"), atol=2e-4)


class Tied(nn.Module):
    """One weight and one running mean, each under two names."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(FEATURES, 10)
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 10)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("same_mean", self.mean)

    def forward(self, x):
        x = self.into(x.flatten(1))
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.second(torch.relu(self.first(x))) - self.same_mean


def test_tied_tensors_lie_in_the_flat_model_once_and_stay_tied():
    module = Tied()
    layout = Layout(module)
    names = [piece.name for piece in layout.pieces]
    assert "second.weight" not in names
    assert "same_mean" not in names
    flat = torch.arange(float(layout.size))
    layout.bind(module, flat)
    assert module.second.weight.data_ptr() == module.first.weight.data_ptr()
    assert torch.equal(module.same_mean, flat[-10:])
    assert torch.equal(module.mean, flat[-10:])


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
def test_tied_tensors_train_as_torch_does(optimizer):
    made = learner(Module(factory=Tied), optimizer=optimizer)
    for holder, training in enumerate(trained(made)):
        assert torch.allclose(training.update.model, reference(made, holder, optimizer), atol=2e-4)


def test_the_vmap_kernel_trains_tied_parameters():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.first, self.second = nn.Linear(FEATURES, 10), nn.Linear(10, 10), nn.Linear(10, 10)
            self.second.weight = self.first.weight
            self.scale = nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            return self.second(torch.relu(self.first(self.into(x.flatten(1))))) * self.scale

    made = learner(Module(factory=Shared), optimizer="momentum", kernel="vmap")
    for holder, training in enumerate(trained(made)):
        assert torch.allclose(training.update.model, reference(made, holder, "momentum"), atol=2e-4)
