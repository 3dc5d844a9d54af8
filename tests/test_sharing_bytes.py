"""What `covey check` says of a round's bytes, against the bytes of short runs, sharing by sharing."""

import pytest

from covey.parts import kinds
from tests.conftest import simulate, table
from tests.examples import EPIDEMIC

NODES, ROUNDS = 12, 3
DIGITS = {"dataset": "digits", "model": "logistic", "batch_size": 16}
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
    return world.prepared.round_bytes, sum(node.bytes_out for node in world.nodes) / NODES / rounds


@pytest.mark.parametrize("sharing", SHARINGS, ids=str)
def test_a_short_run_sends_what_is_stated(sharing):
    stated, sent = stated_and_sent(sharing)
    assert sent == pytest.approx(stated, rel=0.05)


@pytest.mark.parametrize("sharing", [sharing for sharing in SHARINGS if sharing["kind"] in ("choco", "stc")], ids=str)
def test_marks_of_copies_are_counted_and_where_copies_are_told_anew_nothing_is_stated(sharing):
    program = {"patience": "1s"}
    stated, sent = stated_and_sent(sharing, program=program)
    assert sent == pytest.approx(stated, rel=0.05)
    assert stated > stated_and_sent(sharing)[0]
    assert stated_and_sent(sharing, program=program, network={"loss": 0.01})[0] is None


def test_every_sharing_is_looked_at():
    assert {sharing["kind"] for sharing in SHARINGS} == set(kinds.KINDS["sharing"])


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
def test_what_may_wait_at_a_node_is_no_less_than_two_rounds_bring(topology, subset):
    sharing = {"kind": "cesar", "too_few": "keep", "subset": subset}
    made = table(task=DIGITS, program={"kind": "gossip", "topology": topology, "sharing": sharing}, rounds=ROUNDS)
    world, _ = simulate(made)
    brought = max(node.mail.bytes_in for node in world.nodes) / ROUNDS
    assert world.program.waiting_bytes(world.prepared.setting, world.prepared.task.model_bytes) >= 2 * brought
