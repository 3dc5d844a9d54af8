"""Two protocols that test the node contract, each by its special demands."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from covey.learning.datasets.digits import Digits
from covey.messages import wire
from covey.parts import rng
from tests.conftest import models_of, simulate, table

STILL = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""


def starts_of(world):
    """N x P, the models before any round."""
    return torch.stack([world.task.learner.initial(node.id) for node in world.nodes])


# ---------------------------------------------------------------------- Shatter

SHATTER = {"kind": "tests.programs.shatter:Shatter", "chunks": 3, "degree": 2}
VIRTUAL = {"nodes": 1 + 6 + 18, "latency": "5ms", "bandwidth": None}
REAL, NAMES = range(1, 7), range(7, 25)


def owners_in(overheard, t):
    """(real node, chunk number) of each virtual node in a round, from the sampler's messages to the real nodes."""
    return {
        name: (message.receivers[0], number)
        for message in overheard
        if message.tag == "names" and message.round == t
        for number, name in enumerate(message.payload["names"])
    }


def test_shatter_is_gossip_chunk_by_chunk_over_the_virtual_graph(overheard):
    world, _ = simulate(table(program=SHATTER, network=VIRTUAL, task=STILL, rounds=3))
    indices = world.program.indices
    assert sorted(torch.cat(indices).tolist()) == list(range(world.task.learner.first_model.shape[0]))
    models = starts_of(world)
    for t in range(3):
        owners = owners_in(overheard, t)
        assert sorted(owners) == list(NAMES)
        mixed = {real: (models[real].clone(), torch.ones(world.task.learner.first_model.shape)) for real in REAL}
        edges = [(m.sender, to) for m in overheard if m.tag == "virtual" and m.round == t for to in m.receivers]
        assert Counter(sender for sender, _ in edges) == Counter(to for _, to in edges) == dict.fromkeys(NAMES, 2)
        for sender, receiver in edges:
            (source, number), (target, _) = owners[sender], owners[receiver]
            mixed[target][0][indices[number]] += models[source][indices[number]]
            mixed[target][1][indices[number]] += 1
        models = torch.stack([mixed[id][0] / mixed[id][1] if id in mixed else models[id] for id in range(25)])
    assert torch.allclose(models_of(world)[1:7], models[1:7], atol=1e-6)
    assert not torch.allclose(models[1:7], starts_of(world)[1:7], atol=1e-3)


def test_every_model_of_shatter_is_covered_by_its_chunks(overheard):
    world, _ = simulate(table(program=SHATTER, network=VIRTUAL, task=STILL, rounds=1))
    starts, owners = starts_of(world), owners_in(overheard, 0)
    rebuilt = {real: torch.full(world.task.learner.first_model.shape, torch.nan) for real in REAL}
    for message in overheard:
        if message.tag == "virtual":
            real, number = owners[message.sender]
            assert message.payload["number"] == number
            rebuilt[real][world.program.indices[number]] = message.payload["values"]
    for real in REAL:
        assert torch.equal(rebuilt[real], starts[real])


def test_nobody_but_its_own_and_the_sampler_learns_who_is_behind_a_virtual_node(overheard):
    simulate(table(program=SHATTER, network=VIRTUAL, rounds=8))
    first, second = owners_in(overheard, 0), owners_in(overheard, 1)
    assert sum(first[name] == second[name] for name in NAMES) <= 4
    for message in overheard:
        owners = owners_in(overheard, message.round)
        for receiver in message.receivers:
            if message.sender in NAMES and receiver in NAMES:
                # All that a stranger sees: a virtual sender, a chunk's number and its values.
                assert set(message.payload) == {"number", "values"}
            elif message.sender != 0:
                # Real nodes talk to virtual nodes of their own and to nobody else, and the other way round.
                real, name = sorted((message.sender, receiver))
                assert owners[name][0] == real
            elif message.tag == "owner":
                assert owners[receiver][0] == message.payload["owner"]
    # A name says nothing about who is behind it: over the rounds each real node stands behind most of them.
    behind = {
        real: {n for t in range(8) for n, (r, _) in owners_in(overheard, t).items() if r == real} for real in REAL
    }
    assert min(len(names) for names in behind.values()) > 9


def test_the_public_cannot_compute_who_is_behind_a_virtual_node(overheard):
    """Public randomness gives other names than the sampler's own."""
    simulate(table(program=SHATTER, network=VIRTUAL, rounds=1))
    assigned = [message.payload["names"] for message in overheard if message.tag == "names"]
    for purpose in ("public names", "names"):
        guessed = rng.generator(3, purpose, 0).permutation(NAMES).reshape(-1, 3).tolist()
        assert guessed != assigned


def test_virtual_nodes_continue_from_a_checkpoint_to_the_bit():
    tables = table(program=SHATTER, network={**VIRTUAL, "bandwidth": "1Mbit/s"}, checkpoint={"every": 2}, rounds=5)
    whole, written = simulate(tables)
    assert [round for round, _ in written.checkpoints] == [2, 4]
    for _, checkpoint in written.checkpoints:
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(checkpoint)).payload)
        assert torch.equal(models_of(whole), models_of(resumed))
        assert whole.now == resumed.now


# ---------------------------------------------------------------------- CPFL

CPFL = {"kind": "tests.programs.cpfl:CPFL", "cohorts": 2}
PEOPLE = {"nodes": 1 + 2 + 10, "latency": "5ms", "bandwidth": None}
VALIDATED = {"validation": 0.2, "local_steps": 4, "optimizer": {"kind": "sgd", "lr": 1.0}}


def validation_of(written, leader):
    """The moving average of a cohort's loss, round by round."""
    found = [(t, value) for node, t, name, value in written.figures if node == leader and name == "validation"]
    return [value for _, value in sorted(found)]


@pytest.mark.parametrize("patience", [1, 3])
def test_a_cohort_of_cpfl_whose_loss_stands_still_stops_after_its_patience(patience):
    task = {**VALIDATED, "optimizer": {"kind": "sgd", "lr": 0.0}}
    program = {**CPFL, "patience": patience, "window": 1, "least": 1e-6}
    world, written = simulate(table(program=program, network=PEOPLE, task=task, rounds=30))
    assert [len(validation_of(written, leader)) for leader in (1, 2)] == [1 + patience] * 2
    assert {node.round for node in world.nodes[1:]} == {1 + patience}
    assert world.nodes[0].round == 30


def test_cohorts_of_cpfl_stop_each_by_its_own_loss_and_hand_over_their_best(overheard):
    world, written = simulate(table(program=CPFL, network=PEOPLE, task=VALIDATED, rounds=60))
    lengths = []
    for leader in (1, 2):
        losses = validation_of(written, leader)
        lengths.append(len(losses))
        lowest = [min(losses[: t + 1]) for t in range(len(losses))]
        best = losses.index(min(losses))
        assert len(losses) == best + 1 + 2  # patience
        assert not any(lowest[t] == lowest[t + 2] for t in range(len(losses) - 3))
        (handed,) = [m.payload for m in overheard if m.tag == "cohort" and m.sender == leader]
        models = [m.payload["model"] for m in overheard if m.tag == "model" and m.sender == leader and m.payload]
        assert handed["loss"] == min(losses)
        assert torch.equal(handed["model"], models[best])
        assert not torch.equal(handed["model"], models[-1])
        members = world.program.members[leader]
        assert {world.nodes[client].round for client in members} == {len(losses)}
    assert lengths[0] != lengths[1]
    assert max(lengths) < 58


def test_a_cohort_of_cpfl_whose_loss_keeps_falling_never_stops():
    task = {**VALIDATED, "optimizer": {"kind": "sgd", "lr": 0.001}}
    _, written = simulate(table(program=CPFL, network=PEOPLE, task=task, rounds=12))
    for leader in (1, 2):
        losses = validation_of(written, leader)
        assert len(losses) == 12
        assert losses == sorted(losses, reverse=True)


def test_the_server_of_cpfl_begins_with_the_lowest_loss_and_ends_better_than_the_cohorts(overheard, tmp_path):
    # The server has some of everything, the clients a class or two each.
    targets = Digits().load(tmp_path).train.targets.numpy()
    of_server = np.arange(len(targets)) % 5 == 0
    theirs = np.flatnonzero(~of_server)
    shards = np.array_split(theirs[np.argsort(targets[theirs], kind="stable")], 10)
    dealt = [np.flatnonzero(of_server).tolist(), *(shard.tolist() for shard in shards)]
    (tmp_path / "parts.json").write_text(json.dumps(dealt))
    task = {**VALIDATED, "partition": {"kind": "file", "file": str(tmp_path / "parts.json")}}
    world, written = simulate(table(program=CPFL, network=PEOPLE, task=task, rounds=40))
    handed = [m.payload for m in overheard if m.tag == "cohort"]
    total = sum(payload["samples"] for payload in handed)
    assert total == sum(node.data.samples for node in world.nodes[3:])
    average = sum(payload["model"] * (payload["samples"] / total) for payload in handed)
    candidates = [average, *(payload["model"] for payload in handed)]
    own = world.task.learner.evaluate(candidates, world.task.judge("validation", 0).split)
    (fused,) = [columns["fused"] for *_, columns in written.added]
    assert fused == pytest.approx(min(metrics["loss"] for metrics in own), rel=1e-4)
    on_test = world.task.learner.evaluate([*candidates[1:], world.nodes[0].model], world.task.judge("test").split)
    assert on_test[-1]["accuracy"] > max(metrics["accuracy"] for metrics in on_test[:-1])
    # It waits for the slowest cohort and only then begins.
    first = min(row[2] for row in written.rows if row[0] == 0)
    assert first > max(m.time for m in overheard if m.tag == "cohort")


def test_the_cohorts_of_cpfl_partition_the_clients():
    for cohorts in (1, 2, 3, 10):
        world, _ = simulate(
            table(program={**CPFL, "cohorts": cohorts}, network={"nodes": 11 + cohorts}, task=VALIDATED, rounds=1)
        )
        members = list(world.program.members.values())
        assert sorted(client for cohort in members for client in cohort) == list(range(1 + cohorts, 11 + cohorts))
        assert np.ptp([len(cohort) for cohort in members]) <= 1
