"""The wire encoding: round trips, exact sizes, and malformed frames."""

import contextlib
import struct
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from covey.messages import wire
from covey.messages.files import read_payload, replacing, write_payload
from covey.parts.errors import RunError, WireError

DTYPES = [getattr(torch, name) for name in wire._NAMES]


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = 1
    for side in shape:
        count *= side
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if dtype == torch.bool:
        raw = bytes(byte % 2 for byte in raw)
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    return tensor.transpose(0, 1) if draw(st.booleans()) and tensor.dim() >= 2 else tensor


FIELDS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.lists(st.integers(-1000, 1000), max_size=5)
    | st.lists(st.floats(), max_size=5)
    | st.lists(st.text(max_size=4), max_size=5)
)
PAYLOADS = st.dictionaries(st.text(max_size=6), FIELDS | tensors(), max_size=5)
LIMITS = wire.Limits(frame=1 << 16, header=1 << 12, tensors=8, dims=4)


def same(left, right):
    if isinstance(left, torch.Tensor):
        return (
            left.dtype == right.dtype
            and left.shape == right.shape
            and torch.equal(left.contiguous().reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
        )
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return left == right and type(left) is type(right)


@given(PAYLOADS, st.text(max_size=5), st.none() | st.integers(0, 2**40))
def test_a_frame_decodes_to_what_was_encoded_and_has_the_stated_size(payload, tag, round):
    frame = wire.encode(payload, tag=tag, sender=7, receiver=9, round=round, number=3)
    assert len(frame) == wire.size(payload, tag) == wire.peek(frame)
    decoded = wire.decode(frame)
    assert (decoded.tag, decoded.sender, decoded.receiver, decoded.round, decoded.number) == (tag, 7, 9, round, 3)
    assert list(decoded.payload) == list(payload)
    assert all(same(payload[name], decoded.payload[name]) for name in payload)


@given(st.binary(max_size=200))
def test_noise_is_refused(data):
    with pytest.raises(WireError):
        wire.decode(data, LIMITS)


@given(PAYLOADS, st.data())
@settings(max_examples=300)
def test_a_changed_frame_is_refused_or_still_one_message(payload, data):
    frame = bytearray(wire.encode(payload))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for changed in (bytes(frame), bytes(frame[:cut]), bytes(frame) + b"x"):
        with contextlib.suppress(WireError):
            assert wire.decode(changed, LIMITS).size == len(changed)


def forged(
    header: object, body: bytes = b"", magic: bytes = b"CVYF", version: int = 2, length: int | None = None
) -> bytes:
    head = msgspec.msgpack.encode(header)
    prefix = struct.pack(
        "<4sHHIIQIIqQ", magic, version, 0, 0, len(head), len(body) if length is None else length, 0, 0, -1, 0
    )
    return prefix + head + body


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "truncated"),
        (forged(["", {}], magic=b"EVIL"), "bad-magic"),
        (forged(["", {}], version=9), "bad-version"),
        (forged(["", {}], length=1 << 60), "oversized"),
        (forged(["", {}])[:-1], "truncated"),
        (forged(["", {}]) + b"1", "trailing-bytes"),
        (forged({"tag": 3}), "bad-header"),
        (forged(["", {"x": {"q9": [1]}}], b"12345678"), "bad-dtype"),
        (forged(["", {"x": {"f4": [-1]}}], b"12345678"), "bad-shape"),
        (forged(["", {"x": {"f4": [1] * 9}}], b"12345678"), "bad-shape"),
        (forged(["", {"x": {"f4": [1 << 62, 1 << 62]}}], b"12345678"), "oversized"),
        (forged(["", {"x": {"f4": [0, 1 << 62]}}]), "oversized"),
        (forged(["", {"x": {"f4": [0, 1 << 63]}}]), "oversized"),
        (forged(["", {"x": {"f4": [1 << 20]}}], b"12345678"), "length-mismatch"),
        (forged(["", {"x": {"a": 1}}]), "bad-header"),
        (forged(["", {"x": {}}]), "bad-header"),
        (forged(["", {"x": {"f4": [True]}}]), "bad-header"),
        (forged(["", {"x": {1: [1]}}], b"12345678"), "bad-dtype"),
        (forged(["", {"x": {"f4": [0], "f8": [0]}}]), "bad-header"),
        (forged(["", {}, []]), "bad-header"),
        (forged(["", {"x": [[1]]}]), "bad-header"),
        (forged(["", {"x": datetime(2000, 1, 1, tzinfo=UTC)}]), "bad-header"),
        (forged(["", {"x": msgspec.msgpack.Ext(4, b"?")}]), "bad-header"),
        (forged(["", {"x": {"f4": [1]}}], b"1234567890123456"), "length-mismatch"),
        (forged(["", {"x": {"b1": [1]}}], b"\x02" + bytes(7)), "bad-header"),
        (forged(["", {str(i): {"f4": [0]} for i in range(5000)}]), "oversized"),
    ],
)
def test_each_kind_of_bad_frame_has_its_reason(frame, reason):
    with pytest.raises(WireError) as caught:
        wire.decode(frame)
    assert caught.value.reason == reason


UNSENDABLE = {
    "the entry 'x' is a set": {1},
    "the entry 'x' is a tuple": (1,),
    "the entry 'x' is a float64": np.float64(1.0),
    "the list 'x' holds a set": [1, {1}],
    "the list 'x' holds a NoneType": [None],
    "can't serialize ints": 1 << 70,
    "surrogates not allowed": "\ud800",
    "send its parts as dense tensors": torch.eye(2).to_sparse(),
    "the tensor 'x' is on the meta device": torch.ones(2, device="meta"),
    "the tensor 'x' has no shape": torch.nn.UninitializedParameter(),
}


@pytest.mark.parametrize("text", UNSENDABLE)
def test_what_has_no_encoding_is_refused_by_size_and_by_encode(text):
    for refuse in (wire.size, wire.encode):
        with pytest.raises(WireError, match=text):
            refuse({"x": UNSENDABLE[text]})


def test_a_tensor_without_memory_is_refused():
    with FakeTensorMode():
        fake = torch.ones(2)
    with pytest.raises(WireError, match="the tensor 'x' cannot be read"):
        wire.encode({"x": fake})


def test_names_and_numbers_that_do_not_fit_are_refused():
    with pytest.raises(WireError, match="the name 1 of an entry is a int"):
        wire.encode({1: 2})
    with pytest.raises(WireError, match="sender -1"):
        wire.encode({}, sender=-1)
    with pytest.raises(WireError, match=r"dtype torch\.complex64"):
        wire.size({"x": torch.zeros(1, dtype=torch.complex64)})


def test_a_decoded_tensor_owns_its_memory():
    frame = bytearray(wire.encode({"x": torch.ones(3)}))
    decoded = wire.decode(frame).payload["x"]
    frame[-16:] = bytes(16)
    assert decoded.tolist() == [1.0, 1.0, 1.0]


def test_files_are_whole_or_refused(tmp_path):
    path = tmp_path / "a.covey"
    payload = {"x": torch.arange(5), "n": 3}
    write_payload(path, payload)
    assert same(read_payload(path)["x"], payload["x"])
    assert [file.name for file in tmp_path.iterdir()] == ["a.covey"]
    damaged = bytearray(path.read_bytes())
    damaged[70] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RunError, match=r"a\.covey is damaged: its checksum does not fit"):
        read_payload(path)
    with pytest.raises(RunError, match="cannot be read"):
        read_payload(tmp_path / "b.covey")


def test_a_file_holds_tensors_of_more_dimensions_than_a_message_may(tmp_path):
    write_payload(tmp_path / "a.covey", {"x": torch.ones([1] * 9)})
    assert read_payload(tmp_path / "a.covey")["x"].shape == (1,) * 9


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")

    def fail():
        with replacing(path) as file:
            file.write(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@given(st.dictionaries(st.text(max_size=3), st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3), max_size=3))
def test_lengths_from_the_cache_are_those_of_the_frame(payload):
    tensor = {"x": torch.zeros(3)}
    for _ in range(2):
        assert wire.lengths({**payload, **tensor}, "t").frame == len(wire.encode({**payload, **tensor}, tag="t"))
