"""The encoding of messages. Nothing is ever unpickled.

A frame is

    prefix    48 bytes, little-endian: magic, version, header length, body length, sender, receiver, round, number
    header    msgpack: the tag, and the entries in order. A plain value is itself. An array is {dtype: shape}, and a
              dtype of numpy begins with "n". A long text, string of bytes or list of numbers is {code: length}
    body      the bytes of arrays and long values in order, little-endian, C-contiguous, each padded with zeros to a
              multiple of 8

The numbers that vary among messages of one kind are in the fixed prefix. So the length of a frame depends only on the
tag, the plain values and the shapes, and `size` computes it without reading a tensor.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import msgspec
import numpy as np

from covey.messages.payloads import Payload, is_tensor
from covey.parts.errors import WireError, quoted

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = struct.Struct("<4sHHIIQIIqQ")
PREFIX_BYTES = _PREFIX.size
"""The length of the prefix, from which `peek` computes the length of the frame."""
_MAGIC = b"CVYF"
_VERSION = 2
_ALIGN = 8
_NO_ROUND = -1

_SIZES = {"f8": 8, "f4": 4, "f2": 2, "b2": 2, "i8": 8, "i4": 4, "i2": 2, "i1": 1, "u1": 1, "b1": 1}
"""The bytes of one number, by code of its dtype."""
_NAMES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "b2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "b1",
}
_TORCH = {code: name for name, code in _NAMES.items()}
_NUMPY = {f"n{code}": np.dtype(name) for name, code in _NAMES.items() if code != "b2"}


INDICES = "indices"
"""The entry of a payload with the indices of the values. Its bytes are counted separately."""


class Lengths(NamedTuple):
    """The bytes of a frame, and of its tensors. The rest are prefix, header and padding."""

    frame: int
    values: int
    """The bytes of all tensors except INDICES."""
    indices: int


class _Header(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    tag: str
    entries: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a decoder. They are checked before memory is allocated."""

    frame: int = 1 << 30
    """Bytes of a whole frame."""
    header: int = 1 << 20
    """Bytes of its header."""
    tensors: int = 4096
    """Tensors of a payload."""
    items: int = 1 << 22
    """Numbers of a list. An array may hold more."""
    dims: int = 8
    """Dimensions of a tensor."""
    elements: int = 1 << 30
    """Product of a tensor's sides. An empty side counts as 1, because torch computes strides of empty tensors."""


DEFAULT = Limits()
FILES = Limits(frame=1 << 40, header=1 << 30, tensors=1 << 24, items=1 << 40, dims=64, elements=1 << 40)


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded message."""

    tag: str
    sender: int
    receiver: int
    round: int | None
    number: int
    """The number of messages that its sender had sent before."""
    payload: Payload
    size: int


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(_Header).decode
_lengths: dict[Any, Lengths] = {}
_PLAIN = frozenset({bool, int, float, str, bytes, type(None)})
_LISTED = frozenset({bool, int, float, str})


def _unsendable(name: str, value: Any) -> str | None:
    """The reason why a plain value cannot be sent, or None. Types must be exact, so that a receiver gets the same value
    whether or not the message was encoded."""
    if type(value) is list:
        strange = set(map(type, value)) - _LISTED
        if strange:
            return f"the list {quoted(name)} holds a {min(t.__name__ for t in strange)}, which is never sent"
    elif type(value) not in _PLAIN:
        return f"the entry {quoted(name)} is a {type(value).__name__}, which is never sent"
    return None


_LONG = 1024
"""Longer texts, strings of bytes and lists of numbers go into the body."""
_TEXT, _BYTES, _INTS, _FLOATS = "text", "bytes", "ints", "floats"
_PLAIN_CODES = frozenset({_TEXT, _BYTES, _INTS, _FLOATS})
_LISTS = {_INTS: np.dtype("<i8"), _FLOATS: np.dtype("<f8")}


def _put_into_body(value: Any) -> tuple[str, Any] | None:
    """The code and bytes of a long plain value that goes into the body, or None."""
    if type(value) is str and len(value) > _LONG:
        return _TEXT, value.encode()
    if type(value) is bytes and len(value) > _LONG:
        return _BYTES, value
    if type(value) is list and len(value) > _LONG:
        kinds = set(map(type, value))
        if kinds == {float}:
            return _FLOATS, np.array(value, _LISTS[_FLOATS]).view(np.uint8).data
        if kinds == {int} and max(value) < 1 << 63 and min(value) >= -(1 << 63):
            return _INTS, np.array(value, _LISTS[_INTS]).view(np.uint8).data
    return None


def _from_body(code: str, raw: Any, name: str, limits: Limits) -> Any:
    """The plain value of some bytes of the body."""
    if code == _BYTES:
        return bytes(raw)
    if code == _TEXT:
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise WireError("bad-header", f"the text {quoted(name)} is not UTF-8") from error
    if len(raw) % 8 or len(raw) > 8 * limits.items:
        raise WireError("oversized", f"the list {quoted(name)} has {len(raw)} bytes")
    return np.frombuffer(raw, _LISTS[code]).tolist()


def _padded(length: int) -> int:
    return -(-length // _ALIGN) * _ALIGN


def _is_array(value: Any) -> "TypeGuard[Tensor | np.ndarray]":
    return isinstance(value, np.ndarray) or is_tensor(value)


_codes: dict[Any, str] = {}
"""The codes of dtypes, filled on demand."""


def _described(name: str, array: Any) -> dict[str, list[int]]:
    """The header's entry of an array."""
    code = _codes.get(array.dtype)
    if code is None:
        code = _NAMES.get(str(array.dtype).removeprefix("torch."))
        if code is None:
            raise WireError("bad-dtype", f"the tensor {quoted(name)} has the dtype {array.dtype}, which is never sent")
        code = _codes[array.dtype] = f"n{code}" if isinstance(array, np.ndarray) else code
    if not isinstance(array, np.ndarray):
        if str(array.layout) != "torch.strided":
            raise WireError(
                "bad-field", f"the tensor {quoted(name)} is {array.layout}; send its parts as dense tensors"
            )
        if array.is_meta:
            raise WireError("bad-field", f"the tensor {quoted(name)} is on the meta device and has no numbers to send")
    try:
        return {code: list(array.shape)}
    except RuntimeError as error:
        raise WireError("bad-field", f"the tensor {quoted(name)} has no shape: {_first_line(error)}") from error


def _bytes_of(name: str, array: Any) -> memoryview:
    """The bytes of an entry of the body."""
    if isinstance(array, bytes | memoryview):
        return memoryview(array)
    if isinstance(array, np.ndarray):
        little = (
            array
            if array.dtype.byteorder in "=|<" or array.dtype.isnative
            else array.astype(array.dtype.newbyteorder("<"))
        )
        return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data
    import torch

    from covey.messages.ownership import readable

    try:
        return readable(array.detach().cpu()).contiguous().reshape(-1).view(torch.uint8).numpy().data
    except (RuntimeError, TypeError) as error:
        raise WireError("bad-field", f"the tensor {quoted(name)} cannot be read: {_first_line(error)}") from error


def _length(entry: Any) -> int:
    """The number of bytes of an entry of the body."""
    return len(entry) if isinstance(entry, bytes) else int(entry.nbytes)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _header(payload: Payload, tag: str) -> tuple[bytes, list[tuple[str, Any]]]:
    """The header of a frame, and the arrays of its body."""
    entries: dict[str, Any] = {}
    tensors: list[tuple[str, Any]] = []
    for name, value in payload.items():
        if type(name) is not str:
            raise WireError("bad-field", f"the name {name!r} of an entry is a {type(name).__name__}, not a str")
        if _is_array(value):
            entries[name] = _described(name, value)
            tensors.append((name, value))
        else:
            problem = _unsendable(name, value)
            if problem is not None:
                raise WireError("bad-field", problem)
            try:
                long = _put_into_body(value)
            except UnicodeEncodeError as error:
                raise WireError("bad-field", f"an entry cannot be encoded: {error}") from error
            if long is None:
                entries[name] = value
            else:
                entries[name] = {long[0]: [len(long[1])]}
                tensors.append((name, long[1]))
    try:
        return _encode(_Header(tag, entries)), tensors
    except (OverflowError, UnicodeEncodeError) as error:
        raise WireError("bad-field", f"an entry cannot be encoded: {error}") from error


def size(payload: Payload, tag: str = "") -> int:
    """The exact length in bytes of the frame that `encode` makes of a payload."""
    return _computed_lengths(payload, tag).frame


def check_sendable(payload: Payload, tag: str, found: Lengths, limits: Limits) -> None:
    """Refuse a message that exceeds the limits of its receiver.

    Raises:
        WireError: the frame, its header or a list is too long.
    """
    if found.frame > limits.frame:
        raise WireError("oversized", f"it has {found.frame:,} bytes, and a message may have {limits.frame:,}")
    if found.frame - found.values - found.indices > limits.header:
        header, _ = _header(payload, tag)
        if len(header) > limits.header:
            detail = f"its short entries take {len(header):,} bytes, and may take {limits.header:,}"
            raise WireError("oversized", f"{detail}: send long data as a text, bytes or an array")
    if found.frame > 8 * limits.items:
        for name, value in payload.items():
            if type(value) is list and len(value) > limits.items:
                detail = f"its list {quoted(name)} has {len(value):,} numbers, and a list may have {limits.items:,}"
                raise WireError("oversized", f"{detail}: send it as an array")


def lengths(payload: Payload, tag: str = "") -> Lengths:
    """The exact bytes of the frame that `encode` makes of a message, and of its tensors.

    Raises:
        WireError: an entry has no encoding, or a decoder of messages would refuse its shape.
    """
    shapes: list[tuple[Any, ...]] = []
    try:
        for name, value in payload.items():
            if is_tensor(value):
                shapes.append((name, value.dtype, value.shape, value.layout, value.is_meta))
            elif type(value) is int and (bits := (value if value >= 0 else ~value).bit_length()) < 64:
                shapes.append((name, int, value < 0, bits))
            elif type(value) is str and value.isascii():
                shapes.append((name, str, len(value)))
            else:
                return _lengths_of_message(payload, tag)
    except RuntimeError:
        # A tensor without a shape. The function below raises the error.
        return _lengths_of_message(payload, tag)
    key = (tag, *shapes)
    found = _lengths.get(key)
    if found is None:
        if len(_lengths) > 4096:
            _lengths.clear()
        found = _lengths[key] = _lengths_of_message(payload, tag)
    return found


def _lengths_of_message(payload: Payload, tag: str) -> Lengths:
    found = _computed_lengths(payload, tag)
    if len(payload) > DEFAULT.tensors and (count := len(_header(payload, tag)[1])) > DEFAULT.tensors:
        raise WireError("oversized", f"{count:,} tensors and long entries are more than {DEFAULT.tensors:,}")
    for name, value in payload.items():
        if _is_array(value):
            _check_shape(name, value.shape, DEFAULT)
    return found


def _check_shape(name: str, shape: Sequence[int], limits: Limits) -> None:
    if len(shape) > limits.dims:
        detail = f"the tensor {quoted(name)} has {len(shape)} dimensions, and may have {limits.dims}"
        raise WireError("bad-shape", detail)
    if math.prod(max(side, 1) for side in shape) > limits.elements:
        detail = f"the tensor {quoted(name)} has the shape {list(shape)}, and its sides above 0 may have the product"
        raise WireError("oversized", f"{detail} {limits.elements:,}")


def _computed_lengths(payload: Payload, tag: str) -> Lengths:
    header, tensors = _header(payload, tag)
    frame, values, indices = PREFIX_BYTES + len(header), 0, 0
    for name, tensor in tensors:
        length = _length(tensor)
        frame += _padded(length)
        if name == INDICES:
            indices += length
        else:
            values += length
    return Lengths(frame, values, indices)


def encode_parts(
    payload: Payload, *, tag: str = "", sender: int = 0, receiver: int = 0, round: int | None = None, number: int = 0
) -> list[bytes | memoryview]:
    """Encode a frame as a list of pieces, without copying them together.

    Raises:
        WireError: an entry has no encoding.
    """
    header, tensors = _header(payload, tag)
    parts: list[bytes | memoryview] = []
    body = 0
    for name, tensor in tensors:
        length = _length(tensor)
        if length:
            parts.append(_bytes_of(name, tensor))
        padding = -length % _ALIGN
        if padding:
            parts.append(bytes(padding))
        body += length + padding
    of_round = _NO_ROUND if round is None else round
    try:
        prefix = _PREFIX.pack(_MAGIC, _VERSION, 0, 0, len(header), body, sender, receiver, of_round, number)
    except struct.error as error:
        numbers = f"sender {sender}, receiver {receiver}, round {of_round}, number {number}"
        raise WireError("bad-header", f"{numbers}: {error}") from error
    return [prefix, header, *parts]


def encode(
    payload: Payload, *, tag: str = "", sender: int = 0, receiver: int = 0, round: int | None = None, number: int = 0
) -> bytes:
    """Encode a frame as one string of bytes. See `encode_parts`."""
    return b"".join(encode_parts(payload, tag=tag, sender=sender, receiver=receiver, round=round, number=number))


def peek(prefix: bytes | memoryview, limits: Limits = DEFAULT) -> int:
    """The length of the frame that begins with a prefix, for readers of a stream.

    Raises:
        WireError: the prefix is not valid, or the frame is too long.
    """
    return PREFIX_BYTES + sum(_unpack(prefix, limits)[:2])


def readdressed(prefix: bytes, receiver: int) -> bytes:
    """The prefix of the same frame to another receiver."""
    *before, _, round, number = _PREFIX.unpack(prefix)
    return _PREFIX.pack(*before, receiver, round, number)


def body_bytes(prefix: bytes | memoryview) -> int:
    """The length of the body of a frame, from a prefix that `peek` accepted."""
    return int(_PREFIX.unpack_from(prefix)[5])


def _unpack(prefix: bytes | memoryview, limits: Limits) -> tuple[int, int, int, int, int, int]:
    """Header length, body length, sender, receiver, round and number, after checks."""
    if len(prefix) < PREFIX_BYTES:
        raise WireError("truncated", f"a prefix has {PREFIX_BYTES} bytes, not {len(prefix)}")
    magic, version, flags, zero, header, body, sender, receiver, round, number = _PREFIX.unpack_from(prefix)
    if magic != _MAGIC:
        raise WireError("bad-magic", f"a frame begins with {_MAGIC!r}, not {bytes(magic)!r}")
    if version != _VERSION or flags or zero:
        raise WireError("bad-version", f"version {version} with flags {flags} is not version {_VERSION}")
    if header > limits.header or PREFIX_BYTES + header + body > limits.frame:
        raise WireError("oversized", f"a header of {header} and a body of {body} bytes exceed the limits")
    if round < _NO_ROUND:
        raise WireError("bad-header", f"the round {round} is negative")
    return header, body, sender, receiver, round, number


def decode(data: bytes | bytearray | memoryview, limits: Limits = DEFAULT, *, copy: bool = True) -> Frame:
    """Decode a frame.

    Args:
        data: the frame.
        limits: the limits of what is accepted.
        copy: give tensors their own memory. If False, they are views of `data`, which must then be writable.

    Raises:
        WireError: the data are not exactly one valid frame within the limits.
    """
    view = memoryview(data)
    header_bytes, body_bytes, sender, receiver, round, number = _unpack(view[:PREFIX_BYTES], limits)
    total = PREFIX_BYTES + header_bytes + body_bytes
    if len(view) != total:
        reason = "truncated" if len(view) < total else "trailing-bytes"
        raise WireError(reason, f"the frame should have {total} bytes, and has {len(view)}")
    try:
        header = _decode_header(view[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError("bad-header", str(error)) from error
    payload = header.entries
    described = {name: value for name, value in payload.items() if type(value) is dict}
    if len(described) > limits.tensors:
        raise WireError("oversized", f"{len(described)} tensors are more than {limits.tensors}")
    at = PREFIX_BYTES + header_bytes
    for name, value in payload.items():
        if name not in described:
            problem = _unsendable(name, value)
            if problem is not None:
                raise WireError("bad-header", problem)
            continue
        code, shape = next(iter(value.items()), (None, None))
        if len(value) != 1 or type(shape) is not list or any(type(side) is not int for side in shape):
            raise WireError("bad-header", f"the entry {quoted(name)} is neither plain nor a tensor")
        if code in _PLAIN_CODES:
            if len(shape) != 1 or shape[0] <= 0:
                raise WireError("bad-shape", f"the entry {quoted(name)} has the length {shape}")
            if _padded(shape[0]) > total - at:
                raise WireError("length-mismatch", f"the entry {quoted(name)} is longer than the body")
            payload[name] = _from_body(code, view[at : at + shape[0]], name, limits)
            at += _padded(shape[0])
            continue
        size = _SIZES.get(code.removeprefix("n")) if type(code) is str else None
        if size is None or type(code) is not str or code == "nb2":
            raise WireError("bad-dtype", f"the tensor {quoted(name)} has the unknown dtype {code!r}")
        if any(side < 0 for side in shape):
            raise WireError("bad-shape", f"the tensor {quoted(name)} has the shape {shape}")
        _check_shape(name, shape, limits)
        length = size * math.prod(shape)
        padded = _padded(length)
        if padded > total - at:
            raise WireError("length-mismatch", f"the tensor {quoted(name)} is longer than the body")
        raw = bytearray(view[at : at + length]) if copy else view[at : at + length]
        if code.endswith("b1") and length and int(np.frombuffer(raw, np.uint8).max()) > 1:
            raise WireError("bad-header", f"the bool tensor {quoted(name)} holds a number above 1")
        payload[name] = _array(code, raw, length).reshape(shape)
        at += padded
    if at != total:
        raise WireError("length-mismatch", f"{total - at} bytes of the body belong to no tensor")
    return Frame(header.tag, sender, receiver, None if round == _NO_ROUND else round, number, payload, total)


def _array(code: str, raw: Any, length: int) -> Any:
    """The flat array of some bytes of the body."""
    if code in _NUMPY:
        return np.frombuffer(raw, _NUMPY[code]) if length else np.empty(0, _NUMPY[code])
    import torch

    flat = torch.frombuffer(raw, dtype=torch.uint8) if length else torch.empty(0, dtype=torch.uint8)
    return flat.view(getattr(torch, _TORCH[code]))
