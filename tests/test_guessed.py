"""GeL: guesses are the loop of their definition, move nothing that they must not, and cost no samples."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey import check
from covey.federated.client_work import LocalTraining, guesses_of
from covey.learning.guessed import Guessed
from covey.learning.learner import Learner
from covey.learning.node import Work
from covey.learning.optimizers import Optimizer
from covey.learning.partition import IID
from covey.learning.task import LearningTask
from covey.parts.errors import ConfigurationError, CoveyError, ModelError, ProgramError
from covey.parts.parameters import build
from covey.parts.parameters import param as parameter
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS
from tests.hosts import emulate
from tests.test_kernels import IMAGES, NO_FOLDER, OPTIMIZERS, trained

MOMENTUM = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
MODELS, SIZE = 4, 7


def guessed(of=None, guesses=2, **more):
    return build(Optimizer, {"kind": "guessed", "of": of or MOMENTUM, "guesses": guesses, **more})


def learner(optimizer, model="mlp", **settings):
    task = LearningTask(
        dataset=IMAGES, model=model, optimizer=optimizer, batch_size=7, local_epochs=2, **settings.pop("task", {})
    )
    data = task.dataset.load(NO_FOLDER)
    parts = [part[: len(part) - 4 * index] for index, part in enumerate(IID().assign(data, 3, 0))]
    return Learner(task, data, parts, seed=1, **settings)


def updates(made, work=None):
    return [training.update for training in trained(made, work)]


def by_loop(x, gradients, guesses, lr, beta, c, decay=0.0):
    """The rule of one model in float64, as the contract has it: m <- beta m - g, x <- x + lr m."""
    m, g = np.zeros_like(x), np.zeros_like(x)
    for g in gradients:
        m = beta * m - (g + decay * x)
        x = x + lr * m
    for _ in range(guesses):
        m = beta * m - c * g
        x = x + lr * m
    return x, -m


def adam_by_loop(x, gradients, guesses, lr, c, b1=0.9, b2=0.999, eps=1e-8):
    m, v = np.zeros_like(x), np.zeros_like(x)
    for count, g in enumerate([*gradients, *[c * gradients[-1]] * guesses], start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - lr * (m / (1 - b1**count)) / (np.sqrt(v / (1 - b2**count)) + eps)
    return x


def moved(optimizer, starts, gradients, steps, guesses, lr):
    """The models and slots of `optimizer` after steps and guesses, K at once, as kernels make them."""
    models, slots = starts.clone(), optimizer.fresh(starts)
    for step in range(max(steps)):
        active = sum(count > step for count in steps)
        some = {name: slot[:active] for name, slot in slots.items()}
        optimizer.step(models[:active], gradients[step, :active].clone(), some, lr[:active])
    optimizer.finish(models, slots, lr, steps, guesses)
    return models, slots


cases = st.fixed_dictionaries(
    {
        "beta": st.floats(0.0, 0.99),
        "c": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "decay": st.sampled_from([0.0, 0.1]),
        "steps": st.lists(st.integers(0, 5), min_size=MODELS, max_size=MODELS),
        "wanted": st.integers(0, 12),
        "seed": st.integers(0, 1000),
    }
)


def drawn(case):
    generator = torch.Generator().manual_seed(case["seed"])
    steps = sorted(case["steps"], reverse=True)
    starts = torch.randn(MODELS, SIZE, generator=generator)
    gradients = torch.randn(max(steps) or 1, MODELS, SIZE, generator=generator)
    return steps, starts, gradients, torch.rand(MODELS, 1, generator=generator) / 10


# ---------------------------------------------------------------------- the rule


@settings(deadline=None, max_examples=60)
@given(cases, st.booleans())
def test_the_closed_form_is_the_loop(case, fills_up):
    if not (case["beta"] or case["c"]):
        case["c"] = 1.0
    optimizer = guessed(
        {"kind": "sgd", "momentum": case["beta"], "weight_decay": case["decay"], "state": "keep"},
        "fill-up" if fills_up else case["wanted"],
        last=case["c"],
    )
    steps, starts, gradients, lr = drawn(case)
    guesses = [optimizer.guesses_after(count, 4, None) for count in steps]
    assert guesses == [(max(4 - u, 0) if fills_up else case["wanted"]) if u else 0 for u in steps]
    models, slots = moved(optimizer, starts, gradients, steps, guesses, lr)
    for k in range(MODELS):
        each = gradients[: steps[k], k].double().numpy()
        rates = float(lr[k]), case["beta"], case["c"], case["decay"]
        expected, momentum = by_loop(starts[k].double().numpy(), each, guesses[k], *rates)
        assert np.allclose(models[k], expected, rtol=1e-5, atol=1e-5)
        if case["beta"]:
            assert np.allclose(slots["momentum"][k], momentum, rtol=1e-5, atol=1e-5)
        if not steps[k]:
            assert torch.equal(models[k], starts[k])


@settings(deadline=None, max_examples=30)
@given(cases)
def test_adam_goes_on_as_if_its_gradient_recurred(case):
    optimizer = guessed({"kind": "adam", "state": "keep"}, case["wanted"], last=case["c"])
    steps, starts, gradients, lr = drawn(case)
    guesses = [optimizer.guesses_after(count, None, None) for count in steps]
    models, slots = moved(optimizer, starts, gradients, steps, guesses, lr)
    for k in range(MODELS):
        if steps[k]:
            each = list(gradients[: steps[k], k].double().numpy())
            expected = adam_by_loop(starts[k].double().numpy(), each, guesses[k], float(lr[k]), case["c"])
            assert np.allclose(models[k], expected, rtol=1e-4, atol=1e-4)
        assert float(slots["step"][k]) == steps[k] + guesses[k]


@settings(deadline=None, max_examples=30)
@given(cases, st.sampled_from(["sgd", "adam"]))
def test_a_model_is_moved_alike_alone_and_with_others(case, kind):
    of = {"kind": "adam"} if kind == "adam" else {"kind": "sgd", "momentum": 0.5 + case["beta"] / 2.1}
    optimizer = guessed(of, "fill-up", last=case["c"])
    steps, starts, gradients, lr = drawn(case)
    guesses = [optimizer.guesses_after(count, 4, None) for count in steps]
    together, _ = moved(optimizer, starts, gradients, steps, guesses, lr)
    for k in range(MODELS):
        if steps[k]:
            row = slice(k, k + 1)
            alone, _ = moved(optimizer, starts[row], gradients[:, row], steps[row], guesses[row], lr[row])
            assert torch.equal(alone[0], together[k])


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 0.99), st.integers(1, 20), st.integers(1, 50), st.integers(0, 100))
def test_on_a_quadratic_guesses_go_down_if_the_rate_is_small(beta, steps, guesses, seed):
    generator = torch.Generator().manual_seed(seed)
    curvature, x = torch.rand(SIZE, generator=generator) + 0.1, torch.randn(1, SIZE, generator=generator)
    optimizer, lr = guessed({"kind": "sgd", "momentum": beta}, guesses), torch.full((1, 1), 1e-4)
    slots = optimizer.fresh(x)
    for _ in range(steps):
        optimizer.step(x, curvature * x, slots, lr)
    after = x.clone()
    optimizer.finish(after, slots, lr, [steps], [guesses])
    assert float(((after - x) * -(curvature * x)).sum()) > 0


class Signs(Optimizer):
    """A rule of a user's own: the sign of a moving average."""

    beta: float = parameter("The decay.", default=0.8)

    def slots(self):
        return ("average",)

    def step(self, models, gradients, slots, lr):
        average = slots["average"].mul_(self.beta).add_(gradients, alpha=1.0 - self.beta)
        models.sub_(lr * average.sign())


def test_a_rule_of_ones_own_is_repeated_step_by_step():
    starts, gradients = torch.zeros(2, 3), torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    lr, rule = torch.full((2, 1), 0.1), Signs()
    optimizer = Guessed(of=rule, guesses=3, last=0.5)
    found, _ = moved(optimizer, starts, gradients, [2, 1], [3, 3], lr)
    for k, steps in enumerate([2, 1]):
        model, slots = starts[k : k + 1].clone(), rule.fresh(starts[k : k + 1])
        for g in [*gradients[:steps, k], *[0.5 * gradients[steps - 1, k]] * 3]:
            rule.step(model, g[None].clone(), slots, lr[:1])
        assert torch.equal(found[k], model[0])


# ---------------------------------------------------------------------- kernels


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), {**MOMENTUM, "state": "keep"}])
@pytest.mark.parametrize(("model", "kernel"), [("mlp", "stacked"), ("mlp", "vmap"), ("gn-lenet", "module")])
def test_zero_guesses_are_the_optimizer_itself_to_the_bit(model, kernel, optimizer):
    base = updates(learner(build(Optimizer, optimizer), model, kernel=kernel))
    for found, expected in zip(updates(learner(guessed(optimizer, 0), model, kernel=kernel)), base, strict=True):
        assert torch.equal(found.model, expected.model)
        assert found.loss == expected.loss


@pytest.mark.parametrize("of", [MOMENTUM, {"kind": "adam", "lr": 0.01}])
@pytest.mark.parametrize("guesses", [2, "fill-up"])
@pytest.mark.parametrize("kernel", ["stacked", "vmap", "module"])
def test_every_kernel_guesses_after_the_last_step_of_each_model(kernel, guesses, of):
    if kernel == "module":
        reference = learner(guessed(of, guesses), kernel="stacked")
    else:
        reference = learner(guessed(of, guesses), kernel="module")
    work = Work(epochs=2, expected=8, proximal=0.1)
    found, expected = (updates(made, work) for made in (learner(guessed(of, guesses), kernel=kernel), reference))
    assert len({update.steps for update in found}) > 1
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours.model, theirs.model, atol=2e-3 if of["kind"] == "adam" else 2e-4)
        assert ours.guesses == theirs.guesses == (2 if guesses == 2 else 8 - ours.steps)
    plain = updates(learner(build(Optimizer, of), kernel=kernel), work)
    for ours, theirs in zip(found, plain, strict=True):
        assert not torch.equal(ours.model, theirs.model)
        assert (ours.samples, ours.steps, ours.loss) == (theirs.samples, theirs.steps, theirs.loss)
        assert (ours.label_counts == theirs.label_counts).all()


def test_guesses_of_protected_training_use_its_noised_gradients_alone():
    ldp = {"clip": 1.0, "noise": 0.5}
    base, found = (
        learner(optimizer, task={"ldp": ldp}) for optimizer in (build(Optimizer, MOMENTUM), guessed(guesses=3, last=1))
    )
    for ours, plain in zip(updates(found, Work(steps=2)), updates(base, Work(steps=2)), strict=True):
        assert ours.samples == plain.samples
        one, two = torch.sub(ours.model, plain.model).abs().sum(), torch.sub(plain.model, plain.start).abs().sum()
        assert 0 < one < 10 * two


# ---------------------------------------------------------------------- the weight of gradients, and bounds


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 0.99), st.sampled_from([0.0, 1.0, 2.0]), st.integers(1, 20), st.integers(0, 20))
def test_the_normaliser_is_the_way_of_gradients_of_one(beta, c, steps, guesses):
    if not (beta or c):
        c = 1.0
    optimizer = guessed({"kind": "sgd", "momentum": beta}, guesses, last=c)
    a = count = 0.0
    for _ in range(steps):
        count = beta * count + 1.0
        a += count
    for _ in range(guesses):
        count = beta * count + c
        a += count
    assert optimizer.normaliser(steps, 0.1, 0.0, guesses) == pytest.approx(a)
    assert optimizer.reach(steps) >= a - 1e-6
    assert guessed({"kind": "sgd", "momentum": 0.5}, "fill-up").reach(steps) is None


def test_a_proximal_term_pulls_in_steps_and_not_in_guesses():
    beta, lr, mu, x, m = 0.8, 0.1, 0.5, 0.0, 0.0
    for _ in range(3):
        m = beta * m + 1.0 - lr * mu * x
        x += m
    for _ in range(2):
        m *= beta
        x += m
    assert guessed({"kind": "sgd", "momentum": beta}).normaliser(3, lr, mu, 2) == pytest.approx(x)


def test_a_normaliser_that_does_not_exist_is_refused():
    assert guessed().adds_gradients
    adam = guessed({"kind": "adam"})
    assert not adam.adds_gradients
    update = updates(learner(adam))[0]
    with pytest.raises(ProgramError, match="has no 'normaliser' if its optimizer does not add gradients: use sgd"):
        update.normaliser  # noqa: B018


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"guesses": -1}, "The 'guesses' of the optimizer guessed must be .*Got -1 instead"),
        ({"guesses": "fill"}, "The 'guesses' of the optimizer guessed must be .*fill-up.*Got 'fill' instead"),
        ({"of": {"kind": "sgd", "momentum": 1.0}}, r"The 'momentum' of the optimizer sgd must be .*Got 1.0 instead"),
        ({"of": {"kind": "sgd", "momentum": math.inf}}, "The 'momentum' of the optimizer sgd must be .*Got inf"),
        ({"of": {"kind": "sgd", "momentum": math.nan}}, "The 'momentum' of the optimizer sgd must be .*Got nan"),
        ({"last": -1.0}, "The 'last' of the optimizer guessed must be .*Got -1.0 instead"),
        ({"of": "sgd"}, "The optimizer guessed cannot follow sgd: it has no momentum: give it one, or set 'last'"),
        (
            {"of": {**MOMENTUM, "nesterov": True}},
            "The optimizer guessed cannot follow sgd: its 'nesterov' must be false.",
        ),
        ({"of": {"kind": "torch.optim:AdamW"}}, "The optimizer guessed cannot follow torch.optim:AdamW: it is one of"),
        ({"of": {"kind": "guessed", "of": MOMENTUM, "guesses": 1}}, "cannot follow guessed: it makes guesses itself"),
        ({"lr": 0.1}, "Unknown key 'lr' of the optimizer guessed"),
    ],
)
def test_wrong_guesses_are_refused_in_one_line(optimizer, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        build(Optimizer, {"kind": "guessed", "of": MOMENTUM, "guesses": 2, **optimizer})
    assert "\n" not in str(caught.value)


def test_without_guesses_momentum_is_not_needed():
    assert guessed("sgd", 0).is_plain
    assert not guessed("sgd", 1, last=1).is_plain


def run_of(optimizer, **more):
    return table(**{"task": {**BLOBS, "local_steps": 3, "optimizer": optimizer}, "rounds": 3, **more})


@pytest.mark.parametrize("engine", ["simulation", "emulation"])
def test_filling_up_needs_the_number_that_the_server_expects(engine, tmp_path):
    tables = run_of({"kind": "guessed", "of": MOMENTUM, "guesses": "fill-up"})
    with pytest.raises(
        CoveyError, match="must be an int where a training does not say how many steps the server expects"
    ):
        simulate(tables) if engine == "simulation" else emulate(tables, tmp_path)


@pytest.mark.parametrize("program", ["fedavg", "fedasync", {"kind": "gossip", "topology": "ring"}])
def test_a_check_finds_that_nobody_says_how_far_guesses_fill_up(program):
    tables = run_of({"kind": "guessed", "of": MOMENTUM, "guesses": "fill-up"}, program=program)
    with pytest.raises(ConfigurationError, match=r"'guesses' .* must be an int where .* Got 'fill-up' instead"):
        check(tables)
    assert check({**tables, "program": {"kind": "fedavg", "work": {"kind": "budgets", "steps": 3}}})


def test_a_momentum_that_is_not_finite_ends_the_run():
    with pytest.raises(ModelError, match=r"The model of node . is not finite after its training in round 0"):
        simulate(run_of({"kind": "guessed", "of": {**MOMENTUM, "lr": 1e38}, "guesses": 2}))


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize("state", ["reset", "keep"])
def test_guesses_cost_no_samples_and_no_time_in_gossip(state):
    of = {**MOMENTUM, "state": state}
    (base, _), (found, _) = (simulate(run_of(rule)) for rule in (of, {"kind": "guessed", "of": of, "guesses": 3}))
    assert not torch.equal(models_of(base), models_of(found))
    assert found.now == base.now
    for ours, plain in zip(found.nodes, base.nodes, strict=True):
        assert (ours.samples_used, ours.steps, ours.spent) == (plain.samples_used, plain.steps, plain.spent)


def test_both_engines_make_the_same_guesses(tmp_path):
    tables = run_of({"kind": "guessed", "of": {**MOMENTUM, "state": "keep"}, "guesses": 3, "last": 0.5})
    world, _ = simulate(tables)
    assert torch.allclose(emulate(tables, tmp_path)[0].models, models_of(world), atol=1e-5)


# ---------------------------------------------------------------------- unequal budgets

BUDGETS = {"kind": "budgets", "steps": 6}


def federated(guesses, work=BUDGETS, rounds=4, **program):
    optimizer = {"kind": "guessed", "of": {**MOMENTUM, "lr": 0.1}, "guesses": guesses}
    program = {"kind": "fedavg", "work": work, **program}
    return table(program=program, task={**BLOBS, "optimizer": optimizer}, rounds=rounds)


def test_budgets_are_drawn_between_one_and_what_the_server_expects():
    world, _ = simulate(federated(0, rounds=40))
    steps = np.array([node.steps for node in world.nodes[1:]]) / 40
    assert len(set(steps)) > 1
    assert 2.5 < steps.min() < steps.max() < 4.5
    again, _ = simulate(federated("fill-up", rounds=40))
    assert [node.steps for node in again.nodes] == [node.steps for node in world.nodes]


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.integers(1, 10), st.integers(0, 12)), min_size=2, max_size=6),
    st.floats(0.1, 0.98),
    st.sampled_from([0.0, 1.0]),
)
def test_in_a_constant_field_normalised_changes_are_the_same_whatever_steps_and_guesses(budgets, beta, c):
    field, lr = torch.tensor([[1.0, -2.0, 0.5]]), torch.full((1, 1), 0.01)
    changes = []
    for steps, guesses in budgets:
        optimizer = guessed({"kind": "sgd", "momentum": beta}, guesses, last=c)
        start = torch.zeros(1, 3)
        end, _ = moved(optimizer, start, field.expand(steps, 1, 3), [steps], [guesses], lr)
        changes.append(end / (0.01 * optimizer.normaliser(steps, 0.01, 0.0, guesses)))
    for change in changes:
        assert torch.allclose(change, -field, rtol=1e-4)


def test_fednova_of_equal_steps_and_guesses_is_fedavg():
    work = {"kind": "local", "steps": 3}
    (plain, _), (nova, _) = (simulate(federated(2, work, kind=kind)) for kind in ("fedavg", "fednova"))
    assert torch.allclose(models_of(plain), models_of(nova), atol=1e-6)


@pytest.mark.parametrize("guesses", [2, "fill-up"])
def test_guesses_with_fedprox_and_fedyogi_in_one_configuration(guesses, tmp_path):
    work, yogi = {**BUDGETS, "proximal_mu": 0.1}, {"kind": "yogi", "eta": 0.05}
    tables = federated(guesses, work, server_optimizer=yogi, kind="fednova")
    world, _ = simulate(tables)
    without, _ = simulate(federated(0, work, server_optimizer=yogi, kind="fednova"))
    assert not torch.equal(models_of(world), models_of(without))
    assert world.now == without.now
    assert torch.allclose(emulate(tables, tmp_path)[0].models, models_of(world), atol=1e-5)


def test_steps_that_the_stated_epsilon_does_not_count_are_refused():
    tables = federated("fill-up", rounds=2)
    tables["task"]["ldp"] = {"clip": 1.0, "noise": 1.0}
    with pytest.raises(ProgramError, match=r"The stated epsilon of 'ldp' counts at most 1 steps of .*Got . of"):
        simulate(tables)
    tables["task"]["local_steps"] = BUDGETS["steps"]
    world, _ = simulate(tables)
    assert sum(node.steps for node in world.nodes) > 0


def test_guesses_fall_when_the_servers_mean_step_has_grown():
    kept, work = SimpleNamespace(last=None, round=0, step=math.inf, most=0), LocalTraining(most_guesses=3)
    client = SimpleNamespace(keep=lambda state, of: kept)
    course = [(0, 0.0), (1, 4.0), (2, 7.0), (4, 15.0), (5, 16.0), (6, 20.0), (7, 30.0), (8, 50.0)]
    found = [guesses_of(work, client, torch.full((1,), at), t, work.most_guesses) for t, at in course]
    # Mean steps a round: 4, 3, 4, 1, 4, 10, 20.
    assert found == [3, 3, 3, 2, 2, 1, 0, 0]
    assert guesses_of(work, client, torch.ones(1), 9, None) is None


@pytest.mark.parametrize("work", [BUDGETS, {"kind": "local", "steps": 4}])
def test_clients_begin_with_at_most_as_many_guesses_as_their_work_says(work):
    least, most, plain = (
        simulate(federated(guesses, {**work, "most_guesses": limit}, rounds=1))[0]
        for guesses, limit in ((7, 2), (2, 7), (2, None))
    )
    assert torch.equal(models_of(least), models_of(plain))
    assert torch.equal(models_of(most), models_of(plain))


def test_guesses_that_fall_are_the_same_in_both_engines_and_after_a_resumption(tmp_path):
    tables = federated(4, {**BUDGETS, "most_guesses": 4}, rounds=8)
    tables["checkpoint"] = {"every": 3}
    world, written = simulate(tables)
    assert any(int(node.state["work.most"]) < 4 for node in world.nodes[1:])
    again, _ = simulate(tables, checkpoint=written.checkpoints[-1][1])
    assert torch.equal(models_of(again), models_of(world))
    assert torch.allclose(emulate(tables, tmp_path)[0].models, models_of(world), atol=1e-5)
