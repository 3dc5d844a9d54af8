"""Modules of the user's own with frozen parameters, masks, tied tensors and other peculiarities."""

import itertools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from covey.learning import learner as learners
from covey.learning.layout import Layout
from covey.learning.models import Dense, Module
from covey.learning.node import Work
from covey.parts.errors import ConfigurationError
from tests.conftest import models_of, simulate, table
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
        assert made.kernel_name != "stacked"
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


class Masked(nn.Module):
    """Constants of every kind: two masks in the state, a frozen one, two derived ones, and a running mean."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 10), nn.Linear(10, 10)
        mask = torch.zeros(10).index_fill_(0, torch.tensor([3]), float("-inf"))
        self.register_buffer("mask", mask)
        self.register_buffer("lowest", torch.full((10,), torch.finfo(torch.float32).min))
        self.also_masked = nn.Parameter(mask.clone(), requires_grad=False)
        self.register_buffer("scale", torch.full((10,), 0.5), persistent=False)
        self.register_buffer("weights", torch.ones(10, dtype=torch.float64), persistent=False)
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, x):
        x = self.first(x.flatten(1)) * self.scale * self.weights.float()
        attention = torch.softmax(x + self.mask + self.also_masked, 1) + torch.softmax(x + self.lowest, 1)
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.last(attention * x) - self.mean


def test_masks_and_derived_buffers_are_constants_outside_the_flat_model():
    made = learner(Module(factory=Masked), optimizer="momentum")
    assert {*made.layout.constants} == {"mask", "lowest", "also_masked", "scale", "weights"}
    assert [piece.name for piece in made.layout.buffers] == ["mean"]
    assert made.layout.size == made.layout.trainable + 10
    for holder, training in enumerate(trained(made)):
        assert training.finite
        assert torch.allclose(training.update.model, reference(made, holder, "momentum"), atol=2e-4)


def test_models_with_masks_are_sent_and_merged():
    def factory():
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        module.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        return module

    world, written = simulate(table(task={"model": Module(factory=factory)}, rounds=2))
    assert not written.happened
    assert all(node.mail.dropped == 0 for node in world.nodes)


def test_a_buffer_that_training_makes_infinite_is_noticed():
    class Overflowing(Masked):
        def forward(self, x):
            self.mean.add_(1.0).mul_(1e30)
            return super().forward(x) * 0 + self.last.bias

    assert not trained(learner(Module(factory=Overflowing)))[0].finite


class Counting(nn.Module):
    """A module whose outputs depend on the number of calls, and on buffers that it replaces."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, 10)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("last", None)

    def forward(self, x):
        x = self.layer(x.flatten(1))
        if self.last is not None:
            x = x + self.last
        if self.training:
            self.calls += 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            self.last = x.detach().mean(0)
        return x / (1 + self.calls) - self.mean


def test_nothing_passes_from_one_training_to_the_next_through_the_module():
    made = learner(Module(factory=Counting), optimizer="momentum")
    for _ in range(2):
        for holder, training in enumerate(trained(made)):
            assert torch.allclose(training.update.model, reference(made, holder, "momentum"), atol=2e-4)
    assert not torch.equal(training.update.model[-10:], torch.zeros(10))


def test_all_copies_of_a_module_have_the_same_constants():
    numbers = itertools.count(1)

    def factory():
        module = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 10))
        module.register_buffer("scale", torch.tensor(float(next(numbers))), persistent=False)
        return module

    made = learner(Module(factory=factory))
    assert made.kernel.bound().module.scale == 1


def test_the_vmap_kernel_takes_constants():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(FEATURES, 10)
            self.register_buffer("scale", torch.linspace(0.5, 1, 10), persistent=False)
            self.register_buffer("mask", torch.tensor([0.0] * 9 + [float("-inf")]))

        def forward(self, x):
            x = self.layer(x.flatten(1))
            return x * self.scale + torch.softmax(x + self.mask, 1)

    made = learner(Module(factory=Scaled), optimizer="momentum", kernel="vmap")
    for holder, training in enumerate(trained(made)):
        assert torch.allclose(training.update.model, reference(made, holder, "momentum"), atol=2e-4)


class Normalized(nn.Module):
    """Two normalisations, of which the first is frozen."""

    def __init__(self):
        super().__init__()
        self.into, self.frozen = nn.Linear(FEATURES, 10), nn.BatchNorm1d(10)
        self.free, self.last = nn.BatchNorm1d(10), nn.Linear(10, 10)
        self.frozen.eval()

    def forward(self, x):
        return self.last(torch.relu(self.free(torch.relu(self.frozen(self.into(x.flatten(1)))))))


class FrozenByTrain(Normalized):
    def __init__(self):
        super().__init__()
        self.frozen.train()

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self


@pytest.mark.parametrize("factory", [Normalized, FrozenByTrain])
def test_layers_in_eval_mode_stay_so_after_an_evaluation(factory):
    made = learner(Module(factory=factory), optimizer="momentum")
    as_built = learner(Module(factory=Normalized), optimizer="momentum")
    for _ in range(2):
        for holder, training in enumerate(trained(made)):
            assert torch.allclose(training.update.model, reference(as_built, holder, "momentum"), atol=2e-4)
            assert torch.equal(made.layout.views(training.update.model)["frozen.running_mean"], torch.zeros(10))
        made.evaluate([made.first_model], made.split("test"))
    assert not made.kernel.bound().module.free.training


def test_a_cumulative_average_of_batches_is_refused():
    def factory(frozen=False):
        norm = nn.BatchNorm1d(FEATURES, momentum=None)
        return nn.Sequential(nn.Flatten(), norm.eval() if frozen else norm, nn.Linear(FEATURES, 10))

    with pytest.raises(
        ConfigurationError, match="The 'momentum' of BatchNorm '1' in the model module must be a number"
    ):
        learner(Module(factory=factory))
    assert learner(Module(factory=lambda: factory(frozen=True))).kernel_name == "module"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_numbers_of_another_precision_are_refused_by_name(dtype):
    def factory():
        return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 10, dtype=dtype))

    wrong = (
        f"The '1.weight' of the model module must be torch.float32. Got {dtype} instead: call 'float()' on the module."
    )
    with pytest.raises(ConfigurationError, match=re.escape(wrong)):
        learner(Module(factory=factory))


def test_a_running_buffer_of_another_precision_is_refused_and_a_constant_is_not():
    def factory(persistent):
        module = nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 10))
        module.register_buffer("mean", torch.full((10,), 1e4, dtype=torch.float16), persistent=persistent)
        return module

    with pytest.raises(ConfigurationError, match=r"The 'mean' of the model module must be torch\.float32\."):
        learner(Module(factory=lambda: factory(persistent=True)))
    assert learner(Module(factory=lambda: factory(persistent=False))).layout.constants["mean"].dtype == torch.float16


def test_lazy_layers_are_refused():
    with pytest.raises(
        ConfigurationError, match=r"The '1\.weight' of the model module must have a shape from the start"
    ):
        learner(Module(factory=lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10))))


class Branching(nn.Module):
    """Its way depends on its data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, 10)

    def forward(self, x):
        x = self.layer(x.flatten(1))
        return x if x.sum() > 0 else -x


class Randomized(Branching):
    """It drops outputs without a layer that says so."""

    def forward(self, x):
        return nn.functional.dropout(self.layer(x.flatten(1)), 0.5, self.training)


@pytest.mark.parametrize("factory", [Branching, Randomized])
def test_what_vmap_cannot_carry_is_found_by_trying(factory):
    with pytest.raises(
        ConfigurationError, match="The kernel vmap cannot compute the model module: RuntimeError: "
    ) as caught:
        learner(Module(factory=factory), kernel="vmap")
    assert "\n" not in str(caught.value)
    found = replace(learner(Module(factory=factory)).candidate(), device=torch.device("cuda"))
    assert found.choice("auto").kernel == "module"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_what_vmap_can_carry_is_found_by_trying(optimizer):
    made = learner("gn-lenet", optimizer=optimizer)
    assert made.kernel_name == "module"
    assert replace(made.candidate(), device=torch.device("cuda")).choice("auto").kernel == "vmap"


class Untidy(nn.Module):
    """Frozen, masked, counting, normalised by two layers of which one is in eval mode, and with a drawn constant."""

    def __init__(self):
        super().__init__()
        self.drawn = torch.randn(64)
        self.first = nn.Linear(64, 10).requires_grad_(False)
        self.frozen, self.free = nn.BatchNorm1d(10).eval(), nn.BatchNorm1d(10)
        self.last = nn.Linear(10, 10)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("mask", torch.tensor([0.0] * 9 + [float("-inf")]))

    def forward(self, x):
        x = self.free(torch.relu(self.frozen(self.first(x.flatten(1) * self.drawn))))
        x = x + torch.softmax(x + self.mask, 1)
        if self.training:
            self.calls += 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.last(x - self.mean) / (1 + self.calls)


def untidy(**changes):
    optimizer = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "state": "keep"}
    return table(task={"model": Module(factory=Untidy), "optimizer": optimizer, "local_steps": 3}, **changes)


def test_the_number_of_workers_changes_nothing_for_untidy_modules():
    one, written = simulate(untidy())
    many, rewritten = simulate(untidy(engine={"workers": 3}))
    assert torch.equal(models_of(one), models_of(many))
    assert written.figures == rewritten.figures


def test_untidy_modules_resume_to_the_bit():
    tables = untidy(checkpoint={"every": 4})
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(whole), models_of(resumed))


def test_modules_are_built_one_at_a_time():
    building, together = threading.Lock(), []

    def factory():
        together.append(not building.acquire(blocking=False))
        time.sleep(0.01)
        if not together[-1]:
            building.release()
        return nn.Sequential(nn.Flatten(), nn.Linear(FEATURES, 10))

    trained(learner(Module(factory=factory), holders=6, workers=3))
    assert not any(together)


def test_learners_that_are_made_at_once_begin_with_the_same_model(monkeypatch):
    seed = learners.seed_generators
    monkeypatch.setattr(learners, "seed_generators", lambda key: (seed(key), time.sleep(0.003))[0])
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(lambda _: learner("mlp").first_model, range(40)))
    assert all(torch.equal(model, first[0]) for model in first)


def dropped_within_a_layer():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, dropout=0.5, batch_first=True)
            self.last = nn.Linear(16, 10)

        def forward(self, x):
            x = x.flatten(1, 2)
            return self.last(self.attention(x, x, x)[0].mean(1))

    return Attending()


@pytest.mark.parametrize(
    "factory", [Randomized, dropped_within_a_layer, lambda: nn.Sequential(Branching(), nn.Dropout(0.5))]
)
def test_modules_that_draw_in_any_way_draw_the_same_again(factory):
    found = []
    for workers in (1, 3):
        made = learner(Module(factory=factory), holders=4, workers=workers, chunk=workers)
        trainings = trained(made)
        gradients = trained(made, Work(steps=1), "all")
        found.append(torch.stack([t.update.model for t in [*trainings, *gradients]]))
    assert torch.equal(*found)


def test_a_module_that_changes_its_weights_with_its_mode_evaluates_the_model_it_is_given():
    class Merging(Branching):
        """While in eval mode its weight holds a second one as well, as adapters of low rank have it."""

        def __init__(self):
            super().__init__()
            self.layer.requires_grad_(False)
            self.added, self.merged = nn.Parameter(torch.randn(10, FEATURES) * 0.01), False

        def train(self, mode=True):
            if self.merged == mode:
                with torch.no_grad():
                    self.layer.weight.add_(self.added, alpha=-1 if mode else 1)
                self.merged = not mode
            return super().train(mode)

        def forward(self, x):
            x = x.flatten(1)
            return self.layer(x) if self.merged else self.layer(x) + x @ self.added.T

    made = learner(Module(factory=Merging))
    model = trained(made)[0].update.model
    assert torch.allclose(model, reference(made, 0, "sgd"), atol=2e-4)
    first, again = made.evaluate([model, model], made.split("test"))
    assert first == again
    assert first["loss"] == pytest.approx(
        learner(Module(factory=Merging)).evaluate([model], made.split("test"))[0]["loss"]
    )
    assert torch.equal(trained(made)[0].update.model, model)
