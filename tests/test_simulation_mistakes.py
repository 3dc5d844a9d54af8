"""Programs that break the contract, models that explode, and their errors."""

import gc
import math

import numpy as np
import pytest
import torch

from covey import Program
from covey.learning.node import LearningProgram
from covey.parts.errors import ModelError, ProgramError
from tests.conftest import simulate, table
from tests.examples import PROGRAMS, Recorded, run_program


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('oh')", r"The program .*Wrong fails at node 0 in round 0: ValueError: oh"),
        ("node.model = torch.zeros(3)", r"The model of node 0 must be 650 float32 numbers. Got \(3,\)"),
        ("await node.train(speed=3)", r"A training has no 'speed'\. Known: batch_size, correction, epochs"),
        ("node.send(1, {})", r"Node 0 sends to node 1; ids are in \[0, 1\)"),
        ("node.send([0, -1], {})", r"Node 0 sends to node -1; ids are in \[0, 1\)"),
        ("await node.evaluate(split='tests')", r"The 'split' of evaluate must be one of 'train', .* Got 'tests'"),
        *[
            (
                f"node.send(0, {{}}, round={wrong})",
                rf"The 'round' of a message of node 0 must be None or an int in \[0, 2\*\*63\)\. Got {wrong} instead\.",
            )
            for wrong in ("-1", "9223372036854775808", "1.0", "True", "'1'")
        ],
        ("node.send(0, {}, tag=3)", r"The 'tag' of a message of node 0 must be a str\. Got 3 instead\."),
        ("import asyncio; await asyncio.sleep(0)", r"awaits an object at node 0 that is not one of the node's"),
    ],
)
def test_a_program_that_breaks_the_contract_is_named(body, message):
    names: dict = {"torch": torch}
    exec(f"async def run(self, node):\n    {body}", names)

    class Wrong(Recorded):
        run = names["run"]

    with pytest.raises((ProgramError, ModelError), match=message):
        run_program(Wrong(), network={"nodes": 1})


def test_the_round_of_a_message_may_be_numpys():
    class Sends(Recorded):
        async def run(self, node):
            node.send(0, {}, round=np.int64(2))
            (message,) = await node.receive(round=2, senders=[0])
            self.seen.append(type(message.round))

    assert run_program(Sends(), network={"nodes": 1})[2] == [int]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.int64(3), r"Got np\.int64\(3\) instead: the entry 'x' is a int64"),
        ({1}, r"Got \{1\} instead: the entry 'x' is a set"),
        ([[1]], r"Got \[\[1\]\] instead: the list 'x' holds a list"),
        (1 << 70, r"Got 1180591620717411303424 instead: an entry cannot be encoded"),
        (torch.zeros(1, dtype=torch.complex64), r"the tensor 'x' has the dtype torch\.complex64"),
    ],
)
def test_a_state_that_no_checkpoint_can_hold_is_reported_when_it_is_committed(value, message, commits):
    class Keeps(Recorded):
        async def run(self, node):
            node.state["right"] = [1.5, "x"]
            async for _ in node.rounds():
                if commits:
                    node.state["x"] = value
            node.state["x"] = value

    expected = r"^The 'x' in the state of node 0 must be a tensor, .*" + message
    with pytest.raises(ProgramError, match=expected) as raised:
        run_program(Keeps(), network={"nodes": 1}, rounds=2)
    assert "\n" not in str(raised.value)


def test_a_run_that_fails_leaves_no_coroutine_behind(recwarn):
    class Hasty(Recorded):
        async def run(self, node):
            node.spawn(node.sleep(1.0))
            raise ValueError("oh")

    with pytest.raises(ProgramError):
        run_program(Hasty(), network={"nodes": 2})
    gc.collect()
    assert [str(warning.message) for warning in recwarn if "never awaited" in str(warning.message)] == []


@pytest.mark.parametrize("call", ["await node.sleep(-1.0)", "await node.receive(timeout=float('nan'))"])
def test_time_goes_forward(call):
    names: dict = {}
    exec(f"async def run(self, node):\n    {call}", names)

    class Backwards(Recorded):
        run = names["run"]

    with pytest.raises(ProgramError, match=r"Node 0 (sleeps for -1|waits for at most nan) seconds; that must be 0 or"):
        run_program(Backwards(), network={"nodes": 1})


async def _waits_for_a_node_that_is_not_there(node):
    await node.receive(senders=[7])


async def _sleeps_for_words(node):
    await node.sleep("1s")


async def _spawns_a_number(node):
    node.spawn(3)


async def _logs_words(node):
    node.log(number="a")


async def _sends_what_is_not_finite(node):
    node.send(1 - node.id, {"x": float("inf")})
    await node.receive()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (_waits_for_a_node_that_is_not_there, r"^Node 0 waits for node 7; ids are in \[0, 2\)\.$"),
        (_sleeps_for_words, r"^Node 0 sleeps for a number of seconds\. Got '1s' instead\.$"),
        (_spawns_a_number, r"^Node 0 must spawn the call of an async function\. Got 3 instead\.$"),
        (_logs_words, r"^The 'number' that node 0 logs must be a number\. Got 'a' instead\.$"),
        (_sends_what_is_not_finite, r"cannot arrive.*\. Messages with a number that is not finite were dropped: 2\.$"),
    ],
)
def test_a_wrong_use_of_a_node_ends_in_one_line(mistake, message):
    class Mistaken(Program):
        async def run(self, node):
            await mistake(node)

    with pytest.raises(ProgramError, match=message):
        simulate({"rounds": 1, "program": Mistaken(), "network": {"nodes": 2}})


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


def test_a_model_that_explodes_stops_the_run_or_leaves():
    task = {"optimizer": {"kind": "sgd", "lr": 1e38}, "model": "mlp"}
    with pytest.raises(ModelError, match=r"The model of node \d+ is not finite after its training in round \d"):
        simulate(table(task=task))
    drop = {**task, "non_finite": "drop"}
    with pytest.raises(ModelError, match="The models of all nodes with data were dropped"):
        simulate(table(task=drop, program={**PROGRAMS["ring"], "patience": "1s"}))
    with pytest.raises(
        ProgramError, match=r"wait for messages that cannot arrive.* give the program some 'patience'\."
    ):
        simulate(table(task=drop))

    class OneExplodes(LearningProgram):
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
