"""Rounds as arrays give what events give, to the bit: models, rows, figures, times."""

import re
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.learning.arrays import Buffer
from covey.network.latency import UniformLatency
from covey.parts import machine
from covey.parts.errors import ConfigurationError, ModelError
from covey.parts.parameters import Setting
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation import playing
from covey.runtime.simulation.arrays import ArrayRounds, against, can_restore
from covey.runtime.simulation.simulation import Simulation
from covey.runtime.simulation.world import World
from tests.conftest import Written, models_of, simulate, table
from tests.examples import BLOBS, EPIDEMIC, Recorded, part_table

UNEVEN = {
    "latency": {"kind": "uniform", "low": "1ms", "high": "90ms"},
    "compute": {"kind": "log-normal", "median": 100.0},
}
EVEN = {"latency": "5ms", "compute": 200}


def tables(program=None, task=None, network=EVEN, **changes):
    """A small experiment that can be computed as arrays."""
    program = {"kind": "gossip", "topology": EPIDEMIC, **(program or {})}
    changes = {"rounds": 5, "evaluation": {"every": 2, "nodes": 7}, **changes}
    found = table(program=program, task={**BLOBS, "batch_size": 8, **(task or {})}, **changes)
    return {**found, "network": {"nodes": 12, **network}}


def arrays(tables, *, checkpoint=None, stops=None, spare=True, **compute):
    """Compute an experiment as arrays, perhaps with an interruption in a round: the rounds, outcome and records."""
    prepared = prepare(Experiment.from_table(tables), **compute)
    assert against(prepared) is None
    written = Written()
    rounds = ArrayRounds(prepared, written, spare=spare)
    if checkpoint is not None:
        assert can_restore(checkpoint)
        rounds.restore(checkpoint)
    if stops is not None:
        mix = rounds.models.mix

        def interrupted(weights):
            if rounds.completed == stops:
                signal.raise_signal(signal.SIGINT)
            mix(weights)

        rounds.models.mix = interrupted
    with prepared.task:
        return rounds, rounds.run(), written


def check_equal(events, of_arrays):
    """Compare all that two runs leave."""
    (world, heard), (_, outcome, written) = events, of_arrays
    assert torch.equal(models_of(world), outcome.models)
    assert sorted(heard.rows) == sorted(written.rows)
    assert sorted(heard.figures) == sorted(written.figures)
    assert heard.happened == written.happened == []
    assert heard.of_hosts == written.of_hosts == []
    assert world.now == outcome.time


TOPOLOGIES = st.sampled_from(
    ["ring", "star", "one-peer-exponential", "random-matching", "complete", EPIDEMIC, "chain"]
    + [{"kind": "epidemic-local", "degree": 3}, {"kind": "erdos-renyi", "probability": 0.2}]
    + [{"kind": "equitopo-static", "shifts": 2}, {"kind": "redrawn", "topology": EPIDEMIC, "every": 2}]
)
SCHEDULES = st.sampled_from(["every-round", {"kind": "periodic", "every": 2}, {"kind": "skiptrain", "training": 1}])
OPTIMIZERS = st.sampled_from(
    [{"kind": "sgd", "lr": 0.1}, {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "state": "keep", "weight_decay": 0.1}]
    + [{"kind": "adam", "state": "keep"}, {"kind": "sgd", "lr": 0.1, "momentum": 0.5, "nesterov": True}]
    + [{"kind": "guessed", "of": {"kind": "sgd", "momentum": 0.9}, "guesses": 2}]
    + [{"kind": "sgd", "lr": 0.2, "schedule": {"kind": "step", "every": 2}}]
)
PARTITIONS = st.sampled_from(["iid", {"kind": "dirichlet", "alpha": 0.3}, {"kind": "quantity", "alpha": 0.7}])
WORK = st.sampled_from([{"local_steps": 3}, {"local_epochs": 2}])
FURTHER = st.sampled_from(
    [{}, {"model": {"kind": "mlp", "hidden": [8]}}, {"clip": 0.1}, {"same_start": False}, {"validation": 0.2}]
    + [{"augmentation": [{"kind": "noise", "deviation": 0.1}]}]
)


@settings(max_examples=12)
@given(
    *(TOPOLOGIES, SCHEDULES, st.sampled_from(["mean", None, {"kind": "lazy", "rule": "mean"}]), OPTIMIZERS, PARTITIONS),
    *(WORK, FURTHER, st.sampled_from([EVEN, UNEVEN]), st.integers(1, 3), st.integers(0, 5), st.booleans()),
    st.integers(0, 99),
)
def test_arrays_and_events_give_the_same_to_the_bit(
    topology, schedule, rule, optimizer, partition, work, further, network, workers, chunk, spare, seed
):
    program = {"topology": topology, "schedule": schedule}
    if rule is not None:
        program["aggregation"] = rule
    task = {"optimizer": optimizer, "partition": partition, **work, **further}
    given = tables(program, task, network, seed=seed)
    check_equal(simulate(given), arrays(given, workers=workers, chunk=chunk, spare=spare))


LARGE = {"dataset": {"kind": "gaussian-blobs", "samples": 240, "test_samples": 20, "features": 600}, "batch_size": 8}


@pytest.mark.parametrize("spare", [True, False])
@pytest.mark.parametrize("task", [{}, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("topology", ["star", "complete", {"kind": "erdos-renyi", "probability": 0.84}], ids=str)
def test_dense_graphs_and_large_models_are_mixed_to_the_same_bits(topology, task, spare):
    """Mixtures of more than 100 models are rounded once, and large models are added one by one."""
    given = tables({"topology": topology}, task, {"nodes": 120, **UNEVEN}, rounds=2)
    check_equal(simulate(given), arrays(given, spare=spare))


def test_a_kernel_that_trains_modules_gives_the_same_bits():
    given = tables(task={"model": {"kind": "mlp", "hidden": [8]}, "optimizer": {"kind": "sgd", "momentum": 0.9}})
    given["engine"]["kernel"] = "module"
    check_equal(simulate(given), arrays(given, kernel="module", workers=2))


# ---------------------------------------------------------------------- interruption and resumption


@pytest.mark.parametrize("optimizer", [{"kind": "sgd"}, {"kind": "adam", "state": "keep"}], ids=["sgd", "adam"])
def test_an_interrupted_run_resumes_to_the_same_bits_on_either_way(optimizer):
    given = tables(task={"optimizer": optimizer}, network=UNEVEN, checkpoint={"every": 2})
    world, heard = simulate(given)
    rounds, outcome, written = arrays(given, stops=2)
    assert (outcome.finished, rounds.completed) == (False, 3)
    assert [round for round, _ in written.checkpoints] == [2, 3]
    last = written.checkpoints[-1][1]
    rest = [row for row in heard.rows if row[1] > 3], [figure for figure in heard.figures if figure[1] > 3]
    for _, models, records in (
        arrays(given, checkpoint=last),
        (lambda found: (None, models_of(found[0]), found[1]))(simulate(given, checkpoint=last)),
        arrays(given, checkpoint=heard.checkpoints[0][1]),
    ):
        assert torch.equal(models_of(world), getattr(models, "models", models))
        assert [sorted(row for row in records.rows if row[1] > 3), sorted(f for f in records.figures if f[1] > 3)] == [
            *map(sorted, rest)
        ]


def test_a_checkpoint_shares_memory_with_the_models():
    rounds, _, _ = arrays(tables(task={"optimizer": {"kind": "adam", "state": "keep"}}))
    packed = rounds.pack()
    assert packed["models"].data_ptr() == rounds.models.result().data_ptr()
    assert packed["slots/*/first"].shape == rounds.models.result().shape


def test_nodes_in_different_rounds_go_on_as_events():
    _, heard = simulate(tables({"topology": "ring"}, checkpoint={"every": 2}))
    payload = heard.checkpoints[0][1]
    assert can_restore(payload)
    assert not can_restore({**payload, "completed": payload["completed"] + np.arange(12)})
    assert not can_restore({**payload, "state/0/spent": 1})


# ---------------------------------------------------------------------- the choice


class OwnProgram(Recorded):
    async def run(self, node):
        async for _ in node.rounds():
            pass


CHANGES = {
    "limited rate": {"network": {**EVEN, "bandwidth": "1Mbit/s"}},
    "churn": {
        "network": {**EVEN, "churn": {"kind": "rate", "mean_up": "9s", "mean_down": "1s"}},
        "program": {"patience": "1s"},
    },
    "messages are lost": {"network": {**EVEN, "loss": 0.1}, "program": {"patience": "1s"}},
    "faults": {"faults": [{"kind": "pause", "at": "1s", "nodes": [1], "lasts": "1s"}]},
    "observer": {"observer": {"nodes": [1]}},
    "after a duration": {"duration": "1s"},
    "energy": {"network": {**EVEN, "energy": "constant"}},
    "moments of time": {"evaluation": {"seconds": 1.0}},
    "take time": {"evaluation": {"takes_time": True}},
    "states of nodes": {"output": {"states": True}},
    "drops nodes": {"task": {"non_finite": "drop"}},
    "random numbers": {"task": {"model": {"kind": "tests.test_array_rounds:Dropping"}}},
    "does not send whole models": {"program": {"sharing": {"kind": "random", "budget": 0.5}}},
}


class Dropping(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Dropout(0.5), torch.nn.Linear(10, 4))


@pytest.mark.parametrize("words", CHANGES)
def test_arrays_are_refused_with_the_reason_where_they_would_change_something(words):
    given = tables(**CHANGES[words])
    assert words in against(prepare(Experiment.from_table(given)))
    given["engine"]["rounds"] = "arrays"
    with pytest.raises(ConfigurationError, match=r"The 'rounds' of the engine simulation must be .* but .*" + words):
        prepare(Experiment.from_table(given))


def test_arrays_are_chosen_from_a_thousand_nodes_on():
    def why_not(nodes, **engine):
        given = tables(task={"dataset": {"kind": "gaussian-blobs", "samples": 1000}}, network={"nodes": nodes, **EVEN})
        prepared = prepare(Experiment.from_table(given))
        return Simulation(**engine).against_arrays(prepared)

    assert why_not(998) == "998 nodes are fewer than 1,000"
    assert why_not(1000) is None
    assert why_not(12, rounds="arrays") is None
    assert why_not(1000, rounds="events") == "the engine's 'rounds' say so"


def test_a_callback_takes_the_way_of_events():
    prepared = prepare(Experiment.from_table(tables()))
    prepared.callbacks.add([lambda evaluated: None])
    assert against(prepared) == "callbacks watch it"


def test_the_engine_computes_arrays_without_a_single_event(monkeypatch):
    monkeypatch.setattr(World, "run", lambda world: pytest.fail("events"))
    given = tables()
    given["engine"]["rounds"] = "arrays"
    prepared = prepare(Experiment.from_table(given))
    outcome = prepared.experiment.engine.execute(prepared, Written())
    assert outcome.finished


@pytest.mark.parametrize("schedule", ["every-round", {"kind": "periodic", "every": 2}], ids=["trained", "not trained"])
def test_a_model_that_is_not_finite_ends_the_run_and_names_the_same_node(schedule):
    given = tables({"schedule": schedule}, {"optimizer": {"kind": "sgd", "lr": 1e38}, "local_steps": 3}, UNEVEN)
    with pytest.raises(ModelError) as of_events:
        simulate(given)
    with pytest.raises(ModelError) as of_arrays:
        arrays(given)
    assert str(of_events.value) == str(of_arrays.value)


@pytest.mark.parametrize("kind", ["uniform", "log-normal", "plane", "per-node", "matrix", "constant"])
def test_the_latencies_of_edges_are_those_of_their_pairs(kind, files):
    given = tables(network={"latency": part_table("latency", kind, files)})
    latency = prepare(Experiment.from_table(given)).network.latency
    senders, receivers = np.arange(12).repeat(12), np.tile(np.arange(12), 12)
    assert latency.of_edges(senders, receivers).tolist() == [
        *map(latency.between, senders.tolist(), receivers.tolist())
    ]


def test_an_own_latency_between_pairs_counts_for_edges():
    class Doubled(UniformLatency):
        def between(self, sender, receiver):
            return 2 * super().between(sender, receiver)

    latency = Doubled(low=0.1, high=0.2)
    latency.prepare(Setting(3, seed=1))
    assert latency.of_edges(np.array([0, 1]), np.array([1, 2])).tolist() == [
        latency.between(0, 1),
        latency.between(1, 2),
    ]


# ---------------------------------------------------------------------- memory and words


def test_models_beyond_the_memory_are_refused_with_the_nodes_that_fit(monkeypatch):
    given = tables(rounds=1)
    given["engine"]["rounds"] = "arrays"
    prepare(Experiment.from_table(given))
    monkeypatch.setattr(machine, "total", lambda: 9 * 2226.0)  # A node takes 176 bytes, 1,500 more and 3.7 edges.
    with pytest.raises(
        ConfigurationError, match=r"of 12 nodes, each of 44 numbers, .*: at most (\d+) nodes fit\."
    ) as e:
        prepare(Experiment.from_table(given))
    most = int(re.search(r"most (\d+)", str(e.value))[1])
    assert 6 <= most < 12


def test_check_says_how_rounds_are_computed_and_why(files):
    assert covey.check(tables())["rounds"] == "as events of single nodes: 12 nodes are fewer than 1,000"
    given = tables(program={"overlap": True})
    words = "as events of single nodes: the program sends models while nodes train ('overlap')"
    assert words in repr(covey.check(given))
    given = tables()
    given["engine"]["rounds"] = "arrays"
    assert covey.check(given)["rounds"] == "as arrays of all nodes"


# ---------------------------------------------------------------------- the rows of some nodes


@pytest.mark.parametrize("asked", [5, "summary", None])
def test_some_rows_and_the_quantiles_of_all_are_kept(asked, tmp_path):
    """On both ways, with the same figures; numpy computes the quantiles of the rows of all again."""
    runs = []
    for number, (way, kept) in enumerate((("events", "all"), ("events", asked), ("arrays", asked))):
        given = tables(network=UNEVEN, output={"commits": kept} if kept else {}, rounds=3)
        given["engine"]["rounds"] = way
        runs.append(covey.run(given, out=tmp_path / str(number), quiet=True))
    everything, some, other = runs
    assert everything.recorded == "all"
    assert everything.tables == []
    if asked != 5:  # Twelve nodes are fewer than 1,000.
        assert some.commits.equals(everything.commits)
        assert other.commits.equals(everything.commits)
        return
    assert some.recorded == other.recorded == some.metrics.attrs["commits"] == "5 of 12"
    assert some.commits.equals(other.commits)
    assert len(some.commits) == 15
    merged = some.commits.merge(everything.commits)
    assert len(merged) == 15
    assert some.table("quantiles").equals(other.table("quantiles"))
    assert some.network.equals(everything.network)
    summary, stated = everything.summary(), other.summary()
    assert stated["totals"] == some.summary()["totals"] == summary["totals"]
    assert stated["seconds"] == pytest.approx(summary["seconds"], rel=1e-12)
    for row in some.table("quantiles").itertuples():
        column = everything.commits.query(f"round == {row.round}")[row.column].dropna()
        assert row.nodes == len(column)
        if len(column):
            assert (row.least, row.median, row.greatest) == (column.min(), column.median(), column.max())
            assert row.mean == pytest.approx(column.mean(), rel=1e-12)


def test_evaluated_nodes_are_among_the_recorded_ones():
    prepared = prepare(Experiment.from_table(tables(output={"commits": 8})))
    assert len(prepared.recorded) == 8
    assert set(prepared.evaluated) <= set(prepared.recorded)
    assert prepare(Experiment.from_table(tables(output={"commits": 12}))).recorded is None


def test_a_run_that_keeps_some_rows_resumes_with_the_same_quantiles(tmp_path, monkeypatch):
    given = tables(network=UNEVEN, output={"commits": 5}, checkpoint={"every": 2})
    given["engine"]["rounds"] = "arrays"
    whole = covey.run(given, out=tmp_path / "whole", quiet=True)
    mix = Buffer.mix
    calls = []

    def interrupted(buffer, weights):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        mix(buffer, weights)

    monkeypatch.setattr(Buffer, "mix", interrupted)
    assert covey.run(given, out=tmp_path / "part", quiet=True).status == "interrupted"
    resumed = covey.resume(tmp_path / "part", quiet=True)
    assert resumed.status == "finished"
    assert resumed.commits.equals(whole.commits)
    assert resumed.table("quantiles").equals(whole.table("quantiles"))
    assert np.array_equal(resumed.models, whole.models)


def test_the_bytes_of_too_many_messages_are_stated_instead_of_played(monkeypatch):
    given = tables({"topology": {"kind": "epidemic-local", "degree": 3}})
    played = prepare(Experiment.from_table(given)).played
    monkeypatch.setattr(playing, "_MOST_WORK", 0)
    stated = prepare(Experiment.from_table(given)).played
    assert (stated.rounds, stated.sent, stated.why_not) == (1, played.sent, "")
    assert stated.received[0] == stated.received[1] * played.sent / 3
    given["program"]["sharing"] = {"kind": "random", "budget": 0.5}
    assert "too long to play" in prepare(Experiment.from_table(given)).played.why_not
