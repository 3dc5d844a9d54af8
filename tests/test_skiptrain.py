"""SkipTrain: the training rounds of nodes, their energy, and the resulting models."""

import warnings

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey as covey_package
from covey.decentralized.schedule import EveryRound, Greedy, Schedule, SkipTrain
from covey.network.energy import DeviceEnergy, Energy
from covey.parts.errors import ConfigurationError, ConfigurationWarning
from covey.parts.parameters import Setting, build
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS, Keeping

CIFAR10 = {"parameters": 89_834, "samples": 32 * 20, "share": 0.1}
FEMNIST = {"parameters": 1_690_046, "samples": 16 * 7, "share": 0.5}


class Drawing(Keeping):
    """A node with what a schedule asks of it."""

    def __init__(self, id, seed=0):
        self.id, self.seed, self.state = id, seed, {}

    def random(self, purpose, *key):
        return np.random.default_rng([self.seed, self.id, *key])


def trained(schedule, rounds, nodes=4, seed=0, **setting):
    """In which rounds each node trains."""
    schedule.ready(Setting(nodes, rounds=rounds, **setting))
    drawing = [Drawing(id, seed) for id in range(nodes)]
    return [[t for t in range(rounds) if schedule.trains(node, t)] for node in drawing]


@pytest.mark.parametrize(
    ("task", "watt_hours", "budgets"),
    [
        (CIFAR10, [0.006532875, 0.005986076, 0.002556283, 0.00851912], [272, 324, 681, 272]),
        (FEMNIST, [0.021508007, 0.019707797, 0.008415981, 0.028047269], [413, 492, 1034, 413]),
    ],
)
def test_the_phones_spend_and_can_afford_what_the_papers_traces_say(task, watt_hours, budgets):
    energy = DeviceEnergy()
    energy.ready(Setting(4, parameters=task["parameters"]))
    joules = np.array([energy.joules(node, task["samples"], 1.0, 0, 0) for node in range(4)])
    assert joules / 3600.0 == pytest.approx(watt_hours, rel=2e-7)
    greedy = Greedy(battery=task["share"])
    greedy.ready(Setting(4, rounds=9, parameters=1, training_joules=joules, battery_joules=energy.batteries(4)))
    assert greedy._limits.tolist() == budgets
    assert energy.joules(1, 0, 1.0, 5, 7) == 0.0


@given(training=st.integers(0, 5), synchronization=st.integers(0, 5), rounds=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_training_rounds_come_first_in_every_cycle(training, synchronization, rounds):
    if training + synchronization == 0:
        with pytest.raises(ConfigurationError, match="must not both be 0"):
            SkipTrain(training=0, synchronization=0)
        return
    rows = trained(SkipTrain(training=training, synchronization=synchronization), rounds)
    assert rows == [[t for t in range(rounds) if t % (training + synchronization) < training]] * 4


@given(budget=st.integers(0, 40), rounds=st.integers(1, 60), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_nobody_trains_more_often_than_its_budget(budget, rounds, seed):
    schedule = {"training": 2, "synchronization": 3}
    due = trained(SkipTrain(**schedule), rounds)[0]
    for row in trained(SkipTrain(budget=budget, **schedule), rounds, seed=seed):
        assert set(row) <= set(due)
        assert len(row) <= budget
        if budget >= len(due):
            assert row == due
    assert trained(Greedy(budget=budget), rounds) == [list(range(min(budget, rounds)))] * 4


def test_each_node_or_each_device_has_a_budget_of_its_own():
    budgets = [3, 0, 7, 20]
    assert [len(row) for row in trained(Greedy(budget=budgets), 10)] == [3, 0, 7, 10]
    assert [len(row) for row in trained(Greedy(budget=[4, 1]), 10, devices=2)] == [4, 1, 4, 1]
    schedule = {"training": 1, "synchronization": 1}
    counts = [len(row) for row in trained(SkipTrain(budget=budgets, **schedule), 10)]
    assert counts[1:] == [0, 5, 5]  # Two of them may train whenever it is due.
    assert counts[0] <= 3
    assert counts[0] == len(trained(SkipTrain(budget=3, **schedule), 10)[0])
    assert Greedy(budget=[2, 2, 2, 2]).trains_all_at_once()
    assert not Greedy(budget=budgets).trains_all_at_once()


def test_devices_of_an_experiment_have_budgets_of_their_own():
    program = {"kind": "gossip", "topology": "ring", "schedule": {"kind": "greedy", "budget": [4, 3, 2, 1]}}
    world, written = simulate(table(task=BLOBS, program=program, network={"energy": "devices"}, rounds=5))
    samples = [max(row[5] for row in written.rows if row[0] == node.id) for node in world.nodes]
    assert len(world.nodes) == 12
    assert samples == [4 * samples[3], 3 * samples[3], 2 * samples[3], samples[3]] * 3


def test_a_budget_is_spread_over_the_whole_run():
    rows = trained(SkipTrain(training=1, synchronization=1, budget=50), 400, nodes=200)
    counts = np.array([len(row) for row in rows])
    # Binomial(200, 1/4), cut at 50: about half of the nodes reach it.
    assert 45 < counts.mean() < 50
    assert 0.3 < np.mean(counts == 50) < 0.7
    halves = np.mean([sum(t < 200 for t in row) for row in rows])
    assert 22 < halves < 28


def test_without_synchronization_all_is_as_if_every_round_trained():
    models = []
    for schedule in ("every-round", {"kind": "skiptrain", "training": 3, "synchronization": 0}):
        world, _ = simulate(table(task=BLOBS, program={"kind": "gossip", "topology": "ring", "schedule": schedule}))
        models.append(models_of(world))
    assert torch.equal(*models)


def test_without_training_it_is_gossip_that_keeps_the_mean():
    schedule = {"kind": "skiptrain", "training": 0, "synchronization": 1}
    program = {"kind": "gossip", "topology": "ring", "schedule": schedule}
    world, written = simulate(table(task={**BLOBS, "same_start": False}, program=program, rounds=40))
    starts = torch.stack([world.task.learner.initial(id) for id in range(len(world.nodes))])
    assert torch.allclose(models_of(world).mean(0), starts.mean(0), atol=1e-6)
    assert models_of(world).var(0).sum() < 0.1 * starts.var(0).sum()
    assert sum(row[5] for row in written.rows) == 0


def test_energy_is_what_the_trainings_cost_and_all_schedules_send_as_much():
    spent, sent = {}, set()
    for name, schedule in {
        "all": "every-round",
        "half": {"kind": "skiptrain", "training": 2, "synchronization": 2},
        "greedy": {"kind": "greedy", "budget": 3},
    }.items():
        program = {"kind": "gossip", "topology": "ring", "schedule": schedule}
        tables = table(task=BLOBS, program=program, network={"energy": "devices"}, rounds=8, evaluation={"every": 4})
        world, written = simulate(tables)
        spent[name] = np.array(
            [v for _, round, metric, v in sorted(written.figures) if (metric, round) == ("energy", 8)]
        )
        sent.add(sum(node.bytes_out for node in world.nodes))
    assert spent["half"] == pytest.approx(spent["all"] / 2)
    assert spent["greedy"] == pytest.approx(spent["all"] * 3 / 8)
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("schedule", "every"),
    [
        ("every-round", 10),
        ({"kind": "skiptrain"}, 16),
        ({"kind": "skiptrain", "training": 1, "synchronization": 2}, 12),
    ],
)
def test_models_are_evaluated_where_a_cycle_ends(schedule, every):
    tables = table(program={"kind": "gossip", "topology": "ring", "schedule": schedule}, rounds=40)
    del tables["evaluation"]
    _, written = simulate(tables)
    expected = sorted({*range(every, 41, every), 40})
    assert sorted({round for _, round, metric, _ in written.figures if metric == "accuracy"}) == expected


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"kind": "skiptrain", "training": -1}, r"The 'training' of the schedule skiptrain must be an int in \[0"),
        ({"kind": "greedy", "battery": 1.5}, r"The 'battery' of the schedule greedy must be a number in \(0, 1\]"),
        ({"kind": "greedy", "battery": 0.5, "budget": 3}, "may be given. Got both."),
        (
            {"kind": "greedy", "budget": [3, -1]},
            r"The 'budget' of the schedule greedy must be an int in \[0, inf\) or a list, each an int in \[0, inf\). Got",
        ),
        (
            {"kind": "skiptrain", "budget": [1, 2, 3]},
            "The 'budget' of the schedule skiptrain must be one int, or a list of 4, one for each node, or 2, one for each "
            "device. Got a list of 3 instead.",
        ),
    ],
)
def test_impossible_budgets_are_refused(part, said):
    with pytest.raises(ConfigurationError, match=said):
        build(Schedule, part).ready(Setting(4, rounds=5, devices=2))


def test_a_share_of_a_battery_needs_batteries_and_devices_need_their_columns(tmp_path):
    program = {"kind": "gossip", "topology": "ring", "schedule": {"kind": "greedy", "battery": 0.1}}
    for energy in ("none", "5W"):
        with pytest.raises(ConfigurationError, match="needs a network with batteries"):
            simulate(table(program=program, network={"energy": energy}))
    file = tmp_path / "devices.csv"
    file.write_text("mobilenet_ms,battery_wh\n27,17\n")
    with pytest.raises(ConfigurationError, match="column 'power_w'"):
        build(Energy, {"kind": "devices", "file": str(file)}).ready(Setting(2))


def test_schedules_say_when_they_begin_anew():
    assert [part.cycle() for part in (EveryRound(), SkipTrain(), Greedy())] == [1, 8, 1]


def test_check_warns_of_evaluations_within_a_cycle(in_folder, covey):
    program = {"kind": "gossip", "topology": "ring", "schedule": {"kind": "skiptrain"}}
    tables = table(program=program, network={"energy": "devices"}, evaluation={"every": 10}, rounds=16)
    (in_folder / "a.toml").write_text(tomli_w.dumps(tables))
    out = covey("check", "a.toml")[1]
    assert "note        models are evaluated every 10 rounds" in out
    assert " J per training of a node, on average" in out
    assert "note" not in covey("check", "a.toml", "--set", "evaluation.every=24")[1]


def test_check_warns_of_a_run_that_ends_within_a_cycle(in_folder, covey):
    program = {"kind": "gossip", "topology": "ring", "schedule": {"kind": "skiptrain"}}
    (in_folder / "a.toml").write_text(tomli_w.dumps(table(program=program, rounds=20, evaluation={"every": 8})))
    assert "note        the last of the 20 rounds is within the schedule's cycle of 8" in covey("check", "a.toml")[1]
    assert "note" not in covey("check", "a.toml", "--set", "rounds=24")[1]


def test_a_run_that_ends_within_a_cycle_warns(tmp_path):
    program = {"kind": "gossip", "topology": "ring", "schedule": {"kind": "skiptrain"}}
    tables = table(task=BLOBS, program=program, rounds=3, evaluation={"every": 8})
    with pytest.warns(
        ConfigurationWarning, match="The last of the 3 rounds is within the schedule's cycle of 8"
    ) as caught:
        covey_package.run(tables, out=tmp_path / "run")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConfigurationWarning)
        covey_package.run({**tables, "rounds": 8}, out=tmp_path / "whole")
