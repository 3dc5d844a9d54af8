"""The weights of stale updates: their formulas, their order and their limits."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.federated.staleness import Constant, Exponential, Hinge, Inverse, Polynomial
from covey.parts.errors import ConfigurationError

rates = st.floats(0, 20)
rules = st.one_of(
    st.builds(Constant),
    st.builds(Inverse),
    st.builds(Polynomial, q=rates),
    st.builds(Hinge, a=rates, b=rates),
    st.builds(Exponential, beta=rates),
)


@given(rules, st.integers(0, 10_000))
def test_a_weight_is_one_for_a_fresh_update_and_never_grows_with_staleness(rule, staleness):
    assert rule.weight(0) == 1.0
    assert 0.0 <= rule.weight(staleness + 1) <= rule.weight(staleness) <= 1.0


@given(st.integers(0, 1000))
def test_the_weights_are_those_of_the_papers(s):
    assert Polynomial().weight(s) == pytest.approx(1 / math.sqrt(1 + s), rel=1e-12)
    assert Inverse().weight(s) == pytest.approx(Polynomial(q=1.0).weight(s), rel=1e-12)
    assert Hinge().weight(s) == pytest.approx(1 if s <= 4 else 1 / (1 + 10 * (s - 4)), rel=1e-12)
    assert Exponential(beta=0.3).weight(s) == pytest.approx(math.e ** (-0.3 * s), rel=1e-12)
    assert Polynomial(q=0.0).weight(s) == Exponential(beta=0.0).weight(s) == Hinge(a=0.0).weight(s) == 1.0


@given(st.floats(2, 100))
def test_an_exponential_crosses_the_inverse_at_half_of_a_threshold_with_the_beta_of_adasgd(half):
    rule = Exponential(beta=math.log(half + 1) / half)
    assert math.exp(-rule.beta * half) == pytest.approx(1 / (half + 1), rel=1e-12)
    assert rule.weight(math.floor(half) - 1) >= Inverse().weight(math.floor(half) - 1) - 1e-12
    assert rule.weight(math.ceil(half) + 1) <= Inverse().weight(math.ceil(half) + 1) + 1e-12


@pytest.mark.parametrize(("rule", "key"), [(Polynomial, "q"), (Hinge, "a"), (Hinge, "b"), (Exponential, "beta")])
def test_a_negative_parameter_is_refused_by_its_name(rule, key):
    with pytest.raises(ConfigurationError, match=f"'{key}' of .* must be a number in \\[0, inf\\). Got -1.0 instead"):
        rule(**{key: -1.0})
