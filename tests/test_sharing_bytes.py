"""The bytes of a round by `covey check`, against the bytes of short runs, sharing by sharing."""

import pytest
import torch

from covey.learning.node import LearningProgram
from covey.parts import kinds
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.simulation import playing
from covey.runtime.simulation.playing import Played
from tests.conftest import simulate, stated_bytes, table
from tests.examples import EPIDEMIC

NODES, ROUNDS = 12, 3
DIGITS = {"dataset": "digits", "model": "logistic", "batch_size": 16}
FRAGMENTS = {"kind": "mosaic", "degree": 2, "fragments": 8}
REGULAR = {"kind": "random-regular", "degree": 4}
TERNARY = {"kind": "ternary", "budget": 0.1}
SHARINGS = [
    {"kind": "full"},
    {"kind": "random-layers", "budget": 1.0},
    *[{"kind": kind, "budget": budget} for kind in ("random", "top-k", "fft", "jwins") for budget in (0.05, 0.4)],
    {"kind": "jwins"},
    {"kind": "jwins", "wavelet": "none", "budget": 0.1},
    {"kind": "stc", "budget": 0.1, "gamma": 0.5},
    {"kind": "choco", "compressor": TERNARY, "gamma": 0.5},
    *[{"kind": "quantized", "compressor": compressor} for compressor in ("int8", "sign")],
    *[{"kind": "cesar", "subset": {"kind": "random", "budget": budget}} for budget in (0.1, 0.5)],
    {"kind": "cesar", "subset": {"kind": "random", "budget": 0.1, "common": True}},
    {"kind": "cesar", "subset": {"kind": "top-k", "budget": 1.0}},
    {"kind": "secure-aggregation"},
    {"kind": "secure-aggregation", "recovery": "shamir"},
    {"kind": "cesar", "subset": {"kind": "random", "budget": 0.5}, "recovery": "shamir", "masking": False},
    {"kind": "zip-dl", "sigma": 0.1},
    {"kind": "muffliato", "sigma": 0.1, "steps": 3},
    {"kind": "mosaic"},
    {"kind": "power-gossip"},
    {"kind": "power-gossip", "iterations": 2, "rank": 2},
    {"kind": "power-gossip", "iterations": 3},
]


def stated_and_sent(sharing, topology=REGULAR, model="logistic", rounds=ROUNDS, **more):
    """(what a node is said to send in a round, what it sent in the mean)."""
    made = table(
        task={**DIGITS, "model": model},
        program={"kind": "gossip", "topology": topology, "sharing": sharing, **more.get("program", {})},
        network={"nodes": NODES, "latency": 0.0, "bandwidth": None, **more.get("network", {})},
        rounds=rounds,
    )
    world, _ = simulate(made)
    return stated_bytes(world), sum(node.bytes_out for node in world.nodes) / NODES / rounds


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_a_short_run_sends_what_is_stated(sharing):
    stated, sent = stated_and_sent(sharing, topology=FRAGMENTS if sharing["kind"] == "mosaic" else REGULAR)
    assert sent == pytest.approx(stated, rel=0.05)


@pytest.mark.parametrize("sharing", [sharing for sharing in SHARINGS if sharing["kind"] in ("choco", "stc")], ids=str)
def test_marks_of_copies_are_counted_and_copies_that_are_sent_again(sharing):
    program = {"patience": "1s"}
    stated, sent = stated_and_sent(sharing, program=program)
    assert sent == pytest.approx(stated, rel=0.05)
    assert stated > stated_and_sent(sharing)[0]
    lossy, sent = stated_and_sent(sharing, program=program, network={"loss": 0.05}, rounds=8)
    assert sent == pytest.approx(lossy, rel=0.05)
    assert lossy > 1.1 * stated


def test_every_sharing_is_looked_at():
    assert {sharing["kind"] for sharing in SHARINGS} == set(kinds.built_in()["sharing"])


@pytest.mark.parametrize("every", [1, 2])
def test_the_keys_of_new_neighbours_are_counted(every):
    sharing = {"kind": "cesar", "subset": {"kind": "random", "budget": 0.2}}
    stated, sent = stated_and_sent(sharing, {"kind": "redrawn", "topology": EPIDEMIC, "every": every}, rounds=6)
    assert sent == pytest.approx(stated, rel=0.1)


def test_nothing_is_stated_where_models_decide_what_neighbours_have_in_common():
    sharing = {"kind": "cesar", "masks": 2, "subset": {"kind": "top-k", "budget": 0.3}}
    stated, sent = stated_and_sent(sharing)
    assert stated is None
    assert sent > 0


@pytest.mark.parametrize("topology", [REGULAR, "star", {"kind": "erdos-renyi", "probability": 0.4}], ids=str)
@pytest.mark.parametrize("subset", [{"kind": "top-k", "budget": 0.5}, {"kind": "random", "budget": 0.1}], ids=str)
@pytest.mark.filterwarnings("ignore:The 'masks'")
def test_what_a_node_hears_at_most_is_no_less_than_a_round_brings(topology, subset):
    sharing = {"kind": "cesar", "too_few": "keep", "subset": subset}
    made = table(task=DIGITS, program={"kind": "gossip", "topology": topology, "sharing": sharing}, rounds=ROUNDS)
    world, _ = simulate(made)
    brought = max(node.mail.bytes_in for node in world.nodes) / ROUNDS
    size, messages = prepare(world.prepared.experiment).played.received
    assert brought <= size < 4 * brought
    assert messages >= max(node.mail.messages_in for node in world.nodes) / ROUNDS


# ---------------------------------------------------------------------- what is played


@pytest.mark.parametrize("sharing", ["cesar", {"kind": "power-gossip", "iterations": 3}, "full"], ids=str)
def test_rounds_that_are_not_played_are_as_those_after_the_first(sharing, monkeypatch):
    sharing = {"kind": "cesar", "subset": {"kind": "random", "budget": 0.1}} if sharing == "cesar" else sharing
    whole, sent = stated_and_sent(sharing, rounds=9)
    monkeypatch.setattr(playing, "_WORK", 0)
    few, _ = stated_and_sent(sharing, rounds=9)
    assert whole == pytest.approx(sent, rel=0.02)
    assert few == pytest.approx(sent, rel=0.03)


def made(**changes):
    program = {"kind": "gossip", "topology": REGULAR, **changes.pop("program", {})}
    return prepare(Experiment.from_table(table(task=DIGITS, program=program, network={"nodes": NODES}, **changes)))


def test_a_whole_cycle_is_played_and_never_more_rounds_than_there_are(monkeypatch):
    monkeypatch.setattr(playing, "_WORK", 0)
    assert made(rounds=20).played.rounds == 3
    assert made(rounds=2).played.rounds == 2
    assert made(rounds=20, program={"schedule": {"kind": "periodic", "every": 7}}).played.rounds == 8


def test_nothing_is_counted_where_that_would_take_long(monkeypatch):
    program = {"sharing": {"kind": "random", "budget": 0.5}}
    prepared = made(rounds=20, program=program)
    work = NODES * 4 * (prepared.setting.parameters + playing._OF_A_MESSAGE)
    monkeypatch.setattr(playing, "_MOST_WORK", work - 1)
    assert prepared.played == Played(why_not="so many messages of so many numbers take too long to play")
    monkeypatch.setattr(playing, "_MOST_WORK", work)
    sent = made(rounds=20, program=program).played.sent
    assert sent is not None
    assert sent < 4 * prepared.task.model_bytes


def test_a_play_leaves_no_trace_in_the_run():
    tables = table(program={"kind": "gossip", "topology": REGULAR, "sharing": "power-gossip"}, rounds=3)
    models = []
    for counts in (False, True):
        prepared = prepare(Experiment.from_table(tables))
        assert not counts or prepared.played.sent
        models.append(prepared.experiment.engine.execute(prepared).models)
    assert torch.equal(*models)


class Endless(LearningProgram):
    """A program whose rounds never end."""

    async def run(self, node):
        while True:
            await node.sleep(1.0)


class Wrong(LearningProgram):
    """A program that fails."""

    async def run(self, node):
        async for _ in node.rounds():
            raise ZeroDivisionError("so it is")


@pytest.mark.parametrize(
    ("program", "why_not"),
    [
        (Endless(), "without training, the program fails: Its rounds do not end."),
        (Wrong(), "without training, the program fails: The program tests.test_sharing_bytes:Wrong fails at node 0"),
    ],
)
def test_a_program_that_cannot_be_played_is_not_counted(program, why_not):
    played = prepare(Experiment.from_table(table(program=program, rounds=2))).played
    assert (played.sent, played.received) == (None, None)
    assert played.why_not.startswith(why_not)
