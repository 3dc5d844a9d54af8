"""FENS: its aggregators against the paper's lines, its bytes, and what it does where clients lack something."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.federated import fens_export
from covey.federated.aggregators import Aggregator, Gating, Learned, Network, Voting
from covey.federated.distillation import SoftStudent
from covey.learning.dataset import Data, Split
from covey.learning.datasets.digits import Digits
from covey.learning.objectives import KL
from covey.learning.views import Adversary, Arrived
from covey.messages import wire
from covey.parts import kinds
from covey.parts.errors import ConfigurationError, ConfigurationWarning, ModelError, RunError
from covey.parts.parameters import build
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, table
from tests.hosts import emulate
from tests.test_one_shot import judged

KINDS = list(kinds.built_in()["aggregator"])
LEARNED = [kind for kind in KINDS if issubclass(kinds.load("aggregator", kind), Learned)]
TASK = {
    "model": {"kind": "mlp", "hidden": [16]},
    "partition": {"kind": "dirichlet", "alpha": 0.2},
    "local_steps": 30,
    "same_start": False,
    "validation": 0.2,
}


def fens(aggregator="mlp", rounds=4, task=None, network=None, **program):
    """The tables of a server and six clients."""
    return table(
        program={"kind": "fens", "aggregator": aggregator, **program},
        task={**TASK, **(task or {})},
        network={"nodes": 7, **(network or {})},
        rounds=rounds,
        evaluation={"every": 1, "samples": None},
    )


def module_of(aggregator: Learned, models: int, classes: int, shape=(5,)) -> torch.nn.Module:
    """The module of a learned aggregator."""
    further = aggregator.network(models, classes, shape)
    split = Split(torch.zeros(2, *further.inputs), torch.zeros(2, dtype=torch.int64))
    return further.model.build(Data(split, split, "classes", classes)).eval()


outputs = st.builds(
    lambda models, classes, seed: torch.randn(7, models, classes, generator=torch.Generator().manual_seed(seed)),
    st.integers(1, 5),
    st.integers(2, 4),
    st.integers(0, 1000),
)
"""Logits of 7 samples."""


# ---------------------------------------------------------------------- limits of aggregators


@given(logits_BMC=outputs, seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_aggregators_that_begin_at_1_over_m_are_the_mean_of_logits(logits_BMC, seed):
    mean, (_, models, classes) = logits_BMC.mean(1), logits_BMC.shape
    for kind in ("linear", "per-class"):
        module = module_of(build(Aggregator, kind), models, classes)
        assert torch.allclose(module(logits_BMC.flatten(1)), mean, atol=1e-6)
    gate = Gating(dropout=0.0)
    module = module_of(gate, models, classes)
    with torch.no_grad():
        module.dense[-1].weight.zero_()
        module.dense[-1].bias.fill_(3.0)
    inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(module(gate.features(logits_BMC, inputs)), mean, atol=1e-6)


@given(logits_BMC=outputs, seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_the_order_of_clients_does_not_matter(logits_BMC, seed):
    draw, (_, models, classes) = torch.Generator().manual_seed(seed), logits_BMC.shape
    order = torch.randperm(models, generator=draw)
    labels_MC = torch.randint(0, 5, (models, classes), generator=draw)
    targets = torch.randint(0, classes, (7,), generator=draw)
    for kind in ("average", "weighted", "voting"):
        aggregator = build(Aggregator, kind)
        plain, other = (
            aggregator.combined(l_BMC, l_MC, aggregator.counts(l_BMC, targets) if aggregator.needs_counts else None)
            for l_BMC, l_MC in ((logits_BMC, labels_MC), (logits_BMC[:, order], labels_MC[order]))
        )
        assert torch.allclose(plain, other, atol=1e-5)
    module = module_of(build(Aggregator, "linear"), models, classes)
    with torch.no_grad():
        module.weight.copy_(torch.randn(models, 1, generator=draw))
    plain = module(logits_BMC.flatten(1))
    with torch.no_grad():
        module.weight.copy_(module.weight[order])
    assert torch.allclose(module(logits_BMC[:, order].flatten(1)), plain, atol=1e-5)


@given(logits_BMC=outputs, seed=st.integers(0, 100), missing=st.booleans())
@settings(max_examples=30, deadline=None)
def test_votes_are_the_product_of_competences(logits_BMC, seed, missing):
    _, models, classes = logits_BMC.shape
    logits_BMC = logits_BMC.clone()
    if missing:
        logits_BMC[:, -1] = 0
    targets = torch.randint(0, classes, (7,), generator=torch.Generator().manual_seed(seed))
    voting = Voting(smoothing=0.5)
    counts = voting.counts(logits_BMC, targets)
    found = voting.combined(logits_BMC, torch.zeros(models, classes), counts).softmax(1)
    given, seen = logits_BMC.argmax(2), sorted({*targets.tolist()})
    expected = np.ones((7, classes))
    for m in range(models):
        if missing and m == models - 1:
            continue  # It has no vote.
        for y in range(classes):
            row = [sum(1 for b in range(7) if targets[b] == y and given[b, m] == label) for label in range(classes)]
            row = row if y in seen else [int(label in seen) for label in range(classes)]
            share = [(count + 0.5) / (sum(row) + 0.5 * classes) for count in row]
            expected[:, y] *= [share[given[b, m]] for b in range(7)]
    assert np.allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-6)


def test_one_model_and_the_mean_are_that_model():
    world, written = simulate(fens("average", rounds=1, network={"nodes": 2}, models="float32"))
    alone = world.task.evaluate([world.nodes[1].model])[0]["accuracy"]
    assert judged(written) == pytest.approx([alone])


def test_the_best_expert_is_one_of_the_models():
    gate = Gating(best=True, dropout=0.0)
    module, logits_BMC = module_of(gate, 3, 4, (1, 8, 8)), torch.randn(9, 3, 4)
    found = module(gate.features(logits_BMC, torch.randn(9, 1, 8, 8)))
    assert (found[:, None] == logits_BMC).all(2).any(1).all()
    assert module_of(Gating(per_class=True), 3, 4).dense[-1].out_features == 12


# ---------------------------------------------------------------------- a run


def test_the_aggregator_is_trained_by_adam_on_the_clients_proxy_samples(overheard):
    world, _ = simulate(fens(rounds=4))
    proxies = {id: world.nodes[id].data.validation for id in range(1, 7)}
    asked = [m.payload["aggregator"].double() for m in overheard if m.tag == "aggregator"]
    first = second = torch.zeros_like(asked[0])
    second = second + 1e-6
    for t in (1, 2):
        changes = [m.payload for m in overheard if (m.tag, m.round) == ("change", t)]
        assert sorted(change["samples"] for change in changes) == sorted(proxies.values())
        delta = sum(c["delta"].double() * c["samples"] for c in changes) / sum(proxies.values())
        first, second = 0.9 * first + 0.1 * delta, 0.99 * second + 0.01 * delta**2
        assert torch.allclose(asked[t], asked[t - 1] + 0.001 * first / (second.sqrt() + 1e-3), atol=1e-7)


def test_a_client_makes_one_step_on_the_cached_logits_of_all_models(overheard):
    world, _ = simulate(fens(rounds=2, models="float32", network={"nodes": 4}))
    learner, further = world.task.learner, world.task.further["aggregator"]
    (asked,) = [m.payload["aggregator"] for m in overheard if m.tag == "aggregator"]
    (fan,) = [m.payload for m in overheard if m.tag == "models"]
    models = fan["models"].view(3, -1)
    for id in (1, 2, 3):
        inputs, targets = learner.splits.taken("validation", learner.splits.validation[id - 1])
        logits = learner.kernel.predict(list(models.unbind()), inputs).transpose(0, 1)
        assert torch.allclose(world.nodes[id].state["logits"], logits, atol=1e-6)
        module = further._make(0)
        further_views = further.layout.views(asked)
        module.load_state_dict(further_views)
        torch.nn.functional.cross_entropy(module(logits.flatten(1)), targets).backward()
        (change,) = [m.payload["delta"] for m in overheard if m.tag == "change" and m.sender == id]
        step = torch.cat([-p.grad.reshape(-1) for p in module.parameters()])
        assert torch.allclose(change, step, atol=1e-5)


def test_bytes_are_those_of_the_formula():
    rounds, clients = 5, 6
    world, _ = simulate(fens(rounds=rounds))
    size, tensors = len(world.nodes[1].model), 4
    of_aggregator = 4 * world.task.further["aggregator"].layout.size
    model = size + 4 * tensors
    up, down = model + (rounds - 1) * of_aggregator, clients * model + (rounds - 1) * of_aggregator
    messages = 150 * rounds  # The names of entries, and the counts of labels.
    assert 0 < world.nodes[1].bytes_out - up < messages
    assert 0 < world.nodes[0].bytes_out / clients - down < messages


@pytest.mark.parametrize("kind", ["average", "weighted"])
def test_models_go_to_the_server_alone_where_no_client_needs_them(kind, overheard):
    _, written = simulate(fens(kind, rounds=2, task={"validation": 0.0}))
    assert {message.tag for message in overheard} == {"local"}
    assert len(judged(written)) == 2


def test_an_extreme_change_of_the_aggregator_is_rejected_and_stops_no_training(monkeypatch):
    lie(monkeypatch, "change", delta=lambda delta: torch.full_like(delta, 1e30))
    world, written = simulate(fens(rounds=4))
    rejected = [detail for *_, what, detail in written.happened if what == "rejected"]
    assert [detail.startswith("message of node 3: its numbers are so large") for detail in rejected] == [True] * 3
    state = world.nodes[0].state
    (second,) = (value for name, value in state.items() if name.endswith("second"))
    assert bool(second.isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
def test_every_aggregator_is_judged_and_continues_from_a_checkpoint_to_the_bit(kind):
    tables = {**fens(kind, rounds=4, selecting=0.3), "checkpoint": {"every": 2}}
    whole, written = simulate(tables)
    assert len(judged(written)) == 4
    (_, checkpoint), *_ = written.checkpoints
    resumed, again = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
    assert judged(again) == judged(written)[-len(judged(again)) :]
    assert torch.equal(models_of(whole), models_of(resumed))
    states = [node.state for node in (whole.nodes[0], resumed.nodes[0])]
    assert {*states[0]} == {*states[1]}
    for name in states[0]:
        pair = [state[name] for state in states]
        assert torch.equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1]


def test_learned_aggregators_beat_the_mean_on_clients_that_differ():
    task = {"partition": {"kind": "shards", "per_node": 2}, "local_steps": 150}
    last = {
        kind: judged(simulate(fens(kind, rounds=40, task=task, server_optimizer={"kind": "adam", "eta": 0.02}))[1])[-1]
        for kind in ("average", "per-class", "mlp")
    }
    assert min(last["per-class"], last["mlp"]) > last["average"] + 0.05


@pytest.mark.parametrize("kind", ["mlp", "voting"])
def test_both_engines_agree_on_fens(kind, tmp_path):
    network = {"nodes": 4, "latency": None, "bandwidth": None, "compute": 1e6}
    tables = fens(kind, network=network)
    (_, here), (_, there) = simulate(tables), emulate(tables, tmp_path)
    assert judged(here) == pytest.approx(judged(there), abs=0.01)
    losses = [[v for n, _, name, v in w.figures if n == 0 and name == "loss"] for w in (here, there)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_the_selected_aggregator_has_the_lowest_loss_on_samples_that_do_not_train_it(overheard):
    # So large a rate that the aggregator becomes worse.
    optimizer = {"kind": "adam", "eta": 3.0}
    world, _ = simulate(fens(rounds=6, selecting=0.5, server_optimizer=optimizer))
    asked = [m.payload["aggregator"] for m in overheard if m.tag == "aggregator"]
    losses = []
    for t in range(1, 6):
        changes = [m.payload for m in overheard if (m.tag, m.round) == ("change", t)]
        total = sum(c["selecting"] for c in changes)
        losses.append(sum(c["loss"] * c["selecting"] for c in changes) / total)
        held = [world.nodes[id].data.validation for id in range(1, 7)]
        assert sorted(c["samples"] + c["selecting"] for c in changes) == sorted(held)
    assert world.nodes[0].state["lowest"] == pytest.approx(min(losses))
    assert torch.equal(world.nodes[0].state["selected"], asked[losses.index(min(losses))])
    assert losses.index(min(losses)) < 4


# ---------------------------------------------------------------------- what goes wrong


def test_a_client_without_proxy_samples_has_no_weight(tmp_path, overheard):
    dealt = [list(range(200)), list(range(200, 400)), [400]]
    (tmp_path / "parts.csv").write_text("sample,node\n" + "".join(f"{s},{n}\n" for n, p in enumerate(dealt) for s in p))
    task = {"partition": {"kind": "file", "file": str(tmp_path / "parts.csv")}}
    with pytest.warns(ConfigurationWarning, match=r"A client without proxy samples has the weight 0. Got none at 3\."):
        world, _ = simulate(fens(task=task, network={"nodes": 4}))
    assert {m.sender for m in overheard if m.tag == "change"} == {1, 2}
    assert world.nodes[0].state["ids"] == [1, 2, 3]


def test_no_proxy_samples_at_all_are_an_error():
    with pytest.raises(ConfigurationError, match=r"No client has proxy samples .* 'validation' of the task"):
        simulate(fens(task={"validation": 0.0}))
    with pytest.raises(ConfigurationError, match=r"'validation' .* \[0, 1\)"):
        simulate(fens(task={"validation": 1.0}))


def lie(monkeypatch, tag, **spoiled):
    """Let client 3 send other entries in its messages of a tag."""
    post = World.post

    def lying(world, node, receivers, payload, of, round):
        if node.id == 3 and of == tag:
            payload = {**payload, **{name: value(payload[name]) for name, value in spoiled.items()}}
        return post(world, node, receivers, payload, of, round)

    monkeypatch.setattr(World, "post", lying)


@pytest.mark.parametrize(
    ("tag", "spoiled"),
    [
        ("local", {"codes": lambda codes: codes[1:]}),
        ("local", {"scales": lambda scales: scales.double()}),
        ("local", {"held": lambda held: -1}),
        ("change", {"delta": lambda delta: delta[1:]}),
        ("change", {"samples": lambda samples: -samples}),
        ("change", {"loss": lambda loss: -1.0}),
        ("counts", {"counts": lambda counts: -1 - counts}),
    ],
)
def test_wrong_entries_of_a_client_leave_it_out(tag, spoiled, monkeypatch, overheard):
    lie(monkeypatch, tag, **spoiled)
    world, written = simulate(fens("voting" if tag == "counts" else "mlp", selecting=0.3))
    rejected = [detail for *_, what, detail in written.happened if what == "rejected"]
    assert rejected
    assert all(detail.startswith("message of node 3: ") for detail in rejected)
    assert len(judged(written)) == 4
    assert world.nodes[0].state["ids"] == ([1, 2, 4, 5, 6] if tag == "local" else [1, 2, 3, 4, 5, 6])


def test_a_model_whose_outputs_are_not_finite_is_named(monkeypatch):
    lie(monkeypatch, "local", scales=lambda scales: torch.full_like(scales, 3e38))
    with pytest.raises(ModelError, match="The outputs of model 3 are not finite"):
        simulate(fens())


def test_the_others_weights_grow_when_a_client_is_silent(overheard, monkeypatch):
    post = World.post

    def silent(world, node, receivers, payload, tag, round):
        receivers = [] if node.id == 3 and tag == "change" and round == 2 else receivers
        return post(world, node, receivers, payload, tag, round)

    monkeypatch.setattr(World, "post", silent)
    _, written = simulate(fens(rounds=4, patience="60s"))
    asked = [m.payload["aggregator"].double() for m in overheard if m.tag == "aggregator"]
    first, second = torch.zeros_like(asked[0]), torch.full_like(asked[0], 1e-6)
    for t in (1, 2):
        found = [m for m in overheard if (m.tag, m.round) == ("change", t) and (t, m.sender) != (2, 3)]
        total = sum(m.payload["samples"] for m in found)
        delta = sum(m.payload["delta"].double() * m.payload["samples"] for m in found) / total
        first, second = 0.9 * first + 0.1 * delta, 0.99 * second + 0.01 * delta**2
        assert torch.allclose(asked[t], asked[t - 1] + 0.001 * first / (second.sqrt() + 1e-3), atol=1e-7)
    assert len(judged(written)) == 4


def test_a_class_that_no_proxy_sample_has_is_allowed(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigurationWarning)
        for kind in ("voting", "mlp"):
            _, written = simulate(fens(kind, task={"validation": 0.01}))
            assert len(judged(written)) == 4


def test_the_default_is_an_mlp_of_four_hidden_numbers_for_each_model():
    parameters = sum(p.numel() for p in module_of(Network(), 20, 10).parameters())
    assert parameters == 16_890
    assert sum(p.numel() for p in module_of(Network(width=2), 20, 10).parameters()) == 8_450


def test_one_client_with_one_proxy_sample_works(tmp_path):
    (tmp_path / "parts.csv").write_text("sample,node\n0,0\n1,0\n")
    task = {"partition": {"kind": "file", "file": str(tmp_path / "parts.csv")}, "validation": 0.5}
    for kind in ("mlp", "voting"):
        world, written = simulate(fens(kind, task=task, network={"nodes": 2}, rounds=3, selecting=0.5))
        assert world.nodes[1].data.validation == 1
        assert len(judged(written)) == 3


def test_every_client_sees_the_models_of_all(overheard):
    world, _ = simulate(fens(rounds=1))
    program, first = world.program, world.task.learner.first_model
    arrived = [Arrived(0.0, m.sender, m.tag, m.round, m.payload, 0) for m in overheard]
    for observed, tag in ((0, "local"), (4, "models")):
        adversary = Adversary(observed, 7, first)
        views = list(program.views(adversary, [message for message in arrived if message.tag == tag]))
        assert sorted(view.senders for view in views) == [(id,) for id in range(1, 7)]
        for view in views:
            assert torch.allclose(view.values, world.nodes[view.senders[0]].model, atol=1e-6)
        assert not adversary.rejected


# ---------------------------------------------------------------------- a student


def test_a_student_learns_what_the_ensemble_says():
    task = {"public": {"dataset": "digits", "samples": 300}}
    student = {"epochs": 40, "batch_size": 64, "optimizer": {"kind": "adam", "lr": 0.01}}
    tables = fens("average", rounds=9, task=task, student=student, student_rounds=5)
    tables["checkpoint"] = {"every": 3}
    world, written = simulate(tables)
    grades = judged(written)
    assert grades[-1] > grades[3] - 0.1
    assert grades[4] != grades[3]
    learner, server = world.task.learner, world.nodes[0]
    inputs = learner.splits.taken("public", np.arange(300))[0]
    models = [node.model for node in world.nodes[1:]]
    logits_BMC = learner.kernel.predict(models, inputs).transpose(0, 1)
    said, alone = logits_BMC.mean(1).argmax(1), learner.kernel.predict([server.model], inputs)[0].argmax(1)
    assert (said == alone).double().mean() > 0.9
    checkpoint = next(payload for round, payload in written.checkpoints if round == 6)
    resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
    assert torch.equal(models_of(world), models_of(resumed))


def test_a_student_needs_rounds_and_public_samples():
    assert SoftStudent().objective == KL(temperature=3.0)
    for void in ("weights", "outputs"):  # Of an ensemble there is one teacher, the aggregator.
        with pytest.raises(ConfigurationError, match=f"'{void}'"):
            simulate(fens(student={void: "label"}, student_rounds=2))
    with pytest.raises(ConfigurationError, match=r"'student_rounds' .* fewer than the rounds .* 4\. Got 4 instead"):
        simulate(fens(student={}, student_rounds=4))
    with pytest.raises(ConfigurationError, match="The 'public' samples of the task must be given for a distillation"):
        simulate(fens(student={}, student_rounds=2))


# ---------------------------------------------------------------------- models out


@pytest.mark.parametrize("kind", ["mlp", "voting", "gating"])
def test_the_module_of_a_run_says_what_the_run_says(kind, tmp_path):
    tables = {**fens(kind, rounds=3, network={"nodes": 4}), "output": {"states": True}}
    run = covey.run(tables, out=tmp_path / "run", quiet=True)
    data = Digits().load(tmp_path)
    inputs, made = data.scaled(data.test.inputs), fens_export.module(run)
    logits = torch.stack([run.module(id)(inputs) for id in (1, 2, 3)], 1)
    assert torch.allclose(torch.as_tensor(run.states[0]["logits"]), logits, atol=1e-5)
    scores = made(inputs)
    accuracy = (scores.argmax(1) == data.test.targets).double().mean().item()
    assert accuracy == pytest.approx(run.metrics.query("node == 0")["accuracy"].iloc[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "voting", "gating"])
def test_an_exported_file_says_what_the_module_says(kind, tmp_path):
    tables = {**fens(kind, rounds=2, network={"nodes": 4}), "output": {"states": True}}
    run = covey.run(tables, out=tmp_path / "run", quiet=True)
    data = Digits().load(tmp_path)
    inputs = data.scaled(data.test.inputs)
    fens_export.export(run, tmp_path / "all.pt2")
    loaded, scores = torch.export.load(str(tmp_path / "all.pt2")).module(), fens_export.module(run)(inputs)
    assert torch.allclose(loaded(inputs), scores, atol=1e-5)
    assert torch.allclose(loaded(inputs[:1]), scores[:1], atol=1e-5)


def test_a_run_without_an_aggregator_is_not_exported(tmp_path):
    tables = table(program="fedavg", network={"nodes": 4}, rounds=1)
    run = covey.run(tables, out=tmp_path / "run", quiet=True)
    with pytest.raises(RunError, match=r"must be of the program fens\. Got fedavg instead"):
        fens_export.export(run, tmp_path / "all.pt2")
