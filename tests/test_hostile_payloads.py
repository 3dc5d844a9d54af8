"""Payloads that no program sends: rejected, counted, named by their sender, and the run continues."""

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from covey.decentralized.ad_psgd import ADPSGD
from covey.decentralized.gossip import Gossip
from covey.decentralized.gossip_learning import GossipLearning
from covey.decentralized.topology import Ring
from covey.federated.fedavg import SERVER, FedAvg
from covey.learning.node import MODEL, LearningNode
from covey.messages.payloads import Payload, not_finite_entry
from covey.parts.errors import ProgramError
from covey.parts.nodes import NodeId
from covey.runtime.node import Message
from tests.conftest import simulate, table
from tests.examples import Recorded, run_program

NODES, HOSTILE = 4, 3
NO_MODEL = "its 'model' is not 650 float32 numbers"
WRONG_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "it has no 'model'"),
    "one number for all": ({"model": torch.ones(1)}, NO_MODEL),
    "twice as exact": ({"model": torch.zeros(650, dtype=torch.float64)}, NO_MODEL),
    "null": ({"model": None}, NO_MODEL),
}
"""A few of many wrong models: tests/test_content.py has more, without a run."""


def wrong_numbers(name: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Values that may replace a whole number in a payload."""
    right = {"model": torch.zeros(650)}
    no_count = f"its '{name}' is not an int"
    return {
        f"no {name}": (right, f"it has no '{name}'"),
        **{f"{name} {value!r}": ({**right, name: value}, no_count) for value in ("3", 2.5, True)},
    }


def each(*cases: dict[str, Any]) -> Any:
    """A test for every wrong payload."""
    return pytest.mark.parametrize("wrong", [case for some in cases for case in some.values()], ids=str_of_first)


def str_of_first(case: Any) -> str:
    payload, reason = case
    return ",".join(f"{name}={str(value)[:12]}" for name, value in payload.items()) + f":{reason[:20]}"


def saying(program: Any, payload: Payload) -> Any:
    """A program whose wrong node sends a payload."""
    program.says = payload
    return program


def rejections(written: Any) -> list[tuple[int, str]]:
    """(at which node, what was said) of all rejections."""
    return [(node, detail) for _, node, kind, detail in written.happened if kind == "rejected"]


def run(program: Any, **changes: Any) -> tuple[Any, Any]:
    """A short run of some nodes: all of them must complete it with models that are finite."""
    world, written = simulate(table(program=program, network={"nodes": NODES}, rounds=3, **changes))
    assert [node.round for node in world.nodes] == [3] * NODES
    assert all(bool(torch.isfinite(node.model).all()) for node in world.nodes)
    assert all(set(node.state) <= {"age", "down.last", "patience.late", "patience.silent"} for node in world.nodes)
    return world, written


# ---------------------------------------------------------------------- gossip


class Intruder(Gossip):
    """The node opposite node 1 on a ring talks to it, although nobody there listens to it."""

    kind = "gossip"

    async def run(self, node: LearningNode) -> None:
        if node.id == HOSTILE:
            node.send(NodeId(1), {"model": node.model}, round=1)
        await super().run(node)


def test_a_model_of_who_is_no_neighbour_is_not_merged():
    patient = {"topology": Ring(), "patience": 1.0}
    expected, _ = run(Gossip(**patient))
    world, written = run(Intruder(**patient))
    assert rejections(written) == [(1, "message of node 3: its sender does not send to node 1 in round 1")]
    assert all(torch.equal(a.model, b.model) for a, b in zip(world.nodes, expected.nodes, strict=True))


# ---------------------------------------------------------------------- fedavg


class BadClient(FedAvg):
    """One client answers with what it likes."""

    kind = "fedavg"
    says: ClassVar[Payload] = {}

    async def take_part(self, node: LearningNode) -> None:
        if node.id != HOSTILE:
            await super().take_part(node)
            return
        async for t in node.rounds():
            node.send(SERVER, self.says, tag="update", round=t)


@each(WRONG_MODELS, wrong_numbers("samples"), {"few": ({"model": torch.zeros(650), "samples": -1}, "its 'samples' is")})
def test_the_server_averages_without_a_client_whose_update_is_wrong(wrong):
    payload, reason = wrong
    program = saying(BadClient(patience=5.0), payload)
    world, written = run(program)
    assert len(rejections(written)) == 3
    assert {node for node, _ in rejections(written)} == {SERVER}
    assert all(detail.startswith(f"message of node {HOSTILE}: {reason}") for _, detail in rejections(written))
    assert world.nodes[SERVER].mail.dropped == 3


class BadServer(FedAvg):
    """The server sends what it likes to one client."""

    kind = "fedavg"
    says: ClassVar[Payload] = {}

    async def serve(self, node: LearningNode) -> None:
        async for t in node.rounds():
            node.send([NodeId(1), NodeId(2)], {"model": node.model}, tag="model", round=t)
            node.send(NodeId(HOSTILE), self.says, tag="model", round=t)
            await node.receive(tag="update", round=t, senders=[NodeId(1), NodeId(2)])


@each(WRONG_MODELS)
def test_a_client_does_not_train_what_is_no_model(wrong):
    payload, reason = wrong
    program = saying(BadServer(), payload)
    world, written = run(program)
    assert rejections(written) == [(HOSTILE, f"message of node {SERVER}: {reason}")] * 3
    assert [node.steps > 0 for node in world.nodes] == [False, True, True, False]


def test_a_client_that_says_that_it_has_no_samples_has_weight_0_and_a_warning():
    none = {"model": torch.zeros(650), "samples": 0}
    world, written = run(saying(BadClient(), none))
    silent, _ = run(saying(BadClient(patience=5.0), {}))
    detail = f"message of node {HOSTILE}: its sender has no samples, so its weight is 0"
    assert rejections(written) == [(SERVER, detail)] * 3
    assert torch.equal(world.nodes[SERVER].model, silent.nodes[SERVER].model)


def test_a_round_in_which_all_clients_say_that_they_have_no_samples_is_an_error():
    class Poor(FedAvg):
        kind = "fedavg"

        async def take_part(self, node: LearningNode) -> None:
            async for t in node.rounds():
                node.send(SERVER, {"model": node.model, "samples": 0}, tag="update", round=t)

    line = r"Some clients must have samples\. All of 3 have 0\."
    with pytest.raises(ProgramError, match=line):
        run(Poor())


# ---------------------------------------------------------------------- ad-psgd


class BadOffers(ADPSGD):
    """An active node offers what it likes."""

    kind = "ad-psgd"
    says: ClassVar[Payload] = {}

    async def exchange(self, node: LearningNode, peer: NodeId, number: int) -> None:
        if node.id == self.hostile(node):
            node.send(peer, self.says, tag="offer")
        else:
            await super().exchange(node, peer, number)

    def hostile(self, node: LearningNode) -> int:
        return max(i for i in range(NODES) if self._active[i])


@each(WRONG_MODELS, wrong_numbers("number"))
def test_a_passive_node_rejects_an_offer_that_is_wrong(wrong):
    payload, reason = wrong
    program = saying(BadOffers(topology=Ring()), payload)
    _, written = run(program)
    assert 1 <= len(rejections(written)) <= 3
    assert all(detail.startswith("message of node ") and reason in detail for _, detail in rejections(written))


class BadAnswers(ADPSGD):
    """The passive nodes answer what they like."""

    kind = "ad-psgd"
    says: ClassVar[Payload] = {}

    async def answer(self, node: LearningNode, *_: Any) -> None:
        async for offer in node.messages("offer"):
            node.send(offer.sender, {"number": offer["number"], **self.says}, tag="answer")


@each(WRONG_MODELS, {"other": ({"model": torch.zeros(650), "number": "1"}, "its 'number' is not an int")})
def test_an_active_node_rejects_an_answer_that_is_wrong(wrong):
    payload, reason = wrong
    program = saying(BadAnswers(topology=Ring()), payload)
    _, written = run(program)
    assert len(rejections(written)) >= 2
    assert all(detail.startswith("message of node ") and reason in detail for _, detail in rejections(written))


def test_an_answer_of_another_exchange_is_left_alone():
    program = saying(BadAnswers(topology=Ring(), patience=0.01), {"model": torch.full((650,), 1e6), "number": 77})
    world, written = run(program)
    assert rejections(written) == []
    assert all(float(node.model.abs().max()) < 100 for node in world.nodes)


def test_offers_of_who_is_no_neighbour_are_rejected():
    class Stranger(ADPSGD):
        kind = "ad-psgd"

        async def run(self, node: LearningNode) -> None:
            if node.id == 0:
                node.send(NodeId(2), {"model": node.model, "number": 0}, tag="offer")
            await super().run(node)

    _, written = run(Stranger(topology=Ring()))
    assert rejections(written) == [(2, "message of node 0: it is not a neighbour of node 2")]


# ---------------------------------------------------------------------- gossip-learning


class BadPushes(GossipLearning):
    """One node pushes what it likes."""

    kind = "gossip-learning"
    says: ClassVar[Payload] = {}

    async def run(self, node: LearningNode) -> None:
        if node.id != HOSTILE:
            await super().run(node)
            return
        async for _ in node.rounds():
            await node.sleep(0.9 * self.period)
            node.send(NodeId(0), self.says, tag="model")


@pytest.mark.parametrize("mode", ["merge-update", "update"])
@each(
    WRONG_MODELS,
    wrong_numbers("age"),
    {
        "young": ({"model": torch.zeros(650), "age": -1}, "its 'age' is not an int in [0, "),
        "old": ({"model": torch.zeros(650), "age": 1 << 63}, "its 'age' is not an int in [0, "),
    },
)
def test_a_push_that_is_wrong_is_neither_merged_nor_trained(wrong, mode):
    payload, reason = wrong
    program = saying(BadPushes(topology=Ring(), period=0.1, mode=mode), payload)
    _, written = run(program)
    assert len(rejections(written)) >= 2
    assert {node for node, _ in rejections(written)} == {0}
    assert all(detail.startswith(f"message of node {HOSTILE}: {reason}") for _, detail in rejections(written))


def test_an_age_stays_one_that_others_take():
    program = saying(BadPushes(topology=Ring(), period=0.1), {"model": torch.zeros(650), "age": (1 << 53) - 1})
    world, written = run(program)
    assert rejections(written) == []
    assert max(node.state.get("age", 0) for node in world.nodes) == (1 << 53) - 1


# ---------------------------------------------------------------------- the contract


def test_usable_tells_types_apart_as_the_wire_does():
    class Looks(Recorded):
        async def run(self, node: LearningNode) -> None:
            payload = {
                "model": node.model,
                "int": 3,
                "float": 2.5,
                "bool": True,
                "str": "x",
                "bytes": b"x",
                "list": [1],
                "none": None,
            }
            message = Message(node.id, "", None, payload, 1)
            kinds = {"model": MODEL, "int": int, "float": float, "bool": bool, "str": str, "bytes": bytes, "list": list}
            for name in payload:
                for word, expected in kinds.items():
                    if node.usable([message], **{name: expected}):
                        self.seen.append((name, word))
            self.seen += [bool(node.usable([message], int=range(4))), bool(node.usable([message], int=range(3)))]
            self.seen += [bool(node.usable([message], model=torch.Tensor, str=str)), node.usable([], model=MODEL)]

    _, written, seen = run_program(Looks(), network={"nodes": 1})
    kinds = ["model", "int", "float", "bool", "str", "bytes", "list"]
    assert {pair for pair in seen if isinstance(pair, tuple)} == {*zip(kinds, kinds, strict=True), ("int", "float")}
    assert seen[-4:] == [True, False, True, []]
    said = [detail for _, detail in rejections(written)]
    assert "message of node 0: its 'int' is not an int in [0, 3)" in said
    assert "message of node 0: its 'str' is not a float" in said


@pytest.mark.parametrize("value", [math.nan, -math.inf, [1.0, math.inf], [0, "x", math.nan]])
def test_a_number_by_itself_must_be_finite_too(value):
    assert not_finite_entry({"x": value}) == "x"

    class Poison(Recorded):
        async def run(self, node: LearningNode) -> None:
            if node.id == 0:
                node.send(NodeId(1), {"loss": value}, tag="x")
            else:
                self.seen.append(len(await node.receive(tag="x", count=1, timeout=1.0)))

    world, written, seen = run_program(Poison(), network={"nodes": 2})
    assert seen == [0]
    assert world.nodes[1].mail.dropped == 1
    assert rejections(written) == [(0, "'loss' in its message 'x' is not finite")]


@pytest.mark.parametrize("value", [0.0, 1 << 70, [1, 2.5, "x", True], "nan", b"", None, True, torch.tensor([1, 2])])
def test_what_is_finite_is_let_through(value):
    assert not_finite_entry({"x": value, "y": np.float64(1.0)}) is None
