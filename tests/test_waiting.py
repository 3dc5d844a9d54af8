"""The wait for a lost message: the signs of its loss, and the time that it takes."""

import pytest

from covey.learning.node import LearningNode
from covey.parts.nodes import NodeId
from covey.parts.parameters import param
from covey.runtime.mailbox import Mailbox, Waiter
from covey.runtime.node import HEARTBEAT, Message
from tests.conftest import simulate, stated_bytes, table
from tests.examples import BLOBS, Recorded, run_program
from tests.masked import PHASES, figures, tables

LATENCY, PATIENCE = 1.0, 8.0


# ---------------------------------------------------------------------- mailboxes


def waiting(after, awaited=("b", 3), senders=(1, 2), ordered=True):
    """A mailbox with somebody who waits, and a list that is filled when it need not any more."""
    mail, woken = Mailbox(ordered=ordered), []
    mail.round = 3
    waiter = Waiter(lambda: woken.append(True), set(senders), set(), 0)
    waiter.after = after
    mail.wait(awaited, waiter)
    return mail, waiter, woken


def message(sender, tag, round):
    return Message(NodeId(sender), tag, round, {}, 10)


@pytest.mark.parametrize(
    ("tag", "round", "after", "follows"),
    [
        ("c", 3, ["a"], True),
        ("c", 3, None, False),
        ("a", 3, ["a"], False),
        ("a 1", 3, ["a"], False),
        ("", 3, ["a"], True),
        ("", 3, ["a", ""], False),
        ("c", 3, ["a", ""], True),
        ("b", 4, None, True),
        ("a", 4, None, False),
        ("a", 4, ["a"], True),
        ("c", None, ["a"], False),
    ],
)
def test_what_follows_an_awaited_message_shows_that_it_is_lost(tag, round, after, follows):
    mail, waiter, woken = waiting(after)
    mail.deliver(message(1, "b", 3))
    mail.deliver(message(2, tag, round))
    mail.sort()
    assert bool(woken) == follows
    assert waiter.lost == ({2} if follows else set())
    # The same where it was here first.
    mail = Mailbox()
    mail.round = 3
    mail.deliver(message(2, tag, round))
    assert mail.lacking(("b", 3), [2]) == {2}
    assert mail.overtaken(("b", 3), {2}, after) == ({2} if follows else set())


def test_where_messages_may_overtake_each_other_nothing_is_shown():
    mail, waiter, woken = waiting(["a"], ordered=False)
    for sender in (1, 2):
        mail.deliver(message(sender, "c", 3))
    assert not woken
    assert not waiter.lost
    assert not mail.overtaken(("b", 3), {1, 2}, ["a"])


class InTurn(Recorded):
    """Node 1 sends two messages of three; node 0 waits for the one that never comes."""

    kind = "in turn"
    after: list[str] = param("The messages of node 1 before it.")

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            if node.id == 1:
                for tag in ("a", "c"):
                    node.send(NodeId(0), {}, tag=tag, round=t)
            elif node.id == 0:
                inbox = await node.receive(tag="b", round=t, senders=[NodeId(1)], timeout=50.0, after=self.after)
                self.seen.append((t, node.now, list(inbox), inbox.missing, inbox.lost))


def test_a_program_that_says_in_which_order_senders_send_does_not_wait_for_what_is_lost():
    network = {"nodes": 3, "latency": LATENCY, "bandwidth": None}
    _, _, seen = run_program(InTurn(after=["a"]), network=network, rounds=2)
    # The later round is here by then.
    assert [(t, lost) for t, _, _, _, lost in seen] == [(0, [1]), (1, [1])]
    assert [time for _, time, *_ in seen] == pytest.approx([LATENCY, LATENCY], abs=0.01)
    _, _, seen = run_program(InTurn(after=["a", "c"]), network=network, rounds=2)
    assert [(t, missing, lost) for t, _, _, missing, lost in seen] == [(0, [1], [1]), (1, [1], [])]
    assert seen[1][1] == pytest.approx(50.0 + LATENCY, abs=0.1)


# ---------------------------------------------------------------------- rounds of several messages


@pytest.fixture
def drop(monkeypatch):
    """Lose messages: (tag, round, sender, index of the mailbox) in the list that is given."""
    lost, dropped, deliver = set(), [], Mailbox.deliver

    def lossy(mail, message):
        key = message.tag, message.round, int(message.sender), where.get(id(mail))
        if key in lost:
            dropped.append(key)
        else:
            deliver(mail, message)

    where = {}
    monkeypatch.setattr(Mailbox, "deliver", lossy)
    from covey.runtime.simulation.world import World

    begin = World.begin

    def known(world):
        where.update({id(node.mail): node.id for node in world.nodes})
        begin(world)

    monkeypatch.setattr(World, "begin", known)
    return lost, dropped


def run(rounds=4, **changes):
    made = tables("cesar", "complete", task=BLOBS, rounds=rounds, network={**PHASES, "nodes": 4}, **changes)
    made["program"]["patience"] = PATIENCE
    return simulate(made)


TAKES = (3 + 3 * 2) * LATENCY
"""Four rounds, of which the first has a message more."""


@pytest.mark.parametrize("tag", ["others", ""])
def test_a_message_that_is_lost_costs_a_latency_and_not_all_patience(tag, drop):
    lost, dropped = drop
    lost.add((tag, 1, 3, 2))
    world, written = run()
    assert dropped == [(tag, 1, 3, 2)]
    # The next message of its sender shows it.
    assert world.now == pytest.approx(TAKES + LATENCY, abs=0.01)
    assert all(not node.state.get("patience.silent") for node in world.nodes)
    # Node 2 does not hear on whom node 3 counts, and sends it nothing; or it does not hear node 3.
    assert figures(written, "discarded") == [(3 if tag else 2, 2, 1.0)]


def test_two_that_wait_for_each_other_find_out_by_heartbeats(drop, overheard):
    lost, dropped = drop
    lost.update({("others", 1, 3, 2), ("others", 1, 2, 3)})
    world, _ = run()
    assert len(dropped) == 2
    # All others wait for both; nobody's patience ends.
    assert world.now == pytest.approx(TAKES + PATIENCE / 4, abs=0.01)
    beats = [message for message in overheard if message.tag.startswith(HEARTBEAT)]
    assert {(message.sender, message.tag, message.round) for message in beats if message.sender > 1} == {
        (2, "~others 1", 1),
        (3, "~others 1", 1),
    }
    assert not any(message.payload for message in beats)
    assert all(not node.state.get("patience.silent") for node in world.nodes)


def test_who_is_dead_is_waited_for_as_long_as_patience_says(tmp_path):
    trace = tmp_path / "churn.csv"
    trace.write_text("node,event,time\n3,leave,4.5\n")
    made = tables("cesar", "complete", task=BLOBS, rounds=4, network={**PHASES, "nodes": 5})
    made["network"]["churn"] = {"kind": "trace", "file": str(trace)}
    made["program"]["patience"] = PATIENCE
    world, _ = simulate(made)
    assert all(node.state["patience.silent"][0] == 3 for node in world.nodes if node.id != 3)
    # It says that it is here for round 1, and is not: all wait for its masked message until their patience ends.
    assert world.now == pytest.approx(TAKES + PATIENCE - LATENCY, abs=0.01)


@pytest.mark.parametrize(
    ("network", "tags"),
    [({}, {""}), ({"loss": 0.2}, {"", "~ sent 0", "~ sent 1", "~late"}), ({"loss": 0.2, "queue": "fair"}, {""})],
    ids=["whole", "lossy", "lossy and fair"],
)
def test_who_sends_one_message_a_round_says_so_where_it_may_be_lost(network, tags, overheard):
    made = tables({"kind": "full"}, task=BLOBS, rounds=12, network={"latency": "10ms", "compute": 1e9, **network})
    made["program"]["patience"] = "100ms"
    world, _ = simulate(made)
    assert {message.tag for message in overheard} <= tags
    assert {message.tag for message in overheard} >= tags - {"~late"}
    said = sum(node.bytes_out for node in world.nodes) - sum(
        len(message.encoded) * len(message.receivers) for message in overheard if message.tag == "~late"
    )
    assert said / 12 / len(world.nodes) == pytest.approx(stated_bytes(world))


def test_what_nodes_say_of_gradients_is_among_the_bytes_of_a_round():
    program = {"kind": "clique-averaging", "lr": 0.1, "topology": {"kind": "d-cliques", "size": 4}, "patience": "10s"}
    sent, stated = [], []
    for loss in (0.0, 1e-9):
        network = {"latency": "10ms", "compute": 1e9, "loss": loss}
        world, _ = simulate(table(program=program, task=BLOBS, rounds=4, network=network))
        sent.append(sum(node.bytes_out for node in world.nodes) / 4 / len(world.nodes))
        stated.append(stated_bytes(world))
    assert sent[1] - sent[0] == pytest.approx(stated[1] - stated[0])
    assert sent[1] - sent[0] > 2 * 2 * 3 * 59


@pytest.mark.parametrize("sharing", ["cesar", {"kind": "power-gossip", "iterations": 3}], ids=str)
def test_where_messages_are_lost_rounds_do_not_take_all_patience(sharing):
    task = {**BLOBS, "model": {"kind": "mlp", "hidden": [6]}}
    network = {"latency": "10ms", "loss": 0.05, "compute": 1e9, "bandwidth": None, "nodes": 16}
    made = tables(sharing, task=task, rounds=20, network=network)
    made["program"]["patience"] = "1s"
    world, _ = simulate(made)
    assert {node.round for node in world.nodes} == {20}
    assert world.now < 20 * 0.7
