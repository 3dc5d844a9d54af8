"""Messages: receivers and times, drops, and withdrawal."""

import math

import numpy as np
import pytest
import torch

from covey.decentralized.ad_psgd import ADPSGD
from covey.decentralized.topology import Ring
from covey.messages import wire
from covey.parts.errors import ModelError, ProgramError
from tests.conftest import simulate, table
from tests.examples import PROGRAMS, Recorded, run_program


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


def test_a_tag_that_is_used_once_leaves_nothing_behind():
    class Numbers(Recorded):
        async def run(self, node):
            async for t in node.rounds():
                node.send(node.id, {}, tag=f"x{t}")
                await node.receive(tag=f"x{t}", count=1)
                self.seen.append(len(node.mail._boxes))

    _, _, seen = run_program(Numbers(), rounds=20, network={"nodes": 1})
    assert seen == [0] * 20


def test_ad_psgd_keeps_no_answer_that_came_too_late():
    kept = []

    class Watched(ADPSGD):
        kind = "ad-psgd"

        async def exchange(self, node, peer, number):
            await super().exchange(node, peer, number)
            kept.append(sum(map(len, node.mail._boxes.values())))

    for patience in (0.001, 1.0):
        program = Watched(topology=Ring(), patience=patience)
        simulate(table(program=program, network={"latency": "30ms"}, rounds=40))
    assert len(kept) > 200
    assert max(kept) <= 3


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


def test_what_was_withdrawn_keeps_no_index_in_the_uplink():
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


def test_lost_messages_are_survived_with_patience_and_reported_without():
    network = {"loss": 0.2}
    world, _ = simulate(table(network=network, program={**PROGRAMS["ring"], "patience": "2s"}))
    assert all(node.round == 6 for node in world.nodes)
    assert sum(node.mail.messages_in for node in world.nodes) < sum(node.messages_out for node in world.nodes)

    class Waits(Recorded):
        async def run(self, node):
            await node.receive(round=0, senders=[0])

    with pytest.raises(
        ProgramError, match=r"3 nodes wait for messages that cannot arrive: node 0 in round 0 for messages"
    ):
        run_program(Waits(), network={"nodes": 3})


@pytest.mark.parametrize("bandwidth", [None, "20Mbit/s"])
@pytest.mark.parametrize("queue", ["fifo", "fair"])
def test_all_copies_of_a_message_may_be_lost(bandwidth, queue):
    network = {"loss": 0.9, "bandwidth": bandwidth, "queue": queue}
    world, _ = simulate(table(network=network, program={**PROGRAMS["ring"], "patience": "50ms"}))
    sent = sum(node.messages_out for node in world.nodes)
    assert 0.02 < sum(node.mail.messages_in for node in world.nodes) / sent < 0.25


def test_a_tensor_that_became_infinite_after_it_was_sent_is_not_sent_again():
    class Rewrites(Recorded):
        async def run(self, node):
            if node.id == 0:
                block = torch.zeros(10)
                node.send(1, {"x": block}, round=0)
                await node.sleep(1.0)
                block.fill_(math.inf)
                node.send(1, {"x": block}, round=1)
            else:
                self.seen += [len(await node.receive(round=t, senders=[0], timeout=3.0)) for t in range(2)]

    assert run_program(Rewrites(), network={"nodes": 2})[2] == [1, 0]


@pytest.mark.parametrize("queue", ["fifo", "fair"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_ends_where_messages_are_lost_and_it_is_patient(name, queue):
    program = dict(PROGRAMS[name])
    if name != "gossip-learning":  # It never waits.
        program["patience"] = "200ms"
    network = {"loss": 0.3, "queue": queue, "bandwidth": "10Mbit/s"}
    world, _ = simulate(table(program=program, network=network, rounds=12))
    assert all(node.round == 12 for node in world.nodes)
    assert sum(node.mail.messages_in for node in world.nodes) < sum(node.messages_out for node in world.nodes)


def test_a_server_without_clients_that_are_left_says_so():
    task = {"optimizer": {"kind": "sgd", "lr": 1e38}, "model": "mlp", "local_steps": 5, "non_finite": "drop"}
    with pytest.raises(ModelError, match=r"The models of all nodes with data were dropped.* none is left to train"):
        simulate(table(task=task, program={"kind": "fedavg", "patience": "1s"}))
