"""Checkpoints by time: their moments, their cost, and the same run with and without them."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
import torch

from covey import api
from covey.messages import wire
from covey.runtime import cadence
from covey.runtime.cadence import Cadence
from covey.runtime.emulation.launcher import launcher
from covey.runtime.runs import latest_checkpoint
from covey.runtime.runs.schema import CHECKPOINTS
from tests.conftest import models_of, simulate, table
from tests.examples import PROGRAMS
from tests.hosts import emulate
from tests.puppets import PATIENT, row, snapshots, soon, stage
from tests.test_launcher import in_loop

SYNCHRONOUS, ASYNCHRONOUS = ("ring", "fedavg"), ("gossip-learning", "ad-psgd")


@pytest.fixture
def often(monkeypatch):
    """Checkpoints are due whenever they can be."""
    monkeypatch.setattr(cadence, "_LEAST", 0.0)
    monkeypatch.setattr(cadence, "_SHARE", 1e9)
    monkeypatch.setattr(launcher, "_ASK", 0.005)


# ---------------------------------------------------------------------- when


def test_checkpoints_are_due_as_rarely_as_keeps_their_cost_small(tmp_path):
    now = [0.0]
    due = Cadence(1000, tmp_path, lambda: now[0])
    taken = []
    for second in range(400):
        now[0] = float(second)
        if due.is_due:
            taken.append(second)
            with due.at_work():
                now[0] += 0.01 if second < 20 else 3.0
            due.taken()
    assert taken[:4] == [5, 11, 17, 23]
    # From then on each takes three seconds.
    assert [later - earlier for earlier, later in pairwise(taken[3:])] == [103, 103, 103]


def test_the_first_of_large_models_is_not_due_at_once(tmp_path):
    now = [0.0]
    due = Cadence(600_000_000, tmp_path, lambda: now[0])
    now[0] = 300.0
    assert not due.is_due
    now[0] = 334.0
    assert due.is_due


def test_what_does_not_fit_is_not_taken_by_itself(tmp_path, monkeypatch):
    free = [100.0]
    monkeypatch.setattr(cadence.shutil, "disk_usage", lambda folder: cadence.shutil._ntuple_diskusage(0, 0, free[0]))
    now = [0.0]
    due = Cadence(1000, tmp_path, lambda: now[0])
    now[0] = 6.0
    assert not due.is_due
    free[0] = 1e9
    now[0] = 12.0
    assert due.is_due
    assert not Cadence(1 << 32, tmp_path, lambda: 1e9 * now[0]).is_due


# ---------------------------------------------------------------------- the simulation


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_simulation_is_the_same_to_the_bit_whether_they_are_taken_or_not(name, often):
    tables = table(program=PROGRAMS[name], rounds=9, network={"compute": {"kind": "log-normal", "median": 3e3}})
    world, written = simulate(tables)
    assert written.checkpoints
    without, unwritten = simulate({**tables, "checkpoint": {"every": 0}})
    assert not unwritten.checkpoints
    assert torch.equal(models_of(world), models_of(without))
    assert sorted(written.rows) == sorted(unwritten.rows)
    assert sorted(written.figures) == sorted(unwritten.figures)
    for _, payload in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(payload)).payload)
        assert torch.equal(models_of(resumed), models_of(without))


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_an_asynchronous_simulation_too(name, often):
    tables = table(program=PROGRAMS[name], rounds=9)
    world, written = simulate(tables)
    assert len(written.checkpoints) > 2
    without, _ = simulate({**tables, "checkpoint": {"every": 0}})
    assert torch.equal(models_of(world), models_of(without))


def test_a_short_run_has_none_and_a_longer_one_some(tmp_path, monkeypatch):
    run = api.run(table(), out=tmp_path / "short")
    assert not list((run.folder / CHECKPOINTS).iterdir())
    monkeypatch.setattr(cadence, "_LEAST", 0.0)
    run = api.run(table(rounds=100, evaluation={"every": 0}), out=tmp_path / "longer")
    assert list((run.folder / CHECKPOINTS).iterdir())


# ---------------------------------------------------------------------- the emulation


@in_loop
async def test_hosts_are_asked_for_a_round_that_is_still_to_come(tmp_path, often):
    async with stage(tmp_path, every=None) as on:
        left, right = on.puppets
        assert (await left.receives("keep"))["round"] == 1
        # One of its nodes is past it: the next is asked for with more room.
        left.rows([row(0, t) for t in (1, 2, 3)])
        await soon(lambda: len(on.commits()) == 3)
        left.say("missed", {"round": 1})
        await soon(lambda: left.said("keep")["round"] == 5)
        for puppet in on.puppets:
            assert [frame.payload["round"] for frame in puppet.frames if frame.tag == "keep"] == [1, 5]
        left.say("snapshots", snapshots([0, 1], 5))
        right.say("snapshots", snapshots([2, 3], 5))
        await soon(lambda: latest_checkpoint(on.folder))
        assert on.checkpoint() == [5] * 4
        await soon(lambda: right.said("keep")["round"] == 4)
        await on.ends()


@in_loop
async def test_nodes_that_are_not_in_step_send_what_they_have(tmp_path, often):
    async with stage(tmp_path, every=None, program=PATIENT) as on:
        left, right = on.puppets
        await right.receives("keep")
        right.vanish()
        await right.get_ready(calls=2)
        # Whoever is not there is not asked.
        assert (await left.receives("keep"))["round"] is None
        left.say("snapshots", snapshots([0, 1], 4))
        await soon(lambda: latest_checkpoint(on.folder))
        assert on.checkpoint() == [4, 4, 0, 0]
        assert (await right.receives("keep"))["round"] is None
        left.say("snapshots", snapshots([0, 1], 5))
        right.say("snapshots", snapshots([2], 3))
        await asyncio.sleep(0.1)
        assert on.checkpoint() == [4, 4, 0, 0]
        right.say("snapshots", snapshots([3], 4))
        await soon(lambda: on.checkpoint() == [5, 5, 3, 4])
        # Nor is whoever is gone since waited for.
        await soon(lambda: right.tags.count("keep") == 2)
        right.vanish()
        left.say("snapshots", snapshots([0, 1], 6))
        await soon(lambda: on.checkpoint() == [6, 6, 3, 4])
        await right.get_ready(calls=3)
        await on.ends()


@pytest.mark.parametrize(
    "name", ["ring", "gossip-learning", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fedavg", "ad-psgd"))]
)
def test_an_emulation_takes_them_and_ends_as_it_would(name, often, tmp_path):
    tables = table(program=PROGRAMS[name], rounds=30, network={"compute": 2e3}, evaluation={"every": 10})
    outcome, written = emulate(tables, tmp_path, 2)
    assert outcome.finished
    assert written.checkpoints
    if name in SYNCHRONOUS:
        assert all(np.unique(payload["completed"]).tolist() == [round] for round, payload in written.checkpoints)
        world, _ = simulate(tables)
        assert torch.allclose(outcome.models, models_of(world), atol=1e-5)
    resumed, _ = emulate(tables, tmp_path, 2, checkpoint=written.checkpoints[0][1])
    assert resumed.finished
    if name in SYNCHRONOUS:
        assert torch.allclose(resumed.models, outcome.models, atol=1e-5)
