"""Typed state: checked when assigned and when restored, private to its part, and in checkpoints."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.messages import wire
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.runtime.node import Node
from covey.runtime.snapshots import Snapshot, pack, unpack
from covey.runtime.state import State
from covey.runtime.task import Nothing
from tests.conftest import simulate
from tests.examples import Recorded, run_program
from tests.hosts import emulate
from tests.programs.diary import Page, Tally

DIARY: dict[str, Any] = {
    "rounds": 6,
    "program": {"kind": "tests.programs.diary:Diary"},
    "network": {"nodes": 3},
    "checkpoint": {"every": 3},
}
WHOLES = st.integers(-(2**63), 2**63 - 1)
REALS = st.floats(allow_nan=False)
TENSORS = st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(torch.tensor)
VALUES = {
    "whole": WHOLES,
    "real": REALS | WHOLES,
    "right": st.booleans(),
    "word": st.text(max_size=9),
    "raw": st.binary(max_size=9),
    "tensor": TENSORS,
    "array": st.lists(WHOLES, max_size=4).map(lambda numbers: np.array(numbers, np.int64)),
    "wholes": st.lists(WHOLES, max_size=4),
    "reals": st.lists(REALS, max_size=4),
    "words": st.lists(st.text(max_size=4), max_size=4),
    "perhaps": st.none() | TENSORS,
    "either": WHOLES | st.text(max_size=4),
    "by_peer": st.dictionaries(st.integers(0, 99), TENSORS, max_size=4),
    "notes": st.dictionaries(st.integers(0, 99), st.lists(WHOLES, max_size=3), max_size=4),
}
WRONG = {
    "whole": [True, 1.0, "1", None, [1], np.int64(1)],
    "real": [True, "1", None, np.float64(1.0), torch.tensor(1.0)],
    "right": [0, None, np.True_],
    "word": [1, b"x", None],
    "raw": ["x", bytearray(b"x")],
    "tensor": [None, np.zeros(1), [0.0], 1.0],
    "array": [None, torch.zeros(1), [0.0]],
    "wholes": [(1,), [1.0], [True], ["x"], [1, None], {1: 1}, None],
    "reals": [["x"], [None], 1.0],
    "words": ["x", [1], None],
    "perhaps": [1, "x", np.zeros(1)],
    "either": [1.0, None, b"x"],
    "by_peer": [None, 1, [torch.zeros(1)], {1: 1.0}, {1: None}],
    "notes": [{1: [1.5]}, {1: (1,)}],
}


def node_with(state: dict[str, Any], id: int = 0) -> Any:
    """A stand-in for a node with a state."""
    return SimpleNamespace(id=id, state=state)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.tolist() == b.tolist()
    return type(a) is type(b) and a == b


def agree(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


@given(values=st.fixed_dictionaries(VALUES), of=st.sampled_from(["", "sharing", "sharing.inner"]))
def test_every_type_comes_back_from_a_checkpoint_as_it_was(values, of):
    state: dict[str, Any] = {"other": 1}
    page = Page(node_with(state), of)
    for name, value in values.items():
        setattr(page, name, value)
    snapshot = Snapshot(1, state, None, None, [0] * 9)
    payload = wire.decode(wire.encode(pack([snapshot], Nothing()))).payload
    (restored,) = unpack(payload, Nothing())
    assert agree(restored.state, state)
    again = Page(node_with(restored.state), of)
    for name, value in values.items():
        found = getattr(again, name)
        if isinstance(value, dict):
            assert agree(dict(found), value)
            assert len(found) == len(value)
        else:
            assert same(found, value)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_value_of_a_wrong_type_is_refused_when_it_is_assigned_and_when_it_comes_back(name, value):
    page = Page(node_with({}, id=7))
    with pytest.raises(
        ProgramError, match=rf"^The '{name}(\.1)?' in the state of node 7 must be .+\. Got .+ instead\.$"
    ):
        setattr(page, name, value)
    if not isinstance(getattr(type(page), name).default, dict):
        with pytest.raises(ProgramError, match=rf"^The '{name}' in the state of node 7 must be "):
            Page(node_with({f"a.{name}": value}, id=7), "a")


def test_an_error_says_what_would_be_right():
    page, said = Page(node_with({}, id=7)), []
    for name, value in {"whole": "3", "reals": [None], "perhaps": 1, "either": None}.items():
        with pytest.raises(ProgramError) as raised:
            setattr(page, name, value)
        said.append(str(raised.value))
    with pytest.raises(ProgramError) as raised:
        page.notes[NodeId(3)] = ["x"]
    assert [*said, str(raised.value)] == [
        "The 'whole' in the state of node 7 must be an int. Got '3' instead.",
        "The 'reals' in the state of node 7 must be a list of floats. Got [None] instead.",
        "The 'perhaps' in the state of node 7 must be a Tensor or None. Got 1 instead.",
        "The 'either' in the state of node 7 must be an int or a str. Got None instead.",
        "The 'notes.3' in the state of node 7 must be a list of ints. Got ['x'] instead.",
    ]


def test_a_wrong_value_ends_the_run_in_one_line():
    class Wrong(Recorded):
        async def run(self, node):
            node.keep(Page).whole = 1.5

    with pytest.raises(ProgramError, match=r"^The 'whole' in the state of node 0 must be an int\. Got 1\.5 instead\.$"):
        run_program(Wrong(), network={"nodes": 1})


def test_what_has_no_value_yet_and_what_is_no_field_are_errors():
    page = Page(node_with({}, id=7))
    with pytest.raises(ProgramError, match=r"^The 'tensor' in the state of node 7 has no value yet\.$"):
        _ = page.tensor
    with pytest.raises(AttributeError, match="wohle"):
        page.wohle = 1
    with pytest.raises(KeyError):
        _ = page.notes[NodeId(3)]


def test_defaults_are_there_at_once_and_each_node_has_its_own():
    states: list[dict[str, Any]] = [{}, {}]
    pages = [Page(node_with(state)) for state in states]
    assert states[0]["whole"] == 0
    assert states[0].keys().isdisjoint({"tensor", "perhaps", "by_peer"})
    pages[0].wholes.append(3)
    pages[0].notes[NodeId(1)] = [2]
    assert (states[0]["wholes"], states[0]["notes.1"]) == ([3], [2])
    assert (pages[1].wholes, dict(pages[1].notes), Page(node_with({})).wholes) == ([], {}, [])
    del pages[0].wholes, pages[0].notes
    assert (pages[0].wholes, dict(pages[0].notes)) == ([], {})
    pages[0].perhaps = torch.ones(1)
    pages[0].perhaps = None
    assert "perhaps" not in states[0]


def test_a_state_that_derives_from_another_has_the_fields_of_both():
    class More(Page):
        more: int = 3
        whole: int = 5

    state: dict[str, Any] = {}
    more = More(node_with(state))
    more.word = "x"
    assert (state["more"], state["whole"], state["word"]) == (3, 5, "x")


def test_a_state_has_the_fields_of_all_its_classes_and_the_defaults_of_the_last():
    class Left(State):
        left: int = 1

    class Right(State):
        right: str = "x"

    class Both(Left, Right):
        left = 5

    state: dict[str, Any] = {}
    both = Both(node_with(state))
    assert state == {"left": 5, "right": "x"}
    both.left = 3
    assert state["left"] == 3


def test_types_that_no_checkpoint_holds_are_refused_where_they_are_declared():
    expected = r"^The 'x' of the state Wrong must be declared as an int, .* Got .*set\[int\] instead\.$"
    with pytest.raises(ConfigurationError, match=expected):

        class Wrong(State):
            x: set[int]

    with pytest.raises(ConfigurationError, match=r"default of the 'x' of the state Empty must be an int\. Got None"):

        class Empty(State):
            x: int = None  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match=r"which is empty at first\. Got .* = \{1: 2\} instead"):

        class Full(State):
            x: dict[int, int] = {1: 2}


def test_either_engine_continues_with_the_typed_state_of_a_checkpoint_of_the_other(tmp_path):
    whole, written = simulate(DIARY)
    expected = [node.state for node in whole.nodes]
    outcome, emulated = emulate(DIARY, tmp_path)
    assert all(map(agree, outcome.states, expected))
    for checkpoints in (written.checkpoints, emulated.checkpoints):
        round, checkpoint = checkpoints[0]
        assert round == 3
        stored = wire.decode(wire.encode(checkpoint)).payload
        resumed, _ = simulate(DIARY, checkpoint=stored)
        assert all(agree(node.state, state) for node, state in zip(resumed.nodes, expected, strict=True))
        again, _ = emulate(DIARY, tmp_path, checkpoint=stored)
        assert all(map(agree, again.states, expected))


def test_a_checkpoint_with_a_value_of_a_wrong_type_ends_the_run_in_one_line():
    _, written = simulate(DIARY)
    stored = {**written.checkpoints[0][1], "state/1/whole": "three"}
    with pytest.raises(ProgramError, match=r"^The 'whole' in the state of node 1 must be an int\. Got 'three' instead"):
        simulate(DIARY, checkpoint=stored)


def test_parts_of_one_class_keep_their_own():
    world, _ = simulate({**DIARY, "program": {**DIARY["program"], "tally": {"inner": {"inner": {}}}}})
    state = world.nodes[0].state
    assert [state[f"tally{'.inner' * depth}.used"] for depth in range(3)] == [6, 12, 24]


def test_a_part_outside_of_a_program_has_the_place_of_its_family():
    class Lone(Tally):
        family = "lone"

    node: Any = node_with({})
    node.keep = lambda state, of: state(node, of.place)
    Lone().use(node)
    assert node.state == {"lone.used": 1}


def test_a_program_may_have_the_plain_entries_too():
    class Both(Recorded):
        async def run(self, node: Node) -> None:
            async for _ in node.rounds():
                node.keep(Page).whole += 1
                self.seen.append((node.state["whole"], node.keep(Page) is node.keep(Page)))

    _, _, seen = run_program(Both(), network={"nodes": 1}, rounds=2)
    assert seen == [(1, True), (2, True)]
