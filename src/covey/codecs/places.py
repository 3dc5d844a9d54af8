"""Sets of places in a vector, as bytes: the shortest of several codes, which the first byte names.

bitmap    a bit for every place of the vector
"""

import numpy as np
import torch
from torch import Tensor

from covey.errors import WireError

_BITMAP = 1


def encode_places(places: Tensor, size: int) -> Tensor:
    """The bytes of a set of places.

    Args:
        places: int64, increasing, from 0 on and below `size`.
        size: how long the vector is.

    Returns:
        uint8 numbers.
    """
    marks = np.zeros(size, dtype=np.uint8)
    marks[places.numpy()] = 1
    return torch.from_numpy(np.concatenate([np.array([_BITMAP], dtype=np.uint8), np.packbits(marks)]))


def decode_places(encoded: Tensor, size: int, count: int) -> Tensor:
    """The places, int64 and increasing, that `encode_places` made bytes of.

    Args:
        count: how many there must be.

    Raises:
        WireError: the bytes are no such set of places.
    """
    if encoded.dtype != torch.uint8 or encoded.dim() != 1 or len(encoded) != 1 + -(-size // 8):
        raise WireError("bad-field", f"the places are not {1 + -(-size // 8)} bytes")
    if encoded[0] != _BITMAP:
        raise WireError("bad-field", f"the code {int(encoded[0])} of the places is unknown")
    marks = np.unpackbits(encoded[1:].numpy())
    if marks[size:].any():
        raise WireError("bad-field", f"a place is not below {size}")
    places = np.flatnonzero(marks[:size])
    if len(places) != count:
        raise WireError("bad-field", f"there are {len(places)} places and {count} values")
    return torch.from_numpy(places)
