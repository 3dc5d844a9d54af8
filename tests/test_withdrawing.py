"""A message that has not left can be withdrawn: in one pass, with and without queues, in both engines."""

import time

import pytest
import torch

import covey
from covey import Node, Program, param
from tests.conftest import simulate, table
from tests.test_divshare import DIVSHARE, NARROW

QUEUES = pytest.mark.parametrize("queue", ["fifo", "fair"])


class Withdraws(Program):
    """Node 0 sends, takes back, and sends again; the others say what came."""

    each: int = param("The number of messages of each tag.", default=5)

    async def run(self, node: Node) -> None:
        block = torch.zeros(2500).numpy()
        if node.id == 0:
            for number in range(self.each):
                node.send([1, 2], {"x": block, "number": number}, tag="old")
            kept = node.send(1, {"x": block}, tag="kept")
            gone = node.send(1, {"x": block}, tag="gone")
            await node.sleep(0.001)
            node.record("withdrawn", old=node.withdraw("old"), gone=gone.cancel(), again=gone.cancel())
            node.send([1, 2], {"x": block}, tag="last")
            assert kept is not None
        else:
            await node.receive(tag="last", count=1)
            node.record("came", old=len(node.arrived(tag="old")), kept=len(node.arrived(tag="kept")), at=node.now)
            node.record("came", old=len(node.arrived(tag="gone")), kept=0, at=node.now)


ENGINES = pytest.mark.parametrize(
    "engine", ["simulation", {"kind": "emulation", "nodes_per_process": 3}], ids=["simulation", "emulation"]
)


@ENGINES
@QUEUES
def test_what_has_not_left_is_taken_back_and_never_comes(queue, engine, tmp_path):
    network = {"nodes": 3, "latency": 0.0, "uplink": "2Mbit/s", "queue": queue}
    program = {"kind": "tests.test_withdrawing:Withdraws"}
    run = covey.run({"program": program, "network": network, "engine": engine}, out=tmp_path / "run")
    (took,) = run.table("withdrawn").to_dict("records")
    came = run.table("came")
    # Ten copies of 10 kB at 40 ms each: at most one had left, or was leaving, after a millisecond.
    assert took["old"] >= 9
    assert (took["gone"], took["again"]) == (1, 0)
    assert took["old"] + came["old"].sum() == 10
    assert came["kept"].sum() <= 1
    sent = run.commits.set_index("node")["messages_out"]
    assert sent[0] == 10 + 1 + 1 + 2 - took["old"] - took["gone"]


def test_many_messages_are_taken_back_in_one_pass():
    spent = []
    for each in (2000, 16_000):
        program = Withdraws(each=each)
        began = time.process_time()
        simulate({"program": program, "network": {"nodes": 3, "latency": 0.0, "uplink": "1Mbit/s"}, "rounds": 1})
        spent.append(time.process_time() - began)
    assert spent[1] < 24 * spent[0] + 1.0  # Eight times as many; one after the other they took 64 times as long.


def test_divshare_learns_over_fair_links_as_over_queues():
    accuracies = []
    for queue in ("fifo", "fair"):
        _, written = simulate(table(program=DIVSHARE, network={**NARROW, "queue": queue}, rounds=12))
        accuracies.append(max(value for _, _, name, value in written.figures if name == "accuracy"))
        assert any(value < 1.0 for _, _, name, value in written.figures if name == "sent")
    assert accuracies[1] > accuracies[0] - 0.15


class AnyOf(Program):
    """Node 0 waits for messages of either of two tags."""

    async def run(self, node: Node) -> None:
        if node.id:
            await node.sleep(0.1 * node.id)
            node.send(0, {}, tag=["", "right", "left", "right"][node.id])
            return
        for _ in range(2):
            (message,) = await node.receive(tag=("left", "right"), count=1)
            node.record("heard", tag=message.tag, sender=message.sender)
        rest = await node.receive(tag=("left", "right"), count=2, timeout=5.0)
        node.record("heard", tag=",".join(message.tag for message in rest), sender=len(rest))


@ENGINES
def test_one_of_several_tags_is_waited_for(engine, tmp_path):
    run = covey.run(
        {
            "program": {"kind": "tests.test_withdrawing:AnyOf"},
            "network": {"nodes": 4, "latency": 0.0},
            "engine": engine,
        },
        out=tmp_path / "run",
    )
    heard = run.table("heard")
    assert heard["tag"].tolist() == ["right", "left", "right"]
    assert heard["sender"].tolist() == [1, 2, 1]


class Wrong(Program):
    async def run(self, node: Node) -> None:
        await node.receive(tag=("a", "a"), count=1)


def test_several_tags_are_different_ones():
    with pytest.raises(covey.CoveyError, match="must name different ones and no 'senders'"):
        simulate({"program": Wrong(), "network": {"nodes": 1}, "rounds": 1})
