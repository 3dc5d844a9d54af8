"""Lossless compression of float32 numbers by pcodec, which `covey[pcodec]` installs.

The decoder of pcodec is memory-safe and writes into memory that covey allocates, so it may read untrusted bytes.
"""

import importlib.util

import numpy as np
import torch
from torch import Tensor

from covey.parts.errors import WireError

_HEAD = np.dtype("<u4")


def has_pcodec() -> bool:
    """True if pcodec is installed."""
    return importlib.util.find_spec("pcodec") is not None


def encode_values(values: Tensor) -> Tensor:
    """Encode float32 numbers as uint8: their number, and the output of pcodec."""
    from pcodec import ChunkConfig, standalone

    numbers = np.ascontiguousarray(values.detach().cpu().numpy())
    encoded = np.array([len(numbers)], dtype=_HEAD).tobytes() + standalone.simple_compress(numbers, ChunkConfig())
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8)


def decode_values(encoded: Tensor, most: int) -> Tensor:
    """Decode the float32 numbers that `encode_values` encoded.

    Args:
        most: the greatest number of values that is accepted. Nothing larger is allocated.

    Raises:
        WireError: the bytes are malformed, or a value is not finite.
    """
    from pcodec import standalone

    if encoded.dtype != torch.uint8 or encoded.dim() != 1 or len(encoded) < _HEAD.itemsize:
        raise WireError("bad-field", "the values are not bytes")
    content = encoded.cpu().numpy().tobytes()
    count = int(np.frombuffer(content, dtype=_HEAD, count=1)[0])
    if count > most:
        raise WireError("bad-field", f"there are {count} values for {most} indices")
    values = np.empty(count, dtype=np.float32)
    try:
        progress = standalone.simple_decompress_into(content[_HEAD.itemsize :], values)
    except (RuntimeError, TypeError) as error:
        raise WireError("bad-field", f"pcodec cannot decode the values: {error}") from error
    if not progress.finished or progress.n_processed != count:
        raise WireError("bad-field", f"pcodec did not decode {count} values")
    if not np.isfinite(values).all():
        raise WireError("bad-field", "a value is not finite")
    return torch.from_numpy(values)
