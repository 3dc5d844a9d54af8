"""The shared part of a model: its selection, its return into the model, and all else unchanged."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.learning.mixture import Mixture
from covey.learning.node import MODEL, Update
from covey.learning.selection import Selection
from covey.messages import wire
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.parts.pieces import ROLES, Piece
from covey.runtime.entries import Numbers, narrowed

NAMES = {
    "trained": ["body.0.weight", "body.0.bias", "body.1.weight", "head.weight", "head.bias"],
    "frozen": ["frozen.weight"],
    "buffer": ["body.1.running_mean", "body.1.running_var", "head.scale"],
}


def setting(sizes=(6, 2, 3, 4, 1, 5, 3, 3, 2), roles=ROLES):
    """The model above, or what of it has some roles."""
    pieces, at, sizes = [], 0, iter(sizes)
    for role in ROLES:
        for name in NAMES[role]:
            size = next(sizes)
            if role in roles:
                pieces.append(Piece(name, role, at, at + size, (size,)))
                at += size
    return Setting(4, parameters=at, pieces=tuple(pieces))


def names(selection):
    return [piece.name for piece in selection.pieces]


def numbers(size):
    return torch.arange(float(size))


def test_where_all_is_trained_nothing_is_copied_and_a_mixture_stays_one():
    for known in (setting(roles=("trained",)), setting(roles=("trained", "buffer")), Setting(4, parameters=10)):
        selection = Selection.of(known)
        model, mixture = numbers(known.parameters), Mixture([numbers(known.parameters)], [1.0])
        assert selection.is_whole
        assert selection.entry is MODEL
        assert selection.take(model) is model
        assert selection.put(model, mixture) is mixture
        assert selection.narrowed(known) is known
        assert selection.part_bytes(1234) == 1234


def test_what_is_shared_is_trained_first_and_then_the_buffers():
    known = setting()
    selection = Selection.of(known)
    assert names(selection) == NAMES["trained"] + NAMES["buffer"]
    assert (selection.size, selection.trained, selection.buffered, selection.beside) == (24, 16, 8, False)
    apart = Selection.of(known, beside=True)
    assert names(apart) == NAMES["trained"]
    assert (apart.size, apart.trained, apart.buffered, apart.beside) == (16, 16, 8, True)
    assert apart.beside_bytes() == len(wire.encode({"buffers": torch.zeros(8)})) - len(wire.encode({}))
    assert selection.entry == narrowed(torch.Tensor, Numbers(24))
    whole, part = (len(wire.encode({"model": torch.zeros(count)})) for count in (29, 24))
    assert selection.part_bytes(whole) == part
    trained, buffers = selection.split(selection.take(numbers(29)))
    assert torch.equal(trained, numbers(29)[:16])
    assert torch.equal(buffers, numbers(29)[21:])


def test_one_piece_is_a_view_and_what_is_put_back_writes_into_nothing():
    selection = Selection.of(setting(), buffers="keep")
    model = numbers(29)
    part = selection.take(model)
    assert part.data_ptr() == model.data_ptr()
    assert len(part) == 16
    put = selection.put(model, Mixture([part, part], [1.0, 1.0]))
    assert torch.equal(put.tensor()[:16], 2 * numbers(16))
    assert torch.equal(put.tensor()[16:], numbers(29)[16:])
    assert torch.equal(model, numbers(29))
    assert torch.equal(put.plus([model], [-1.0]).tensor()[:16], numbers(16))


@given(data=st.data())
def test_a_part_comes_back_where_it_was_and_the_rest_is_the_nodes_own_to_the_bit(data):
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=9, max_size=9))
    known = setting(sizes)
    share = data.draw(
        st.just("trained") | st.lists(st.sampled_from(["body.*", "head.weight", "*.bias", "*"]), min_size=1)
    )
    beside = data.draw(st.booleans())
    selection = Selection.of(known, share, data.draw(st.sampled_from(["average", "keep"])), beside=beside)
    mine = -torch.rand(known.parameters)
    theirs = torch.rand(known.parameters)
    buffers = selection.buffers(theirs) if beside else None
    put = selection.put(mine, selection.take(theirs), buffers)
    put = put.tensor() if isinstance(put, Mixture) else put
    assert len(selection.take(theirs)) == selection.size == selection.narrowed(known).parameters
    shared = set(names(selection))
    if beside and selection.beside:
        shared |= {piece.name for piece in known.pieces if (put[piece.start : piece.stop] > 0).any()}
        assert (put > 0).sum() == selection.size + selection.buffered
    for piece in known.pieces:
        source = theirs if piece.name in shared else mine
        assert torch.equal(put[piece.start : piece.stop], source[piece.start : piece.stop])


def test_buffers_go_with_their_names_and_their_layers():
    def shared(*patterns):
        return [name for name in names(Selection.of(setting(), list(patterns))) if name in NAMES["buffer"]]

    mean_and_variance = ["body.1.running_mean", "body.1.running_var"]
    assert shared("body.*") == mean_and_variance
    assert shared("body.1.weight") == mean_and_variance
    assert shared("body.0.*") == []
    assert shared("head.bias") == ["head.scale"]
    assert shared("*.weight") == NAMES["buffer"]
    assert names(Selection.of(setting(), ["body.*"], "keep")) == ["body.0.weight", "body.0.bias", "body.1.weight"]


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("haed.*", "Got 'haed.*' instead, which matches none. Trained are head.bias, head.weight ..."),
        ("nothing", "Got 'nothing' instead, which matches none. Trained are body.0.weight, body.0.bias"),
        ("frozen.*", "which matches only frozen tensors: 'frozen.weight'. Trained are"),
        ("*running*", "which matches only buffers: 'body.1.running_mean', 'body.1.running_var'."),
        ("[fF]rozen*", "which matches only frozen tensors: 'frozen.weight'. Trained are"),
    ],
)
def test_a_pattern_that_matches_nothing_trained_is_refused_with_what_is_near(pattern, line):
    with pytest.raises(ConfigurationError) as caught:
        Selection.of(setting(), ["head.*", pattern], owner="the sharing full")
    assert str(caught.value).startswith("The 'share' of the sharing full must be 'trained' or patterns of names")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_buffers_can_be_refused():
    assert Selection.of(setting(roles=("trained", "frozen")), buffers="refuse").size == 16
    with pytest.raises(ConfigurationError, match=r"has 'body\.1\.running_mean', 'body\.1\.running_var', 'head"):
        Selection.of(setting(), buffers="refuse")


def test_a_model_in_which_nothing_is_trained_has_nothing_to_share():
    with pytest.raises(ConfigurationError, match="has no trained tensors, so the program push-sum has"):
        Selection.of(setting(roles=("frozen", "buffer")), owner="the program push-sum")


def test_a_change_of_training_moves_what_is_trained_and_lets_no_variance_become_negative():
    selection = Selection.of(setting())
    start = torch.full((29,), 4.0)
    trained = torch.full((29,), 1.0)
    trained[16:21] = start[16:21] = -0.0
    averaged = start.clone()
    averaged[:16], averaged[24:] = 2.5, 0.5
    moved = selection.applied(Update(trained, start, 0.0, 1, 1), Mixture([averaged], [1.0]))
    assert moved[:16].tolist() == [-0.5] * 16
    assert torch.equal(moved[16:21].signbit(), torch.ones(5, dtype=torch.bool))
    assert moved[21:24].tolist() == [1.0] * 3
    assert moved[24:].tolist() == [0.75] * 5
