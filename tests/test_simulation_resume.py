"""Checkpoints: a resumed run ends as the uninterrupted one."""

import pytest
import torch

from covey.learning.learner import Learner
from covey.messages import wire
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation.world import World
from covey.runtime.snapshots import unpack
from tests.conftest import Written, models_of, simulate, table
from tests.examples import PROGRAMS, SLOW, SYNCHRONOUS
from tests.snapshots import Learned, Snapshot, packed, untaught


@pytest.mark.parametrize("queue", ["fifo", "fair"])
@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_resumed_run_ends_as_the_uninterrupted_one_to_the_bit(name, queue):
    network = {**SLOW, "bandwidth": "300kbit/s", "queue": queue}
    tables = table(program=PROGRAMS[name], network=network, rounds=9, checkpoint={"every": 4})
    whole, written = simulate(tables)
    assert [round for round, _ in written.checkpoints] == [4, 8]
    for round, payload in written.checkpoints:
        stored = wire.decode(wire.encode(payload)).payload
        resumed, rewritten = simulate(tables, checkpoint=stored)
        assert torch.equal(models_of(whole), models_of(resumed))
        assert resumed.now == whole.now
        assert sorted(rewritten.rows) == sorted(row for row in written.rows if row[1] > round)
        later = sorted(figure for figure in written.figures if figure[1] > round)
        assert sorted(rewritten.figures) == later


def test_momentum_that_is_kept_survives_a_resume():
    optimizer = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "state": "keep"}
    tables = table(task={"optimizer": optimizer}, checkpoint={"every": 3})
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(whole), models_of(resumed))
    reset, _ = simulate(table(task={"optimizer": {**optimizer, "state": "reset"}}))
    assert not torch.allclose(models_of(whole), models_of(reset), atol=1e-4)


def test_an_interrupt_stops_where_the_run_can_continue():
    tables = table(network=SLOW, rounds=8)
    whole, _ = simulate(tables)
    experiment = Experiment.from_table(tables)
    written = Written()
    world = World(prepare(experiment, workers=1), written)
    world.begin()
    world.at(0.1, world.nodes[0], lambda _: world.interrupt())
    world.nodes[0].order -= 1
    world.run()
    assert world.stopped_early
    ((round, payload),) = written.checkpoints
    assert 0 < round < 8
    resumed, _ = simulate(tables, checkpoint=payload)
    assert torch.equal(models_of(resumed), models_of(whole))


def test_a_checkpoint_counts_on_no_row_that_is_not_written(monkeypatch):
    written_by_then = {}

    def checkpoint(written, round, payload, keep):
        written_by_then[round] = (len(written.rows), {(node, t) for node, t, _, _ in written.figures})

    monkeypatch.setattr(Written, "checkpoint", checkpoint)
    simulate(table(network=SLOW, checkpoint={"every": 2}))
    for round in (2, 4):
        rows, evaluated = written_by_then[round]
        assert rows >= 12 * round
        assert evaluated >= {(node, t) for node in range(-1, 12) for t in range(2, round + 1, 2)}


def test_commits_are_handed_over_before_every_computation(monkeypatch):
    given = []
    train = Learner.train
    monkeypatch.setattr(Written, "commits", lambda _, rows: given.extend(rows))
    seen = []
    monkeypatch.setattr(Learner, "train", lambda *arguments: (seen.append(len(given)), train(*arguments)))
    simulate(table())
    assert seen == [0, 12, 24, 36, 48, 60]


def test_what_a_node_keeps_comes_back_to_the_device_of_its_model():
    learned = Learned(torch.zeros(3), {"momentum": torch.ones(1, 3)})
    kept = Snapshot(1, {"sum": torch.ones(3), "round": 4}, learned, None, [0])
    (restored,) = unpack(packed([kept]), untaught("meta"))
    again = restored.learned
    assert again.model.device.type == "meta"
    # A sharing that subtracts one from the other finds both in one index.
    assert (again.model - restored.state["sum"]).device.type == "meta"
    assert restored.state["round"] == 4
    assert again.slots is not None
    assert again.slots["momentum"].device.type == "meta"
