"""The program robust-inference: live queries to clients, of which some lie."""

import re

import pytest
import torch

import covey as package
from covey.federated.robust_inference.answers import AnswersError
from covey.federated.robust_inference.rule import Fitting, Rule
from covey.federated.robust_inference.scene import liars_of
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import build
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate
from tests.test_fens import judged

CLIENTS = 7
BLOBS = {"dataset": {"kind": "gaussian-blobs", "samples": 210, "test_samples": 50}, "model": "logistic"}


def live(rounds=2, network=None, **program):
    """An experiment of seven clients, which answer 50 queries in batches of 20."""
    return table(
        program={"kind": "robust-inference", "batch": 20, **program},
        task={**BLOBS, "local_steps": 3, "partition": {"kind": "dirichlet", "alpha": 0.5}},
        network={"nodes": CLIENTS + 1, **(network or {})},
        rounds=rounds,
        evaluation={"every": 1},
    )


def refusals(written):
    return [value for _, _, name, value in written.figures if name == "refused"]


def answers_of(world):
    """The probabilities of all clients' final models for the test samples, and the classes."""
    learner = world.task.learner
    outputs = learner.kernel.predict([*models_of(world)[1:]], learner.data.scaled(learner.data.test.inputs))
    return outputs.transpose(0, 1).softmax(-1), learner.data.test.targets


@pytest.mark.parametrize("rule", ["mean", "median", "geometric-median", "trimmed-mean"])
@pytest.mark.parametrize("lie", ["sia", "logit-flipping"])
def test_a_decision_is_that_of_the_library_on_the_same_answers(rule, lie):
    world, written = simulate(live(rule=rule, faulty=2, liars=2, lie=lie))
    answers, labels = answers_of(world)
    for liar in liars_of(CLIENTS, 2, world.prepared.experiment.seed).tolist():
        answers[:, liar] = world.program.lie.alone(answers[:, liar])
    decided = build(Rule, rule).fitted(Fitting(2))(answers).argmax(-1)
    assert judged(written)[-1] == pytest.approx(float((decided == labels).double().mean()), abs=1e-6)
    assert refusals(written) == [0, 0]


def test_both_engines_agree_on_live_inference(tmp_path):
    tables = live(network={"nodes": 5, "latency": None, "bandwidth": None, "compute": 1e6}, faulty=1, liars=1)
    (_, here), (_, there) = simulate(tables), emulate(tables, tmp_path)
    assert judged(here) == pytest.approx(judged(there), abs=1e-6)
    assert len(judged(here)) == 2


def test_live_inference_continues_from_a_checkpoint_to_the_bit():
    tables = {**live(rounds=4, faulty=1, liars=1), "checkpoint": {"every": 2}}
    whole, written = simulate(tables)
    (_, checkpoint), *_ = written.checkpoints
    resumed, again = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
    assert judged(again) == judged(written)[-len(judged(again)) :]
    assert torch.equal(models_of(whole), models_of(resumed))


def spoiling(monkeypatch, change, *senders):
    """Let some nodes send changed answers; None sends nothing."""
    post = World.post

    def spoiled(world, node, receivers, payload, tag, round):
        if node.id in senders and tag.startswith("answer"):
            rows = change(payload["rows"].clone())
            receivers, payload = ([], payload) if rows is None else (receivers, {**payload, "rows": rows})
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", spoiled)


def test_silent_clients_are_left_out_up_to_the_quorum(monkeypatch):
    def decide(answers):
        return build(Rule, "trimmed-mean").fitted(Fitting(2))(answers).argmax(-1)

    with monkeypatch.context() as patch:
        spoiling(patch, lambda rows: None, 3, 5)
        world, written = simulate(live(faulty=2, patience="60s"))
    answers, labels = answers_of(world)
    rest = decide(answers[:, [0, 1, 3, 5, 6]])
    assert judged(written)[-1] == pytest.approx(float((rest == labels).double().mean()), abs=1e-6)
    assert refusals(written) == [0, 0]
    spoiling(monkeypatch, lambda rows: None, 3, 5, 6)
    _, written = simulate(live(faulty=2, patience="60s"))
    assert refusals(written) == [50, 50]


def halved(rows):
    rows[:4] *= 0.5
    return rows


def test_rows_that_are_no_probabilities_are_rejected_or_projected_one_by_one(monkeypatch):
    spoiling(monkeypatch, halved, 2, 3)
    for on_invalid in ("reject", "project"):
        assert refusals(simulate(live(faulty=2, on_invalid=on_invalid))[1]) == [0, 0]
    spoiling(monkeypatch, halved, 4)
    assert refusals(simulate(live(faulty=2))[1]) == [3, 3]  # The first row of each of three batches.
    assert refusals(simulate(live(faulty=2, on_invalid="project"))[1]) == [0, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: rows.double(),
        lambda rows: rows.view(-1, 4),
        lambda rows: torch.full_like(rows, 3e38),
        lambda rows: -rows,
        lambda rows: 7,
    ],
)
def test_no_answer_of_two_clients_ends_the_run(change, monkeypatch):
    spoiling(monkeypatch, change, 2, 6)
    for on_invalid in ("reject", "project"):
        world, written = simulate(live(faulty=2, on_invalid=on_invalid))
        assert [node.round for node in world.nodes] == [2] * (CLIENTS + 1)
        assert refusals(written) == [0, 0]


@pytest.mark.parametrize("change", [lambda x: x[1:], lambda x: x.double(), lambda x: 3, lambda x: x[:, :1]])
def test_a_query_of_another_shape_is_rejected(change, monkeypatch):
    post = World.post

    def spoiled(world, node, receivers, payload, tag, round):
        if tag == "query 1" and round == 0:
            payload = {"inputs": change(payload["inputs"])}
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", spoiled)
    _, written = simulate(live(patience="60s", faulty=1))
    assert refusals(written) == [20, 0]
    assert sum(what == "rejected" for *_, what, _ in written.happened) == CLIENTS


def test_the_server_takes_a_network_that_was_trained_on_stored_outputs(tmp_path):
    first = live(liars=0)
    first["task"]["validation"] = 0.2
    run = package.run(first, out=tmp_path / "run")
    table = {"kind": "deepset", "hidden": 8, "steps": 30, "inner_steps": 1}
    stored = package.infer(run, rules=["mean", table], attacks=["sia"], faulty=2)
    (file,) = stored.folder.glob("*.safetensors")
    assert file.name == "deepset-steps-30-hidden-8-inner-steps-1.safetensors"
    again = package.infer(run, rules=[{"kind": "deepset", "weights": file}], attacks=["sia"], faulty=2)
    assert torch.equal(again.reports[0].right["sia"], stored.reports[1].right["sia"])
    rule = {"kind": "deepset", "weights": str(file)}
    _, written = simulate({**first, "program": {**first["program"], "rule": rule, "faulty": 2}})
    assert judged(written)[-1] == pytest.approx(stored.reports[1].clean, abs=1e-6)
    (tmp_path / "no.safetensors").write_bytes(b"none")
    for other, text in {"no": "must be a file of a deepset, as covey infer writes it", "absent": "absent"}.items():
        weights = str(tmp_path / f"{other}.safetensors")
        with pytest.raises(ConfigurationError, match=text):
            simulate(live(rule={"kind": "deepset", "weights": weights}))
    tables = live(rule=rule)
    tables["task"] = {"dataset": "digits", "model": "logistic", "optimizer": {"kind": "sgd", "lr": 0.1}}
    with pytest.raises(AnswersError, match=r"trained for answers of 4 classes. Got 10 instead"):
        simulate(tables)


def test_combinations_that_cannot_work_are_refused():
    for program, error, text in [
        ({"liars": 4}, ConfigurationError, "must be fewer than half of its 7 clients. Got 4 instead."),
        ({"faulty": 4}, AnswersError, "fewer than half of the 7 that answer. Got 4 instead."),
        (
            {"lie": "pgd-cw"},
            ConfigurationError,
            "must be an attack from own answers: logit-flipping or sia. Got 'pgd-cw'",
        ),
        (
            {"rule": "deepset"},
            ConfigurationError,
            "is trained on stored outputs with their classes, and there are none",
        ),
        (
            {"faulty": 1, "rule": {"kind": "trimmed-mean", "trim": 4}},
            AnswersError,
            "less than half of the 7 rows. Got 4",
        ),
        (  # It decides while all answer, and not once two are silent.
            {"faulty": 2, "rule": {"kind": "trimmed-mean", "trim": 3}},
            AnswersError,
            "less than half of the 5 rows. Got 3",
        ),
        ({"classes": 3}, ConfigurationError, "'classes' of the program robust-inference must be those of the data, 4."),
    ]:
        with pytest.raises(error, match=re.escape(text)):
            simulate(live(**program))
    tables = live()
    tables["task"] = {"dataset": "linear-regression", "model": "linear"}
    with pytest.raises(ConfigurationError, match="must have classes, one for each sample"):
        simulate(tables)
