"""Small integers packed in a fixed number of bits."""

import numpy as np
import torch
from torch import Tensor

from covey.parts.errors import WireError

_BYTE = 8


def pack_bits(numbers: Tensor, width: int) -> Tensor:
    """Pack numbers into bytes, `width` bits each, the highest bit first. The last byte is padded with zeros.

    Args:
        numbers: uint8, below 2 ** width.
        width: from 1 to 8.
    """
    flat = numbers.cpu().numpy()
    if width == _BYTE:
        return torch.from_numpy(flat.copy())
    bits = flat if width == 1 else np.unpackbits(flat[:, None], axis=1)[:, _BYTE - width :]
    return torch.from_numpy(np.packbits(bits))


def unpack_bits(packed: Tensor, width: int, count: int) -> Tensor:
    """Unpack the uint8 numbers that `pack_bits` packed.

    Raises:
        WireError: the bytes do not have the length or the padding of `count` numbers.
    """
    length = -(-count * width // _BYTE)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != length:
        raise WireError("bad-field", f"{count} numbers of {width} bits are not {length} bytes")
    if width == _BYTE:
        return packed
    bits = np.unpackbits(packed.cpu().numpy())
    if bits[count * width :].any():
        raise WireError("bad-field", f"there are bits beyond the {count} numbers")
    bits = bits[: count * width]
    if width == 1:
        return torch.from_numpy(bits)
    return torch.from_numpy(np.packbits(bits.reshape(count, width), axis=1)[:, 0] >> (_BYTE - width))
