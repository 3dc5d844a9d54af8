"""Numbers without loss in fewer bytes, by pcodec, which `covey[pcodec]` installs.

Its decoder is memory-safe and writes into memory that is handed to it, so bytes of strangers can be given to it.
"""

import importlib.util

import numpy as np
import torch
from torch import Tensor

from covey.parts.errors import WireError

_HEAD = np.dtype("<u4")


def has_pcodec() -> bool:
    """Whether pcodec is installed."""
    return importlib.util.find_spec("pcodec") is not None


def encode_values(values: Tensor) -> Tensor:
    """The bytes of float32 numbers, as uint8: how many there are, and what pcodec makes of them."""
    from pcodec import ChunkConfig, standalone

    numbers = np.ascontiguousarray(values.detach().cpu().numpy())
    encoded = np.array([len(numbers)], dtype=_HEAD).tobytes() + standalone.simple_compress(numbers, ChunkConfig())
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8)


def decode_values(encoded: Tensor, most: int) -> Tensor:
    """The float32 numbers that `encode_values` made bytes of.

    Args:
        most: how many there may be; nothing larger is allocated.

    Raises:
        WireError: the bytes are no such numbers, or not all of these are finite.
    """
    from pcodec import standalone

    if encoded.dtype != torch.uint8 or encoded.dim() != 1 or len(encoded) < _HEAD.itemsize:
        raise WireError("bad-field", "the values are no bytes")
    content = encoded.cpu().numpy().tobytes()
    count = int(np.frombuffer(content, dtype=_HEAD, count=1)[0])
    if count > most:
        raise WireError("bad-field", f"there are {count} values for {most} indices")
    values = np.empty(count, dtype=np.float32)
    try:
        progress = standalone.simple_decompress_into(content[_HEAD.itemsize :], values)
    except (RuntimeError, TypeError) as error:
        raise WireError("bad-field", f"the values are not of pcodec: {error}") from error
    if not progress.finished or progress.n_processed != count:
        raise WireError("bad-field", f"the values are not {count}")
    if not np.isfinite(values).all():
        raise WireError("bad-field", "a value is not finite")
    return torch.from_numpy(values)
