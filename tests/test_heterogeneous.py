"""Mechanisms of heterogeneous differential privacy, against the definitions of the paper."""

import itertools
import math
import subprocess
import sys
from collections import Counter
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.parts.errors import BudgetExceeded, ConfigurationError, DataError, ModelError
from covey.privacy.accounting import account
from covey.privacy.budgets import Accountant
from covey.privacy.heterogeneous import Sampling, Stretching
from covey.privacy.queries import Query, cosine, squared_norm, weighted_sum
from covey.privacy.randomness import Source, discrete_laplace, discrete_log_density, laplace

N = 4
levels = st.lists(st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 1.0]), min_size=N, max_size=N)
bounds = st.lists(st.sampled_from([0.25, 1.0, 3.0]), min_size=N, max_size=N)
epsilons = st.sampled_from([0.1, 1.0, 3.0])


@st.composite
def queries(draw):
    """A query that covey has, over four coordinates."""
    high, signed = draw(bounds), draw(st.booleans())
    if draw(st.booleans()):
        return squared_norm(high, signed=signed)
    weights = draw(st.lists(st.sampled_from([-2.0, 0.5, 1.0]), min_size=N, max_size=N))
    return weighted_sum(weights, high, signed=signed)


def corners(query):
    """The corners, the middle and zero of the box of a query's data."""
    ends = zip(query.low, query.high, strict=True)
    yield from (np.array(corner) for corner in itertools.product(*({low, 0.0, high} for low, high in ends)))


def neighbours(query):
    """All pairs of such records that differ in one coordinate, and the coordinate."""
    for record in corners(query):
        for i in range(len(record)):
            for value in {query.low[i], 0.0, query.high[i]} - {record[i]}:
                other = record.copy()
                other[i] = value
                yield i, record, other


@given(query=queries(), v=levels, epsilon=epsilons, mode=st.sampled_from(["lipschitz", "optimal"]))
@settings(max_examples=10, deadline=None)
def test_the_density_of_neighbours_differs_by_at_most_epsilon_times_v(query, v, epsilon, mode):
    for noise in ("continuous", "discrete"):
        mechanism = Stretching(query, epsilon, v, mode=mode, noise=noise, random=1, granularity=2.0**-8)
        grid = np.linspace(-20, 20, 5)
        worst = np.zeros(N)
        for i, record, other in itertools.islice(neighbours(query), 0, None, 11):
            for released in grid:
                ratio = mechanism.log_density(released, record) - mechanism.log_density(released, other)
                worst[i] = max(worst[i], ratio)
        assert (worst <= epsilon * np.array(v) + 1e-9).all()


@given(query=queries(), v=levels, mode=st.sampled_from(["lipschitz", "optimal"]))
@settings(max_examples=25, deadline=None)
def test_the_stretched_function_changes_by_at_most_v_times_the_sensitivity(query, v, mode):
    mechanism = Stretching(query, 1.0, v, mode=mode, noise="continuous")
    worst = np.zeros(N)
    for i, record, other in neighbours(query):
        worst[i] = max(worst[i], abs(mechanism.values(record) - mechanism.values(other)).sum())
    assert (worst <= np.array(v) * mechanism.sensitivity * (1 + 1e-12)).all()


@given(v=levels, epsilon=epsilons, noise=st.sampled_from(["continuous", "discrete"]))
@settings(max_examples=25, deadline=None)
def test_a_dot_product_spends_all_of_its_budget_at_the_greatest_value(v, epsilon, noise):
    mechanism = Stretching(weighted_sum(np.ones(N), np.ones(N)), epsilon, v, noise=noise)
    for i in range(N):
        most = np.ones(N)
        least = most.copy()
        least[i] = 0.0
        ratio = mechanism.log_density(1e3, most) - mechanism.log_density(1e3, least)
        # The grid takes a millionth of the budget for rounding.
        assert ratio == pytest.approx(epsilon * v[i], rel=1e-9, abs=0 if noise == "continuous" else 1e-5 * epsilon)


@given(query=queries(), epsilon=epsilons, released=st.floats(-30, 30))
@settings(max_examples=25, deadline=None)
def test_privacy_1_is_laplace_and_changes_nothing(query, epsilon, released):
    mechanism = Stretching(query, epsilon, 1.0, noise="continuous", random=2)
    assert (mechanism.shrinkage == 1.0).all()
    scale = max(query.lipschitz * query.widths) / epsilon
    record = query.high / 2
    of_laplace = -abs(released - float(query.function(record))) / scale - math.log(2 * scale)
    assert mechanism.log_density(released, record) == pytest.approx(of_laplace, rel=1e-12)
    alone = float(query.function(record)) + float(laplace(Source(2), scale, 1)[0])
    assert mechanism.release(record) == alone


@given(query=queries(), v=levels, data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_coordinate_of_privacy_0_has_no_influence_on_any_bit(query, v, data):
    i = data.draw(st.integers(0, N - 1))
    v[i] = 0.0
    record = query.high / 3
    others = [record.copy() for _ in range(3)]
    for other, value in zip(others, (query.low[i], 0.0, query.high[i]), strict=True):
        other[i] = value
    for mode, noise in itertools.product(("lipschitz", "optimal"), ("continuous", "discrete")):
        made = [Stretching(query, 1.0, v, mode=mode, noise=noise, random=5) for _ in others]
        assert len({mechanism.release(other) for mechanism, other in zip(made, others, strict=True)}) == 1


@given(v=levels, epsilon=epsilons)
@settings(max_examples=4, deadline=None)
def test_the_mean_of_a_sum_is_the_sum_weighted_by_v_and_the_bias_is_as_stated(v, epsilon):
    query = weighted_sum(np.ones(N), np.ones(N))
    mechanism = Stretching(query, epsilon, v, noise="continuous", random=3)
    record = np.array([1.0, 0.5, 1.0, 0.25])
    drawn = mechanism.transform(np.tile(record, (500, 1)))
    assert drawn.mean() == pytest.approx(np.array(v) @ record, abs=5 * math.sqrt(2 / 500) / epsilon)
    assert mechanism.distortion(record) == pytest.approx((1 - np.array(v)) @ record)
    assert abs(float(query.function(record)) - mechanism.values(record)[0]) <= mechanism.distortion(record) + 1e-12


def test_lipschitz_constants_are_safe_where_the_range_is_not():
    def tent(record):
        return abs(float(record[0]) - 0.5)

    by_slope = Stretching(Query(tent, [1.0], lipschitz=[1.0]), 1.0, 0.5, noise="continuous")
    assert by_slope.shrinkage.tolist() == [0.5]
    assert by_slope.scale == 1.0

    def oracle(i, shrinkage):
        return max(0.5, shrinkage[0] - 0.5) - max(0.5 - shrinkage[0], 0.0)

    by_range = Stretching(Query(tent, [1.0], sensitivity=oracle), 1.0, 0.5, mode="optimal", noise="continuous")
    # w = v would change it by 0.5, twice what is allowed.
    assert by_range.shrinkage.tolist() == pytest.approx([0.25])
    assert by_range.scale == 0.5


@given(v=levels)
@settings(max_examples=10, deadline=None)
def test_the_largest_shrinkage_of_a_squared_norm_is_the_root(v):
    found = Stretching(squared_norm(np.ones(N)), 1.0, v, mode="optimal", noise="continuous")
    assert found.shrinkage == pytest.approx(np.sqrt(v))
    assert found.sensitivity == 1.0
    assert (found.shrinkage <= np.sqrt(v) + 1e-12).all()


def test_unequal_widths_leave_narrow_coordinates_whole_in_the_optimal_mode():
    query = weighted_sum([1.0, 1.0], [4.0, 1.0])
    assert Stretching(query, 1.0, 0.5, noise="continuous").shrinkage.tolist() == [0.5, 0.5]
    found = Stretching(query, 1.0, 0.5, mode="optimal", noise="continuous")
    assert found.shrinkage == pytest.approx([0.5, 1.0])


@given(ours=st.integers(0, 2**32), scale=st.sampled_from([0.3, 1.0, 7.5]))
@settings(max_examples=5, deadline=None)
def test_the_probabilities_of_discrete_noise_sum_to_one_and_fall_by_its_rate(ours, scale):
    logs = discrete_log_density(np.arange(-2000, 2001), scale)
    assert np.exp(logs).sum() == pytest.approx(1.0)
    assert np.diff(logs[2000:2100]) == pytest.approx(-1 / scale, rel=0.01)
    assert discrete_laplace(Source(ours), scale, 5).tolist() == discrete_laplace(Source(ours), scale, 5).tolist()


def test_the_histogram_of_a_million_draws_is_that_of_the_density():
    count, scale = 1_000_000, 2.5
    drawn = Counter(discrete_laplace(Source(7), scale, count).tolist())
    for z in range(-8, 9):
        p = math.exp(discrete_log_density(z, scale))
        assert abs(drawn[z] - count * p) <= 3 * math.sqrt(count * p * (1 - p)), z
    floats = laplace(Source(7), scale, count)
    edges = np.linspace(-10, 10, 21)
    below = np.where(edges < 0, np.exp(-abs(edges) / scale) / 2, 1 - np.exp(-abs(edges) / scale) / 2)
    found = np.histogram(floats, edges)[0]
    for p, n in zip(np.diff(below), found, strict=True):
        assert abs(n - count * p) <= 3 * math.sqrt(count * p * (1 - p))


def test_the_empirical_odds_of_neighbours_keep_to_the_bound():
    v = [1.0, 0.3]
    query = weighted_sum([1.0, 1.0], [1.0, 1.0])
    counts = []
    for record in ([1.0, 1.0], [1.0, 0.0]):
        mechanism = Stretching(query, 1.0, v, granularity=0.25, random=int(11 + sum(record)))
        counts.append(Counter((mechanism.transform(np.tile(record, (6_000, 1))) / 0.25).tolist()))
    for z in range(-4, 9):
        first, second = counts[0][z], counts[1][z]
        error = 3 * math.sqrt(1 / first + 1 / second)
        assert abs(math.log(first / second)) <= 0.3 + error


def test_released_values_are_on_the_grid():
    mechanism = Stretching(weighted_sum([0.1, 0.7], [1.0, 1.0]), 1.0, 0.9, granularity=2.0**-10)
    drawn = mechanism.transform(np.full((200, 2), 0.3)) * 2.0**10
    assert (drawn == np.rint(drawn)).all()
    assert len({*drawn.tolist()}) > 50
    assert mechanism.log_density(2.0**-11, [0.3, 0.3]) == -math.inf


def test_values_of_several_numbers_are_bounded_in_the_1_norm():
    query = Query(lambda record: np.array([record.sum(), record[0]]), [1.0, 1.0], lipschitz=[2.0, 1.0])
    mechanism = Stretching(query, 2.0, [0.5, 1.0], noise="continuous", random=1)
    released = mechanism.release([1.0, 1.0])
    assert released.shape == (2,)
    ratio = mechanism.log_density([9, 9], [1.0, 1.0]) - mechanism.log_density([9, 9], [0.0, 1.0])
    assert ratio == pytest.approx(2.0 * 0.5)


@given(v=levels, epsilon=epsilons)
@settings(max_examples=10, deadline=None)
def test_the_sample_mechanism_keeps_to_the_same_bound(v, epsilon):
    mechanism = Sampling(weighted_sum(np.ones(N), np.ones(N)), epsilon, v, noise="continuous")

    def log_density(released, record):
        total = 0.0
        for taken in itertools.product([0, 1], repeat=N):
            chance = np.prod([p if take else 1 - p for take, p in zip(taken, mechanism.chances, strict=True)])
            total += chance * math.exp(-abs(released - np.array(taken) @ record) / mechanism.scale)
        return math.log(total)

    for i, released in itertools.product(range(N), (-5.0, 0.5, 2.0, 9.0)):
        record = np.array([1.0, 0.0, 1.0, 1.0])
        other = record.copy()
        other[i] = 1 - other[i]
        assert abs(log_density(released, record) - log_density(released, other)) <= epsilon * v[i] + 1e-9
    assert (np.array(v) == 1.0).tolist() == (mechanism.chances == 1.0).tolist()


def test_the_sample_mechanism_takes_coordinates_as_often_as_it_says():
    mechanism = Sampling(weighted_sum([1.0, 0.001], [1.0, 1.0]), 1.0, [0.5, 0.0], random=9)
    taken = [float(mechanism.values(np.ones(2))[0]) for _ in range(4000)]
    chance = math.expm1(0.5) / math.expm1(1.0)
    assert set(taken) == {0.0, 1.0}
    assert abs(np.mean(taken) - chance) <= 3 * math.sqrt(chance * (1 - chance) / 4000)


# ---------------------------------------------------------------------- budgets


@given(
    spent=st.lists(st.tuples(st.sampled_from([0.25, 0.5]), levels), min_size=1, max_size=6), seed=st.integers(0, 2**32)
)
@settings(max_examples=25, deadline=None)
def test_the_costs_of_releases_add_up_by_coordinate(spent, seed):
    accountant = Accountant(N, 100.0)
    for epsilon, v in spent:
        accountant.spend("a", epsilon, v)
    assert accountant.spent("a") == pytest.approx(sum(epsilon * np.array(v) for epsilon, v in spent))
    assert accountant.spent("b").tolist() == [0.0] * N
    again = Accountant.from_state(accountant.state)
    assert again.left("a").tolist() == accountant.left("a").tolist()


def test_an_empty_budget_refuses_a_release_with_the_pair_and_the_coordinate():
    accountant = Accountant(3, [1.0, 0.5, 2.0])
    mechanism = Stretching(weighted_sum(np.ones(3), np.ones(3)), 1.0, [0.4, 0.4, 1.0])
    mechanism.release(np.ones(3), accountant=accountant, pair="b")
    before = accountant.spent("b")
    with pytest.raises(BudgetExceeded) as caught:
        mechanism.release(np.ones(3), accountant=accountant, pair="b")
    assert (caught.value.pair, caught.value.coordinate) == ("b", 1)
    assert str(caught.value) == (
        "The budget of coordinate 1 for the pair 'b' does not suffice: 0.1 is left, and the release costs 0.4."
    )
    assert accountant.spent("b").tolist() == before.tolist()
    mechanism.release(np.ones(3), accountant=accountant, pair="c")
    tenths = Accountant(1, 1.0)
    for _ in range(10):
        tenths.spend(0, 0.1, 1.0)
    with pytest.raises(BudgetExceeded):
        tenths.spend(0, 0.1, 1.0)
    tenths.spend(0, 0.1, 0.0)


def test_the_memory_of_an_accountant_is_bounded():
    accountant = Accountant(2, 1.0, pairs=2)
    accountant.spend(0, 0.5, 1.0)
    accountant.spend(1, 0.5, 1.0)
    accountant.spend(1, 0.5, 1.0)
    with pytest.raises(BudgetExceeded, match="coordinate 1 for the pair 2 "):
        accountant.spend(2, 0.5, [0.1, 1.0])
    assert len(accountant.state["names"]) == 2


@pytest.mark.parametrize(("coordinates", "pairs"), [(2.5, 1), (0, 1), (True, 1), ("2", 1), (2, 1.5), (2, None)])
def test_an_accountant_has_whole_numbers_of_coordinates_and_pairs(coordinates, pairs):
    with pytest.raises(ConfigurationError, match="at least one coordinate and one pair, in whole numbers"):
        Accountant(coordinates, 1.0, pairs=pairs)
    assert Accountant(np.int64(2), np.float32(1.0), pairs=np.int64(1)).left("a").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"spent": np.zeros((1, 3))},
        {"spent": [[-1.0, 0.0]]},
        {"spent": [[np.nan, 0.0]]},
        {"spent": "none"},
        {"names": ["a", "a"], "spent": np.zeros((2, 2))},
        {"names": [["a"]]},
        {"names": 3},
        {"names": ["a", "b"], "spent": np.zeros((2, 2))},
        {"budget": []},
        {"budget": [np.nan, 1.0]},
        {"pairs": 0},
        None,
    ],
)
def test_a_damaged_state_of_an_accountant_is_refused(changes):
    accountant = Accountant(2, 1.0, pairs=1)
    accountant.spend("a", 0.5, 1.0)
    with pytest.raises(ConfigurationError) as caught:
        Accountant.from_state({} if changes is None else {**accountant.state, **changes})
    assert "\n" not in str(caught.value)
    assert Accountant.from_state(accountant.state).spent("a").tolist() == [0.5, 0.5]


# ---------------------------------------------------------------------- bad input


SUM = weighted_sum(np.ones(3), np.ones(3))


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, True, "1"])
def test_an_epsilon_is_positive(epsilon):
    line = rf"The 'epsilon' of a mechanism must be a float in \(0, inf\)\. Got {epsilon!r} instead"
    for cls in (Stretching, Sampling):
        with pytest.raises(ConfigurationError, match=line):
            cls(SUM, epsilon)


@pytest.mark.parametrize(
    ("privacy", "line"),
    [
        ([0.0, 1.5, 1.0], r"The 'privacy' must be numbers in \[0, 1\]\. Got 1\.5 at coordinate 1"),
        ([0.0, -0.1, 1.0], r"Got -0\.1 at coordinate 1"),
        ([0.0, math.nan, 1.0], r"Got nan at coordinate 1"),
        (2.0, r"Got 2 at coordinate 0"),
        ([0.0, 1.0], r"The 'privacy' must be 3 numbers, one for each coordinate\. Got 2 numbers"),
        ("high", r"The 'privacy' must be 3 numbers, one for each coordinate\. Got 'high'"),
    ],
)
def test_a_privacy_is_a_number_of_each_coordinate_from_0_to_1(privacy, line):
    with pytest.raises(ConfigurationError, match=line):
        Stretching(SUM, 1.0, privacy)
    with pytest.raises(ConfigurationError, match=line):
        Accountant(3, 1.0).spend(0, 1.0, privacy)


def test_data_outside_their_bounds_are_refused_or_clipped():
    refusing = Stretching(SUM, 1.0, noise="continuous", random=1)
    with pytest.raises(DataError, match=r"within their bounds, \[0, 1\] at coordinate 2\. Got 1\.5 instead"):
        refusing.release([0.0, 0.0, 1.5])
    with pytest.raises(DataError, match=r"must be 3 numbers, one for each coordinate\. Got 2 numbers"):
        refusing.release([0.0, 0.0])
    clipping = Stretching(SUM, 1.0, noise="continuous", outside="clip", random=1)
    assert clipping.release([-3.0, 0.0, 1.5]) == refusing.release([0.0, 0.0, 1.0])
    with pytest.raises(DataError, match="Got nan instead"):
        clipping.release([math.nan, 0.0, 0.0])


def test_a_function_without_what_the_mode_needs_is_refused():
    def total(record):
        return float(record.sum())

    with pytest.raises(ConfigurationError, match="must have its 'lipschitz' constants or an oracle"):
        Query(total, [1.0])
    with pytest.raises(ConfigurationError, match="'optimal' must have a query with an oracle of its 'sensitivity'"):
        Stretching(Query(total, [1.0], lipschitz=[1.0]), 1.0, mode="optimal")
    with pytest.raises(ConfigurationError, match="'lipschitz' must have a query with 'lipschitz' constants"):
        Stretching(Query(total, [1.0], sensitivity=lambda i, w: w[i]), 1.0)
    with pytest.raises(ConfigurationError, match=r"sensitivity of a query must be a float in \(0, inf\)\. Got 0"):
        Stretching(Query(total, [1.0], lipschitz=[0.0]), 1.0)


def test_constants_that_do_not_hold_are_refused():
    def steep(record):
        return 3.0 * float(record.sum())

    with pytest.raises(ConfigurationError, match="The 'lipschitz' of a query does not hold: coordinate"):
        Stretching(Query(steep, [1.0, 1.0], lipschitz=[1.0, 1.0]), 1.0)
    with pytest.raises(ConfigurationError, match="The oracle of a query does not hold: coordinate"):
        Stretching(Query(steep, [1.0], sensitivity=lambda i, w: w[i]), 1.0, mode="optimal")
    # An oracle that says less of the whole than of a part, so that bisection ends at the whole.
    with pytest.raises(ConfigurationError, match="must not grow when coordinates shrink: it says 9 for coordinate 0"):
        Stretching(
            Query(steep, [1.0, 1.0], sensitivity=lambda i, w: 3.0 if w[0] == 1 or w[1] == 1 else 9.0),
            1.0,
            0.5,
            mode="optimal",
        )


def test_a_function_returns_finite_numbers():
    with pytest.raises(ModelError, match="must return finite numbers in one row"):
        Stretching(Query(lambda record: math.inf, [1.0], lipschitz=[1.0]), 1.0)
    with pytest.raises(ModelError, match="must return finite numbers in one row"):
        Stretching(Query(lambda record: np.zeros((2, 2)), [1.0], lipschitz=[1.0]), 1.0)


def test_a_cosine_needs_a_public_norm():
    with pytest.raises(ConfigurationError, match=r"must have the public 'norm' .* Got None instead: take the dot"):
        cosine([1.0, 2.0], [1.0, 1.0])
    found = Stretching(cosine([3.0, 4.0], [1.0, 1.0], norm=2.0), 1.0, noise="continuous")
    assert found.values(np.array([1.0, 1.0])).tolist() == pytest.approx([7 / 10])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"mode": "best"}, "The 'mode' of a mechanism must be 'lipschitz' or 'optimal'. Got 'best' instead."),
        ({"outside": "drop"}, "The 'outside' of a mechanism must be 'raise' or 'clip'. Got 'drop' instead."),
        (
            {"noise": "gaussian"},
            "The 'noise' of a mechanism must be 'discrete' or 'continuous'. Got 'gaussian' instead.",
        ),
        ({"granularity": 0.0}, "The 'granularity' of a mechanism must be a float in (0, inf). Got 0.0 instead."),
        (
            {"granularity": 1e-30},
            "The 'epsilon' of a mechanism with discrete noise of granularity 1e-30 must be at least 9.09e+17. "
            "Got 1 instead.",
        ),
        ({"random": b"short"}, "The key of random numbers must be 32 bytes. Got 5 instead."),
        ({"random": 0.5}, "The 'random' must be an int, 32 bytes or None. Got 0.5 instead."),
    ],
)
def test_options_have_their_sentence(options, line):
    with pytest.raises(ConfigurationError) as caught:
        Stretching(SUM, 1.0, **options)
    assert str(caught.value) == line


@pytest.mark.parametrize("high", [[1.0, 0.0, 1.0], [1.0, -2.0, 1.0], [1.0, math.inf, 1.0], [1.0, math.nan, 1.0]])
def test_bounds_are_positive_and_finite(high):
    with pytest.raises(
        ConfigurationError, match=r"The 'bounds' must be numbers in \(0, inf\)\. Got .* at coordinate 1"
    ):
        weighted_sum(np.ones(3), high)


# ---------------------------------------------------------------------- statements


def test_a_mechanism_states_its_epsilon():
    (stated,) = account([Stretching(SUM, 0.5, 0.5).statement(releases=3)])
    assert (stated.epsilon, stated.epsilon_of_one, stated.delta) == (1.5, 0.5, 0.0)
    assert "v itself is not protected" in " ".join(stated.assumes)
    assert "real numbers" not in " ".join(stated.assumes)
    assert "real numbers" in " ".join(Stretching(SUM, 0.5, noise="continuous").statement().assumes)


def test_mechanisms_need_no_torch():
    code = "import sys, covey.privacy.heterogeneous; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_randomness_is_of_the_system_unless_a_key_is_given():
    fresh = [Stretching(SUM, 1.0).release(np.ones(3)) for _ in range(4)]
    assert len(set(fresh)) == 4
    keyed = [Stretching(SUM, 1.0, random=bytes(32)).release(np.ones(3)) for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert Source(1).below(np.array([1, 1, 1])).tolist() == [0, 0, 0]
    drawn = Source(1).below(np.full(30_000, 3))
    assert all(abs(int((drawn == value).sum()) - 10_000) < 3 * 82 for value in range(3))


@given(st.lists(st.floats(0.0, 1.0), min_size=N, max_size=N), st.floats(0.01, 1e6))
@settings(max_examples=30)
def test_the_chances_of_the_sample_mechanism_hold_for_every_epsilon(v, epsilon):
    found = Sampling(weighted_sum(np.ones(N), np.ones(N)), epsilon, v, noise="continuous").chances
    for chance, level in zip(found, v, strict=True):
        with localcontext() as context:
            context.prec = 60
            exact = ((Decimal(epsilon) * Decimal(level)).exp() - 1) / (Decimal(epsilon).exp() - 1)
        assert chance == pytest.approx(float(exact), rel=1e-9, abs=1e-40)


def test_noise_that_floats_do_not_reach_is_refused():
    with pytest.raises(ConfigurationError, match=r"with continuous noise must be at least .* Got 4.94066e-324 instead"):
        Stretching(SUM, 5e-324, noise="continuous")


def test_a_function_returns_the_same_number_of_values_for_all_records():
    with pytest.raises(ModelError, match=r"must return one number or more\. Got none"):
        Stretching(Query(lambda record: record[record > 0], [1.0, 1.0], [1.0, 1.0]), 1.0)
    with pytest.raises(ModelError, match=r"must always return 2 numbers\. Got 1 instead"):
        Stretching(Query(lambda record: record[record < 0.5], [1.0, 1.0], [1.0, 1.0]), 1.0)


def test_no_release_is_free_where_its_cost_is_lost_in_the_sum():
    accountant = Accountant(1, 1.0)
    accountant.spend("bob", 1.0, 1.0)
    releases = (accountant.spend("bob", 1e-20, 1.0) for _ in range(10_000))
    with pytest.raises(BudgetExceeded, match="0 is left"):
        list(releases)


def test_numbers_of_numpy_are_numbers():
    assert Stretching(SUM, np.float32(0.5)).epsilon == 0.5
    assert Stretching(SUM, 1.0, random=1).transform([]).shape == (0,)
