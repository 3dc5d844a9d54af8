"""Gives bytes to the decoders of indices and of values: they must return values that encode again, or refuse them."""

import numpy as np
import torch
from loop import fuzz, watched

with watched():
    from covey.messages.codecs import decode_indices, decode_values, encode_indices, encode_values, has_pcodec
    from covey.messages.codecs.indices import Code
    from covey.parts.errors import WireError

SIZE = 500
PACKED = has_pcodec()


def harness(data: bytes) -> None:
    """One input: how many indices there are in two bytes, and the bytes that say which, or the bytes of values."""
    if len(data) < 2:
        return
    count, encoded = int.from_bytes(data[:2], "little"), torch.tensor(list(data[2:]), dtype=torch.uint8)
    try:
        indices = decode_indices(encoded, SIZE, count)
    except WireError:
        pass
    else:
        assert len(indices) == count
        assert torch.equal(decode_indices(encode_indices(indices, SIZE), SIZE, count), indices)
    if PACKED:
        try:
            values = decode_values(encoded, SIZE)
        except WireError:
            return
        assert len(values) <= SIZE
        assert torch.isfinite(values).all()


def _examples() -> list[bytes]:
    indices = torch.from_numpy(np.flatnonzero(np.random.default_rng(0).random(SIZE) < 0.1))
    written = [encode_indices(indices, SIZE, code) for code in Code]
    if PACKED:
        written.append(encode_values(torch.randn(SIZE)))
    return [len(indices).to_bytes(2, "little") + bytes(encoded.tolist()) for encoded in written]


if __name__ == "__main__":
    fuzz(harness, _examples())
