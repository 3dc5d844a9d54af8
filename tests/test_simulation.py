"""Runs in virtual time: the same seed gives the same run, and the time of a round."""

import pytest
import torch

from covey.learning.models import Module
from covey.messages import wire
from tests.conftest import models_of, simulate, table
from tests.examples import PROGRAMS, SLOW, Recorded, run_program


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


def test_dropout_is_drawn_from_the_seed():
    def make():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 10))

    tables = table(task={"model": Module(factory=make)}, engine={"workers": 2})
    torch.manual_seed(1)
    first, _ = simulate(tables)
    torch.manual_seed(2)
    again, _ = simulate(tables)
    assert torch.equal(models_of(first), models_of(again))


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


def test_a_duration_ends_the_run():
    world, written = simulate(table(duration="100ms", rounds=10_000))
    assert world.now == 0.1
    assert 1 < max(row[1] for row in written.rows) < 10_000


def test_a_run_ends_with_its_last_program_and_not_with_a_timeout_that_was_not_needed():
    class Patient(Recorded):
        async def run(self, node):
            if node.id == 1:
                node.send(0, {}, round=0)
            else:
                await node.receive(round=0, senders=[1], timeout=1000.0)

    world, _, _ = run_program(Patient(), network={"nodes": 2, "latency": 2.0, "bandwidth": None})
    assert world.now == 2.0


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
