"""CPFL: cohorts, the rule that ends them, their models against federated averaging, and one model of all."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.federated.cohorts import BY, Cohort, by_class, by_seed, nearest
from covey.federated.plateau import Falling, Plateau
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.simulation.world import World
from tests.conftest import begun, models_of, simulate, table
from tests.examples import Keeping
from tests.hosts import emulate

PUBLIC = {"dataset": {"kind": "digits"}, "samples": 200}
TASK = {
    "public": PUBLIC,
    "partition": {"kind": "dirichlet", "alpha": 0.5},
    "validation": 0.2,
    "local_steps": 2,
    "optimizer": {"kind": "sgd", "lr": 0.3, "momentum": 0.5},
}
QUICK = {"epochs": 3, "batch_size": 50, "optimizer": {"kind": "adam", "lr": 0.01}}
SOON = {"window": 2, "patience": 2}


def cohorts(nodes=10, task=TASK, **changes):
    """The tables of a small CPFL; parameters of the program are given as such."""
    others = ("rounds", "network", "seed", "checkpoint", "evaluation")
    others = {name: changes.pop(name) for name in others if name in changes}
    network = {"nodes": nodes, "latency": {"kind": "plane", "per_unit": "20ms"}, **others.pop("network", {})}
    program = {"kind": "cpfl", "cohorts": 3, "plateau": SOON, "distillation": QUICK, **changes}
    program = {name: value for name, value in program.items() if value is not None}
    return table(**{"program": program, "task": task, "network": network, "rounds": 8, **others})


def validation_of(written, server):
    """The loss of a cohort, round by round."""
    return [
        v for _, v in sorted((t, v) for node, t, name, v in written.figures if (node, name) == (server, "validation"))
    ]


# ---------------------------------------------------------------------- cohorts


@given(st.integers(2, 300), st.data())
@settings(max_examples=40, deadline=None)
def test_cohorts_are_a_partition_into_equal_parts_that_depends_on_the_seed_alone(nodes, data):
    count, seed = data.draw(st.integers(1, nodes - 1)), data.draw(st.integers(0, 2**30))
    clients = [NodeId(id) for id in range(1, nodes)]
    found = by_seed(Setting(nodes, seed), clients, count)
    assert len(found) == count
    assert sorted(itertools.chain(*found)) == clients
    sizes = [len(members) for members in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert found == by_seed(Setting(nodes, seed, rounds=9, parameters=7), clients, count)
    part = data.draw(st.integers(1, nodes))
    cohort = Cohort(Setting(nodes, seed), found[0], part)
    chosen = [cohort.chosen(t) for t in range(3)]
    assert all(len(ids) == min(part, sizes[0]) == len({*ids} & {*found[0]}) for ids in chosen)


def test_clients_join_the_cohort_of_their_majority_class():
    counts = np.array([[0, 0, 0], [5, 1, 0], [0, 2, 3], [9, 0, 0], [1, 1, 8]])
    setting = Setting(5, label_counts=counts)
    assert by_class(setting, [NodeId(id) for id in range(1, 5)], 3) == [(1, 3), (), (2, 4)]


@given(st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_member_with_the_lowest_median_latency_serves(size, seed):
    delays = np.random.default_rng(seed).integers(1, 5, (size + 1, size + 1)).astype(float)
    members = tuple(NodeId(id) for id in range(1, size + 1))
    found = nearest(Setting(size + 1, latency=lambda sender, receiver: delays[sender, receiver]), members)
    medians = {m: np.median([delays[o, m] for o in members if o != m]) if size > 1 else 0.0 for m in members}
    assert medians[found] == min(medians.values())
    assert found == min(m for m in members if medians[m] == medians[found])


def test_large_cohorts_are_measured_to_a_hundred_peers():
    calls = []

    def latency(sender, receiver):
        calls.append((sender, receiver))
        return abs(receiver - 700) + sender * 1e-9

    members = tuple(NodeId(id) for id in range(1, 1001))
    assert nearest(Setting(1001, latency=latency), members) == 700
    assert len(calls) <= 100 * 1000


# ---------------------------------------------------------------------- the end of a cohort


def ends_at(losses, window, patience):
    """The number of losses after which a cohort ends, and the index of the best, by a scan of all (from the contract)."""
    averages = [np.mean(losses[max(0, r - window + 1) : r + 1], dtype=np.longdouble) for r in range(len(losses))]
    for r in range(len(losses)):
        best = min(range(r + 1), key=lambda index: (averages[index], index))
        if r - best >= patience:
            return r + 1, best
    return None


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_the_rule_without_a_history_ends_where_a_scan_of_it_does(losses, window, patience):
    rule, falling, best = Plateau(window=window, patience=patience), Falling(Keeping(id=0, state={})), 0
    losses = [loss / 4 for loss in losses]
    for index, loss in enumerate(losses):
        best = index if rule.add(falling, loss) else best
        assert len(falling.recent) <= window
        if rule.ends(falling):
            assert ends_at(losses, window, patience) == (index + 1, best)
            return
    assert ends_at(losses, window, patience) is None


@pytest.mark.parametrize("loss", [0.1, 1 / 3, 2.302585])
@pytest.mark.parametrize(("window", "patience"), [(1, 1), (3, 4), (20, 7)])
def test_a_constant_loss_ends_after_the_patience_and_a_falling_one_never(loss, window, patience):
    rule, still, falling = Plateau(window=window, patience=patience), *(Falling(Keeping(id=0, state={})) for _ in "ab")
    ended = []
    for index in range(60):
        rule.add(still, loss)
        rule.add(falling, loss / (1 + index))
        ended.append(rule.ends(still))
        assert not rule.ends(falling)
    assert ended.index(True) == patience


def test_a_cohort_ends_by_its_own_loss_and_hands_over_the_model_that_was_measured(overheard):
    task = {**TASK, "optimizer": {"kind": "sgd", "lr": 1.2}}
    world, written = simulate(cohorts(task=task, rounds=40, plateau={"window": 1, "patience": 3}))
    ends = {}
    for server in world.program._served:
        losses = validation_of(written, server)
        ends[server] = len(losses)
        best = losses.index(min(losses))
        assert len(losses) == best + 1 + 3
        sent = [
            m.payload["model"] for m in overheard if (m.tag, m.sender) == ("model", server) and "model" in m.payload
        ]
        (handed,) = [m.payload["model"] for m in overheard if (m.tag, m.sender) == ("outcome", server)]
        assert torch.equal(handed, sent[best])
    assert len({*ends.values()}) > 1
    assert max(ends.values()) < 40
    published, _ = simulate(cohorts(task=task, rounds=40, plateau={"window": 1, "patience": 3}, best="as-published"))
    assert not torch.equal(models_of(world)[0], models_of(published)[0])
    outcomes = [m for m in overheard if m.tag == "outcome"]
    for measured, after in itertools.product(outcomes[:3], outcomes[3:]):
        if measured.sender == after.sender:
            sent = [
                m.payload["model"]
                for m in overheard
                if (m.tag, m.sender) == ("model", measured.sender) and "model" in m.payload
            ]
            index = next(i for i, model in enumerate(sent) if torch.equal(model, measured.payload["model"]))
            assert torch.equal(after.payload["model"], sent[index + 1])


def test_the_loss_of_a_round_is_the_plain_mean_over_clients_of_the_model_that_they_received(overheard):
    world, written = simulate(cohorts(cohorts=1, distillation=None, rounds=2, nodes=6))
    (server,) = world.program._served
    model = next(m.payload["model"] for m in overheard if (m.tag, m.round, m.sender) == ("model", 1, server))
    learner = world.task.learner
    losses = [learner.evaluate([model], learner.split("validation", index, None))[0]["loss"] for index in range(5)]
    assert validation_of(written, server)[1] == pytest.approx(np.mean(losses), abs=1e-5)


# ---------------------------------------------------------------------- federated averaging


@pytest.mark.parametrize(("weighting", "aggregation"), [("samples", "given"), ("uniform", "mean")])
@pytest.mark.parametrize(("count", "state"), [(None, "reset"), (4, "keep")])
def test_one_cohort_is_federated_averaging_to_the_bit(weighting, aggregation, count, state):
    task = {**TASK, "public": None, "optimizer": {**TASK["optimizer"], "state": state}}
    program = {"work": {"proximal_mu": 0.01}}
    ours = {"cohorts": 1, "distillation": None, "result": "last", "plateau": {"patience": 100}, "count": count}
    one, _ = simulate(cohorts(task=task, rounds=5, weighting=weighting, **ours, **program))
    fedavg = {"kind": "fedavg", "aggregation": aggregation, **program, **({} if count is None else {"clients": count})}
    other, _ = simulate({**cohorts(task=task, rounds=5), "program": fedavg})
    assert torch.equal(one.nodes[0].model, other.nodes[0].model)
    assert not torch.equal(one.nodes[0].model, one.task.learner.first_model)


@pytest.mark.parametrize("count", [None, 3])
def test_members_send_compressed_changes_and_what_they_leave_out_later(count, overheard):
    task = {**TASK, "validation": 0.2}
    whole, _ = simulate(cohorts(task=task, rounds=4, count=count))
    size = max(len(m.encoded) for m in overheard if m.tag == "update")
    ours, _ = simulate(cohorts(task=task, rounds=4, count=count, up={"kind": "top-k", "budget": 1.0}))
    assert torch.allclose(models_of(ours), models_of(whole), atol=1e-4)
    overheard.clear()
    few, _ = simulate(cohorts(task=task, rounds=4, count=count, up={"kind": "top-k", "budget": 0.1}))
    assert max(len(m.encoded) for m in overheard if m.tag == "update") < size / 3
    assert {m.sender for m in overheard if m.tag == "update"} == {
        node.id for node in few.nodes if node.state.get("up.residual") is not None
    }


def test_a_fraction_of_a_cohort_takes_part():
    world = begun(cohorts(nodes=21, cohorts=2, fraction=0.25))
    assert [cohort.count for cohort in world.program._served.values()] == [2, 2]
    world = begun(cohorts(nodes=6, cohorts=5, fraction=0.1))
    assert [cohort.count for cohort in world.program._served.values()] == [1] * 5


def test_one_client_alone_is_a_cohort():
    world, written = simulate(cohorts(nodes=2, cohorts=1, distillation=None, max_rounds=3, result="last"))
    assert len(validation_of(written, 1)) == 3
    assert torch.equal(world.nodes[0].model, world.nodes[1].model)


def test_a_cohort_for_each_client_is_one_shot():
    world, _ = simulate(cohorts(nodes=6, cohorts=5, max_rounds=1))
    assert {len(cohort.members) for cohort in world.program._served.values()} == {1}
    assert {node.round for node in world.nodes} == {8}


# ---------------------------------------------------------------------- one model of all


@pytest.mark.parametrize(("by", "weights"), [("seed", "label"), ("seed", "uniform"), ("class", "class")])
def test_the_server_distils_what_cohorts_say_together(by, weights, overheard):
    count = 10 if by == "class" else 3
    program = {"by": by, "cohorts": count, "max_rounds": 4, "distillation": {**QUICK, "weights": weights, "epochs": 20}}
    world, _ = simulate(cohorts(nodes=16, rounds=24, **program))
    program, learner = world.program, world.task.learner
    outcomes = sorted((m for m in overheard if m.tag == "outcome"), key=lambda m: m.sender)
    counts = learner.label_counts
    for outcome in outcomes if weights == "label" else ():
        members = [member - 1 for member in program._served[outcome.sender].members]
        assert outcome.payload["labels"].tolist() == counts[members].sum(0).tolist()
    public = learner.splits.taken("public", learner.splits.indices("public", None))[0]
    said = learner.kernel.predict([*(m.payload["model"] for m in outcomes), world.nodes[0].model], public)
    shares = {
        "label": lambda m: counts[[member - 1 for member in program._served[m.sender].members]].sum(0),
        "uniform": lambda m: np.ones(10),
        "class": lambda m: np.eye(10)[program._served[m.sender].number],
    }
    found = np.stack([shares[weights](m) for m in outcomes]).astype(float)
    total = found.sum(0)
    p = np.where(total > 0, found / np.maximum(total, 1), 1 / len(found))
    taught = np.einsum("kc,ksc->sc", p, said[:-1].double().numpy())
    errors = [np.abs(outputs.double().numpy() - taught).mean() for outputs in said]
    assert errors[-1] < min(errors[:-1]) / 2


def test_the_run_takes_the_slowest_cohort_and_the_distillation(overheard):
    compute = {"kind": "log-normal", "median": 500.0}
    world, written = simulate(cohorts(rounds=20, max_rounds=8, network={"compute": compute, "bandwidth": None}))
    ended = max(m.time for m in overheard if m.tag == "outcome")
    epochs = [(time, columns) for time, *_, kind, columns in written.added if kind == "distillation"]
    learner, speed = world.task.learner, world.speeds[0]
    taught, held = 180, 20
    asked = 3 * 200 / speed
    each = (taught + held) / speed
    delay = max(world.network.latency.between(m.sender, 0) for m in overheard if m.tag == "outcome")
    assert epochs[0][0] == pytest.approx(ended + asked + each, abs=delay + 1e-9)
    assert world.now == pytest.approx(epochs[0][0] + 2 * each)
    assert learner.splits.indices("public", None).size == taught + held


def test_permuting_the_cohorts_changes_nothing(monkeypatch):
    first, _ = simulate(cohorts(rounds=5))
    monkeypatch.setitem(BY, "seed", lambda *args: by_seed(*args)[::-1])
    second, _ = simulate(cohorts(rounds=5))
    assert [c.members for c in first.program._served.values()] == [c.members for c in second.program._served.values()][
        ::-1
    ]
    assert torch.equal(models_of(first), models_of(second))


@pytest.mark.parametrize("budget", ["10ms", "300ms"])
def test_a_budget_takes_the_newest_model_of_each_cohort_in_time(budget, overheard):
    seconds = float(budget[:-2]) / 1000
    compute = {"kind": "log-normal", "median": 500.0}
    network = {"compute": compute, "bandwidth": None}
    world, _ = simulate(cohorts(rounds=12, budget=budget, plateau={"patience": 50}, network=network))
    free, _ = simulate(cohorts(rounds=12, result="last", plateau={"patience": 50}, network=network))
    handed = [m for m in overheard if m.tag == "outcome"][:3]
    rounds = []
    for outcome in handed:
        of_budget = [m for m in overheard if (m.tag, m.sender) == ("model", outcome.sender) and "model" in m.payload]
        started = {m.round: m for m in of_budget}  # Of the run without a budget, which goes on longer.
        in_time = max(t for t, m in started.items() if m.time <= seconds)
        assert torch.equal(outcome.payload["model"], started[in_time].payload["model"])
        assert outcome.time > seconds
        rounds.append(in_time)
    assert (rounds == [0, 0, 0]) == (seconds < 0.1)
    assert world.now < free.now


# ---------------------------------------------------------------------- engines, checkpoints, absences


def test_cohorts_are_the_same_in_both_engines(tmp_path):
    network = {"nodes": 6, "latency": None, "bandwidth": None, "compute": 1e6}
    tables = cohorts(cohorts=2, rounds=8, max_rounds=4, network=network, evaluation={"every": 1})
    (_, here), (_, there) = simulate(tables), emulate(tables, tmp_path)
    ours, theirs = ({f[:3]: f[3] for f in w.figures if f[2] in ("accuracy", "validation")} for w in (here, there))
    assert sum(name == "validation" for *_, name in ours) == 2 * 4
    assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("up", [None, {"kind": "top-k", "budget": 0.2}])
def test_cohorts_continue_from_any_checkpoint_to_the_bit(up):
    tables = cohorts(
        nodes=6, cohorts=2, rounds=9, max_rounds=6, checkpoint={"every": 1}, plateau={"window": 1, "patience": 2}, up=up
    )
    whole, written = simulate(tables)
    assert len(written.checkpoints) > 4
    for round, checkpoint in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=checkpoint)
        assert torch.equal(models_of(whole), models_of(resumed)), round


@pytest.mark.parametrize(
    "trouble",
    [
        {"loss": 0.2},
        {"churn": {"kind": "rate", "mean_up": "2s", "mean_down": "300ms"}},
        {"churn": {"kind": "rate", "mean_up": "1s", "mean_down": "300ms", "leave": 0.5}},
    ],
)
def test_nothing_hangs_where_messages_and_nodes_are_missing(trouble):
    world, written = simulate(
        cohorts(rounds=12, max_rounds=8, patience="200ms", network={**trouble, "bandwidth": None})
    )
    gone = {node for _, node, kind, _ in written.happened if kind == "left"}
    assert (0 in gone) == ("leave" in trouble.get("churn", {}))
    assert all(node.round == 12 for node in world.nodes if node.id not in gone)
    assert 0 in gone or any(kind == "distillation" for *_, kind, _ in written.added)
    assert bool(torch.isfinite(models_of(world)).all())


@pytest.mark.parametrize(
    ("tag", "entry", "spoiled"),
    [("update", "loss", lambda loss: 1.7e308), ("labels", "labels", lambda labels: torch.full_like(labels, 1 << 62))],
)
def test_huge_reports_of_clients_end_no_run_and_blame_no_other(tag, entry, spoiled, monkeypatch):
    post = World.post

    def lying(world, node, receivers, payload, of, round):
        payload = {**payload, entry: spoiled(payload[entry])} if node.id in (2, 3, 4, 5) and of == tag else payload
        return post(world, node, receivers, payload, of, round)

    monkeypatch.setattr(World, "post", lying)
    _, written = simulate(cohorts(cohorts=1, rounds=3, max_rounds=2))
    rejected = [detail for *_, kind, detail in written.happened if kind == "rejected"]
    assert len(rejected) >= 3
    assert {detail.partition(":")[0] for detail in rejected} <= {f"message of node {id}" for id in (2, 3, 4, 5)}
    assert any(kind == "distillation" for *_, kind, _ in written.added)


# ---------------------------------------------------------------------- bad input


def without(task, *keys):
    return {**task, **dict.fromkeys(keys)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cohorts": 0}, r"The 'cohorts' of the program cpfl must be an int in \[1, nodes\)"),
        ({"cohorts": 10}, r"The 'cohorts' of the program cpfl must be an int in \[1, nodes\)"),
        ({"by": "class", "cohorts": 3}, "The 'cohorts' by class must be as many as the data have classes, 10. Got 3"),
        ({"task": without(TASK, "public")}, "The 'public' samples of the task must be given for a distillation"),
        (
            {"task": {**TASK, "public": {"dataset": {"kind": "gaussian-blobs", "samples": 20, "test_samples": 9}}}},
            r"The 'public' of the task must have samples of the shape \(1, 8, 8\)",
        ),
        ({"plateau": {"window": 0}}, r"The 'window' of the plateau must be an int in \[1, inf\)"),
        ({"plateau": {"patience": 0}}, r"The 'patience' of the plateau must be an int in \[1, inf\)"),
        ({"task": {**TASK, "validation": 0.0}}, "The clients must have validation samples"),
        ({"count": 2, "fraction": 0.5}, r"has both 'count' \(2\) and 'fraction' \(0.5\): give one"),
        ({"distillation": {"weights": "class"}}, "must be 'label' or 'uniform' for cohorts by 'seed'"),
        ({"network": {"loss": 0.1}}, "The 'patience' of the program cpfl must be given"),
    ],
)
def test_cohorts_that_cannot_work_are_refused(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        begun(cohorts(**changes))


def test_without_validation_samples_cohorts_end_after_their_most_rounds():
    world, written = simulate(cohorts(task={**TASK, "validation": 0.0}, max_rounds=2, rounds=4))
    assert not any(name == "validation" for _, _, name, _ in written.figures)
    assert {node.round for node in world.nodes} == {4}


@pytest.mark.parametrize(
    ("facts", "program", "words"),
    [
        ({"validation_samples": (3,)}, {"weights": "uniform"}, "Got validation losses"),
        ({"validation_samples": (0,)}, {"weights": "label"}, "Got numbers of samples of each class"),
        ({"validation_samples": (0,)}, {"weights": "uniform"}, None),
    ],
)
def test_cohorts_send_nothing_that_the_noise_of_the_task_does_not_protect(facts, program, words):
    program = begun(cohorts(max_rounds=2, distillation=program)).program
    setting = Setting(10, protects_samples=True, **facts)
    if words is None:
        program.check_facts(setting)
    else:
        with pytest.raises(ConfigurationError, match=f"must send nothing that 'ldp' does not protect. {words}"):
            program.check_facts(setting)


def test_cohorts_by_class_are_refused_where_noise_protects_samples():
    program = begun(cohorts(max_rounds=2)).program
    program.by = "class"
    with pytest.raises(ConfigurationError, match=r"The 'by' of the program cpfl must be 'seed' with 'ldp'"):
        program.check_facts(Setting(10, protects_samples=True, validation_samples=(0,)))
