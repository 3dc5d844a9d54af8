"""Randomness is a function of seed, purpose and key."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from covey.parts import rng

KEYS = st.integers(0, (1 << 64) - 1)


@given(st.integers(0, 1 << 40), st.text(max_size=8), st.lists(st.integers(0, 1 << 40), max_size=3))
def test_a_generator_is_numpys_philox_under_its_key(seed, purpose, key):
    numpys = np.random.Generator(np.random.Philox(key=rng.mix(rng.purpose_key(seed, purpose), *key)))
    ours = rng.generator(seed, purpose, *key)
    assert ours.random(3).tolist() == numpys.random(3).tolist()
    assert ours.permutation(9).tolist() == numpys.permutation(9).tolist()


@given(KEYS, st.lists(st.integers(0, 1 << 62), min_size=1, max_size=5))
def test_numbers_hash_to_the_same_alone_and_in_an_array(key, counters):
    alone = [rng.mix(key, counter) for counter in counters]
    assert rng.mix_array(np.full(len(counters), key, np.uint64), np.array(counters)).tolist() == alone


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_other_keys_and_purposes_draw_other_numbers(one, other):
    drawn = [rng.generator(1, "a", one), rng.generator(1, "a", other), rng.generator(1, "b", one)]
    first, second, third = (generator.integers(0, 1 << 63) for generator in drawn)
    assert (first == second) == (one == other)
    assert first != third
