"""Asynchronous programs resumed at any cut lose no message, and receive none twice."""

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.messages import wire
from covey.parts.errors import RunError
from covey.runtime import mail
from covey.runtime.experiment import Experiment
from tests.conftest import models_of, simulate, table
from tests.examples import BLOBS
from tests.programs.served import Served
from tests.programs.tokens import Tokens

NETWORKS = [
    {"latency": 0.01},
    {"latency": {"kind": "uniform", "low": 0.001, "high": 0.05}},
    {"latency": 0.005, "uplink": "40kbit/s"},
    {"latency": 0.005, "bandwidth": "40kbit/s", "queue": "fair"},
]


def tokens(seed, network, every=1):
    return {
        "seed": seed,
        "rounds": 400,
        "program": Tokens(),
        "network": {"nodes": 5, **network},
        "checkpoint": {"every": every, "keep": 9},
    }


def had(world):
    return [sorted(node.state["had"]) for node in world.nodes]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NETWORKS), st.floats(0, 1), st.floats(0, 1))
def test_every_token_comes_once_wherever_a_run_is_resumed(seed, network, first, second):
    whole, written = simulate(tokens(seed, network))
    assert all(len(set(mine)) == len(mine) for mine in had(whole))
    assert sum(map(len, had(whole))) == 5 * 6
    for index in (first, second):
        _, checkpoint = written.checkpoints[int(index * (len(written.checkpoints) - 1))]
        again, written = simulate(tokens(seed, network), checkpoint=checkpoint)
        assert had(again) == had(whole)
        assert sum(node.mail.messages_in for node in again.nodes) == 5 * 6
        if not written.checkpoints:
            break


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NETWORKS), st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05]))
def test_a_handler_that_has_not_finished_begins_again(seed, network, cut, takes):
    tables = {**tokens(seed, network), "program": Served(takes=takes), "rounds": 20}
    whole, written = simulate(tables)
    assert sum(map(len, had(whole))) == 5 * 6
    _, checkpoint = written.checkpoints[int(cut * (len(written.checkpoints) - 1))]
    again, _ = simulate(tables, checkpoint=checkpoint)
    assert had(again) == had(whole)
    assert all(not node.mail.answering for node in again.nodes)


SLOW_LINKS = {
    "nodes": 6,
    "latency": "5ms",
    "uplink": "100kbit/s",
    "compute": {"kind": "log-normal", "median": 400},
}
PUSHES = [
    {"kind": "divshare", "omega": 0.3, "fanout": 3},
    {"kind": "swift-push", "fanout": 2},
    {"kind": "ad-psgd-queued", "fanout": 2},
    {"kind": "asynchronous-epidemic", "fanout": 3, "wait": "10ms"},
]


@pytest.mark.parametrize("links", [{}, {"downlink": "100kbit/s"}], ids=["uplinks", "both"])
@pytest.mark.parametrize("program", PUSHES, ids=lambda program: program["kind"])
def test_what_queued_at_links_arrives_as_in_the_undisturbed_run(program, links):
    network, checkpoint = {**SLOW_LINKS, **links}, {"every": 1, "keep": 9}
    tables = table(program=program, task=BLOBS, network=network, rounds=5, checkpoint=checkpoint)
    whole, written = simulate(tables)
    for index in (1, 0, 1):
        checkpoint = wire.decode(wire.encode(written.checkpoints[index][1])).payload
        again, written = simulate(tables, checkpoint=checkpoint)
        assert again.now == whole.now
        assert torch.allclose(models_of(again), models_of(whole), atol=1e-6)


@pytest.mark.parametrize("queue", ["fifo", "fair"])
def test_a_resumed_run_sends_no_more_than_its_links_carry(queue):
    network, every = {**SLOW_LINKS, "queue": queue}, {"nodes": [*range(6)]}
    tables = table(program=PUSHES[0], task=BLOBS, network=network, rounds=5, evaluation={"every": 0})
    tables |= {"checkpoint": {"every": 1, "keep": 9}, "observer": every}
    _, written = simulate(tables)
    _, checkpoint = written.checkpoints[1]
    _, resumed = simulate(tables, checkpoint=checkpoint)
    sent = dict.fromkeys(range(6), 0.0)
    largest = 0
    for time, node, frame in sorted(resumed.seen):
        sender, left = wire.decode(frame).sender, time - 0.005
        if sender != node and left > checkpoint["clocks"][sender]:
            sent[sender], largest = sent[sender] + len(frame), max(largest, len(frame))
            assert sent[sender] <= 100_000 / 8 * (left - checkpoint["clocks"][sender]) + largest
    assert min(sent.values()) > 5 * largest


def test_a_run_that_was_stopped_ends_as_the_undisturbed_one():
    tables = tokens(3, NETWORKS[1])
    whole, _ = simulate(tables)
    from covey.runtime.prepared import prepare
    from covey.runtime.simulation.world import World
    from tests.conftest import Written

    for at in (0.004, 0.02, 0.05):
        world = World(prepare(Experiment.from_table(tables)), stopped := Written())
        world.begin()
        world.at(at, world.nodes[0], lambda _, world=world: world.interrupt())
        world.run()
        assert world.stopped_early
        _, checkpoint = stopped.checkpoints[-1]
        assert had(simulate(tables, checkpoint=checkpoint)[0]) == had(whole)


def test_models_that_were_under_way_come(tmp_path):
    program = {"kind": "ad-psgd", "topology": "ring"}
    tables = table(program=program, rounds=12, checkpoint={"every": 1, "keep": 99}, network={"latency": "30ms"})
    whole, written = simulate(tables)
    for _, checkpoint in written.checkpoints[1::3]:
        again, _ = simulate(tables, checkpoint=checkpoint)
        assert [node.round for node in again.nodes] == [node.round for node in whole.nodes]


def seen_before(checkpoint, written):
    """The messages that nodes had seen before they resume at a checkpoint."""
    return [(node, frame) for time, node, frame in written.seen if time <= checkpoint["clocks"][node]]


def test_what_an_observed_node_had_before_is_not_observed_again():
    tables = {**tokens(4, NETWORKS[1]), "observer": {"nodes": [0, 1, 2, 3, 4]}}
    _, written = simulate(tables)
    for _, checkpoint in written.checkpoints:
        before, resumed = [], written
        for _ in range(2):
            before += seen_before(checkpoint, resumed)
            _, resumed = simulate(tables, checkpoint=checkpoint)
            assert sorted(before + [row[1:] for row in resumed.seen]) == sorted(row[1:] for row in written.seen)
            if not resumed.checkpoints:
                break
            _, checkpoint = resumed.checkpoints[0]


FRAME = wire.encode({"x": 1}, tag="t", sender=2, receiver=1, number=3)
ENTRY = [[[1, 2, 3, 0.5, False, False]], [[1, 0, 4]]]


def with_mail(entry, *frames):
    packed = {f"mail/{index}": np.frombuffer(frame, np.uint8) for index, frame in enumerate(frames)}
    return {"mail": msgspec.msgpack.encode(entry), **packed}


def test_a_message_of_another_host_may_be_dropped_before_it_arrives():
    here = mail.Mail({}, 5)
    message = mail.received(wire.decode(FRAME))
    here.post([1], message)
    assert len(here.content(0.5).messages) == 1
    here.withdraw([1], message)
    assert here.content(0.5).messages == []


def test_right_mail_is_taken():
    mail.check(with_mail(ENTRY, FRAME), 5)
    held = mail.unpack(with_mail(ENTRY, FRAME))
    assert mail.pack(held).keys() == {"mail", "mail/0"}
    assert (held.messages[0].receiver, held.messages[0].time, held.taken) == (1, 0.5, [(1, 0, 4)])


DAMAGED = {
    "no list": {"mail": b"\xc1"},
    "no bytes": {"mail": 5},
    "something else": with_mail([[], [], []]),
    "taken by a node that is none": with_mail([[], [[7, 0, 1]]]),
    "taken of a node that is none": with_mail([[], [[0, 7, 1]]]),
    "a negative number": with_mail([[], [[1, 0, -1]]]),
    "a message that is missing": with_mail(ENTRY),
    "no frame": with_mail(ENTRY, bytes(9)),
    "frames that are no array": {**with_mail(ENTRY), "mail/0": FRAME},
    "a message to another": with_mail([[[2, 2, 3, 0.5, False, False]], []], FRAME),
    "a message of another": with_mail([[[1, 3, 3, 0.5, False, False]], []], FRAME),
    "another message": with_mail([[[1, 2, 4, 0.5, False, False]], []], FRAME),
    "a receiver that is none": with_mail([[[-1, 2, 3, 0.5, False, False]], []], FRAME),
    "a sender that is none": with_mail([[[1, 5, 0, 0.5, False, False]], []], wire.encode({}, sender=5, receiver=1)),
    "a time that is none": with_mail([[[1, 2, 3, float("nan"), False, False]], []], FRAME),
    "a time before all": with_mail([[[1, 2, 3, -1.0, False, False]], []], FRAME),
    "a number that is not finite": with_mail(
        [[[1, 2, 3, 0.5, False, False]], []], wire.encode({"x": float("inf")}, sender=2, receiver=1, number=3)
    ),
    "a long frame": with_mail(ENTRY, FRAME + b"x"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_mail_that_is_none_is_refused(case):
    with pytest.raises(RunError, match="'mail' is not that of nodes"):
        mail.check(DAMAGED[case], 5)


@pytest.mark.parametrize(
    "parts", [{"clients": {"kind": "over-selection", "count": 3, "factor": 2}}, {"patience": "60ms"}]
)
def test_nodes_that_continue_after_others_have_ended_are_resumed_with_their_mail(parts):
    compute = {"kind": "log-normal", "median": 500, "sigma": 1.0}
    tables = table(
        program={"kind": "fedavg", **parts},
        task={"local_steps": 3, "partition": {"kind": "dirichlet", "alpha": 0.2}, "validation": 0.2},
        network={"nodes": 7, "compute": compute},
        rounds=6,
        checkpoint={"every": 1},
    )
    whole, written = simulate(tables)
    alone = [saved for _, saved in written.checkpoints if 6 in saved["completed"] and min(saved["completed"]) < 5]
    assert len(alone) > 1
    for saved in alone:
        assert "mail" in saved
        resumed, _ = simulate(tables, checkpoint=wire.decode(wire.encode(saved)).payload)
        assert torch.equal(models_of(resumed), models_of(whole))
        assert resumed.now == whole.now
