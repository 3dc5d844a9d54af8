"""I-Prof: the invariants of the contract, oracles in NumPy, wrong input, and MAUI."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from covey.federated.iprof import (
    JOULES,
    SECONDS,
    Bounds,
    LeastSquares,
    Maui,
    Objective,
    PassiveAggressive,
    Profiler,
    batch_size,
)
from covey.parts.errors import ProgramError

number = st.floats(-50, 50)
vectors = st.lists(number, min_size=4, max_size=4)
PHONE = {
    "model": "a",
    "available_memory_gb": 2.0,
    "total_memory_gb": 6.0,
    "temperature_c": 30.0,
    "max_frequency_ghz": 14.0,
    "power_w": 3.0,
}
NONE = Bounds(8, 10_000, 0.0)


@settings(max_examples=40)
@given(weights=vectors, x=vectors, value=number, eps=st.floats(0.001, 1))
def test_a_regressor_moves_until_its_error_is_eps_and_not_inside_the_tube(weights, x, value, eps):
    assume(sum(number * number for number in x) > 1e-3)
    made = PassiveAggressive(weights, math.inf, eps)
    before = made.predict(x)
    made.observe(x, value)
    after = made.predict(x)
    if abs(before - value) <= eps:
        assert made.weights == weights
    else:
        assert abs(after - value) == pytest.approx(eps, abs=1e-6)
        assert math.copysign(1, after - before) == math.copysign(1, value - before)


@settings(max_examples=40)
@given(weights=vectors, x=vectors, value=number, cap=st.floats(1e-6, 1))
def test_a_step_is_at_most_c_times_the_features(weights, x, value, cap):
    made = PassiveAggressive(weights, cap, 0.1)
    made.observe(x, value)
    moved = np.subtract(made.weights, weights)
    assert np.linalg.norm(moved) <= cap * np.linalg.norm(x) * (1 + 1e-9) + 1e-12


def test_features_of_norm_zero_change_no_regressor():
    made = PassiveAggressive([1.0, 2.0], 0.1, 0.1)
    made.observe([0.0, 0.0], 7.0)
    assert made.weights == [1.0, 2.0]
    profiler = Profiler()
    zero = {**dict.fromkeys(PHONE, 0.0), "model": "zero"}
    profiler.observe(zero, 100, 3.0, 2.0)
    assert profiler.time.personal["zero"].weights == profiler.time.all.weights == [0.0] * 4
    assert profiler.predict(zero, Objective(3.0)).samples == 104


@settings(max_examples=40)
@given(seed=st.integers(0, 100), rows=st.integers(6, 40))
def test_least_squares_is_that_of_numpy_whatever_the_order(seed, rows):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(rows, 4)), draw.normal(size=rows)
    wanted = np.linalg.lstsq(x, y, rcond=None)[0]
    one, other, whole = LeastSquares(4), LeastSquares(4), LeastSquares(4)
    for row, value in zip(x, y, strict=True):
        one.observe(row.tolist(), value)
    for row, value in zip(x[::-1], y[::-1], strict=True):
        other.observe(row.tolist(), value)
    whole.add(x, y)
    for fit in (one, other, whole):
        assert np.allclose(fit.weights, wanted, atol=1e-4)


sizes = st.integers(1, 60)


@settings(max_examples=40)
@given(
    slope=st.floats(1e-6, 10),
    limit=st.floats(0, 100),
    fixed=st.floats(0, 1),
    least=sizes,
    range=sizes,
    factor=st.floats(1, 10),
)
def test_a_size_grows_with_the_limit_and_falls_with_the_slope(slope, limit, fixed, least, range, factor):
    bounds = Bounds(8 * least, 8 * (least + range), fixed)
    found = batch_size(limit, slope, bounds)
    assert found % 8 == 0
    assert bounds.least <= found <= bounds.most
    assert batch_size(limit * factor, slope, bounds) >= found >= batch_size(limit, slope * factor, bounds)
    assert batch_size(limit, 0.0, bounds) == batch_size(limit, -slope, bounds) == bounds.least
    exact = (limit - fixed) / slope
    if bounds.least <= exact <= bounds.most:
        assert exact - 1 <= found <= exact + 8


def test_twice_the_slope_gives_half_the_samples():
    assert batch_size(3.0, 0.001, NONE) == 2 * batch_size(3.0, 0.002, NONE) - 8 * (1504 * 2 - 3000) // 8 == 3000


def test_the_bounds_are_those_of_the_paper():
    assert (SECONDS.least, SECONDS.most, SECONDS.fixed) == (104, 10_000, 0.1)
    assert (JOULES.least, JOULES.most) == (56, 5_000)
    profiler = Profiler(eps=0.0)
    profiler.observe(PHONE, 100, 1e-3 * 100 + 0.1, 1e-3 * 100)
    assert profiler.predict(PHONE, Objective(seconds=1e9)).samples == 10_000
    assert profiler.predict(PHONE, Objective(joules=1e9)).samples == 5_000
    assert profiler.predict(PHONE, Objective(3.0, 1e9)).samples == pytest.approx(2900, abs=8)
    assert profiler.predict(PHONE, Objective(1e9, 0.5)).samples == pytest.approx(500, abs=8)


def test_a_model_starts_as_the_cold_start_and_a_new_one_uses_all_measurements():
    profiler = Profiler(eps=0.0, cap=math.inf)
    warm, hot = {**PHONE, "temperature_c": 25.0}, {**PHONE, "temperature_c": 40.0}
    profiler.time.warm_up([PHONE, warm], [3.0, 2.5])
    first = profiler.time.first
    assert profiler.time.predict(hot) == pytest.approx(4.0, abs=1e-3)
    profiler.observe({**warm, "model": "slow"}, 100, 0.1 + 0.5)
    assert profiler.time.first == first
    assert profiler.time.predict({**warm, "model": "slow"}) == pytest.approx(5.0)
    # A model starts as the cold start, not as all measurements so far.
    profiler.observe({**PHONE, "model": "usual"}, 100, 0.1 + 0.3)
    assert profiler.time.personal["usual"].weights == pytest.approx(first, abs=1e-4)
    assert profiler.time.predict({**warm, "model": "new"}) > 2.6


def test_an_objective_within_the_fixed_cost_gives_the_least_size_and_a_warning():
    profiler = Profiler()
    profiler.observe(PHONE, 100, 0.3, 0.1)
    found = profiler.predict(PHONE, Objective(seconds=0.1))
    assert found.samples == 104
    assert found.warning == "an objective of 0.1 s is no more than the fixed cost of 0.1 s"
    assert profiler.predict(PHONE, Objective(seconds=0.2)).warning == ""


@pytest.mark.parametrize(
    ("change", "samples", "seconds", "sentence"),
    [
        ({}, 0, 1.0, "The 'samples' of a measurement must be at least 1. Got 0 instead."),
        ({}, 8, math.nan, "must be finite and at least 0. Got nan instead."),
        ({}, 8, -1.0, "must be finite and at least 0. Got -1.0 instead."),
        ({"temperature_c": math.inf}, 8, 1.0, "The slope and the features of a device must be finite."),
        ({"temperature_c": "warm"}, 8, 1.0, "The features of a device must be numbers."),
        ({"temperature_c": None}, 8, 1.0, "Unknown feature 'temperature_c' of a device"),
    ],
)
def test_a_wrong_measurement_is_refused_and_changes_nothing(change, samples, seconds, sentence):
    profiler = Profiler()
    profiler.observe(PHONE, 100, 0.3, 0.1)
    before = profiler.dump()
    device = {name: value for name, value in {**PHONE, **change}.items() if value is not None}
    with pytest.raises(ProgramError, match=sentence):
        profiler.observe(device, samples, seconds)
    assert profiler.dump() == before


def test_the_state_is_bounded_and_goes_through_bytes_to_the_bit():
    profiler = Profiler(most_models=3)
    profiler.time.warm_up([PHONE], [2.0])
    draw = np.random.default_rng(0)
    for index in range(30):
        device = {**PHONE, "temperature_c": float(draw.uniform(20, 40)), "model": f"m{index % 5}"}
        profiler.observe(device, 100, float(draw.uniform(0.2, 1)), float(draw.uniform(0, 1)))
    assert profiler.time.personal.keys() == {"m0", "m1", "m2"}
    again = Profiler(most_models=3)
    again.load(profiler.dump())
    assert again.dump() == profiler.dump()
    for model in ("m0", "m4"):
        device = {**PHONE, "model": model}
        assert again.time.predict(device) == profiler.time.predict(device)
        for each in (profiler, again):
            each.observe(device, 50, 0.7, 0.2)
    assert again.dump() == profiler.dump()


@given(a=st.floats(0.5, 20), b=st.floats(0, 500), limit=st.floats(0.6, 10))
@settings(max_examples=50)
def test_maui_is_one_line_for_all_devices(a, b, limit):
    maui = Maui(Bounds(8, 100_000, 0.0))
    for samples in (50, 100, 400):
        maui.observe(PHONE, samples, (a * samples + b) / 1000)
    exact = (limit * 1000 - b) / a
    found = maui.predict({"model": "another"}, Objective(seconds=limit)).samples
    assert found == maui.predict(PHONE, Objective(seconds=limit)).samples
    if exact > 8:
        assert exact - 1.5 <= found <= exact + 8.5
    again = Maui(Bounds(8, 100_000, 0.0))
    again.load(maui.dump())
    assert again.predict(PHONE, Objective(seconds=limit)).samples == found


def test_maui_begins_with_the_least_size_and_has_the_greatest_of_the_paper():
    maui = Maui()
    assert maui.predict(PHONE, Objective(seconds=3.0)).samples == 56
    maui.observe(PHONE, 56, 0.001)
    maui.observe(PHONE, 112, 0.002)
    assert maui.predict(PHONE, Objective(seconds=3.0)).samples == 1504


def test_phones_of_models_that_differ_are_predicted_far_better_than_by_maui():
    """The claim of the paper in small: slopes linear in features by model, with noise and drift."""
    draw = np.random.default_rng(3)
    weights = draw.uniform(0.02, 0.12, (6, 4)) * np.exp(draw.normal(size=(6, 1)))
    late: dict[str, list[float]] = {"i-prof": [], "maui": []}
    for name, profiler in (("i-prof", Profiler()), ("maui", Maui())):
        draw = np.random.default_rng(4)
        for task in range(700):
            model = int(draw.integers(6))
            values = draw.uniform((1, 4, 25, 8), (3, 8, 40, 20))
            features = {"model": str(model), **dict(zip(Profiler().names, values.tolist(), strict=True))}
            slope = weights[model] @ values * (1 + 0.1 * math.sin(task / 200)) * math.exp(0.03 * draw.normal())
            samples = profiler.predict(features, Objective(seconds=3.0)).samples
            seconds = 0.1 + slope * samples / 1000
            profiler.observe(features, samples, seconds)
            if task > 200:
                late[name].append(abs(seconds - 3.0))
    ours, theirs = (float(np.percentile(late[name], 90)) for name in ("i-prof", "maui"))
    assert theirs > 2 * ours
