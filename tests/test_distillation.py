"""Distillation: the soft targets against sums written out, the student's losses, and the one-shot programs that use it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.federated.client_work import LocalTraining
from covey.federated.distillation import checked, pooled
from covey.federated.ensembles import weights_by_labels
from covey.learning.objectives import KL, L1
from covey.parts.errors import ConfigurationError, ModelError
from tests.conftest import begun, models_of, simulate, table
from tests.hosts import emulate

PUBLIC = {"dataset": {"kind": "digits"}, "samples": 200}
TASK = {
    "public": PUBLIC,
    "partition": {"kind": "shards", "per_node": 2},
    "local_steps": 20,
    "optimizer": {"kind": "sgd", "lr": 0.5},
}
QUICK = {"epochs": 3, "batch_size": 50, "optimizer": {"kind": "adam", "lr": 0.01}}


def distilled(kind="fedkd", task=TASK, nodes=5, **changes):
    """The tables of a one-shot program with a distillation, on digits."""
    return table(
        **{
            "program": {"kind": kind, "distillation": QUICK},
            "task": task,
            "network": {"nodes": nodes, "latency": "5ms", "bandwidth": None},
            "evaluation": {"every": 1},
            **changes,
        }
    )


# ---------------------------------------------------------------------- soft targets


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_soft_targets_are_the_weighted_sums_of_what_teachers_say(teachers, classes, samples, seed):
    draw = np.random.default_rng(seed)
    counts = draw.integers(0, 3, (teachers, classes)) * draw.integers(0, 2, (1, classes))
    outputs = draw.normal(size=(teachers, samples, classes))
    weights = weights_by_labels(torch.from_numpy(counts))
    assert torch.allclose(weights.sum(0), torch.ones(classes), atol=1e-6)
    found = pooled(torch.from_numpy(outputs).float(), weights)
    for x in range(samples):
        for c in range(classes):
            total = counts[:, c].sum()
            shares = [n / total if total else 1 / teachers for n in counts[:, c]]
            assert found[x, c] == pytest.approx(
                sum(p * f for p, f in zip(shares, outputs[:, x, c], strict=True)), abs=1e-5
            )
    alike = np.broadcast_to(outputs[:1], outputs.shape).copy()
    assert torch.allclose(
        pooled(torch.from_numpy(alike).float(), weights), torch.from_numpy(outputs[0]).float(), atol=1e-5
    )
    order = draw.permutation(teachers)
    again = pooled(torch.from_numpy(outputs[order]).float(), weights[order])
    assert torch.allclose(found, again, atol=1e-5)


def test_probabilities_are_added_up_as_such():
    outputs = torch.tensor([[[0.0, 3.0]], [[2.0, -1.0]]])
    found = pooled(outputs, torch.full((2, 2), 0.5), "probabilities")
    assert torch.allclose(found.exp(), outputs.softmax(-1).mean(0), atol=1e-6)


def test_the_weights_of_one_for_all_classes_are_those_of_each():
    outputs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(pooled(outputs, weights_by_labels(torch.ones(3, 1))), outputs.mean(0), atol=1e-6)


@pytest.mark.parametrize("objective", [L1(), KL(), KL(temperature=3.0)])
def test_a_student_that_says_the_targets_has_no_loss(objective):
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    assert float(objective.of_samples(targets, targets).abs().max()) < 1e-5
    assert float(objective.of_samples(targets + torch.eye(4)[0], targets).min()) > 1e-3


def test_a_teacher_whose_outputs_are_not_finite_is_named():
    outputs = torch.zeros(3, 2, 2)
    outputs[1, 0, 1] = torch.inf
    with pytest.raises(ModelError, match="The outputs of the model of node 4 are not finite"):
        checked(outputs, [2, 4, 5])


class Huge(LocalTraining):
    """Client 2 comes to a model that is finite, and whose outputs are not."""

    kind = "huge"

    async def train(self, node, model, t, *, correction=None):
        update = await super().train(node, model, t, correction=correction)
        if node.id == 2:
            update.model = torch.full_like(update.model, 3e38)
        return update


def test_no_student_learns_from_a_teacher_whose_outputs_are_not_finite():
    tables = distilled(
        program={"kind": "fedkd", "distillation": QUICK, "work": "tests.test_distillation:Huge"}, rounds=2
    )
    with pytest.raises(ModelError, match="The outputs of the model of node 2 are not finite on the public samples"):
        simulate(tables)


# ---------------------------------------------------------------------- FedKD and FedDF


def test_the_student_of_fedkd_learns_what_clients_say_together():
    distillation = {**QUICK, "epochs": 39, "optimizer": {"kind": "adam", "lr": 0.05}}
    world, written = simulate(distilled(rounds=40, program={"kind": "fedkd", "distillation": distillation}))
    learner, server = world.task.learner, world.nodes[0]
    public = learner.splits.taken("public", learner.splits.indices("public", None))[0]
    teachers = [node.model for node in world.nodes[1:]]
    said = learner.kernel.predict([*teachers, server.model], public)
    errors = (said.softmax(-1) - said[:-1].mean(0).softmax(-1)).abs().mean((1, 2))
    assert errors[-1] < min(errors[:-1]) / 10
    grades = [found["accuracy"] for found in world.task.evaluate([server.model, *teachers])]
    assert grades[0] > max(grades[1:])
    epochs = [columns for *_, kind, columns in written.added if kind == "distillation"]
    assert [columns["epoch"] for columns in epochs] == list(range(1, 40))
    assert epochs[-1]["loss"] < epochs[0]["loss"] / 5
    assert server.data.samples == 0


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("result", ["best", "last"])
def test_all_passes_are_made_in_any_number_of_rounds(rounds, result):
    distillation = {**QUICK, "epochs": 3, "result": result, "optimizer": {"kind": "adam", "lr": 0.3}, "batch_size": 9}
    world, written = simulate(distilled(rounds=rounds, program={"kind": "fedkd", "distillation": distillation}))
    epochs = [columns for *_, kind, columns in written.added if kind == "distillation"]
    assert [columns["epoch"] for columns in epochs] == [1, 2, 3]
    server = world.nodes[0]
    assert {node.round for node in world.nodes} == {rounds}
    assert server.state.get("distillation.targets") is None
    assert server.state["distillation.lowest"] == min(columns["held_out"] for columns in epochs)
    shown = {t: value for node, t, name, value in written.figures if name == "accuracy" and node == 0}
    assert len(shown) == rounds
    assert shown[rounds] == world.task.evaluate([server.model])[0]["accuracy"]


@pytest.mark.parametrize(("largest", "kind"), [(65504.0, torch.float16), (1e6, torch.float32)])
def test_targets_beyond_the_range_of_float16_are_kept_whole(largest, kind):
    world = begun(distilled())
    student, node = world.program.distillation, world.nodes[0]
    targets = torch.zeros(len(node.samples("public").inputs), 10)
    targets[0, 0] = -largest
    student.teach(node, targets)
    kept = node.state["distillation.targets"]
    assert kept.dtype == kind
    assert torch.equal(kept.float(), targets)


def test_the_best_student_is_the_one_with_the_lowest_loss_on_what_is_held_out():
    distillation = {**QUICK, "epochs": 5, "optimizer": {"kind": "adam", "lr": 0.5}, "batch_size": 9}
    task = {**TASK, "model": {"kind": "mlp", "hidden": [8]}}
    models = {}
    for result in ("best", "last"):
        program = {"kind": "fedkd", "distillation": {**distillation, "result": result}}
        world, written = simulate(distilled(rounds=8, program=program, task=task))
        models[result] = world.nodes[0].model
        losses = [columns["held_out"] for *_, kind, columns in written.added if kind == "distillation"]
    assert losses.index(min(losses)) not in (0, len(losses) - 1), losses
    assert not torch.equal(models["best"], models["last"])
    stopped, _ = simulate(
        distilled(
            rounds=8,
            program={
                "kind": "fedkd",
                "distillation": {**distillation, "epochs": 1 + losses.index(min(losses)), "result": "last"},
            },
            task=task,
        )
    )
    assert torch.equal(models["best"], stopped.nodes[0].model)


def test_the_student_of_feddf_begins_with_fedavg_1():
    still = {**QUICK, "optimizer": {"kind": "adam", "lr": 0.0}}
    one, _ = simulate(distilled("feddf", program={"kind": "feddf", "distillation": still}))
    mean, _ = simulate(distilled(program={"kind": "fedavg-1"}))
    other, _ = simulate(distilled(program={"kind": "fedkd", "distillation": still}))
    assert torch.allclose(one.nodes[0].model, mean.nodes[0].model, atol=1e-6)
    assert torch.equal(other.nodes[0].model, other.task.further["student"].first_model)
    learned, _ = simulate(distilled("feddf"))
    assert not torch.allclose(learned.nodes[0].model, mean.nodes[0].model, atol=1e-3)


@pytest.mark.parametrize("weights", ["label", "uniform"])
def test_a_distillation_is_the_same_in_both_engines(tmp_path, weights):
    network = {"nodes": 4, "latency": None, "bandwidth": None, "compute": 1e6}
    program = {"kind": "feddf", "distillation": {**QUICK, "weights": weights}}
    tables = distilled(network=network, rounds=4, program=program)
    (_, here), (_, there) = simulate(tables), emulate(tables, tmp_path)
    ours, theirs = ({f[:3]: f[3] for f in w.figures if f[0] == 0} for w in (here, there))
    assert {t for _, t, _ in ours} == {1, 2, 3, 4}
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_distillation_continues_from_a_checkpoint_between_its_passes():
    tables = distilled(rounds=6, checkpoint={"every": 1})
    whole, written = simulate(tables)
    for round, checkpoint in written.checkpoints[1:4]:
        resumed, rewritten = simulate(tables, checkpoint=checkpoint)
        assert torch.equal(models_of(whole), models_of(resumed)), round
        assert len([row for row in rewritten.added if row[2] == "distillation"]) < 3


@pytest.mark.parametrize(
    ("kind", "weights", "objective"),
    [("fedkd", "uniform", KL(temperature=3.0)), ("feddf", "uniform", KL()), ("cpfl", "label", L1())],
)
def test_a_table_that_changes_one_parameter_leaves_the_others_of_the_program(kind, weights, objective):
    task = {**TASK, "validation": 0.1}
    found = begun(distilled(task=task, program={"kind": kind, "distillation": {"epochs": 7}})).program.distillation
    assert (found.epochs, found.weights, found.objective) == (7, weights, objective)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": {**TASK, "public": None}}, "The 'public' samples of the task must be given for a distillation"),
        (
            {"task": {**TASK, "public": {"dataset": {"kind": "gaussian-blobs", "samples": 20, "test_samples": 9}}}},
            r"The 'public' of the task must have samples of the shape \(1, 8, 8\)",
        ),
        ({"program": {"kind": "fedkd", "distillation": {"weights": "class"}}}, "must be one of 'label', 'uniform'"),
        (
            {"program": {"kind": "fedkd", "distillation": {"epochs": 0}}},
            r"The 'epochs' of the distillation must be an int in \[1, inf\)",
        ),
        ({"program": {"kind": "fedkd", "distillation": {"validation": 1.0}}}, r"must be a number in \[0, 1\)"),
    ],
)
def test_a_distillation_that_cannot_work_is_refused(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        begun(distilled(**changes))
