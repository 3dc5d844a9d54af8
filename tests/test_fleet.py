"""FLeet: AdaSGD, the controller, the program in both engines, and wrong messages."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from covey.federated.adasgd import LONGEST, AdaSGD, History, beta, similarity
from covey.federated.controller import Controller, Requests
from covey.federated.fleet import Fleet
from covey.federated.profilers import IProf
from covey.learning.views import Adversary, Arrived
from covey.messages import wire
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.parameters import Setting
from covey.runtime.observers import OWN
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS
from tests.hosts import emulate

counts = arrays(np.int64, 5, elements=st.integers(0, 50))
some_counts = counts.filter(lambda found: found.any())
stale = st.lists(st.integers(0, 60), min_size=1, max_size=300)


def history(staleness=(), labels=None):
    found = History(5, np.bincount(np.asarray(staleness, dtype=int), minlength=LONGEST + 1))
    if labels is not None:
        found.labels = np.asarray(labels, dtype=float)
    return found


def expected(part, staleness, label_counts, seen, before):
    """The weight of the paper, in plain float64."""
    ordered = sorted(before)
    if len(ordered) < part.bootstrap:
        dampened = 1 / (staleness + 1)
    else:
        half = ordered[max(math.ceil(part.s / 100 * len(ordered)) - 1, 0)] / 2
        decay = math.log(half + 1) / half if half else 1.0
        dampened = math.exp(-decay * staleness)
    p, q = label_counts / label_counts.sum(), seen / seen.sum() if seen.any() else None
    sim = 1.0 if q is None else sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True))
    return min(1.0, dampened / max(sim, 1e-6))


@settings(max_examples=40)
@given(threshold=st.integers(1, 5000))
def test_dampening_is_1_at_0_and_meets_the_inverse_rule_at_half_the_threshold(threshold):
    part = AdaSGD()
    assert part.dampened(0, threshold) == 1.0
    half = threshold / 2
    assert math.exp(-beta(threshold) * half) == pytest.approx(1 / (half + 1), abs=1e-12)
    for staleness in range(1, 2 * threshold + 1, max(threshold // 4, 1)):
        if staleness < half:
            assert part.dampened(staleness, threshold) > 1 / (staleness + 1)
        if staleness > half:
            assert part.dampened(staleness, threshold) < 1 / (staleness + 1)
    assert beta(0) == 1.0 == pytest.approx(beta(1e-9))


@settings(max_examples=40)
@given(before=stale, staleness=st.integers(0, 80), batch=some_counts, seen=counts, s=st.floats(50, 100))
def test_weights_are_those_of_the_paper(before, staleness, batch, seen, s):
    part = AdaSGD(s=s, bootstrap=20)
    assume(abs(s / 100 * len(before) - round(s / 100 * len(before))) > 1e-6 or s == 100)
    (found,) = part.weights(history(before, seen), [staleness], batch[None])
    assert found == pytest.approx(expected(part, staleness, batch, seen, before), rel=1e-9)
    assert 0 < found <= 1
    assert part.weights(history(before, seen), [0], batch[None])[0] == 1.0


@settings(max_examples=40)
@given(batch=some_counts, factor=st.integers(1, 9), other=some_counts)
def test_similarity_is_symmetric_1_only_for_equal_shares_and_0_only_for_disjoint_labels(batch, factor, other):
    assert similarity(batch * factor, batch.astype(float)) == pytest.approx(1.0)
    one, two = similarity(batch, other.astype(float)), similarity(other, batch.astype(float))
    assert one == pytest.approx(two)
    assert 0 <= one <= 1
    assert (one == 0) == (not (batch * other).any())
    if one > 1 - 1e-12:
        assert np.allclose(batch / batch.sum(), other / other.sum(), atol=1e-5)
    assert similarity(batch, np.zeros(5)) == 1.0


@settings(max_examples=40)
@given(before=stale, staleness=stale, batch=some_counts)
def test_equal_labels_reduce_to_dampening_and_labels_of_no_other_to_weight_1(before, staleness, batch):
    part, plain = AdaSGD(bootstrap=10), AdaSGD(bootstrap=10, boost=False)
    same = history(before, batch * 3.0)
    batches = np.tile(batch, (len(staleness), 1))
    assert part.weights(same, staleness, batches) == pytest.approx(plain.weights(same, staleness, batches), rel=1e-6)
    rare = np.array([0, 0, 0, 0, 7])
    modest = [min(one, 5) for one in staleness]
    far = history([40] * 200, [9.0, 9.0, 0, 0, 0])
    assert part.weights(far, modest, np.tile(rare, (len(modest), 1))).tolist() == [1.0] * len(modest)


@settings(max_examples=40)
@given(before=stale, staleness=st.integers(0, 1000))
def test_a_clamped_straggler_has_the_weight_of_the_threshold(before, staleness):
    part, batch = AdaSGD(clamp_at_threshold=True, bootstrap=1, boost=False), np.ones((1, 5), dtype=np.int64)
    threshold = part.threshold(history(before))
    (found,) = part.weights(history(before), [staleness], batch)
    assert found == math.exp(-beta(threshold) * min(staleness, threshold))


@settings(max_examples=30)
@given(steps=st.lists(st.tuples(st.integers(0, 2000), some_counts), min_size=1, max_size=12))
def test_the_histogram_of_labels_is_the_sum_of_counts_or_of_applied_weights(steps):
    for part in (AdaSGD(bootstrap=5), AdaSGD(bootstrap=5, histogram="applied-weight")):
        now, total = history(), np.zeros(5)
        for staleness, batch in steps:
            weights = part.weights(now, [staleness], batch[None])
            before = now
            now = part.add(now, [staleness], batch[None], weights)
            assert before.labels is not now.labels
            total += batch * (1.0 if part.histogram == "seen" else weights[0])
        assert now.labels == pytest.approx(total)
        assert now.staleness.sum() == len(steps)
        assert len(now.staleness) == LONGEST + 1


def test_a_controller_refuses_by_percentiles_of_earlier_requests():
    def ask(part, values):
        requests, found = Requests(), []
        for samples, like in values:
            found.append(part.refusal(requests, samples, like))
            requests = part.add(requests, samples, like)
        return found

    draw = np.random.default_rng(1)
    likes = [(200, float(like)) for like in draw.uniform(0, 1, 600)]
    for drops, word in (("most-similar", "similar"), ("least-similar", "dissimilar")):
        found = ask(Controller(similar=30, drops=drops), likes)
        refused = [like for (_, like), reason in zip(likes, found, strict=True) if reason == word]
        assert found[:20] == [""] * 20
        assert 120 < len(refused) < 240
        assert np.median(refused) > 0.75 if drops == "most-similar" else np.median(refused) < 0.25
    sizes = [(int(size), 0.5) for size in draw.integers(8, 1000, 600)]
    found = ask(Controller(small=40), sizes)
    small = [size for (size, _), reason in zip(sizes, found, strict=True) if reason == "small"]
    assert 180 < len(small) < 300
    assert max(small[50:]) < 500
    # Equal requests are never refused, and neither are any without percentages.
    assert ask(Controller(small=90, similar=90), [(104, 0.9)] * 50) == [""] * 50
    assert ask(Controller(), likes) == [""] * 600


# ---------------------------------------------------------------------- the program

PROGRAM = {"kind": "fleet", "lr": 0.3, "period": "1s", "profiler": {"kind": "constant", "samples": 16}}
NETWORK = {"nodes": 6, "latency": "1ms", "bandwidth": None, "compute": 1000}


def fleet(program=None, **changes):
    base = {"program": {**PROGRAM, **(program or {})}, "task": BLOBS, "network": NETWORK, "rounds": 40}
    return table(**{**base, **changes})


def figures(written, name, node=0):
    return [value for of, _, found, value in written.figures if (of, found) == (node, name)]


def test_without_delays_it_is_synchronous_sgd_over_clients_in_turn():
    world, written = simulate(fleet(rounds=15))
    assert figures(written, "staleness") == [0.0] * 15
    assert figures(written, "weight") == [1.0] * 15
    alone, _ = simulate(fleet({"weights": {"dampening": "constant"}}, rounds=15))
    assert torch.equal(world.nodes[0].model, alone.nodes[0].model)
    # The same by the learner, one mini-batch of one client after the other.
    learner, model = world.task.learner, world.task.learner.first_model.clone()
    from covey.learning.jobs import Training
    from covey.learning.node import Work

    for t in range(15):
        client = world.nodes[1 + t % 5]
        work = Work(steps=1, batch_size=16)
        training = Training(client.holder, model.clone(), client.stream, t // 5, 0, work)
        training.learner = learner
        learner.train([training])
        model -= 0.3 * training.update.gradient
    assert torch.allclose(world.nodes[0].model, model, atol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"boost": False},
        {"dampening": "inverse"},
        {"dampening": "constant"},
        {"clamp_at_threshold": True, "histogram": "applied-weight", "s": 80.0, "bootstrap": 5},
    ],
)
def test_it_learns_from_stale_gradients_with_every_rule(weights):
    delays = {"mean": "600ms", "deviation": "100ms", "label": 0, "factor": 2.0}
    world, written = simulate(fleet({"weights": weights, "delays": delays}, rounds=50))
    assert np.mean(figures(written, "staleness")) > 2
    assert figures(written, "accuracy")[-1] > 0.75
    found = figures(written, "weight")
    assert found == [1.0] * 50 if weights.get("dampening") == "constant" else min(found) < 0.5
    assert all(node.round <= 50 for node in world.nodes)


def test_k_gradients_make_one_step():
    world, written = simulate(fleet({"k": 4, "delays": {"mean": "300ms"}}, rounds=10))
    assert world.nodes[0].round == 10
    assert sum(node.samples_used for node in world.nodes) >= 16 * 4 * 10
    assert max(figures(written, "staleness")) > 0


DEVICES = {"kind": "phones", "fixed": "100ms", "drift": 0.1, "noise": 0.05, "samples_per_second": 40}


def test_the_server_learns_of_devices_and_keeps_tasks_within_their_time():
    profiler = {"kind": "i-prof", "seconds": "1s", "least": 8, "most": 64, "joules": "4J"}
    network = {**NETWORK, "devices": DEVICES, "compute": None, "energy": "device-power"}
    world, written = simulate(fleet({"profiler": profiler, "period": "3s"}, network=network, rounds=60))
    sizes = [row[3]["samples"] for row in written.added if row[2] == "tasks"]
    assert sizes[0] == 8
    assert len(set(sizes)) > 3
    assert world.nodes[0].state["profile"]
    wrong = {**NETWORK, "compute": 100}
    with pytest.raises(
        ProgramError, match="such as 'available_memory_gb', and the network has none: give it 'devices'"
    ):
        simulate(fleet({"profiler": profiler}, network=wrong))


def test_a_limit_within_the_fixed_cost_is_stated_and_gives_least_sizes():
    profiler = {"kind": "i-prof", "seconds": "50ms", "fixed": "50ms", "least": 8, "most": 64}
    network = {**NETWORK, "devices": DEVICES, "compute": None}
    world, written = simulate(fleet({"profiler": profiler}, network=network, rounds=4))
    tasks = [row[3] for row in written.added if row[2] == "tasks"]
    assert {(row["samples"], row["warning"]) for row in tasks} == {
        (8, "an objective of 0.05 s is no more than the fixed cost of 0.05 s")
    }
    (found,) = world.program.profiler.findings().values()
    assert found.endswith("so all mini-batches have 8 samples")
    assert not IProf().findings()


def test_a_refused_client_asks_again_and_the_record_says_why():
    task = {**BLOBS, "partition": {"kind": "shards", "per_node": 2}}
    _, written = simulate(fleet({"controller": {"similar": 40}}, task=task, rounds=60))
    reasons = [row[3]["refusal"] for row in written.added if row[2] == "tasks"]
    assert {"", "similar"} == set(reasons)
    assert reasons.count("") >= 60


def test_a_lost_answer_does_not_stop_the_server():
    network = {**NETWORK, "loss": 0.2}
    world, written = simulate(fleet({"patience": "3s"}, network=network, rounds=40))
    assert world.nodes[0].round == 40
    assert figures(written, "accuracy")[-1] > 0.8
    with pytest.raises(ConfigurationError, match="The 'patience' of the program fleet must be given"):
        simulate(fleet(network=network))
    kill = [{"kind": "kill", "nodes": [2, 3, 4], "at": "2s", "back": "1h"}]
    world, _ = simulate(fleet({"patience": "3s"}, rounds=20, faults=kill))
    assert world.nodes[0].round == 20


def test_a_resumed_run_loses_only_what_was_in_flight():
    tables = fleet({"delays": {"mean": "500ms"}}, rounds=40, checkpoint={"every": 2})
    whole, written = simulate(tables)
    assert whole.prepared.is_trusted
    checkpoint = wire.decode(wire.encode(written.checkpoints[1][1])).payload
    world, again = simulate(tables, checkpoint=checkpoint)
    assert world.nodes[0].round == 40
    done = world.nodes[0].state["staleness"].sum()
    assert done == 40 == whole.nodes[0].state["staleness"].sum()
    assert not world.refused
    assert world.nodes[0].mail.drops["unusable"] <= 5
    assert figures(again, "accuracy")[-1] > 0.8


def test_hosts_run_it(tmp_path):
    tables = fleet({"period": "200ms", "profiler": {"kind": "i-prof", "seconds": "50ms", "least": 8, "fixed": "10ms"}})
    tables["network"] = {"nodes": 4, "devices": {**DEVICES, "samples_per_second": 2000}}
    tables["rounds"], tables["evaluation"] = 8, {"every": 4}
    outcome, written = emulate(tables, tmp_path)
    assert outcome.finished
    assert len(figures(written, "staleness")) == 8
    assert {row[3]["refusal"] for row in written.added if row[2] == "tasks"} == {""}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"program": {"k": 6}}, "The 'k' of the program fleet must be an int in .1, nodes.. Got 6"),
        ({"task": {**BLOBS, "optimizer": "adam"}}, "sends gradients, so the 'optimizer' of the task must be 'sgd'"),
        (
            {"task": {"dataset": {"kind": "linear-regression"}, "model": "linear"}},
            "the data of the task must have classes",
        ),
        ({"program": {"delays": {"label": 99}}}, "The 'label' of the delays must be a class in"),
        ({"program": {"period": 0}}, "The 'period' of the program fleet must be a duration"),
        ({"program": {"weights": {"s": 0}}}, "The 's' of .* must be a number in"),
        (
            {"program": {"profiler": {"kind": "i-prof", "seconds": 1, "least": 9, "most": 8}}},
            "must be at least its 'least', 9",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes, sentence):
    program = changes.pop("program", {})
    tables = fleet(program, **changes)
    with pytest.raises(ConfigurationError, match=sentence):
        simulate(tables)


class Liar(Fleet):
    """Clients, one of which sends a wrong result once."""

    wrong = None

    async def give_back(self, node, task, update, others):
        if node.id != 2:
            return await super().give_back(node, task, update, others)
        used = np.asarray(update.label_counts, dtype=np.int64)
        entries = {
            "version": task.version,
            "samples": update.samples,
            "label_counts": used,
            "gradient": update.gradient,
            **others,
        }
        node.send(0, {**entries, **Liar.wrong(entries)}, tag="result")
        return None


CLASSES = 4
WRONG = {
    "future": (lambda e: {"version": 10**6}, "its version 1000000 is from the future: the model has version"),
    "unknown": (lambda e: {"version": e["version"] - 1 if e["version"] else 1 << 40}, "its "),
    "no samples": (lambda e: {"samples": 0}, r"its 'samples' is not an int in [1, inf)"),
    "negative samples": (lambda e: {"samples": -8}, r"its 'samples' is not an int in [1, inf)"),
    "other length": (lambda e: {"label_counts": np.append(e["label_counts"], 0)}, "its 'label_counts' is not"),
    "negative": (
        lambda e: {"label_counts": e["label_counts"] + np.eye(len(e["label_counts"]), dtype=np.int64)[0] * 99 - 99},
        "its 'label_counts'",
    ),
    "all zero": (lambda e: {"label_counts": e["label_counts"] * 0}, "its 'label_counts' are not in [0, 2**32], or"),
    "other sum": (lambda e: {"label_counts": e["label_counts"] * 2}, "its 'label_counts' do not sum to its"),
    "gradient": (lambda e: {"gradient": e["gradient"][1:]}, "its 'gradient' is not 44 float32 numbers"),
    "time": (lambda e: {"seconds": -1.0}, "its 'seconds' is not a float in"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_result_is_dropped_counted_and_named_and_changes_nothing(name, monkeypatch):
    wrong, sentence = WRONG[name]
    monkeypatch.setattr(Liar, "wrong", staticmethod(wrong))
    world, written = simulate(fleet({"kind": "tests.test_fleet:Liar"}, rounds=12))
    of_server = [detail for _, node, kind, detail in written.happened if (node, kind) == (0, "rejected")]
    assert of_server
    assert all(detail.startswith(f"message of node 2: {sentence}") for detail in of_server)
    assert world.nodes[0].mail.drops["unusable"] == len(of_server)
    # Nothing of node 2 is in the state, as if it had never asked.
    kept = world.nodes[0].state
    assert kept["staleness"].sum() == 12
    assert kept["labels"].sum() == 12 * 16


def test_a_gradient_that_is_not_finite_never_touches_the_model_and_names_its_client(monkeypatch):
    monkeypatch.setattr(Liar, "wrong", staticmethod(lambda e: {"gradient": torch.full_like(e["gradient"], math.nan)}))
    world, written = simulate(fleet({"kind": "tests.test_fleet:Liar"}, rounds=12))
    assert torch.isfinite(models_of(world)).all()
    named = [node for _, node, kind, detail in written.happened if kind == "rejected" and "not finite" in detail]
    assert set(named) == {2}
    assert world.nodes[0].mail.drops["not-finite"] == len(named)


def test_protected_tasks_are_refused():
    with pytest.raises(ConfigurationError, match="Leave out 'ldp', or use 'fedavg'"):
        Fleet().ready(Setting(nodes=3, classes=10, protects_samples=True))


def test_the_server_sees_gradients_at_models_that_it_knows_and_clients_see_models():
    world, written = simulate(fleet(rounds=6, observer={"nodes": [0, 3], "models": True}))
    seen: dict[int, list[Arrived]] = {0: [], 3: []}
    models = {0: world.task.learner.first_model}
    for time, node, frame in written.seen:
        found = wire.decode(frame)
        if found.tag == OWN and node == 0:
            models[found.round] = found.payload["model"]
        elif found.tag != OWN:
            seen[node].append(Arrived(time, found.sender, found.tag, found.round, found.payload, len(frame)))
    server, client = (Adversary(node, 6, models[0], models if not node else None) for node in (0, 3))
    gradients, tasks = (list(world.program.views(of, seen[of.id])) for of in (server, client))
    assert [view.senders for view in gradients] == [(1,), (2,), (3,), (4,), (5,), (1,)]
    for t, view in enumerate(gradients):
        assert view.gradient
        assert torch.equal(view.start, models[t])
        assert torch.allclose(models[t] - 0.3 * view.values, models[t + 1], atol=1e-6)
    assert [torch.equal(view.values, models[2]) for view in tasks] == [True]
    assert not server.rejected
    assert not client.rejected
