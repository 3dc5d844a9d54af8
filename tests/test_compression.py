"""Compressors: the theoretical bounds of their errors, their messages, and malformed ones."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.sharing import Choco, Quantized
from covey.messages import wire
from covey.messages.codecs import encode_indices, pack_bits, unpack_bits
from covey.messages.compression import Compressor, Random, Sign, TopK
from covey.parts import kinds
from covey.parts.errors import ConfigurationError, WireError
from covey.parts.parameters import Setting, build

TABLES = [
    {"kind": "top-k", "budget": 0.3},
    {"kind": "top-k", "budget": 1.0},
    {"kind": "random", "budget": 0.3},
    {"kind": "random", "budget": 0.3, "unbiased": True},
    {"kind": "random", "budget": 1.0},
    {"kind": "ternary", "budget": 0.3},
    {"kind": "ternary", "budget": 1.0},
    {"kind": "fp16"},
    {"kind": "bf16"},
    {"kind": "int8"},
    {"kind": "int8", "block": 5},
    {"kind": "qsgd", "levels": 1},
    {"kind": "qsgd", "levels": 7, "block": 6},
    {"kind": "qsgd", "levels": 7, "block": 6, "unbiased": False},
    {"kind": "qsgd", "levels": 127},
    {"kind": "sign"},
    {"kind": "sign", "block": 4},
]
ALL = [build(Compressor, table) for table in TABLES]
BY_CHANCE = ("random", "qsgd")


def name(compressor):
    return "-".join(str(value) for value in vars(compressor).values() if value is not None) + f" {compressor.kind}"


every = pytest.mark.parametrize("compressor", ALL, ids=name)
USUAL = st.floats(-100, 100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
vectors = st.lists(USUAL, min_size=1, max_size=40).map(lambda values: torch.tensor(values, dtype=torch.float32))


def draw(seed):
    return lambda: np.random.default_rng(seed)


def through_the_wire(payload):
    return wire.decode(wire.encode(payload)).payload


def test_every_kind_of_compressor_is_tried_here():
    assert {compressor.kind for compressor in ALL} == set(kinds.built_in()["compressor"])


@every
@given(vector=vectors)
@settings(max_examples=25, deadline=None)
def test_a_receiver_gets_to_the_bit_what_the_sender_believes_it_gets(compressor, vector):
    before = vector.clone()
    payload, own = compressor.compress(vector, draw(3))
    theirs = compressor.decompress(through_the_wire(payload), len(vector), draw(3))
    assert torch.equal(own.dense(len(vector)), theirs.dense(len(vector)))
    assert torch.equal(vector, before)


@every
@given(vector=vectors)
@settings(max_examples=8, deadline=None)
def test_the_error_is_at_most_what_the_compressor_guarantees(compressor, vector):
    size, repeats = len(vector), 80 if compressor.kind in BY_CHANCE else 1
    outcomes = [compressor.compress(vector, draw(seed))[1].dense(size).double() for seed in range(repeats)]
    errors = torch.stack([(outcome - vector).square().sum() for outcome in outcomes])
    bound = compressor.guarantee(size).error * vector.double().square().sum()
    slack = 4 * errors.std(unbiased=False) / repeats**0.5 + 1e-6 * vector.double().square().sum()
    assert errors.mean() <= bound + slack


@pytest.mark.parametrize("compressor", [c for c in ALL if c.guarantee(40).unbiased], ids=name)
def test_an_unbiased_compressor_is_right_on_average(compressor):
    size, repeats = 40, 1500
    vector = torch.from_numpy(np.random.default_rng(1).normal(size=size).astype(np.float32))
    outcomes = torch.stack([compressor.compress(vector, draw(seed))[1].dense(size) for seed in range(repeats)]).double()
    off = (outcomes.mean(0) - vector).abs()
    assert (off <= 4.5 * outcomes.std(0) / repeats**0.5 + 1e-5).all()
    if compressor.guarantee(size).error > 0:
        assert outcomes.std(0).max() > 0.01


@pytest.mark.parametrize("compressor", [c for c in ALL if c.kind in BY_CHANCE and c.guarantee(40).error > 0], ids=name)
def test_those_that_are_biased_on_purpose_are_so_and_the_others_are_not(compressor):
    vector, repeats = torch.ones(40), 800
    mean = torch.stack([compressor.compress(vector, draw(seed))[1].dense(40) for seed in range(repeats)]).mean()
    assert (abs(mean - 1) < 0.03) == compressor.guarantee(40).unbiased


# An unbiased random choice multiplies what it keeps, on purpose.
BOUNDED = [c for c in ALL if not (c.kind == "random" and c.unbiased)]


@pytest.mark.parametrize("compressor", BOUNDED, ids=name)
@pytest.mark.parametrize("value", [0.0, 1e-45, -1e-30, 3.4e38, -3.4e38])
def test_vectors_at_the_ends_of_the_range_stay_finite_on_their_way(compressor, value):
    vector = torch.full((9,), value)
    payload, own = compressor.compress(vector, draw(0))
    assert torch.isfinite(own.dense(9)).all()
    assert torch.equal(compressor.decompress(through_the_wire(payload), 9, draw(0)).dense(9), own.dense(9))


BITS = {"fp16": 16, "bf16": 16, "int8": 8 + 32 / 256, "sign": 1}


@pytest.mark.parametrize("kind", BITS)
def test_values_take_as_many_bits_of_the_wire_as_they_need(kind):
    compressor = build(Compressor, kind)
    payload, _ = compressor.compress(torch.randn(10_000, generator=torch.Generator().manual_seed(1)), draw(0))
    assert len(wire.encode(payload)) == pytest.approx(10_000 * BITS[kind] / 8, abs=150)


@pytest.mark.parametrize(("levels", "bits"), [(1, 2), (3, 3), (4, 4), (7, 4), (127, 8)])
def test_qsgd_packs_its_codes(levels, bits):
    compressor = build(Compressor, {"kind": "qsgd", "levels": levels, "block": 10_000})
    payload, _ = compressor.compress(torch.ones(10_000), draw(0))
    assert len(payload["codes"]) == 10_000 * bits // 8


@given(width=st.integers(1, 8), data=st.data())
@settings(max_examples=60, deadline=None)
def test_packed_bits_come_back_and_use_no_bit_too_many(width, data):
    numbers = torch.tensor(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=30)), dtype=torch.uint8)
    packed = pack_bits(numbers, width)
    assert len(packed) == -(-len(numbers) * width // 8)
    assert torch.equal(unpack_bits(packed, width, len(numbers)), numbers)


# ---------------------------------------------------------------------- what is refused


def changed(tensor, index, value):
    copy = tensor.clone()
    copy[index] = value
    return copy


def hostile(payload, size):
    """Payloads that no compressor of this kind makes of so many numbers, each with what is wrong."""
    yield {}, "it holds nothing"
    yield {**payload, "more": torch.zeros(1)}, "it holds .*more"
    for key, entry in payload.items():
        yield {name: value for name, value in payload.items() if name != key}, "it holds"
        yield {**payload, key: 3}, f"its {key} are not a vector"
        yield {**payload, key: entry[None]}, f"its {key} are not a vector"
        for other in (entry[:-1], torch.cat([entry, entry[:1]]), entry[:0], entry.to(torch.int64), entry.double()):
            yield {**payload, key: other}, "not|the indices"
        if entry.is_floating_point():
            yield {**payload, key: changed(entry, -1, float("nan"))}, f"its {key} are not finite"
            yield {**payload, key: changed(entry, 0, float("inf"))}, f"its {key} are not finite"
    if "scales" in payload:
        yield {**payload, "scales": changed(payload["scales"], -1, -1.0)}, "negative"
    if "signs" in payload:
        yield {**payload, "signs": changed(payload["signs"], -1, 255)}, "bits beyond"
    if "indices" in payload:
        yield {**payload, "indices": encode_indices(torch.arange(2), size)}, "indices"
        yield {**payload, "indices": torch.full_like(payload["indices"], 255)}, "the indices"


@every
def test_a_payload_that_nobody_made_is_refused_with_the_reason(compressor):
    size = 43
    payload, _ = compressor.compress(torch.randn(size, generator=torch.Generator().manual_seed(2)), draw(0))
    for wrong, reason in hostile(payload, size):
        with pytest.raises(WireError, match=reason):
            compressor.decompress(wrong, size, draw(0))
    with pytest.raises(WireError):
        compressor.decompress(payload, size + 9, draw(0))


@pytest.mark.parametrize(
    ("table", "codes", "reason"),
    [
        ({"kind": "int8"}, torch.full((9,), -128, dtype=torch.int8), "below -127"),
        ({"kind": "qsgd", "levels": 5}, pack_bits(torch.full((9,), 11, dtype=torch.uint8), 4), "above 10"),
        ({"kind": "qsgd", "levels": 5}, torch.full((5,), 1, dtype=torch.uint8), "bits beyond"),
    ],
)
def test_codes_that_mean_nothing_are_refused(table, codes, reason):
    with pytest.raises(WireError, match=reason):
        build(Compressor, table).decompress({"scales": torch.ones(1), "codes": codes}, 9, draw(0))


@every
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_bytes_that_changed_on_their_way_are_refused_or_are_another_vector(compressor, data):
    size = 20
    payload, _ = compressor.compress(torch.ones(size), draw(0))
    key = data.draw(st.sampled_from(sorted(payload)))
    raw = bytearray(payload[key].contiguous().view(torch.uint8).numpy().tobytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    payload[key] = torch.frombuffer(raw, dtype=torch.uint8).view(payload[key].dtype)
    try:
        vector = compressor.decompress(payload, size, draw(0)).dense(size)
    except WireError:
        return
    assert vector.shape == (size,)
    assert vector.dtype == torch.float32


# ---------------------------------------------------------------------- where a contraction is needed


@pytest.mark.parametrize("table", [t for t, c in zip(TABLES, ALL, strict=True) if c.guarantee(100).error >= 1])
def test_who_adds_up_what_was_lost_needs_a_contraction(table):
    needs = rf"must be a contraction\. Got '{table['kind']}' instead, whose error can be [\d.]+ times"
    with pytest.raises(ConfigurationError, match="The 'compressor' of the sharing choco " + needs):
        build(Choco, {"kind": "choco", "gamma": 0.5, "compressor": table}).ready(Setting(4, parameters=100))
    if table["kind"] == "random":
        return
    sharing = {"kind": "quantized", "compressor": table}
    build(Quantized, sharing).ready(Setting(4, parameters=100))
    with pytest.raises(ConfigurationError, match="The 'compressor' of the sharing quantized " + needs):
        build(Quantized, {**sharing, "feedback": True}).ready(Setting(4, parameters=100))


def test_the_guarantees_are_those_of_the_literature():
    assert TopK(budget=0.25).guarantee(100) == (False, 0.75)
    assert Random(budget=0.25, unbiased=True).guarantee(100) == (True, 3.0)
    assert Sign().guarantee(100) == (False, 0.99)
    assert build(Compressor, {"kind": "qsgd", "levels": 4, "block": 64}).guarantee(1000) == (True, 2.0)
    assert build(Compressor, {"kind": "qsgd", "levels": 32, "block": 64}).guarantee(1000) == (True, 0.0625)
