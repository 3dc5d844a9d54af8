"""Fragments of a shared part: their layouts, and received ones that cannot be used."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.decentralized.sharing.fragments import Cutting, Fragment, Fragments, count_of
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from tests.examples import pieces_of

CUTTINGS = get_args(Cutting)
PERMUTING = ("per-tensor", "spread", "random")
SHAPES = [(4, 5), (4,), (3, 4), (3,)]


def setting_of(shapes, seed=0):
    return Setting(4, seed, sum(torch.Size(shape).numel() for shape in shapes), pieces_of(shapes))


def fragments(count, cutting="per-tensor", shapes=SHAPES, seed=0, **changes):
    return Fragments(setting_of(shapes, seed), count, cutting, owner="the program mine", **changes)


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


@given(shapes=shapes, cutting=st.sampled_from(CUTTINGS), seed=st.integers(0, 99), draw=st.data())
def test_fragments_hold_every_number_as_often_as_the_redundancy_says(shapes, cutting, seed, draw):
    size = setting_of(shapes).parameters
    count = draw.draw(st.integers(1, size) | st.just(size))
    redundancy = draw.draw(st.integers(1, min(count, 4)))
    found = fragments(count, cutting, shapes, seed, redundancy=redundancy)
    indices = [found.indices(number) for number in range(count)]
    assert torch.equal(torch.bincount(torch.cat(indices), minlength=size), torch.full((size,), redundancy))
    assert all((one.diff() > 0).all() and one.dtype == torch.int64 for one in indices)
    assert found.sizes == tuple(map(len, indices))
    vector = torch.rand(size)
    assert torch.equal(found.take(vector, count - 1), vector[indices[-1]])


@given(shapes=shapes, cutting=st.sampled_from(["spread", "random", "contiguous", "strided"]), draw=st.data())
def test_fragments_are_as_equal_as_they_can_be(shapes, cutting, draw):
    count = draw.draw(st.integers(1, setting_of(shapes).parameters))
    sizes = fragments(count, cutting, shapes).sizes
    assert max(sizes) - min(sizes) <= 1


@given(shapes=shapes, cutting=st.sampled_from(["per-tensor", "spread"]), draw=st.data())
def test_a_rule_for_tensors_takes_alike_of_each(shapes, cutting, draw):
    setting = setting_of(shapes)
    count = draw.draw(st.integers(1, setting.parameters))
    found = fragments(count, cutting, shapes)
    for piece in setting.pieces:
        held = [int(((one >= piece.start) & (one < piece.stop)).sum()) for one in map(found.indices, range(count))]
        if cutting == "per-tensor":
            each = piece.size // count
            assert held == [each] * (count - 1) + [piece.size - each * (count - 1)]
        else:
            assert max(held) - min(held) <= 1


def test_neighbours_are_together_or_apart():
    assert fragments(4, "contiguous").indices(0).tolist() == list(range(10))
    assert fragments(4, "strided").indices(1).tolist() == list(range(1, 39, 4))


def test_layers_stay_whole_and_the_largest_are_apart():
    names = ["body.weight", "body.bias", "head.weight", "scale", "head.bias"]
    setting = setting_of([(8,), (1,), (3,), (5,), (2,)])
    pieces = tuple(replace(piece, name=name) for piece, name in zip(setting.pieces, names, strict=True))
    found = Fragments(replace(setting, pieces=pieces), 2, "per-layer", owner="the program mine")
    assert found.indices(0).tolist() == list(range(9))
    assert found.indices(1).tolist() == list(range(9, 19))


@pytest.mark.parametrize("cutting", CUTTINGS)
def test_a_layout_follows_from_the_seed_and_the_epoch(cutting):
    first, again = fragments(5, cutting), fragments(5, cutting)
    assert first.digest == again.digest
    assert all(torch.equal(first.indices(k), again.indices(k)) for k in range(5))
    others = {fragments(5, cutting, seed=1).digest, fragments(5, cutting, epoch=1).digest}
    assert len({first.digest, *others}) == (3 if cutting in PERMUTING else 1)


def test_another_count_rule_or_model_has_another_digest():
    digests = {
        fragments(5).digest,
        fragments(6).digest,
        fragments(5, "random").digest,
        fragments(5, redundancy=2).digest,
        fragments(5, shapes=[(39,)]).digest,
        fragments(5, shapes=[(40,)]).digest,
    }
    assert len(digests) == 6


def test_the_permutation_of_a_tensor_is_uniform():
    counts = torch.zeros(4, 12)
    for epoch in range(600):
        found = fragments(4, shapes=[(12,)], epoch=epoch)
        for number in range(4):
            counts[number, found.indices(number)] += 1
    assert (counts - 150).abs().max() <= 5 * (600 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, r"The 'fragments' of the program mine must give 1 to 39 fragments, .* Got 0 instead"),
        ({"count": 40}, r"The 'fragments' of the program mine must give 1 to 39 fragments, .* Got 40 instead"),
        ({"count": 3, "redundancy": 4}, r"The redundancy of the program mine must be an int in \[1, 3\], .* Got 4"),
        ({"count": 3, "cutting": "spred"}, "Unknown cutting of the program mine: 'spred'; did you mean 'spread'"),
    ],
)
def test_a_layout_that_is_none_is_refused_by_name(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        fragments(**changes)


def test_the_fraction_of_a_count_gives_that_count():
    assert [count_of(1 / count) for count in range(1, 1000)] == [*range(1, 1000)]


def test_a_fraction_that_is_no_reciprocal_is_rounded_down():
    assert [count_of(fraction) for fraction in (1.0, 0.7, 0.3, 0.15)] == [1, 1, 3, 6]


def test_a_description_names_sizes_and_empty_fragments():
    assert fragments(1).in_words() == "1 fragment of 39 values"
    assert fragments(3, "strided").in_words() == "3 fragments of 13 values each"
    assert fragments(4, "strided").in_words() == "4 fragments of 9 to 10 values"
    assert fragments(39).in_words() == "39 fragments of 0 to 39 values; 38 of them are empty"


def test_a_fragment_of_this_layout_has_no_mistake():
    found = fragments(3)
    one = found.cut(torch.rand(39), 2)
    assert isinstance(one, Fragment)
    assert found.mistake([one.number], one.values, one.layout) is None


@pytest.mark.parametrize(
    ("number", "size", "layout", "reason"),
    [
        (3, 12, None, "its fragment is number 3, and there are 3"),
        (-1, 12, None, "its fragment is number -1, and there are 3"),
        (2, 12, None, "its fragment 2 is not 15 float32 numbers"),
        (1, 12, "another one", "its fragments have another layout, 'another ' instead of"),
    ],
)
def test_a_wrong_fragment_is_named(number, size, layout, reason):
    found = fragments(3)
    mistake = found.mistake([number], torch.rand(size), found.digest if layout is None else layout)
    assert mistake is not None
    assert mistake.startswith(reason)
