"""Sets of indices in a vector as bytes, in the shortest of four codes. The first byte names the code.

raw       the indices as int32, little-endian
bitmap    a bit for every index of the vector
rice      the gaps between indices, short if gaps are similar: see `covey.messages.codecs.rice`
gamma     the gaps between indices, short if few gaps are long: see `covey.messages.codecs.elias`

The lengths of all codes follow from the gaps, so only the shortest is written. Ties go to the first in this list.
"""

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.messages.codecs import elias, rice
from covey.messages.codecs.streams import Bytes, Ints, bytes_of, read_bits
from covey.parts.errors import ProgramError, WireError


class Code(IntEnum):
    """The codes of indices."""

    RAW = 0
    BITMAP = 1
    RICE = 2
    GAMMA = 3


def encode_indices(indices: Tensor, size: int, code: Code | None = None) -> Tensor:
    """Encode a set of indices.

    Args:
        indices: int64, increasing, in [0, size).
        size: the length of the vector, below 2**31.
        code: the code to use instead of the shortest.

    Returns:
        The bytes, as uint8.

    Raises:
        ProgramError: the indices do not increase or are out of range.
    """
    at = indices.cpu().numpy()
    gaps = at - 1
    gaps[:1] += 1
    gaps[1:] -= at[:-1]
    if len(at) and (gaps.min() < 0 or at[-1] >= size):
        raise ProgramError(f"Indices to send must increase from 0 on and stay below {size}.")
    counted = _histogram(gaps)
    k, rice_bytes = rice.fit(*counted)
    lengths = {
        Code.RAW: 4 * len(at),
        Code.BITMAP: bytes_of(size),
        Code.RICE: rice_bytes,
        Code.GAMMA: elias.length(*counted),
    }
    if code is None:
        code = min(lengths, key=lengths.__getitem__)
    stream: Bytes
    if code is Code.RAW:
        stream = at.astype("<i4").view(np.uint8)
    elif code is Code.BITMAP:
        marks = np.zeros(size, dtype=np.bool_)
        marks[at] = True
        stream = np.packbits(marks)
    elif code is Code.RICE:
        stream = rice.encode(gaps, k)
    else:
        stream = elias.encode(gaps)
    return torch.from_numpy(np.concatenate([np.array([code], dtype=np.uint8), stream]))


def _histogram(gaps: Ints) -> tuple[Ints, Ints]:
    """The distinct gaps and their counts. They are few, because all gaps together fit into the vector."""
    if gaps.max(initial=0) > 4 * len(gaps):
        return np.unique(gaps, return_counts=True)
    counts = np.bincount(gaps)
    different = np.flatnonzero(counts)
    return different, counts[different]


def decode_indices(encoded: Tensor, size: int, count: int) -> Tensor:
    """Decode the int64, increasing indices that `encode_indices` encoded.

    Args:
        count: the number of indices that must be there.

    Raises:
        WireError: the bytes are not a set of `count` indices below `size`.
    """
    if encoded.dtype != torch.uint8 or encoded.dim() != 1 or not len(encoded):
        raise WireError("bad-field", "the indices are not bytes")
    if not 0 <= count <= size:
        raise WireError("bad-field", f"there are {count} values for {size} indices")
    most = 1 + min(bytes_of(size), 4 * count)
    if len(encoded) > most:
        raise WireError("bad-field", f"the indices take {len(encoded)} bytes, and need at most {most}")
    content = np.ascontiguousarray(encoded.cpu().numpy())
    indices = _decoded(int(content[0]), content[1:], size, count)
    if count and indices[-1] >= size:
        raise WireError("bad-field", f"an index is not below {size}")
    return torch.from_numpy(indices)


def _decoded(code: int, stream: Bytes, size: int, count: int) -> NDArray[np.int64]:
    """Decode `count` increasing indices that start at 0 or above."""
    if code == Code.RAW:
        if len(stream) != 4 * count:
            raise WireError("bad-field", f"{count} indices are in {len(stream)} bytes")
        indices = stream.view("<i4").astype(np.int64)
        if count and (indices[0] < 0 or (np.diff(indices) < 1).any()):
            raise WireError("bad-field", "the indices do not increase from 0 on")
        return indices
    if code == Code.BITMAP:
        indices = np.flatnonzero(read_bits(stream, size))
        if len(indices) != count:
            raise WireError("bad-field", f"there are {len(indices)} indices and {count} values")
        return indices
    if code == Code.RICE:
        return rice.decode(stream, size, count)
    if code == Code.GAMMA:
        return elias.decode(stream, count)
    raise WireError("bad-field", f"the code {code} of the indices is unknown")
