"""The simulation: determinism, resuming, bytes, waiting, faults."""

import math

import numpy as np
import pytest
import torch

from covey import wire
from covey.aggregation import MetropolisHastings
from covey.errors import ModelError, ProgramError
from covey.node import Mixture, Node, Program
from covey.task.learner import Learner
from covey.task.models import Module
from tests.conftest import Written, models_of, simulate, table

EPIDEMIC = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 3}}
PROGRAMS = {
    "ring": {"kind": "gossip", "topology": "ring"},
    "overlap": {"kind": "gossip", "topology": "torus", "overlap": True},
    "epidemic-oracle": EPIDEMIC,
    "epidemic-local": {"kind": "gossip", "topology": {"kind": "epidemic-local", "degree": 3}},
    "periodic": {**EPIDEMIC, "schedule": {"kind": "periodic", "every": 2}},
    "fedavg": {"kind": "fedavg", "clients": 4},
    "ad-psgd": {"kind": "ad-psgd", "topology": "ring"},
    "gossip-learning": {"kind": "gossip-learning", "topology": "ring", "period": "20ms"},
}
SYNCHRONOUS = ["ring", "overlap", "epidemic-oracle", "epidemic-local", "periodic", "fedavg"]
SLOW = {"compute": {"kind": "stragglers", "samples_per_second": 500, "fraction": 0.25, "slowdown": 4}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(name):
    first, written = simulate(table(program=PROGRAMS[name], network=SLOW))
    again, rewritten = simulate(table(program=PROGRAMS[name], network=SLOW))
    assert torch.equal(models_of(first), models_of(again))
    assert written.rows == rewritten.rows
    assert written.figures == rewritten.figures
    other, _ = simulate(table(program=PROGRAMS[name], network=SLOW, seed=4))
    assert not torch.equal(models_of(first), models_of(other))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_number_of_workers_changes_nothing(name):
    tables = table(program=PROGRAMS[name], engine={"chunk": 3})
    one, written = simulate(tables)
    many, rewritten = simulate(table(program=PROGRAMS[name], engine={"chunk": 3, "workers": 3}))
    assert torch.equal(models_of(one), models_of(many))
    assert written.rows == rewritten.rows


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_size_of_chunks_changes_no_more_than_rounding(name):
    small, _ = simulate(table(program=PROGRAMS[name], engine={"chunk": 1}))
    large, _ = simulate(table(program=PROGRAMS[name], engine={"chunk": 12}))
    assert torch.allclose(models_of(small), models_of(large), atol=1e-5)


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


def test_momentum_that_is_kept_survives_a_resume():
    optimizer = {"kind": "sgd", "lr": 0.1, "momentum": 0.9, "state": "keep"}
    tables = table(task={"optimizer": optimizer}, checkpoint={"every": 3})
    whole, written = simulate(tables)
    resumed, _ = simulate(tables, checkpoint=written.checkpoints[0][1])
    assert torch.equal(models_of(whole), models_of(resumed))
    reset, _ = simulate(table(task={"optimizer": {**optimizer, "state": "reset"}}))
    assert not torch.allclose(models_of(whole), models_of(reset), atol=1e-4)


@pytest.mark.parametrize("name", ["ring", "epidemic-oracle", "fedavg", "gossip-learning"])
def test_what_is_sent_is_received_and_every_byte_is_counted(name):
    world, _ = simulate(table(program=PROGRAMS[name]))
    if name != "gossip-learning":
        assert sum(node.bytes_out for node in world.nodes) == sum(node.mail.bytes_in for node in world.nodes)
        assert sum(node.messages_out for node in world.nodes) == sum(node.mail.messages_in for node in world.nodes)
    size = len(wire.encode({"model": world.nodes[0].model}))
    if name == "ring":
        assert {node.bytes_out for node in world.nodes} == {6 * 2 * size}
    if name == "epidemic-oracle":
        assert {node.bytes_out for node in world.nodes} == {6 * 3 * size}


def test_a_round_without_a_network_costs_the_training_alone():
    network = {"latency": 0.0, "bandwidth": None, "compute": 100}
    world, written = simulate(table(network=network, task={"batch_size": 10, "local_steps": 3}))
    assert world.now == pytest.approx(6 * 30 / 100)
    assert {row[2] for row in written.rows if row[1] == 1} == {0.3}


def test_messages_queue_at_the_uplink_and_then_take_the_latency():
    network = {"nodes": 3, "latency": 0.5, "bandwidth": None, "uplink": 1000.0, "compute": 1e12}
    world, _ = simulate(table(network=network, rounds=1, program={"kind": "gossip", "topology": "complete"}))
    seconds = wire.size({"model": world.nodes[0].model}) * 8 / 1000
    assert world.now == pytest.approx(2 * seconds + 0.5)


def test_fair_shares_deliver_all_copies_at_once():
    network = {"nodes": 3, "latency": 0.5, "uplink": 1000.0, "bandwidth": None, "compute": 1e12, "queue": "fair"}
    program = {"kind": "gossip", "topology": "complete"}
    world, written = simulate(table(network=network, rounds=1, program=program))
    seconds = wire.size({"model": world.nodes[0].model}) * 8 / 1000
    assert {round(row[2], 6) for row in written.rows} == {round(2 * seconds + 0.5, 6)}


def test_evaluation_costs_time_only_where_it_is_asked_to():
    free, _ = simulate(table())
    paid, _ = simulate(table(evaluation={"takes_time": True}))
    assert paid.now == pytest.approx(free.now + 3 * 60 / 1000)


class Recorded(Program):
    """Runs what a test wants, and remembers what it saw."""

    kind = "recorded"

    def prepare(self, setting):
        super().prepare(setting)
        self.seen = []

    async def run(self, node: Node) -> None:
        raise NotImplementedError


def run_program(program, **changes):
    tables = table(**changes)
    tables["program"] = program
    world, written = simulate(tables)
    return world, written, world.program.seen


def test_early_messages_wait_and_late_and_duplicate_ones_are_dropped_and_counted():
    class Talk(Recorded):
        async def run(self, node):
            async for t in node.rounds():
                if node.id == 0:
                    # The message of round 2 comes before its time, that of round 0 twice and then too late.
                    for _ in range(2):
                        node.send(1, {"n": 10 + t}, tag="a", round=t)
                    if t == 0:
                        node.send(1, {"n": 2}, tag="b", round=2)
                    if t == 1:
                        node.send(1, {"n": 0}, tag="late", round=0)
                    await node.sleep(1.0)
                elif node.id == 1:
                    (message,) = await node.receive(tag="a", round=t, senders=[0])
                    self.seen.append((t, message["n"], [m["n"] for m in node.arrived(tag="b", round=t)]))
                    await node.sleep(1.0)

    world, _, seen = run_program(Talk(), rounds=3, network={"nodes": 2, "bandwidth": None})
    assert seen == [(0, 10, []), (1, 11, []), (2, 12, [2])]
    assert world.nodes[1].mail.dropped == 4
    assert world.nodes[1].mail.messages_in == 8


def test_a_timeout_returns_what_came_and_says_who_is_missing():
    class Patient(Recorded):
        async def run(self, node):
            if node.id == 1:
                node.send(0, {}, round=0)
            if node.id == 0:
                inbox = await node.receive(round=0, senders=[1, 2], timeout=3.0)
                self.seen.append(([m.sender for m in inbox], inbox.missing, inbox.complete, node.now))
                self.seen.append(len(await node.receive(round=0, senders=[], timeout=9.0)))

    _, _, seen = run_program(Patient(), network={"nodes": 3})
    assert seen == [([1], [2], False, 3.0), 0]


def test_an_inbox_is_in_the_order_of_senders_and_count_takes_any():
    class Count(Recorded):
        async def run(self, node):
            if node.id:
                await node.sleep(1.0 / node.id)
                node.send(0, {}, tag="x")
                return
            self.seen.append([m.sender for m in await node.receive(tag="x", count=2)])
            await node.sleep(5.0)
            self.seen.append([m.sender for m in node.arrived(tag="x")])
            self.seen.append(list(node.arrived(tag="x")))

    _, _, seen = run_program(Count(), network={"nodes": 5, "bandwidth": None})
    assert seen == [[4, 3], [2, 1], []]


def test_a_later_message_of_a_sender_shows_that_an_awaited_one_is_lost():
    class Skips(Recorded):
        async def run(self, node):
            if node.id == 1:
                node.send(0, {}, round=1)
            if node.id == 0:
                inbox = await node.receive(round=0, senders=[1])
                self.seen.append((len(inbox), inbox.missing))

    _, _, seen = run_program(Skips(), network={"nodes": 2})
    assert seen == [(0, [1])]


def test_activities_share_a_node_and_end_with_its_program():
    class Busy(Recorded):
        async def run(self, node):
            async def ticking():
                while True:
                    await node.sleep(1.0)
                    self.seen.append(node.now)

            async def short():
                await node.sleep(0.5)

            if node.id == 0:
                node.spawn(ticking())
                activity = node.spawn(short())
                assert not activity.done
                await activity.wait()
                assert activity.done
                assert node.now == 0.5
                await node.sleep(2.0)

    _, _, seen = run_program(Busy(), network={"nodes": 1})
    assert seen == [1.0, 2.0]


def test_what_still_queues_can_be_withdrawn_and_what_is_behind_moves_up():
    class Withdraws(Recorded):
        async def run(self, node):
            if node.id == 0:
                block = torch.zeros(1000)
                node.send(1, {"x": block}, tag="first")
                second = node.send([1, 2], {"x": block}, tag="second")
                node.send(2, {"x": block}, tag="third")
                self.seen.append(second.cancel())
                self.seen.append(second.cancel())
            else:
                inbox = await node.receive(tag="first" if node.id == 1 else "third", count=1)
                self.seen.append((node.id, round(node.now, 6), inbox[0].tag))

    network = {"nodes": 3, "latency": 0.0, "bandwidth": None, "uplink": 1e6}
    world, _, seen = run_program(Withdraws(), network=network)
    first = wire.size({"x": torch.zeros(1000)}, "first") * 8 / 1e6
    third = wire.size({"x": torch.zeros(1000)}, "third") * 8 / 1e6
    assert seen == [2, 0, (1, round(first, 6), "first"), (2, round(first + third, 6), "third")]
    assert world.nodes[0].messages_out == 2


def test_what_is_sent_is_what_the_tensor_held():
    """Engines share memory, so a sent tensor is never written; training and mixing make new ones."""

    class Keeps(Recorded):
        async def run(self, node):
            before = node.model
            copy = before.clone()
            update = await node.train()
            assert torch.equal(before, copy)
            assert torch.equal(update.start, copy)
            assert torch.allclose(update.delta, update.model - copy)
            node.model = Mixture([before, update.model], [0.25, 0.75])
            assert torch.allclose(node.model, 0.25 * copy + 0.75 * update.model, atol=1e-6)
            self.seen.append(torch.equal(before, copy))

    _, _, seen = run_program(Keeps(), network={"nodes": 2})
    assert seen == [True, True]


def test_one_node_alone_trains_as_plain_sgd_does():
    tables = table(
        network={"nodes": 1, "latency": 0.0, "bandwidth": None},
        program={"kind": "gossip", "topology": "complete"},
        task={"batch_size": 2000, "local_steps": 2},
        rounds=3,
    )
    world, _ = simulate(tables)
    learner = world.learner
    module = learner._make(0)
    data = learner.data.train
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for _ in range(6):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(data.inputs.float() / 16), data.targets).backward()
        optimizer.step()
    assert torch.allclose(world.nodes[0].model, learner.layout.flatten(module), atol=1e-5)


def test_full_gradients_are_those_of_torch():
    class Differentiates(Recorded):
        async def run(self, node):
            gradient = await node.gradient(full=True)
            self.seen.append(gradient)
            metrics = await node.evaluate(split="train")
            assert metrics["loss"] == pytest.approx(gradient.loss, abs=1e-5)

    world, _, seen = run_program(Differentiates(), network={"nodes": 1})
    data, module = world.learner.data.train, world.learner._make(0)
    loss = torch.nn.functional.cross_entropy(module(data.inputs.float() / 16), data.targets)
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
    assert torch.allclose(seen[0].vector, expected, atol=1e-6)
    assert seen[0].samples == len(data)


def test_averaging_over_the_complete_graph_makes_all_models_one():
    world, _ = simulate(table(program={"kind": "gossip", "topology": "complete"}, rounds=2))
    models = models_of(world)
    assert torch.allclose(models, models[:1].expand_as(models), atol=1e-6)


def test_metropolis_hastings_keeps_the_mean_of_the_models():
    program = {"kind": "gossip", "topology": "star", "schedule": {"kind": "periodic", "every": 100}}
    one, _ = simulate(table(program=program, rounds=1))
    many, _ = simulate(table(program=program, rounds=6))
    assert torch.allclose(models_of(one).double().mean(0), models_of(many).double().mean(0), atol=1e-6)


def test_fedavg_with_everybody_and_one_step_is_sgd_on_the_union():
    task = {"batch_size": 10_000, "local_steps": 1, "partition": "iid"}
    federated, _ = simulate(table(program={"kind": "fedavg"}, network={"nodes": 12}, task=task))
    alone, _ = simulate(table(program={"kind": "gossip", "topology": "complete"}, network={"nodes": 1}, task=task))
    assert torch.allclose(federated.nodes[0].model, alone.nodes[0].model, atol=1e-5)


def test_the_proximal_term_of_fedprox_holds_clients_back():
    task = {"local_steps": 10}
    free, _ = simulate(table(program={"kind": "fedavg"}, task=task, rounds=1))
    none, _ = simulate(table(program={"kind": "fedavg", "proximal": 0.0}, task=task, rounds=1))
    held, _ = simulate(table(program={"kind": "fedavg", "proximal": 2.0}, task=task, rounds=1))
    start = free.learner.first_model
    assert torch.equal(models_of(free), models_of(none))
    assert (held.nodes[0].model - start).norm() < 0.8 * (free.nodes[0].model - start).norm()


def test_ad_psgd_changes_the_sum_of_models_by_training_alone():
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    world, _ = simulate(table(program=PROGRAMS["ad-psgd"], task=task, network=SLOW, rounds=20))
    start = torch.stack([world.learner.initial(id) for id in range(world.size)]).double()
    end = models_of(world).double()
    assert torch.allclose(start.sum(0), end.sum(0), atol=1e-5)
    assert (end - end.mean(0)).square().sum() < 0.2 * (start - start.mean(0)).square().sum()


def test_gossip_learning_without_training_keeps_within_what_it_began_with():
    task = {"optimizer": {"kind": "sgd", "lr": 0.0}, "same_start": False}
    world, _ = simulate(table(program=PROGRAMS["gossip-learning"], task=task, rounds=15))
    start = torch.stack([world.learner.initial(id) for id in range(world.size)])
    end = models_of(world)
    assert (end <= start.max(0).values + 1e-6).all()
    assert (end >= start.min(0).values - 1e-6).all()
    assert all(int(node.state["age"]) > 0 for node in world.nodes)


@pytest.mark.parametrize("mode", ["update", "merge-update", "update-merge"])
def test_every_mode_of_gossip_learning_learns(mode):
    program = {**PROGRAMS["gossip-learning"], "mode": mode}
    _, written = simulate(table(program=program, rounds=30, evaluation={"every": 0, "samples": None}))
    accuracy = [value for node, _, name, value in written.figures if node >= 0 and name == "accuracy"]
    assert sum(accuracy) / len(accuracy) > 0.5


def test_lost_messages_are_survived_with_patience_and_reported_without():
    network = {"loss": 0.2}
    world, _ = simulate(table(network=network, program={**PROGRAMS["ring"], "patience": "2s"}))
    assert all(node.round == 6 for node in world.nodes)
    assert sum(node.mail.messages_in for node in world.nodes) < sum(node.messages_out for node in world.nodes)

    class Waits(Recorded):
        async def run(self, node):
            await node.receive(round=0, senders=[0])

    with pytest.raises(
        ProgramError, match=r"3 nodes wait for what cannot come any more: node 0 in round 0 for messages"
    ):
        run_program(Waits(), network={"nodes": 3})


@pytest.mark.parametrize("bandwidth", [None, "20Mbit/s"])
@pytest.mark.parametrize("queue", ["fifo", "fair"])
def test_all_copies_of_a_message_may_be_lost(bandwidth, queue):
    network = {"loss": 0.9, "bandwidth": bandwidth, "queue": queue}
    world, _ = simulate(table(network=network, program={**PROGRAMS["ring"], "patience": "50ms"}))
    sent = sum(node.messages_out for node in world.nodes)
    assert 0.02 < sum(node.mail.messages_in for node in world.nodes) / sent < 0.25


def test_a_withdrawn_message_does_not_decide_the_luck_of_the_next():
    class Withdraws(Recorded):
        async def run(self, node):
            if node.id == 0:
                while not node.send(1, {"x": torch.zeros(1000)}).cancel():
                    pass  # Until one occupies the uplink: what leaves at once cannot be withdrawn, nor what was lost.
                self.seen.extend(node.send(1, {}).cancel() for _ in range(300))

    network = {"nodes": 2, "loss": 0.5, "bandwidth": None, "uplink": 1e3}
    _, _, seen = run_program(Withdraws(), network=network)
    assert 110 < sum(seen) < 190


def test_a_run_ends_with_its_last_program_and_not_with_a_timeout_that_was_not_needed():
    class Patient(Recorded):
        async def run(self, node):
            if node.id == 1:
                node.send(0, {}, round=0)
            else:
                await node.receive(round=0, senders=[1], timeout=1000.0)

    world, _, _ = run_program(Patient(), network={"nodes": 2, "latency": 2.0, "bandwidth": None})
    assert world.now == 2.0


def test_nodes_leave_come_back_and_catch_up(tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,crash,0.05\n3,return,0.5\n5,join,0.2\n")
    program = {**PROGRAMS["ring"], "patience": "50ms"}
    network = {"churn": {"kind": "trace", "file": str(trace)}}
    world, written = simulate(table(program=program, network=network, rounds=40))
    assert [node.round for node in world.nodes] == [40] * 12
    kinds = {(node, kind) for _, node, kind, _ in written.happened}
    assert {(3, "left"), (3, "returned"), (3, "caught up"), (5, "left"), (5, "returned")} <= kinds
    rounds_of_3 = sorted(row[1] for row in written.rows if row[0] == 3)
    assert len(rounds_of_3) < 40
    assert rounds_of_3[-1] == 40


def test_a_dead_neighbour_does_not_keep_the_living_from_hearing_each_other(tmp_path, monkeypatch):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n5,crash,0.15\n")
    missed = []
    merge = MetropolisHastings.merge

    def watched(self, node, graph, contributions):
        missed.extend(set(graph.senders(node.id)) - {arrived.sender for arrived in contributions} - {5})
        return merge(self, node, graph, contributions)

    monkeypatch.setattr(MetropolisHastings, "merge", watched)
    network = {"churn": {"kind": "trace", "file": str(trace)}}
    world, _ = simulate(table(program={**PROGRAMS["ring"], "patience": "50ms"}, network=network, rounds=40))
    assert all(node.round == 40 for node in world.nodes if node.id != 5)
    assert len(missed) <= 12
    assert world.now < 40 * 0.05


def test_churn_by_rate_goes_on_with_whoever_is_there():
    program = {"kind": "gossip", "topology": {"kind": "epidemic-oracle", "degree": 3}, "patience": "50ms"}
    network = {"churn": {"kind": "rate", "mean_up": "300ms", "mean_down": "100ms"}}
    first, written = simulate(table(program=program, network=network, rounds=30))
    again, _ = simulate(table(program=program, network=network, rounds=30))
    assert torch.equal(models_of(first), models_of(again))
    assert any(kind == "left" for _, _, kind, _ in written.happened)
    assert all(node.round == 30 for node in first.nodes if not node.mail.away)


def test_a_model_that_explodes_stops_the_run_or_leaves():
    task = {"optimizer": {"kind": "sgd", "lr": 1e38}, "model": "mlp"}
    with pytest.raises(ModelError, match=r"The model of node \d+ is no longer finite after its training in round \d"):
        simulate(table(task=task))
    drop = {**task, "non_finite": "drop"}
    with pytest.raises(ModelError, match="The models of all nodes were dropped"):
        simulate(table(task=drop, program={**PROGRAMS["ring"], "patience": "1s"}))
    with pytest.raises(ProgramError, match=r"wait for what cannot come any more.* give the program some 'patience'\."):
        simulate(table(task=drop))

    class OneExplodes(Program):
        async def run(self, node):
            async for _ in node.rounds():
                node.model = (await node.train(lr=1e38 if node.id == 5 else 0.1)).model

    world, written = simulate(table(task={"model": "mlp", "non_finite": "drop"}, program=OneExplodes()))
    assert [(node, kind) for _, node, kind, _ in written.happened] == [(5, "dropped"), (5, "left")]
    assert [node.id for node in world.nodes if node.mail.away] == [5]


def test_a_message_that_is_not_finite_or_misshapen_is_rejected_with_its_sender():
    class Poison(Recorded):
        async def run(self, node):
            if node.id == 0:
                node.send(1, {"model": torch.full_like(node.model, math.nan)}, round=0)
            if node.id == 1:
                self.seen.append(len(await node.receive(round=0, senders=[0], timeout=1.0)))

    world, written, seen = run_program(Poison(), network={"nodes": 2})
    assert seen == [0]
    assert world.nodes[1].mail.dropped == 1
    assert any(
        node == 0 and kind == "rejected" and "not finite" in detail for _, node, kind, detail in written.happened
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('oh')", r"The program recorded fails at node 0 in round 0: ValueError: oh"),
        ("node.model = torch.zeros(3)", r"The model of node 0 must be 650 float32 numbers. Got \(3,\)"),
        ("await node.train(speed=3)", r"TypeError"),
        ("node.send(1, {})", r"Node 0 sends to node 1; ids are in \[0, 1\)"),
        ("node.send([0, -1], {})", r"Node 0 sends to node -1; ids are in \[0, 1\)"),
        ("await node.evaluate(split='tests')", r"The 'split' of evaluate must be one of 'train', .* Got 'tests'"),
        ("import asyncio; await asyncio.sleep(0)", r"awaits something at node 0 that the node does not offer"),
    ],
)
def test_a_program_that_breaks_the_contract_is_named(body, message):
    names: dict = {"torch": torch}
    exec(f"async def run(self, node):\n    {body}", names)

    class Wrong(Recorded):
        kind = "recorded"
        run = names["run"]

    with pytest.raises((ProgramError, ModelError), match=message):
        run_program(Wrong(), network={"nodes": 1})


def test_a_node_without_data_evaluates_on_the_test_set_alone():
    class Server(Recorded):
        without_data = frozenset({"server"})

        def roles(self, nodes):
            return {"server": [0], "peer": range(1, nodes)}

        async def run(self, node):
            if node.id == 0:
                self.seen.append(await node.evaluate(split="test"))
                await node.evaluate()

    with pytest.raises(ProgramError, match=r"Node 0 \(server\) holds no data and cannot evaluate on its validation"):
        run_program(Server(), network={"nodes": 2})


def test_the_final_model_of_a_program_that_ends_early_is_evaluated():
    class Quitter(Recorded):
        async def run(self, node):
            async for t in node.rounds():
                if t == 3:
                    break
                node.model = (await node.train()).model

    written = run_program(Quitter(), network={"nodes": 2}, rounds=10, evaluation={"every": 0})[1]
    accuracies = {(node, t) for node, t, name, _ in written.figures if name == "accuracy"}
    assert accuracies == {(0, 3), (1, 3)}


def test_a_message_goes_to_one_node_by_its_numpy_id():
    class Sender(Recorded):
        async def run(self, node):
            node.send(np.int64(1 - node.id), {"it": 1})
            self.seen += [message.sender for message in await node.receive(count=1)]

    assert sorted(run_program(Sender(), network={"nodes": 2})[2]) == [0, 1]


@pytest.mark.parametrize("latency", [0.1, {"kind": "uniform", "high": 0.1}])
@pytest.mark.parametrize("bandwidth", [None, "1Mbit/s"])
def test_a_message_goes_to_whom_it_was_sent_although_the_list_changes(latency, bandwidth):
    class Reuses(Recorded):
        async def run(self, node):
            if node.id == 0:
                to = [1, 2]
                node.send(to, {"n": 1})
                to.append(3)
                node.send(to, {"n": 2})
                to.clear()
            await node.sleep(1.0)
            self.seen.append((node.id, sorted(message["n"] for message in node.arrived())))

    _, _, seen = run_program(Reuses(), network={"nodes": 4, "latency": latency, "bandwidth": bandwidth})
    assert sorted(seen) == [(0, []), (1, [1, 2]), (2, [1, 2]), (3, [2])]


def test_a_later_message_shows_that_an_earlier_one_is_lost_also_before_anybody_waits():
    class Late(Recorded):
        async def run(self, node):
            if node.id == 0:
                node.send(1, {"n": 1}, round=1)
            else:
                await node.sleep(1.0)
                inbox = await node.receive(round=0, senders=[0])
                self.seen += [len(inbox), *inbox.missing, (await node.receive(round=1, senders=[0]))[0]["n"]]

    assert run_program(Late(), network={"nodes": 2})[2] == [0, 0, 1]


def test_messages_may_overtake_each_other_where_bandwidth_is_shared():
    class Overtake(Recorded):
        async def run(self, node):
            if node.id == 0:
                node.send(1, {"x": torch.zeros(50_000)}, round=0)
                node.send(1, {}, round=1)
            else:
                inbox = await node.receive(round=0, senders=[0])
                self.seen += [len(inbox), *inbox.missing]

    assert run_program(Overtake(), network={"nodes": 2, "queue": "fair"})[2] == [1]
    assert run_program(Overtake(), network={"nodes": 2, "queue": "fifo"})[2] == [1]


def test_what_was_withdrawn_keeps_no_place_in_the_uplink():
    class Withdraws(Recorded):
        async def run(self, node):
            if node.id == 0:
                first = node.send([1, 2, 3], {"x": torch.zeros(100)}, tag="first")
                second = node.send([1, 2, 3], {"x": torch.zeros(100)}, tag="second")
                node.send(1, {"x": torch.zeros(100)}, tag="last")
                self.seen += [second.cancel(), first.cancel()]
            if node.id == 1:
                await node.receive(tag="last", count=1)
                self.seen.append(node.now)

    network = {"nodes": 4, "latency": 0.0, "bandwidth": None, "uplink": 8 * 400.0}
    _, _, seen = run_program(Withdraws(), network=network)
    assert sorted(seen[:2]) == [2, 3]
    # Behind the one copy that had begun to leave, each a little more than 400 bytes at 400 bytes a second.
    assert 2.0 < seen[2] < 2.6


@pytest.mark.parametrize("call", ["await node.sleep(-1.0)", "await node.receive(timeout=float('nan'))"])
def test_time_goes_forward(call):
    names: dict = {}
    exec(f"async def run(self, node):\n    {call}", names)

    class Backwards(Recorded):
        run = names["run"]

    with pytest.raises(ProgramError, match=r"Node 0 (sleeps for -1|waits for at most nan) seconds; that must be 0 or"):
        run_program(Backwards(), network={"nodes": 1})


def test_nodes_that_wait_in_vain_while_others_come_and_go_are_told_of():
    network = {"churn": {"kind": "rate", "mean_up": "300ms", "mean_down": "300ms"}}
    with pytest.raises(ProgramError, match=r"wait for what cannot come any more.* give the program some 'patience'"):
        simulate(table(network=network, program=PROGRAMS["ring"], rounds=200))


def test_dropout_is_drawn_from_the_seed():
    def make():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 10))

    tables = table(task={"model": Module(factory=make)}, engine={"workers": 2})
    torch.manual_seed(1)
    first, _ = simulate(tables)
    torch.manual_seed(2)
    again, _ = simulate(tables)
    assert torch.equal(models_of(first), models_of(again))


def test_a_duration_ends_the_run():
    world, written = simulate(table(duration="100ms", rounds=10_000))
    assert world.now == 0.1
    assert 1 < max(row[1] for row in written.rows) < 10_000


def test_an_interrupt_stops_where_the_run_can_go_on():
    from covey.engines.prepared import prepare
    from covey.engines.simulation.world import World
    from covey.experiment import Experiment
    from tests.conftest import Written

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


def test_the_last_news_of_a_run_is_that_of_its_last_round_though_nodes_were_away():
    churn = {"kind": "rate", "mean_up": 0.3, "mean_down": 0.1}
    program = {"kind": "gossip", "topology": "ring", "patience": 0.05}
    news = []
    tables = table(program=program, rounds=20, network={"churn": churn})
    _, written = simulate(tables, progress=news.append)
    found = {
        t: [value for _, r, name, value in written.figures if (r, name) == (t, "accuracy")] for t in range(2, 21, 2)
    }
    assert min(map(len, found.values())) < 12, "no node was away when a round was evaluated"
    assert news[-1].accuracy == pytest.approx(sum(found[20]) / len(found[20]))
    assert news[-1].time == max(row[2] for row in written.rows)
