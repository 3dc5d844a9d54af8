"""Keys, masks, seals and fixed point; and the agreements of a receiver's neighbours on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey.decentralized.sharing.agreement import Agreement, IndexSet, Member
from covey.messages.crypto import FixedPoint, KeyPair, add_mask, derive, is_sealed, seal

RINGS = [FixedPoint(64, 32), FixedPoint(32, 24)]
PAIRS = [KeyPair(bytes([number]) * 32) for number in range(1, 8)]
SETS = st.lists(st.sets(st.integers(0, 11)), min_size=1, max_size=6)


def agreement(sets, *, masks=1, receiver=9, t=0, size=12):
    """Members 0, 1 ... with some indices each."""
    chosen = [IndexSet(np.array(sorted(indices), dtype=np.int64), size) for indices in sets]
    members = {id: Member(PAIRS[id].public, indices) for id, indices in enumerate(chosen)}
    return Agreement(receiver, t, members, masks)


# ---------------------------------------------------------------------- sums


@pytest.mark.parametrize("numbers", RINGS)
@given(sets=SETS, masks=st.integers(1, 3), seed=st.integers(0, 100))
def test_masks_cancel_to_the_bit_whoever_sends_what(numbers, sets, masks, seed):
    draw, agreed = np.random.default_rng(seed), agreement(sets, masks=masks)
    limits = np.iinfo(numbers.dtype)
    total, clear = np.zeros((2, 12), dtype=numbers.dtype)
    for id, member in agreed.members.items():
        # Any integers: a sum that leaves the ring comes back on the other side, masked or not.
        encoded = draw.integers(limits.min, limits.max, len(member.chosen.indices_K), dtype=numbers.dtype)
        total[agreed.indices(id)] += agreed.masked(id, encoded, PAIRS[id].secret)
        clear[agreed.indices(id)] += agreed.masked(id, encoded, None)
        assert np.array_equal(agreed.masked(id, encoded, None), encoded[agreed.kept_P[member.chosen.indices_K]])
    assert np.array_equal(total, clear)


@given(sets=SETS, masks=st.integers(1, 3))
def test_of_those_who_hold_a_index_all_send_it_or_none_does(sets, masks):
    agreed, stricter = agreement(sets, masks=masks), agreement(sets, masks=masks + 1)
    for index in range(12):
        holders = {id for id, indices in enumerate(sets) if index in indices}
        senders = {id for id in range(len(sets)) if index in agreed.indices(id)}
        assert senders == (holders if len(holders) > masks else set())
        if senders != holders:
            assert not any(index in stricter.indices(id) for id in range(len(sets)))


@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1), weight=st.floats(0.01, 1))
@pytest.mark.parametrize("numbers", RINGS)
def test_a_value_is_rounded_by_half_a_step(numbers, values, weight):
    array = np.array(values, dtype=np.float32)
    back = numbers.decode(numbers.encode(array, weight))
    assert np.abs(back - array.astype(np.float64) * weight).max() <= 0.5 * 2.0**-numbers.fraction + 1e-12


@pytest.mark.parametrize("numbers", RINGS)
@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5, 1000])
def test_what_is_within_the_limit_adds_up_without_leaving_the_ring(numbers, terms):
    largest = np.float32(numbers.limit(terms))
    while float(largest) > numbers.limit(terms):
        largest = np.nextafter(largest, np.float32(0))
    total = sum(numbers.encode(np.array([largest]), 1 / terms).astype(object) for _ in range(terms))
    assert 0.99 * 2 ** (numbers.bits - 1) < total[0] < 2 ** (numbers.bits - 1)


# ---------------------------------------------------------------------- what a message shows


def uneven(values):
    """The distance of the bytes of integers from uniform ones, in standard deviations of chi-square."""
    counts = np.bincount(np.ascontiguousarray(values).view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return (((counts - expected) ** 2 / expected).sum() - 255) / np.sqrt(2 * 255)


SAME = [range(200)] * 3


def message(t=0, receiver=9, sender=0, sets=SAME, dtype=np.int64):
    agreed = agreement(sets, t=t, receiver=receiver, size=200)
    return agreed.masked(sender, np.zeros(len(sets[sender]), dtype=dtype), PAIRS[sender].secret)


def test_uniform_bytes_are_distinguished_from_others():
    assert abs(uneven(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 10_000))) < 4
    assert uneven(np.random.default_rng(0).integers(-(2**61), 2**61, 10_000)) > 10


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("sets", [SAME, [range(200), range(150), range(50, 200)]], ids=["all", "some"])
def test_one_message_is_noise_whatever_is_in_it(dtype, sets):
    shown = np.concatenate([message(t, sets=sets, dtype=dtype) for t in range(100)])
    assert shown.dtype == dtype
    assert abs(uneven(shown)) < 4


def test_a_sum_without_one_of_its_messages_is_noise():
    rest = [message(t, sender=0) + message(t, sender=1) for t in range(100)]
    assert abs(uneven(np.concatenate(rest))) < 4
    assert not (rest[0] + message(0, sender=2)).any()


@pytest.mark.parametrize("other", [{"t": 1}, {"receiver": 8}, {"sets": [range(200)] * 4}])
def test_the_same_values_give_unrelated_messages_in_another_round_to_another_receiver_and_with_others(other):
    differences = []
    for t in range(0, 100, 2):
        changed = {"t": t, **other}
        changed["t"] = t + other.get("t", 0)
        differences.append(message(t) - message(**changed))
    assert abs(uneven(np.concatenate(differences))) < 4


# ---------------------------------------------------------------------- keys, streams and seals


def test_two_agree_on_a_secret_that_no_third_has():
    one, other, third = PAIRS[:3]
    assert one.secret(other.public) == other.secret(one.public)
    assert len({one.secret(other.public), one.secret(third.public), other.secret(third.public)}) == 3
    assert KeyPair().public != KeyPair().public


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), bytes(32), b"\x01" + bytes(31)])
def test_what_is_no_public_key_gives_no_secret(key):
    assert PAIRS[0].secret(key) is None


def test_every_purpose_has_a_key_of_its_own():
    secret = bytes(32)
    keys = [
        derive(secret, "mask", 1, 2, context=b"d"),
        derive(secret, "mask", 2, 1, context=b"d"),
        derive(secret, "seal", 1, 2, context=b"d"),
        derive(secret, "mask", 1, 2, context=b"e"),
        derive(bytes([1]) * 32, "mask", 1, 2, context=b"d"),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("count", [0, 1, 8191, 8192, 8193, 40_000])
def test_a_stream_is_the_same_in_one_piece_and_scattered(dtype, count):
    key = b"k" * 32
    whole = np.zeros(count, dtype=dtype)
    add_mask(whole, key)
    where = np.zeros(2 * count + 1, dtype=bool)
    where[np.sort(np.random.default_rng(0).choice(len(where), count, replace=False))] = True
    scattered = np.ones(len(where), dtype=dtype)
    add_mask(scattered, key, where_K=where)
    assert np.array_equal(scattered[where] - np.ones(1, dtype=dtype), whole)
    assert (scattered[~where] == 1).all()
    add_mask(scattered, key, where_K=where, negative=True)
    assert (scattered == 1).all()
    if count > 1:
        assert len(np.unique(whole)) > 0.99 * count


def test_a_seal_is_of_its_key_and_its_values():
    values, key = np.arange(10), b"k" * 32
    tag = seal(key, values)
    assert is_sealed(key, values, tag)
    assert not is_sealed(b"l" * 32, values, tag)
    assert not is_sealed(key, values + 1, tag)
    assert not is_sealed(key, values[:-1], tag)
