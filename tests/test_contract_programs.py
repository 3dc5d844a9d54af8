"""Three protocols that test the node contract, each by its special demands."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from covey.learning.datasets.digits import Digits
from covey.messages import wire
from covey.parts import rng
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.mailbox import Mailbox
from covey.runtime.node import Inbox, Message
from covey.runtime.simulation.world import World
from tests.conftest import models_of, simulate, table
from tests.programs.divshare import DivShare

STILL = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
"""Every node begins with a model of its own and training changes nothing."""


def starts_of(world):
    """N x P, the models before any round."""
    return torch.stack([world.task.learner.initial(node.id) for node in world.nodes])


# ---------------------------------------------------------------------- DivShare

DIVSHARE = {"kind": "tests.programs.divshare:DivShare", "fragments": 8, "degree": 3}
NARROW = {"nodes": 8, "latency": "1ms", "bandwidth": None, "uplink": "80kbit/s", "compute": 200}
"""A training takes 80 ms, in which the uplink carries two or three of the 24 fragments."""


def test_divshare_trains_at_its_own_pace_and_withdraws_what_an_uplink_cannot_carry(overheard):
    _, wide_figures = simulate(table(program=DIVSHARE, network={**NARROW, "uplink": None}))
    overheard.clear()
    narrow, written = simulate(table(program=DIVSHARE, network=NARROW))
    assert [row[:3] for row in sorted(written.rows)] == [row[:3] for row in sorted(wide_figures.rows)]
    withdrawn = dict.fromkeys(range(8), 0.0)
    for node, _, name, value in written.figures:
        if name == "withdrawn":
            withdrawn[node] += value
    assert not any(value for _, _, name, value in wide_figures.figures if name == "withdrawn")
    for node in narrow.nodes:
        offered = [wire.size(message.payload, message.tag) for message in overheard if message.sender == node.id]
        assert withdrawn[node.id] > 5 * 15
        assert node.messages_out == len(offered) - withdrawn[node.id]
        assert node.bytes_out < 0.5 * sum(offered)
        assert node.bytes_out >= min(offered) * node.messages_out
        assert node.bytes_out <= max(offered) * node.messages_out
    # While one training goes on, what the one before made is already arriving.
    assert sum(row[9] for row in written.rows if row[1] == 2) > 0
    assert sum(node.mail.messages_in for node in narrow.nodes) == sum(node.messages_out for node in narrow.nodes)


def test_slow_nodes_of_divshare_continue_and_are_received_and_delay_no_other(monkeypatch):
    heard = Counter()
    deliver = Mailbox.deliver
    monkeypatch.setattr(
        Mailbox, "deliver", lambda mail, message: (heard.update([message.sender]), deliver(mail, message))[1]
    )
    compute = {"kind": "stragglers", "samples_per_second": 200, "fraction": 0.25, "slowdown": 10}
    network = {**NARROW, "compute": compute}
    world, _ = simulate(table(program=DIVSHARE, network=network, rounds=1000, duration="4.04s"))
    slow = {node.id for node in world.nodes if world.speeds[node.id] == 20}
    assert len(slow) == 2
    assert {node.round for node in world.nodes if node.id in slow} == {5}
    assert {node.round for node in world.nodes if node.id not in slow} == {50}
    assert all(heard[node] >= 24 for node in slow)


def test_divshare_leaves_alone_what_nobody_sent(monkeypatch):
    arrived = {node: set() for node in range(3)}
    worlds = []
    deliver = Mailbox.deliver

    def listen(mail, message):
        (receiver,) = [node for node in range(3) if worlds[-1].nodes[node].mail is mail]
        if not mail.ended:
            arrived[receiver].add(message["number"])
        deliver(mail, message)

    made = World.__init__
    monkeypatch.setattr(World, "__init__", lambda world, *a, **k: (worlds.append(world), made(world, *a, **k))[1])
    monkeypatch.setattr(Mailbox, "deliver", listen)
    network = {**NARROW, "nodes": 3, "uplink": "60kbit/s"}
    program = {**DIVSHARE, "fragments": 16, "degree": 1}
    world, _ = simulate(table(program=program, network=network, task=STILL, rounds=3))
    starts = starts_of(world)
    for node in world.nodes:
        assert 0 < len(arrived[node.id]) < 16
        for number, indices in enumerate(world.program.indices):
            moved = node.model[indices] != starts[node.id][indices]
            if number in arrived[node.id]:
                assert moved.float().mean() > 0.5
            else:
                assert not moved.any()


def test_divshare_merges_the_newest_copy_of_a_fragment_index_by_index():
    program = DivShare(fragments=3, degree=1)
    program.ready(Setting(4, seed=1, parameters=10))
    assert sorted(torch.cat(program.indices).tolist()) == list(range(10))

    def fragment(sender, number, value):
        values = torch.full((len(program.indices[number]),), value)
        return Message(NodeId(sender), "fragment", None, {"number": number, "values": values}, 0)

    inbox = Inbox([fragment(1, 0, 9.0), fragment(1, 0, 3.0), fragment(2, 0, 5.0), fragment(2, 1, 7.0)])
    merged = program.merged(torch.ones(10), inbox)
    assert merged[program.indices[0]].tolist() == [3.0] * 4
    assert merged[program.indices[1]].tolist() == [4.0] * 3
    assert merged[program.indices[2]].tolist() == [1.0] * 3


def test_divshare_with_whole_models_to_everybody_at_once_is_an_all_reduce():
    program = {**DIVSHARE, "fragments": 1, "degree": 7}
    network = {"nodes": 8, "latency": 0.0, "bandwidth": None}
    world, _ = simulate(table(program=program, network=network, task=STILL, rounds=2))
    # All send at one moment and merge what has come by the end of the next training: the mean of the first models.
    assert torch.allclose(models_of(world), starts_of(world).mean(0).expand(8, -1), atol=1e-6)


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
