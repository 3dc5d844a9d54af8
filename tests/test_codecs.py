"""Indices and values as bytes, and back."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from covey.messages.codecs import decode_indices, decode_values, elias, encode_indices, encode_values, rice
from covey.messages.codecs.indices import Code
from covey.parts.errors import ProgramError, WireError
from covey.parts.parameters import Setting

LARGE = 2**31 - 1


@st.composite
def sets(draw, most=2000):
    """(indices, size): random, in clusters, or as Hypothesis likes them."""
    size = draw(st.integers(1, most))
    how = draw(st.sampled_from(["random", "clusters", "any"]))
    if how == "any":
        return torch.tensor(sorted(draw(st.sets(st.integers(0, size - 1), max_size=50))), dtype=torch.int64), size
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    chance = np.full(size, draw(st.floats(0, 1)))
    if how == "clusters":
        chance[random.random(size // 50 + 1).repeat(50)[:size] < 0.8] = 0.0
    return torch.from_numpy(np.flatnonzero(random.random(size) < chance)), size


EDGES = [
    ([], 1),
    ([], 700),
    ([0], 1),
    ([0], 700),
    ([699], 700),
    ([0, 699], 700),
    (range(700), 700),
    (range(8), 9),
    ([LARGE - 1], LARGE),
    ([0, 1, LARGE - 1], LARGE),
]


def written(indices, size):
    """A set in each of the codes."""
    codes = [code for code in Code if size < LARGE or code is not Code.BITMAP]
    return {code: encode_indices(indices, size, code) for code in codes}


def check(indices, size):
    """Every code says the indices, and the shortest is chosen."""
    each = written(indices, size)
    chosen = encode_indices(indices, size)
    assert chosen.dtype == torch.uint8
    assert len(chosen) == min(map(len, each.values()))
    assert torch.equal(chosen, each[Code(int(chosen[0]))])
    assert len(chosen) <= 1 + min(-(-size // 8), 4 * len(indices))
    decoded = decode_indices(chosen, size, len(indices))
    assert decoded.dtype == torch.int64
    assert torch.equal(decoded, indices)
    for code, encoded in each.items():
        assert int(encoded[0]) == code
        if len(encoded) > 1 + min(-(-size // 8), 4 * len(indices)):
            with pytest.raises(WireError, match=r"bytes, and need at most \d+"):
                decode_indices(encoded, size, len(indices))
        else:
            assert torch.equal(decode_indices(encoded, size, len(indices)), indices)


@given(sets())
def test_indices_come_back_from_every_code_and_the_shortest_is_chosen(drawn):
    check(*drawn)


@pytest.mark.parametrize(("indices", "size"), EDGES)
def test_indices_at_the_edges_come_back(indices, size):
    check(torch.tensor(list(indices), dtype=torch.int64), size)


@pytest.mark.parametrize(
    ("indices", "size", "code"),
    [
        ([2**30], LARGE, Code.RAW),
        (range(0, 700, 2), 700, Code.BITMAP),
        (np.random.default_rng(0).choice(7000, 700, replace=False), 7000, Code.RICE),
        (range(6000, 6100), 7000, Code.GAMMA),
    ],
)
def test_every_code_is_the_shortest_of_some_set(indices, size, code):
    assert int(encode_indices(torch.tensor(sorted(indices)), size)[0]) == code


@pytest.mark.parametrize("code", [Code.RICE, Code.GAMMA])
@given(drawn=sets())
def test_codes_of_gaps_come_back_whatever_their_length(code, drawn):
    indices, size = drawn
    stream = encode_indices(indices, size, code).numpy()[1:]
    decoded = rice.decode(stream, size, len(indices)) if code is Code.RICE else elias.decode(stream, len(indices))
    assert decoded.tolist() == indices.tolist()


def test_the_same_indices_are_the_same_bytes():
    # The bytes on the wire must not change unnoticed: hosts of one run may be of two versions.
    indices = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19, 40, 90])
    expected = {
        Code.RAW: "00" + "".join(f"{index:02x}000000" for index in indices.tolist()),
        Code.BITMAP: "01" + "35145000008000000000002000",
        Code.RICE: "02" + "02" + "8a0fd0" + "ff040020",
        Code.GAMMA: "03" + "6a528410" + "810c40",
    }
    for code, encoded in written(indices, 100).items():
        assert bytes(encoded.tolist()).hex() == expected[code], code


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_random_indices_take_little_more_than_their_entropy(share):
    size = 89_834
    indices = np.sort(np.random.default_rng(0).choice(size, int(share * size), replace=False))
    entropy = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * size / 8
    assert entropy <= len(encode_indices(torch.from_numpy(indices), size)) < 1.03 * entropy


@pytest.mark.parametrize("indices", [[1, 0], [3, 3], [-1], [10]])
def test_what_is_no_set_of_indices_is_not_sent(indices):
    with pytest.raises(ProgramError, match="must increase from 0 on and stay below 10"):
        encode_indices(torch.tensor(indices), 10)


@pytest.mark.parametrize(
    ("content", "count", "why"),
    [
        ([], 2, "are not bytes"),
        ([4, 0], 2, "code 4 of the indices is unknown"),
        ([255], 2, "code 255 of the indices is unknown"),
        ([0], -1, "-1 values for 20 indices"),
        ([0], 21, "21 values for 20 indices"),
        ([1, 0, 0, 0, 0], 9, "take 5 bytes, and need at most 4"),
        ([0, 1, 0, 0], 9, "9 indices are in 3 bytes"),
        ([1, 128, 0], 1, "20 bits of the indices are in 2 bytes"),
        ([1, 128, 0, 0], 2, "are 1 indices and 2 values"),
        ([1, 128, 128, 0], 1, "are 2 indices and 1 values"),
        ([1, 128, 0, 8], 2, "bits follow the last"),
        ([2], 2, "no valid number of low bits"),
        ([2, 32, 0], 2, "no valid number of low bits"),
        ([2, 4, 0], 3, "12 bits of the indices are in 1 bytes"),
        ([2, 1, 0b11100000, 0b11100000], 2, "bits follow the last"),
        ([2, 1, 0b11000000, 0b10000000], 2, "end after 1 of 2"),
        ([2, 1, 0b11000000, 0b11100000], 2, "bits follow the last"),
        ([2, 0, 0b11000000, 0], 2, "1 bytes follow the indices"),
        ([2, 4, 0b11111111, 0b01100000], 2, "an index is not below 20"),
        ([3], 1, "end after 0 of 1"),
        ([3, 0b11100000], 2, "bits follow the last"),
        ([3, 0b11000000, 0], 2, "0 bits of the indices are in 1 bytes"),
        ([3, 0b01000000, 0b01000000], 1, "bits follow the last"),
        ([3, 0b01010000, 0b11100000], 2, "bits follow the last"),
        ([3, 0b00001000, 0b11110000], 1, "an index is not below 20"),
    ],
)
def test_bytes_that_are_no_indices_are_refused_with_the_reason(content, count, why):
    with pytest.raises(WireError, match=why):
        decode_indices(torch.tensor(content, dtype=torch.uint8), 20, count)


@pytest.mark.parametrize(
    ("indices", "why"),
    [([5, 3], "increase"), ([3, 3], "increase"), ([-1, 3], "from 0 on"), ([3, 100], "not below 100")],
)
def test_raw_indices_are_looked_at(indices, why):
    content = bytes([0]) + np.array(indices, dtype="<i4").tobytes()
    with pytest.raises(WireError, match=why):
        decode_indices(torch.frombuffer(bytearray(content), dtype=torch.uint8), 100, 2)


@pytest.mark.parametrize("encoded", [torch.zeros(3), torch.zeros((1, 3), dtype=torch.uint8)])
def test_other_tensors_are_no_indices_and_no_values(encoded):
    with pytest.raises(WireError, match="are not bytes"):
        decode_indices(encoded, 20, 2)


def in_order(indices, size, count):
    return len(indices) == count and all(a < b for a, b in zip([-1, *indices], [*indices, size], strict=True))


@given(st.binary(max_size=40), st.integers(0, 3), st.integers(0, 200), st.data())
def test_any_bytes_are_a_set_of_indices_or_refused(content, code, size, data):
    count = data.draw(st.integers(0, size))
    encoded = torch.tensor([code, *content], dtype=torch.uint8)
    try:
        indices = decode_indices(encoded, size, count)
    except WireError:
        return
    assert in_order(indices.tolist(), size, count)


@given(sets(300), st.data())
def test_damaged_indices_are_a_set_of_indices_or_refused(drawn, data):
    indices, size = drawn
    encoded = written(indices, size)[data.draw(st.sampled_from(Code))].clone()
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    encoded = encoded[: data.draw(st.integers(0, len(encoded)))]
    count = data.draw(st.sampled_from([len(indices), size, 0]))
    try:
        decoded = decode_indices(encoded, size, count)
    except WireError:
        return
    assert in_order(decoded.tolist(), size, count)


@pytest.mark.parametrize("code", Code)
@pytest.mark.parametrize("k", [0, 1, 31])
@pytest.mark.parametrize("fill", [0, 255])
def test_hostile_bytes_take_no_more_memory_than_a_set_of_indices(code, k, fill):
    size = 100_000
    encoded = torch.full((size // 8,), fill, dtype=torch.uint8)
    encoded[:2] = torch.tensor([code, k])
    for count in (size // 32, size):
        tracemalloc.start()
        try:
            decode_indices(encoded, size, count)
        except WireError:
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50 * size


def setting(parameters):
    return Setting(10, parameters=parameters)


def test_values_come_back_to_the_bit():
    pytest.importorskip("pcodec")
    for count in (0, 1, 7, 3000):
        values = torch.from_numpy(np.random.default_rng(count).normal(size=count).astype(np.float32))
        encoded = encode_values(values)
        assert encoded.dtype == torch.uint8
        assert torch.equal(encoded, encode_values(values))
        assert torch.equal(decode_values(encoded, count), values)
    assert len(encoded) < 0.9 * values.nbytes
    special = torch.tensor([0.0, -0.0, 1e-45, -3.4e38])
    assert torch.equal(decode_values(encode_values(special), 4).view(torch.int32), special.view(torch.int32))


def test_values_that_are_none_or_too_many_are_refused():
    pytest.importorskip("pcodec")
    encoded = encode_values(torch.arange(100.0))
    wrong = {
        "100 values for 99 indices": (encoded, 99),
        "are not bytes": (encoded[:3], 100),
        "pcodec cannot decode": (encoded[:-1], 100),
        "did not decode 101 values": (torch.cat([torch.tensor([101], dtype=torch.uint8), encoded[1:]]), 200),
        "did not decode 99 values": (torch.cat([torch.tensor([99], dtype=torch.uint8), encoded[1:]]), 200),
        "not finite": (encode_values(torch.tensor([1.0, float("nan")])), 100),
    }
    for why, (content, most) in wrong.items():
        with pytest.raises(WireError, match=why):
            decode_values(content, most)


@given(data=st.data())
def test_damaged_values_are_values_or_refused(data):
    pytest.importorskip("pcodec")
    values = torch.from_numpy(np.random.default_rng(data.draw(st.integers(0, 9))).normal(size=300).astype(np.float32))
    encoded = encode_values(values)
    for _ in range(data.draw(st.integers(1, 5))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_values(encoded[: data.draw(st.integers(0, len(encoded)))], 300)
    except WireError:
        return
    assert len(decoded) <= 300
    assert torch.isfinite(decoded).all()
