"""Sums of many models: rounded once, and the same to the bit however they are computed."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.learning import sums
from covey.learning.mixture import Mixture
from covey.learning.sums import gathered, products, rounded_sum, rounded_sums


def nearest(exact: Fraction) -> np.float32:
    """The float32 number nearest to an exact one, found by comparison."""
    guess = np.float32(float(exact))
    others = [guess, *(np.nextafter(guess, np.float32(end)) for end in (-np.inf, np.inf))]
    return min(others, key=lambda one: abs(Fraction(float(one)) - exact))


def one_by_one(pieces):
    for piece in pieces:
        piece()


def backwards(pieces):
    one_by_one(reversed(pieces))


def terms(nodes, size, seed, share, *, equal=False):
    """Models and rows of weights, of which a share is not 0."""
    generator = np.random.default_rng(seed)
    models = [*torch.from_numpy(generator.normal(size=(nodes, size)).astype(np.float32))]
    rows = []
    for node in range(nodes):
        others = [i for i in range(nodes) if i != node and generator.random() < share]
        weights = np.full(len(others), 1 / (1 + len(others))) if equal else generator.random(len(others)) / nodes
        rows.append(([models[node], *(models[i] for i in others)], [1.0 - sum(weights), *weights.tolist()]))
    return models, rows


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 10**6), st.sampled_from([0.02, 0.5, 1.0]), st.booleans())
def test_a_sum_is_the_exact_one_rounded(nodes, size, seed, share, equal):
    _, rows = terms(nodes, size, seed, share, equal=equal)
    found = rounded_sums(gathered(rows, np.float64), one_by_one)
    for (models, weights), total in zip(rows, found, strict=True):
        for column in range(size):
            exact = sum(Fraction(w) * Fraction(float(model[column])) for model, w in zip(models, weights, strict=True))
            assert total[column] == nearest(exact * (1 + Fraction(1, 2**40)))


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("equal", [True, False])
def test_bits_do_not_depend_on_what_is_computed_with_a_sum(share, equal, monkeypatch):
    _, rows = terms(130, 500, 1, share, equal=equal)
    together = rounded_sums(gathered(rows, np.float64), one_by_one)
    monkeypatch.setattr(sums, "_BLOCK", 130 * 64)
    assert all(map(torch.equal, rounded_sums(gathered(rows[::-1], np.float64), backwards)[::-1], together))
    alone = [rounded_sums(gathered([row], np.float64), one_by_one)[0] for row in rows[:20]]
    assert all(map(torch.equal, alone, together[:20]))
    monkeypatch.setattr(sums, "_DENSE", 2.0)
    assert all(map(torch.equal, rounded_sums(gathered(rows, np.float64), one_by_one), together))


def test_few_numbers_of_means_are_computed_exactly(monkeypatch):
    asked = []
    monkeypatch.setattr(sums, "rounded_sum", lambda terms: asked.append(1) or rounded_sum(terms))
    models, rows = terms(250, 2000, 2, 1.0, equal=True)
    for model in models:
        model.abs_().remainder_(1.0).add_(1.0)
    rounded_sums(gathered(rows, np.float64), one_by_one)
    # One in 250 of the 500,000 means lies midway between two others.
    assert len(asked) < 500


def test_infinite_numbers_stay_in_the_sums_that_have_them():
    models, rows = terms(40, 6, 3, 1.0)
    sound = rounded_sums(gathered([rows[0]], np.float64), one_by_one)
    without = [model for model in rows[1][0] if model is not models[0]]
    rows[1] = (without, rows[1][1][: len(without)])
    expected = rounded_sums(gathered([rows[1]], np.float64), one_by_one)[0]
    models[0][2] = torch.inf
    found = rounded_sums(gathered(rows, np.float64), one_by_one)
    assert torch.equal(found[1], expected)
    assert found[0][2] == torch.inf
    assert torch.equal(found[0][:2], sound[0][:2])


def test_a_sum_beside_an_infinite_one_is_rounded_exactly(monkeypatch):
    monkeypatch.setattr(sums, "_GROWTH", 0.0)
    models = [torch.tensor([value]) for value in (1.0, 2.0**-24, 2.0**-70, torch.inf)]
    rows = [(models[:3], [1.0, 1.0, 1.0]), ([models[3], models[0]], [0.5, 0.5])]
    tied, infinite = rounded_sums(gathered(rows, np.float64), one_by_one)
    assert (float(tied), float(infinite)) == (1 + 2.0**-23, torch.inf)


def test_equal_models_are_a_fixed_point_of_crowded_averages():
    model = torch.randn(300, generator=torch.Generator().manual_seed(4))
    copies = [model.clone() for _ in range(150)]
    rest = [1 / 150] * 149
    assert torch.equal(Mixture(copies, [1.0 - sum(rest), *rest]).tensor(), model)
    assert torch.equal(Mixture([model] * 150, [1.0 - sum(rest), *rest]).tensor(), model)


@pytest.mark.parametrize(("rest", "expected"), [(2.0**-70, 1 + 2.0**-23), (0.0, 1.0), (-(2.0**-70), 1.0)])
def test_a_tie_that_float64_cannot_see_is_decided_by_the_rest(rest, expected, monkeypatch):
    monkeypatch.setattr(sums, "_GROWTH", 0.0)
    assert rounded_sum(products(np.array([1.0, 0.5, 1.0]), np.array([1.0, 2.0**-23, rest]))) == expected
