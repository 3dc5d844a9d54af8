"""Programs that use outputs and given samples: distillation, an aggregator of outputs, made-up samples."""

import pytest
import torch

from covey.parts.errors import ProgramError
from covey.runtime.jobs import calling_twice
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate
from tests.programs.asking import DOES, DONE

SHARDS = {"partition": {"kind": "shards", "per_node": 2}, "optimizer": {"kind": "sgd", "lr": 0.5}}
NETWORK = {"latency": "5ms", "bandwidth": None}


FENS = {"kind": "tests.programs.fens:FENS", "lr": 0.01}
APART = {**SHARDS, "model": {"kind": "mlp", "hidden": [16]}, "validation": 0.2, "same_start": False}


def test_an_aggregator_of_outputs_beats_their_mean():
    tables = table(program=FENS, network={**NETWORK, "nodes": 7}, task=APART, rounds=80, evaluation={"samples": None})
    world, written = simulate(tables)
    judged = {t: value for node, t, name, value in written.figures if name == "accuracy" and node == 0}
    assert set(judged) == set(range(1, 81))
    learner = world.task.learner
    inputs, targets = learner.splits.taken("test", learner.splits.indices("test", None))
    assert judged[80] > judged[1] + 0.2
    models = [learner.initial(node) for node in range(1, 7)]
    assert not torch.equal(models[0], models[1])
    assert world.task.further["aggregator"].layout.size == (60 * 24 + 24) + (24 * 10 + 10)
    local = table(
        program={"kind": "tests.programs.asking:Alone", "epochs": 10}, network={**NETWORK, "nodes": 7}, task=APART
    )
    alone, _ = simulate({**local, "rounds": 1, "evaluation": {"samples": None}})
    trained = [node.model for node in alone.nodes[1:]]
    mean = learner.judge(learner.kernel.predict(trained, inputs).mean(0), targets)["accuracy"]
    assert judged[80] > mean + 0.05
    assert judged[80] > max(found["accuracy"] for found in world.task.evaluate(trained)) + 0.2


def test_an_aggregator_is_the_same_in_both_engines(tmp_path):
    network = {"nodes": 4, "latency": None, "bandwidth": None, "compute": 1e6}
    tables = table(program=FENS, network=network, task=APART, rounds=5)
    (_, here), (_, there) = simulate(tables), emulate(tables, tmp_path)
    ours, theirs = ({f[:3]: f[3] for f in w.figures if f[0] == 0} for w in (here, there))
    assert {key for key in ours if key[2] == "loss"} == {(0, t, "loss") for t in range(1, 6)}
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_gradients_are_matched_by_made_up_samples():
    program = {"kind": "tests.programs.condenses:Condenses"}
    task = {"model": {"kind": "mlp", "hidden": [16]}, **SHARDS}
    tables = table(program=program, network={**NETWORK, "nodes": 5}, task=task, rounds=5)
    with calling_twice():
        _, written = simulate(tables)
    _, noise = simulate({**tables, "program": {**program, "steps": 1}, "rounds": 1})
    before = {node: value for node, _, name, value in noise.figures if name == "distance"}
    for node in range(5):
        distances = [v for id, t, name, v in written.figures if name == "distance" and id == node]
        assert len(distances) == 5
        assert max(distances) < before[node] / 2
    condensed = [columns for *_, columns in written.added]
    assert len(condensed) == 5
    assert all(columns["after"] > columns["before"] + 0.1 for columns in condensed)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (lambda node: node.train(of="student", on=node.samples("train")), "no network 'student'. Known: 'aggregator'."),
        (lambda node: node.train(of="aggregator"), "A node without data must train 'on' given samples."),
        (
            lambda node: node.train(node.model, of="aggregator", on=SIDE),
            r"must be 1 or more of 1183 numbers. Got \[\(650",
        ),
        (lambda node: node.train(of="aggregator", on=node.samples("train")), r"The inputs of 'on' must be .* \(40,\)"),
    ],
)
def test_what_no_network_takes_is_refused(what, words):
    async def asked(node):
        await what(node)

    DOES["what"] = asked
    tables = table(network={"nodes": 5}, program={"kind": "tests.programs.asking:Beside", "does": "what"})
    with pytest.raises(ProgramError, match=words):
        simulate(tables)


def test_an_aggregator_begins_alike_and_is_trained_as_torch_does():
    async def asked(node):
        update = await node.train(of="aggregator", on=SIDE, steps=1, batch_size=20, lr=0.5)
        return node.initial("aggregator"), update, node.now

    DOES["what"] = asked
    world, _ = simulate(table(network={"nodes": 5}, program={"kind": "tests.programs.asking:Beside", "does": "what"}))
    start, update, now = DONE.pop("what")
    further = world.task.further["aggregator"]
    module = further._make(0)
    assert torch.equal(start, further.layout.flatten(module))
    torch.nn.functional.cross_entropy(module(SIDE[0]), SIDE[1]).backward()
    expected = torch.cat([(p - 0.5 * p.grad).detach().reshape(-1) for p in module.parameters()])
    assert torch.allclose(update.model, expected, atol=1e-6)
    assert now == pytest.approx(20 * 1183 / 650 / world.speeds[0])
    assert world.nodes[0].samples_used == 0
    assert torch.equal(models_of(world)[0], world.task.learner.initial(0))


@pytest.mark.parametrize("optimizer", ["sgd", "torch.optim:Adam"])
@pytest.mark.parametrize("keeps", [True, False])
def test_the_state_of_a_further_network_is_kept_beside_that_of_the_nodes_model(keeps, optimizer):
    public = (torch.linspace(-1, 1, 12 * 64).view(12, 1, 8, 8), torch.arange(12) % 10)

    async def asked(node):
        model, models = node.initial("student"), []
        for _ in range(3):
            model = (await node.train(model, of="student", on=public, steps=1, batch_size=12)).model
            models.append(model)
            await node.train()
            before = node.slots or {}
            node.restore_learned(node.learned())
            assert (node.slots or {}) == before
            assert bool(before) == (optimizer != "sgd")
        return models

    DOES["what"] = asked
    program = {"kind": "tests.programs.asking:Taught", "does": "what", "keeps": keeps}
    task = {"optimizer": {"kind": optimizer, "lr": 0.1, "state": "keep"}}
    world, _ = simulate(table(network={"nodes": 3}, program=program, task=task))
    student = world.task.further["student"]
    assert not torch.equal(student.first_model, world.task.learner.first_model)
    module = student._make(0)
    adam = torch.optim.Adam(module.parameters(), lr=0.01)
    for model in DONE.pop("what"):
        adam.zero_grad()
        if not keeps:
            adam = torch.optim.Adam(module.parameters(), lr=0.01)
        torch.nn.functional.cross_entropy(module(public[0]), public[1]).backward()
        adam.step()
        assert torch.allclose(model, student.layout.flatten(module), atol=1e-5)


SIDE = (torch.linspace(-1, 1, 800).view(20, 40), torch.arange(20) % 10)
