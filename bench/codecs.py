"""Indices as bytes: covey's codes against a plain bitmap and zlib, by the share of indices. Values as bytes: pcodec."""

import zlib
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from covey.messages.codecs import decode_indices, decode_values, encode_indices, encode_values, has_pcodec
from covey.messages.codecs.indices import Code

SIZES = (89_834, 1_690_046)
SHARES = (0.05, 0.1, 0.2, 0.4)
ROUNDS = 9


class _Way(NamedTuple):
    """A way to write indices, and to read so many of them."""

    encode: Callable[[Tensor, int], Tensor | bytes]
    decode: Callable[..., Tensor]


def _bitmap(indices: Tensor, size: int) -> bytes:
    marks = np.zeros(size, dtype=np.bool_)
    marks[indices.numpy()] = True
    return np.packbits(marks).tobytes()


def _from_bitmap(encoded: bytes, size: int, count: int) -> Tensor:
    bits = np.unpackbits(np.frombuffer(encoded, dtype=np.uint8), count=size)
    return torch.from_numpy(np.flatnonzero(bits.view(np.bool_)))


def _deflated(indices: Tensor, size: int) -> bytes:
    return zlib.compress(np.diff(indices.numpy(), prepend=-1).astype("<i4").tobytes())


def _inflated(encoded: bytes, size: int, count: int) -> Tensor:
    steps = np.frombuffer(zlib.decompress(encoded, bufsize=4 * count), dtype="<i4")
    return torch.from_numpy(np.cumsum(steps, dtype=np.int64) - 1)


WAYS = {
    "covey": _Way(encode_indices, decode_indices),
    "bitmap": _Way(_bitmap, _from_bitmap),
    "zlib": _Way(_deflated, _inflated),
}


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    for size in SIZES:
        for share in SHARES:
            indices = torch.from_numpy(np.sort(random.choice(size, round(share * size), replace=False)))
            yield from _compared(indices, size, f"indices, {share:.0%} of {size:,}")
        if has_pcodec():
            yield _packed(torch.from_numpy(random.standard_normal(size, dtype=np.float32)))


def _compared(indices: Tensor, size: int, what: str) -> Iterator[list[str]]:
    encoded = {name: way.encode(indices, size) for name, way in WAYS.items()}
    for name, way in WAYS.items():
        assert torch.equal(way.decode(encoded[name], size, len(indices)), indices), name
    # In turns, so that a busy machine is busy for all of them.
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            began = perf_counter()
            way.encode(indices, size)
            written = perf_counter()
            way.decode(encoded[name], size, len(indices))
            seconds.setdefault((name, "encode"), []).append(written - began)
            seconds.setdefault((name, "decode"), []).append(perf_counter() - written)
    took = {key: float(np.median(times)) * 1e3 for key, times in seconds.items()}
    both = {name: took[name, "encode"] + took[name, "decode"] for name in WAYS}
    code = Code(int(encoded["covey"][0])).name.lower()
    for other in ("bitmap", "zlib"):
        detail = f"{len(encoded['covey']):,} ({code}) against {len(encoded[other]):,} bytes"
        yield [f"{what}: bytes over {other}'s", f"{len(encoded['covey']) / len(encoded[other]):.2f}", "<= 1.01", detail]
        detail = "; ".join(
            f"{step} {took['covey', step]:.2f} against {took[other, step]:.2f} ms" for step in ("encode", "decode")
        )
        yield [f"{what}: time over {other}'s", f"{both['covey'] / both[other]:.2f}", "", detail]


def _packed(values: Tensor) -> list[str]:
    began = perf_counter()
    encoded = encode_values(values)
    written = perf_counter()
    assert torch.equal(decode_values(encoded, len(values)), values)
    detail = (
        f"encode {(written - began) * 1e3:.1f} ms, decode and compare {(perf_counter() - written) * 1e3:.1f} ms, once"
    )
    return [f"{len(values):,} normal values, pcodec: bytes over raw", f"{len(encoded) / values.nbytes:.2f}", "", detail]
