"""One limit, one answer: plain entries of every size arrive in both engines, or are refused at the sender in both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import covey
from covey.messages import wire
from covey.parts.errors import ProgramError, WireError
from tests.programs.long import KINDS

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
    with pytest.raises(ProgramError, match=rf"^Node 0 sends a message '.*' that is too long: {why}") as told:
        sent([what], [size], engine, tmp_path / "run")
    assert "\n" not in str(told.value)


LONG = st.one_of(
    st.text(min_size=900, max_size=1200),
    st.binary(min_size=1000, max_size=1100),
    st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1000, max_size=1100),
    st.lists(st.floats(), min_size=1000, max_size=1100),
    st.lists(st.booleans(), min_size=1000, max_size=1100),
)


@given(LONG, st.integers(0, 9))
def test_long_entries_come_back_as_they_were(value, number):
    payload = {"first": number, "long": value, "last": "x"}
    frame = wire.encode(payload, tag="t")
    assert len(frame) == wire.size(payload, "t")
    found = wire.decode(frame).payload
    assert list(found) == list(payload)
    assert type(found["long"]) is type(value)
    assert wire.encode(found, tag="t") == frame


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
    with pytest.raises(WireError) as told:
        wire.decode(doctored(code, length, body))
    assert told.value.reason == reason
