"""Typed payloads: received as declared or not at all, sent as the plain entries, and refused where they are made wrong."""

from types import SimpleNamespace
from typing import Annotated, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from covey.decentralized.sharing import Full
from covey.learning.node import MODEL
from covey.messages import wire
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.runtime.content import Content, entries_of, usable
from covey.runtime.entries import Numbers, Within
from covey.runtime.node import Message
from tests.conftest import simulate, table
from tests.examples import Recorded, run_program
from tests.hosts import emulate
from tests.programs.declared import WRONG, Note, right

NOTES: dict[str, Any] = {
    "rounds": 1,
    "program": {"kind": "tests.programs.declared:Notes"},
    "network": {"nodes": 4},
}
TENSORS = st.sampled_from([torch.zeros(3), torch.zeros(2), torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64)])
INTS = st.integers(-2, 6) | st.integers()
FLOATS = st.floats(allow_nan=True)
ANYTHING = st.one_of(
    *(INTS, FLOATS, st.booleans(), st.none(), st.text(max_size=4), st.binary(max_size=5), TENSORS),
    *(
        st.just(np.zeros(3)),
        st.sampled_from(["yes", b"mark"]),
        st.lists(INTS, max_size=4),
        st.lists(FLOATS, max_size=2),
    ),
    st.lists(st.sampled_from([1, 3, 5]), max_size=4),
    st.lists(INTS | FLOATS | st.text(max_size=2) | st.lists(INTS, max_size=2), max_size=3),
)
"""The values that a peer may put into an entry."""


def is_row(value: Any) -> bool:
    return type(value) is Tensor and tuple(value.shape) == (3,) and value.dtype is torch.float32


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


ORACLE: dict[str, Any] = {
    "whole": lambda value: type(value) is int,
    "real": is_number,
    "right": lambda value: value is True or value is False,
    "word": lambda value: type(value) is str,
    "raw": lambda value: type(value) is bytes,
    "tensor": lambda value: isinstance(value, Tensor),
    "array": lambda value: isinstance(value, np.ndarray),
    "wholes": lambda value: type(value) is list and all(type(item) is int for item in value),
    "either": lambda value: type(value) in (int, str),
    "small": lambda value: type(value) is int and 0 <= value <= 4,
    "share": lambda value: is_number(value) and 0 < value < 4,
    "row": is_row,
    "mark": lambda value: type(value) is bytes and len(value) == 4,
    "peers": lambda value: (
        type(value) is list
        and all(type(item) is int for item in value)
        and value in ([], [1], [3], [5], [1, 3], [1, 5], [3, 5], [1, 3, 5])
    ),
    "known": lambda value: type(value) is str and value == "yes",
    "perhaps": lambda value: value is None or isinstance(value, Tensor),
    "urgent": lambda value: value is True or value is False,
    "count": lambda value: type(value) is int,
}
"""The declared entries of a note: whether a value is one, written from the declaration alone."""


def stand_in(nodes: int = 4) -> Any:
    """A node that writes down why it rejects messages."""
    rejected: list[str] = []
    return SimpleNamespace(
        id=0, nodes=nodes, shape=(3,), rejected=rejected, reject=lambda one, reason: rejected.append(reason)
    )


def message_of(payload: dict[str, Any]) -> Message:
    return Message(NodeId(2), "", 5, payload, 1)


@given(
    changes=st.dictionaries(st.sampled_from([*ORACLE, "other"]), ANYTHING, max_size=3),
    gone=st.sets(st.sampled_from([*ORACLE])),
)
@settings(max_examples=300, deadline=None)
def test_any_payload_is_a_note_of_the_declared_types_or_is_rejected(changes, gone):
    gone = gone if len(gone) < 3 else set()
    payload = {name: value for name, value in {**right(), **changes}.items() if name not in gone}
    optional = {"perhaps": None, "urgent": False, "count": 7}
    found = {**optional, **payload}
    fine = ORACLE.keys() <= found.keys() and all(fits(found[name]) for name, fits in ORACLE.items())
    fine = fine and len(found["wholes"]) <= len(found["peers"])
    node = stand_in()
    notes = usable(node, [message_of(payload)], Note, {})
    assert (len(notes), len(node.rejected)) == ((1, 0) if fine else (0, 1))
    for note in notes:
        assert all(getattr(note, name) is found[name] or same(getattr(note, name), found[name]) for name in ORACLE)
        assert note.others.keys() == payload.keys() - ORACLE.keys()
    for reason in node.rejected:
        assert reason.startswith(("it has no '", "its '", "it has more"))
        assert "\n" not in reason


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor | np.ndarray):
        return a.tolist() == b.tolist()
    return type(a) is type(b) and bool(a == b)


@given(
    perhaps=st.none() | TENSORS,
    urgent=st.booleans(),
    count=st.integers(5, 9),
    real=st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
)
def test_a_note_on_the_wire_is_its_entries_and_comes_back(perhaps, urgent, count, real):
    values = {**right(), "real": real, "perhaps": perhaps, "urgent": urgent, "count": count}
    left_out = {"perhaps": perhaps is None, "urgent": not urgent, "count": count == 7}
    plain = {name: value for name, value in values.items() if not left_out.get(name)}
    entries = entries_of(Note(**values), stand_in())
    assert wire.encode(entries) == wire.encode(plain)
    (again,) = usable(stand_in(), [message_of(wire.decode(wire.encode(entries)).payload)], Note, {})
    assert all(same(getattr(again, name), value) for name, value in values.items())


def test_both_engines_reject_the_same_notes_for_the_same_reasons(tmp_path):
    world, written = simulate(NOTES)
    outcome, emulated = emulate(NOTES, tmp_path)
    reasons = [*(reason for *_, reason in WRONG), "it has no 'word'"]
    for happened in (written.happened, emulated.happened):
        rejected = [detail for _, _, kind, detail in happened if kind == "rejected"]
        assert rejected == [f"message of node 1: {reason}" for reason in reasons[: len(rejected)]]
        assert len(rejected) >= 20
    for state in (world.nodes[0].state, outcome.states[0]):
        assert state["perhaps"].tolist() == [2.0, 2.0]
        assert state["came"] == ["x", "mark", "1", "5", "1"]
        assert state["defaults"] == [0, 7, 16]
    assert world.nodes[0].mail.drops["unusable"] == len(reasons)


@pytest.mark.parametrize("entry", [MODEL, Numbers(3)], ids=["MODEL", "Numbers"])
def test_a_model_is_a_row_of_so_many_float32_numbers(entry):
    right = [torch.zeros(3), torch.arange(6.0)[::2]]
    wrong = [torch.zeros(4), torch.ones(1), torch.zeros(1, 3), torch.zeros(()), torch.zeros(3, dtype=torch.float64)]
    wrong += [torch.zeros(3, dtype=torch.int32), np.zeros(3, np.float64), "a model", None, [0.0] * 3, 3, b"", True]
    node = stand_in()
    found = usable(node, [message_of({"model": value}) for value in [*right, *wrong]], None, {"model": entry})
    assert [message["model"].tolist() for message in found] == [[0.0] * 3, [0.0, 2.0, 4.0]]
    assert node.rejected == ["its 'model' is not 3 float32 numbers"] * len(wrong)


def test_an_array_is_no_tensor_though_its_numbers_are_right():
    for name, entries in (("row", {}), ("perhaps", {"perhaps": Numbers(3)})):
        node = stand_in()
        numbers = [np.zeros(3, np.float32), torch.zeros(3)]
        (note,) = usable(node, [message_of({**right(), name: value}) for value in numbers], Note, entries)
        assert isinstance(getattr(note, name), Tensor)
        assert node.rejected == [f"its '{name}' is not 3 float32 numbers"]


def test_what_is_said_at_the_call_is_narrower_and_required():
    inbox = [message_of({**right(), **more}) for more in ({}, {"perhaps": torch.ones(2)}, {"perhaps": torch.ones(3)})]
    node = stand_in()
    (note,) = usable(node, inbox, Note, {"perhaps": Numbers(3)})
    assert note.perhaps.shape == (3,)
    assert node.rejected == ["it has no 'perhaps'", "its 'perhaps' is not 3 float32 numbers"]
    with pytest.raises(ProgramError, match=r"^Unknown entry of a Note: 'perhabs'; did you mean 'perhaps'\? "):
        usable(node, inbox, Note, {"perhabs": int})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"small": 5}, "The 'small' of a Note that node 0 sends must be an int in [0, 5). Got 5 instead."),
        ({"real": "x"}, "The 'real' of a Note that node 0 sends must be a float. Got 'x' instead."),
        (
            {"row": torch.ones(1)},
            "The 'row' of a Note that node 0 sends must be 3 float32 numbers. Got tensor([1.]) inst",
        ),
        ({"perhaps": 3}, "The 'perhaps' of a Note that node 0 sends must be a Tensor or None. Got 3 instead."),
        ({"smal": 3}, "Unknown entry of a Note: 'smal'; did you mean 'small'?"),
    ],
)
def test_a_wrong_value_at_the_sender_ends_the_run_in_one_line(change, message):
    class Wrong(Recorded):
        async def run(self, node):
            if node.id == 0:
                node.send(NodeId(1), Note(**{**right(), **change}))

    with pytest.raises(ProgramError) as raised:
        run_program(Wrong(), network={"nodes": 4})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_missing_entry_and_a_sender_that_is_not_there_are_errors():
    with pytest.raises(ProgramError, match=r"^The 'known' of a Note must be given\.$"):
        Note(**{name: value for name, value in right().items() if name != "known"})
    with pytest.raises(ProgramError, match=r"^A Note has a message and a sender only if it was received\.$"):
        _ = Note(**right()).sender


def test_a_class_declares_what_messages_hold_and_no_more():
    with pytest.raises(
        ConfigurationError, match=r"^The 'x' of the content Wrong must be declared as .* Got .*set\[int\]"
    ):

        class Wrong(Content):
            x: set[int]

    with pytest.raises(
        ConfigurationError, match=r"a default must be plain and no list\. Got list\[int\] = \[\] instead"
    ):

        class Changeable(Content):
            x: list[int] = []

    with pytest.raises(ConfigurationError, match=r"default of the 'x' of the content Empty must be an int\. Got None"):

        class Empty(Content):
            x: int = None  # type: ignore[assignment]

    with pytest.raises(ConfigurationError, match=r"bounds of a Within must be numbers or 'nodes'\. Got nan"):
        Within(ge=float("nan"))
    with pytest.raises(ConfigurationError, match=r"other names than check, message, others, sender.* Got 'sender'"):

        class Taken(Content):
            sender: int

    class More(Note):
        more: int
        small: int

    note = More(**{**right(), "small": 9}, more=1)
    assert [*entries_of(note, stand_in())][-2:] == ["more", "small"]
    assert repr(note).startswith("More(whole=1, real=0.5")


def test_a_content_has_the_entries_of_all_its_classes_and_the_defaults_of_the_last():
    class Left(Content):
        left: int = 1

    class Right(Content):
        right: str

    class Both(Left, Right):
        left = 5

    for left in (0, 1, 5):
        entries = entries_of(Both(left=left, right="x"), stand_in())
        (both,) = usable(stand_in(), [message_of(entries)], Both, {})
        assert (both.left, both.right) == (left, "x")
        assert ("left" in entries) == (left != 5)


def test_an_entry_is_of_its_type_and_of_the_narrower_one():
    class Narrow(Content):
        count: Annotated[int, Within(ge=0, le=5)] = 0
        row: Annotated[Tensor, Numbers(3)] | None = None
        part: Tensor | None = None

    for name, value, words in [
        ("count", 2.5, "an int in [0, 5]"),
        ("count", 6, "an int in [0, 5]"),
        ("row", np.zeros(3, np.float32), "3 float32 numbers or None"),
        ("part", np.zeros(3, np.float32), "3 float32 numbers"),
    ]:
        node, narrower = stand_in(), {"part": Numbers(3)} if name == "part" else {}
        assert not usable(node, [message_of({name: value})], Narrow, narrower)
        assert node.rejected == [f"its '{name}' is not {words}"]
    assert usable(stand_in(), [message_of({"count": 5, "row": torch.zeros(3)})], Narrow, {})


def test_a_misspelt_entry_is_refused_where_it_is_assigned():
    class Count(Content):
        count: int = 0

    one = Count()
    one.count = 3
    with pytest.raises(ProgramError, match="Unknown entry of a Count: 'cuont'; did you mean 'count'"):
        one.cuont = 3
    assert entries_of(one, stand_in()) == {"count": 3}


def test_wrong_uses_of_contents_end_in_one_line_each():
    class Sound(Content):
        x: int

        def check(self, node: Any) -> Any:
            return self.x > 0

    with pytest.raises(ProgramError, match=r"'check' of a Sound must return a reason or None\. Got True instead"):
        usable(stand_in(), [message_of({"x": 1})], Sound, {})
    for content in (dict, Sound(x=1)):
        with pytest.raises(ProgramError, match="class of usable messages must be derived from Content"):
            usable(stand_in(), [], cast(Any, content), {})
    with pytest.raises(ProgramError, match=r"wanted 'x' must be a type, a range or an Expected\. Got 'int'"):
        usable(stand_in(), [], None, {"x": cast(Any, "int")})
    for payload in ([1], Sound, None):
        with pytest.raises(ProgramError, match="Node 0 must send a dict of entries or a Content"):
            entries_of(cast(Any, payload), stand_in())


def test_a_received_tensor_is_the_programs_own(tmp_path):
    class Row(Content):
        row: Tensor

    class Writes(Recorded):
        async def run(self, node):
            if node.id == 0:
                row = torch.zeros(3)
                node.send([NodeId(1), NodeId(2)], Row(row=row))
                row += 1
            else:
                (row,) = node.usable(await node.receive(count=1), Row)
                row.row += node.id
                self.seen.append(row.row.tolist())

    _, _, seen = run_program(Writes(), network={"nodes": 3})
    assert sorted(seen) == [[1.0] * 3, [2.0] * 3]


class Sized(Content):
    """A model, with its size."""

    model: Annotated[Tensor, MODEL]
    size: int

    def check(self, node: Any) -> str | None:
        return None if self.size == len(node.model) else "its size is not that of the model"


class Says(Full):
    """The whole model and its size; node 3 says a wrong one."""

    content = Sized

    def outgoing(self, round):
        model = round.node.model
        return [(round.receivers, Sized(model=model, size=len(model) + (round.node.id == 3)))]


@pytest.mark.parametrize("share", ["trained", ["layers.0.*"]])
def test_a_sharing_with_a_content_sees_the_shared_part_alone(share):
    task = {"model": {"kind": "mlp", "hidden": [4]}}
    tables = table(program={"kind": "gossip", "topology": "ring", "sharing": Says(share=share)}, task=task, rounds=2)
    world, written = simulate(tables)
    rejected = [(node, detail) for _, node, kind, detail in written.happened if kind == "rejected"]
    assert sorted(rejected) == [(node, "message of node 3: its size is not that of the model") for node in (2, 2, 4, 4)]
    assert all(bool(torch.isfinite(node.model).all()) for node in world.nodes)


class Bare(Full):
    """A sharing whose contributions are bare tensors."""

    def contribution(self, message):
        return message.model


def test_a_contribution_that_is_none_is_reported_as_the_sharings():
    with pytest.raises(
        ProgramError, match=r"message by the sharing Bare must be a Contribution\. Got a Tensor instead"
    ):
        simulate(table(rounds=1, program={"kind": "gossip", "topology": "ring", "sharing": Bare()}))
