"""Objectives: every kernel minimises the same as a plain torch loop, on the given samples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from covey.data import from_arrays
from covey.learning.batches import Parts, plan
from covey.learning.dataset import Split
from covey.learning.jobs import Training
from covey.learning.kernels import VmappedKernel
from covey.learning.learner import Learner
from covey.learning.models import Module
from covey.learning.node import Work
from covey.learning.objectives import KL, L1, MSE, CrossEntropy, Misfit, Objective
from covey.learning.optimizers import SGD
from covey.learning.partition import IID
from covey.learning.task import LearningTask
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from tests.conftest import simulate, table

BLOBS = {"kind": "gaussian-blobs", "samples": 60, "test_samples": 20}
OBJECTIVES = {
    "cross-entropy": CrossEntropy(),
    "kl": KL(temperature=3.0),
    "mse": MSE(),
    "l1": L1(),
}


class Narrow(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(10, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4))


def learner(model="mlp", holders=3, optimizer="sgd", kernel="auto", **settings):
    task = LearningTask(dataset=BLOBS, model=model, optimizer=optimizer, batch_size=7, local_epochs=2, **settings)
    data = task.dataset.load(None)
    parts = [part[: len(part) - index] for index, part in enumerate(IID().assign(data, holders, 0))]
    return Learner(task, data, parts, seed=1, kernel=kernel)


def by_kernel(name, **settings):
    """A learner whose trainings, whatever they minimise, are done by a kernel."""
    if name == "vmap":  # Asked for: on some processors its matrix products depend on how many are computed together.
        return learner(Module(factory=Narrow), kernel="vmap", **settings)
    made = learner("mlp", **settings)
    assert made.kernel_name == "stacked"
    return made


def train(made, works):
    trainings = [Training(index, made.initial(0), 100 + index, 0, 0, work) for index, work in enumerate(works)]
    made.train(trainings)
    return [training.update for training in trainings]


def given_samples(index, targets="scores", count=20):
    generator = torch.Generator().manual_seed(index)
    inputs = torch.randn(count, 10, generator=generator)
    scores = torch.randn(count, 4, generator=generator)
    found = {"scores": scores, "classes": scores.argmax(1), "probabilities": scores.softmax(1)}
    return Split(inputs, found[targets])


def reference(made, index, loss_of, work, on):
    """The same training by torch alone, with the batches that covey draws."""
    module, correction = made._make(0), work.correction
    start = made.layout.flatten(module)
    keys = np.array([rng.mix(100 + index, 0, 0)], dtype=np.uint64)
    steps, size = np.array([made.steps(index, work)]), work.batch_size or 7
    drawn = plan(Parts([np.arange(len(on.inputs))]), np.array([0]), keys, steps, size).samples[0]
    rule = torch.optim.SGD(module.parameters(), lr=0.1)
    for batch in drawn:
        chosen = torch.from_numpy(batch[batch >= 0])
        rule.zero_grad()
        losses = loss_of(module(on.inputs[chosen]), on.targets[chosen])
        (losses if work.weights is None else losses * work.weights[chosen]).mean().backward()
        at = 0
        for parameter in module.parameters():
            part = slice(at, at + parameter.numel())
            at = part.stop
            pulled = work.proximal * (parameter.detach() - start[part].view_as(parameter))
            parameter.grad += pulled if correction is None else pulled + correction[part].view_as(parameter)
        rule.step()
    return made.layout.flatten(module)


def soft(temperature):
    def loss(outputs, targets):
        divergence = F.kl_div(
            F.log_softmax(outputs / temperature, 1), F.softmax(targets / temperature, 1), reduction="none"
        )
        return divergence.sum(1) * temperature**2

    return loss


ORACLES = {
    ("cross-entropy", "classes"): lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
    ("cross-entropy", "probabilities"): lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
    ("kl", "scores"): soft(3.0),
    ("mse", "scores"): lambda outputs, targets: F.mse_loss(outputs, targets, reduction="none").mean(1),
    ("mse", "classes"): lambda outputs, targets: (outputs - F.one_hot(targets, 4)).square().mean(1),
    ("l1", "scores"): lambda outputs, targets: F.l1_loss(outputs, targets, reduction="none").mean(1),
}


@pytest.mark.parametrize("kernel", ["vmap", "module"])
@pytest.mark.parametrize(("name", "targets"), ORACLES)
@pytest.mark.parametrize("options", ["alone", "with all options"])
def test_every_objective_is_minimised_as_torch_does(name, targets, kernel, options):
    made = by_kernel(kernel)
    works = []
    for index in range(3):
        extra = {}
        if options != "alone":
            generator = torch.Generator().manual_seed(50 + index)
            correction = torch.randn(made.layout.size, generator=generator) / 10
            weights = torch.rand(20 - index, generator=generator)
            extra = {"proximal": 0.5, "batch_size": 5, "correction": correction, "weights": weights}
        on = given_samples(index, targets, 20 - index)
        works.append(Work(steps=6, lr=0.1, objective=OBJECTIVES[name], on=on, **extra))
    fitting = made._fitting(OBJECTIVES[name])
    assert (type(fitting) is VmappedKernel) == (kernel == "vmap")
    for index, (update, work) in enumerate(zip(train(made, works), works, strict=True)):
        expected = reference(made, index, ORACLES[name, targets], work, work.on)
        assert torch.allclose(update.model, expected, atol=1e-5)
        assert (update.model - made.initial(0)).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", ["stacked", "vmap"])
def test_the_own_loss_takes_all_options_in_every_kernel(kernel):
    made = by_kernel(kernel)
    works = []
    for index in range(3):
        correction = torch.randn(made.layout.size, generator=torch.Generator().manual_seed(index)) / 10
        weights = torch.arange(20 - index) / 10
        on = given_samples(index, "classes", 20 - index)
        works.append(Work(steps=5, lr=0.1, proximal=0.5, on=on, weights=weights, correction=correction))
    for index, (update, work) in enumerate(zip(train(made, works), works, strict=True)):
        expected = reference(made, index, ORACLES["cross-entropy", "classes"], work, work.on)
        assert torch.allclose(update.model, expected, atol=1e-5)
        used = torch.bincount(work.on.targets, minlength=4).numpy()
        assert update.label_counts.sum() == update.samples
        assert update.samples == made.samples(index, work)
        assert (update.label_counts[used == 0] == 0).all()


@pytest.mark.parametrize("kernel", ["stacked", "vmap"])
def test_weights_of_one_and_no_correction_change_nothing(kernel):
    made = by_kernel(kernel)
    usual = train(made, [Work()] * 3)
    same = [Work(weights=torch.ones(int(size)), correction=torch.zeros(made.layout.size)) for size in made.parts.sizes]
    for left, right in zip(usual, train(made, same), strict=True):
        assert torch.allclose(left.model, right.model, atol=1e-6)
        assert np.array_equal(left.label_counts, right.label_counts)
        assert left.samples == right.samples


def test_a_sample_without_weight_is_not_learned_from():
    made = by_kernel("stacked")
    weights = [torch.zeros(int(size)) for size in made.parts.sizes]
    for update in train(made, [Work(weights=one) for one in weights]):
        assert torch.equal(update.model, made.initial(0))


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list(OBJECTIVES)),
    count=st.integers(1, 12),
    classes=st.integers(2, 6),
    length=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_losses_are_those_of_each_sample_and_no_class_of_sequences_is_forgotten(name, count, classes, length, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, length, classes) if length else (count, classes)
    outputs = torch.randn(shape, generator=generator)
    chosen = torch.randn(shape, generator=generator).argmax(-1)
    objective = OBJECTIVES[name]
    losses = objective.of_samples(outputs, chosen)
    assert losses.shape == (count,)
    assert (losses >= 0).all()
    each = torch.cat([objective.of_samples(outputs[k : k + 1], chosen[k : k + 1]) for k in range(count)])
    assert torch.allclose(losses, each, atol=1e-6)
    one_hot = F.one_hot(chosen, classes).float()
    if name != "kl":  # Towards scores.
        assert torch.allclose(losses, objective.of_samples(outputs, one_hot), atol=1e-6)


def test_kl_towards_ones_own_outputs_is_nothing():
    outputs = torch.randn(5, 4)
    assert KL(temperature=2.0).losses(outputs, outputs).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("objective", "outputs", "targets", "words"),
    [
        (MSE(), torch.zeros(3, 4), torch.zeros(3), r"predicts \(3, 4\) where targets are \(3,\) of torch.float32"),
        (L1(), torch.zeros(3), torch.zeros(3, 1), r"predicts \(3,\) where targets are \(3, 1\)"),
        (KL(), torch.zeros(3), torch.zeros(3), "predicts one number per sample"),
        (CrossEntropy(), torch.zeros(3), torch.zeros(3), "predicts one number per sample"),
    ],
)
def test_targets_that_do_not_fit_are_refused(objective, outputs, targets, words):
    with pytest.raises(Misfit, match=words):
        objective.losses(outputs, targets)


class Hinge(Objective):
    """One of the user's own, which vmap does not carry."""

    def losses(self, outputs, targets):
        picked = [float(targets[index]) for index in range(len(outputs))]
        return outputs[:, 0] * 0 + torch.tensor(picked) + outputs.square().sum(1)


def test_an_objective_that_vmap_does_not_carry_goes_to_the_module_kernel():
    made = by_kernel("vmap")
    assert type(made._fitting(Hinge())) is not VmappedKernel
    work = Work(steps=3, lr=0.1, objective=Hinge(), on=given_samples(0, "classes"))
    (update,) = train(made, [work])
    expected = reference(made, 0, Hinge().losses, work, work.on)
    assert torch.allclose(update.model, expected, atol=1e-5)


def test_the_objective_of_a_task_decides_about_the_kernel():
    assert learner().kernel_name == "stacked"
    made = learner(loss=MSE())
    assert made.kernel_name in ("module", "vmap")
    for left, right in zip(train(made, [Work()] * 3), train(learner(), [Work(objective=MSE())] * 3), strict=True):
        assert torch.allclose(left.model, right.model, atol=1e-6)


@pytest.mark.parametrize("kind", ["own", "cross-entropy", "mse", "l1", "kl"])
def test_a_task_is_learned_by_every_objective(kind):
    task = {"loss": kind, "optimizer": {"kind": "sgd", "lr": 0.3}, "local_steps": 4}
    _, written = simulate(table(task=task, rounds=6))
    at = {name: [v for node, t, key, v in written.figures if key == "accuracy" and t == name] for name in (2, 6)}
    assert np.mean(at[6]) > max(np.mean(at[2]), 0.3)


def test_cross_entropy_with_numbers_needs_probabilities():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    probabilities = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    task = {"loss": "cross-entropy", "model": "linear"}
    small = {"network": {"nodes": 4}, "rounds": 1}
    simulate(table(task={**task, "dataset": from_arrays(x, probabilities)}, **small))
    with pytest.raises(ConfigurationError, match=r"training targets .* must be classes, or probabilities .* 'mse'"):
        simulate(table(task={**task, "dataset": from_arrays(x, x)}, **small))


def test_the_stacked_kernel_refuses_other_objectives():
    with pytest.raises(ConfigurationError, match="minimises the task's own loss only, not mse"):
        simulate(table(task={"loss": "mse"}, engine={"kernel": "stacked"}))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_the_normaliser_is_how_far_gradients_of_one_move_a_model(momentum, nesterov, proximal):
    rule = SGD(lr=0.1, momentum=momentum, nesterov=nesterov and momentum > 0)
    model = torch.zeros(1, 1, dtype=torch.float64)
    slots = rule.fresh(model)
    for _ in range(7):
        rule.step(model, 1 + proximal * model, slots, torch.full((1, 1), 0.1, dtype=torch.float64))
    assert rule.normaliser(7, 0.1, proximal) == pytest.approx(float(-model) / 0.1)
    if momentum == proximal == 0:
        assert rule.normaliser(7, 0.1) == 7


class LastAverage(SGD):
    """Ends with the mean of all that the model was."""

    def slots(self):
        return ("sum", "step")

    def step(self, models, gradients, slots, lr):
        models.addcmul_(gradients, lr, value=-1.0)
        slots["sum"].add_(models)
        slots["step"].add_(1.0)

    def finish(self, models, slots, lr, steps, guesses):
        models.copy_(slots["sum"] / slots["step"])

    @property
    def is_plain(self):
        return False


@pytest.mark.parametrize("kernel", ["stacked", "vmap", "module"])
def test_an_optimiser_has_a_last_word(kernel):
    plain, made = by_kernel(kernel), by_kernel(kernel, optimizer=LastAverage(lr=0.1))
    objective = CrossEntropy() if kernel == "module" else None
    passed = [train(plain, [Work(steps=n, lr=0.1, objective=objective)] * 3) for n in (1, 2, 3)]
    ended = train(made, [Work(steps=3, lr=0.1, objective=objective)] * 3)
    for index, update in enumerate(ended):
        mean = torch.stack([updates[index].model for updates in passed]).mean(0)
        assert torch.allclose(update.model, mean, atol=1e-6)
