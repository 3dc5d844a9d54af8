"""Plain entries of every size: they arrive in both engines, or are refused at the sender in both."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import covey
from covey.messages import wire
from covey.messages.payloads import private
from covey.parts.errors import ProgramError, WireError
from covey.runtime.emulation.host.stage import HostStage
from covey.runtime.simulation.world import World
from tests.conftest import begun
from tests.programs.long import KINDS
from tests.test_wire import same

NETWORK = {"nodes": 2, "latency": 0.0}
ENGINES = ["simulation", {"kind": "emulation", "nodes_per_process": 1}]


def sent(kinds, sizes, engine, folder):
    program = {"kind": "tests.programs.long:Long", "kinds": kinds, "sizes": sizes}
    return covey.run({"program": program, "network": NETWORK, "engine": engine}, out=folder)


def test_entries_of_every_size_arrive_in_both_engines(tmp_path):
    sizes = [0, 1, 1024, 1025, 1 << 17]
    runs = [sent([*KINDS], sizes, engine, tmp_path / str(index)) for index, engine in enumerate(ENGINES)]
    here, there = (run.table("came").sort_values(["what", "size"]) for run in runs)
    assert len(here) == len(KINDS) * len(sizes)
    assert here["same"].all()
    assert there["same"].all()
    assert here["bytes"].tolist() == there["bytes"].tolist()


@pytest.mark.parametrize("engine", ENGINES, ids=["simulation", "emulation"])
@pytest.mark.parametrize(
    ("what", "size", "why"),
    [
        ("mixed", 400_000, r"its short entries take [\d,]+ bytes, and may take 1,048,576: send long data as"),
        (
            "ints",
            (1 << 22) + 1,
            r"its list 'entry' has 4,194,305 numbers, and a list may have 4,194,304: send it as an array",
        ),
    ],
)
def test_what_is_too_long_is_refused_at_the_sender_in_both_engines(what, size, why, engine, tmp_path):
    with pytest.raises(ProgramError, match=rf"^Node 0 sends a message '.*' that is too long: {why}") as caught:
        sent([what], [size], engine, tmp_path / "run")
    assert "\n" not in str(caught.value)


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64) - 2, 2**64 + 2),
    st.floats(),
    st.text(st.characters(), max_size=9),  # With surrogates.
    st.binary(max_size=9),
)
TIMES = st.sampled_from([0, 1, 3, 1024, 1025, 1100])
REPEATED = st.one_of(
    st.builds(lambda value, times: value * times, st.text(st.characters(), min_size=1, max_size=2), TIMES),
    st.builds(lambda value, times: value * times, st.binary(min_size=1, max_size=2), TIMES),
    st.builds(lambda value, times: value * times, st.lists(PLAIN, max_size=3), TIMES),
    st.builds(lambda value, first, times: [first, *value * times], st.lists(st.integers()), st.integers(), TIMES),
)
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=2) | st.tuples(inner) | st.just({1}), max_leaves=4)
ARRAYS = st.one_of(
    st.builds(
        lambda shape, dtype: np.zeros(shape, dtype),
        st.lists(st.integers(0, 2), max_size=10) | st.just([0, 1 << 31]),
        st.sampled_from(["f4", ">f4", "f2", "i8", "?", "c8", "u2", "U3"]),
    ),
    st.builds(
        lambda shape, dtype: torch.zeros(shape, dtype=dtype),
        st.lists(st.integers(0, 2), max_size=10) | st.just([0, 1 << 31]),
        st.sampled_from([torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.uint16]),
    ),
    st.just(np.float64(3.0)),
)
PAYLOADS = st.dictionaries(st.text(st.characters(), max_size=3), PLAIN | REPEATED | NESTED | ARRAYS, max_size=4)


@pytest.fixture(scope="module")
def node():
    return begun({"program": {"kind": "tests.programs.long:Long", "kinds": [], "sizes": []}, "network": NETWORK}).nodes[
        0
    ]


def alike(left, right):
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    return type(left) is type(right) and same(left, right)


def comes_through(node, payload, tag):
    """Whether a node may send a message; what comes then through a connection must be what comes in memory."""
    sent = []
    node.stage.carry = lambda node, receivers, message: sent.append(message)
    try:
        node.send(1, payload, tag=tag)
    except (ProgramError, WireError) as error:
        refused = error
    else:
        refused = None
    if refused is not None or not sent:  # A message that is not finite is dropped.
        assert "\n" not in str(refused)
        return False
    (message,) = sent
    frame = wire.encode(message.shared, tag=tag, sender=0, receiver=1)
    arrived = wire.decode(frame)
    assert (arrived.tag, len(frame)) == (tag, message.size)
    assert list(arrived.payload) == list(message.shared)
    assert wire.encode(arrived.payload, tag=tag, sender=0, receiver=1) == frame
    assert all(alike(private(message.shared[name]), private(arrived.payload[name])) for name in arrived.payload)
    return True


@settings(deadline=None)
@given(payload=PAYLOADS, tag=st.text(st.characters(), max_size=3) | st.text(min_size=2000, max_size=2000))
def test_a_message_comes_through_a_connection_as_it_comes_in_memory_or_is_refused_at_once(node, payload, tag):
    comes_through(node, payload, tag)


CASES = {
    "a text of 2 MiB": (True, {"text": "é" * (1 << 20)}, ""),
    "a text of 32 MiB": (True, {"text": "x" * (1 << 25), "bytes": bytes(1 << 20)}, "a"),
    "the largest numbers": (True, {"x": [2**64 - 1] * 1025, "y": [-(2**63)] * 1025, "z": [2**63 - 1] * 1025}, ""),
    "a number of 65 bits": (False, {"x": 2**64}, ""),
    "a long list with a number of 65 bits": (False, {"x": [0] * 2000 + [2**64]}, ""),
    "a number below 64 bits": (False, {"x": -(2**63) - 1}, ""),
    "an infinite number": (False, {"x": float("-inf")}, ""),
    "a long list with NaN": (False, {"x": [0.0, -0.0, float("nan")] * 999}, ""),
    "flags and numbers": (True, {"x": [True, 1] * 999}, ""),
    "nothing": (True, {"": "", "a": b"", "b": [], "c": None, "d": np.zeros(0), "e": torch.zeros(0, 3)}, ""),
    "half a character": (False, {"x": "\ud800"}, ""),
    "half a character in a long text": (False, {"x": "\ud800" * 2000}, ""),
    "half a character in a list": (False, {"x": ["\ud800"]}, ""),
    "half a character in a name": (False, {"\ud800": 1}, ""),
    "half a character in a tag": (False, {}, "\ud800"),
    "a list in a list": (False, {"x": [[1]]}, ""),
    "many tensors": (True, {str(number): np.zeros(1) for number in range(4096)}, ""),
    "too many tensors": (False, {str(number): np.zeros(1) for number in range(4097)}, ""),
    "too many long texts": (False, {str(number): "x" * 1025 for number in range(4097)}, ""),
    "many short entries": (True, {str(number): number for number in range(5000)}, ""),
    "short texts of 1 MiB": (False, {"x": ["abc"] * (1 << 18)}, ""),
    "short texts of less": (True, {"x": ["abc"] * (1 << 17)}, ""),
    "a tag of 1 MiB": (False, {"x": 1}, "x" * (1 << 20)),
    "eight dimensions": (True, {"x": torch.zeros([1] * 8)}, ""),
    "nine dimensions": (False, {"x": torch.zeros([1] * 9)}, ""),
    "nine dimensions of an array": (False, {"x": np.zeros([1] * 9)}, ""),
    "many times nothing": (False, {"x": torch.zeros(0, 1 << 31)}, ""),
}
"""Whether a message may be sent, and the message."""


@pytest.mark.parametrize("case", CASES)
def test_what_is_at_a_limit_is_sent_and_what_is_beyond_is_refused(node, case):
    allowed, payload, tag = CASES[case]
    assert comes_through(node, payload, tag) is allowed


def test_both_engines_send_by_the_same_method():
    assert World.post is HostStage.post


def doctored(code, length, body):
    good = wire.encode({"x": "y" * 2000})
    header = wire._encode(wire._Header("", {"x": {code: [length]}}))
    prefix = wire._PREFIX.pack(b"CVYF", 2, 0, 0, len(header), len(body), 0, 0, -1, 0)
    assert good[:4] == prefix[:4]
    return prefix + header + body


@pytest.mark.parametrize(
    ("code", "length", "body", "reason"),
    [
        ("text", 8, b"\xff" * 8, "bad-header"),
        ("text", 0, b"", "bad-shape"),
        ("text", -1, b"", "bad-shape"),
        ("bytes", 16, b"\0" * 8, "length-mismatch"),
        ("ints", 7, b"\0" * 8, "oversized"),
        ("floats", 1 << 60, b"\0" * 8, "length-mismatch"),
        ("lists", 8, b"\0" * 8, "bad-dtype"),
    ],
)
def test_long_entries_that_are_none_are_refused(code, length, body, reason):
    with pytest.raises(WireError) as caught:
        wire.decode(doctored(code, length, body))
    assert caught.value.reason == reason
