"""Compressors that send every value in fewer bits.

Shapes: P values; B blocks of K values that share a scale. The last block is padded with zeros.
"""

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from covey.messages.codecs import pack_bits, unpack_bits
from covey.messages.compression.compressor import Compressor, Decompressed, Draw, Guarantee, check_numbers, entries
from covey.messages.payloads import Payload
from covey.parts.errors import WireError
from covey.parts.parameters import param

_INT8 = 127
_HUGE = torch.finfo(torch.float32).max


def signs(positive: Tensor) -> Tensor:
    """+1 for each uint8 that is 1, and -1 for each that is 0."""
    return positive.float().mul_(2.0).sub_(1.0)


def decoded_scales(scales: Tensor, count: int) -> Tensor:
    """The scales of a message, after checks.

    Raises:
        WireError: they are not `count` numbers of 0 or more.
    """
    check_numbers("scales", scales, torch.float32, count)
    if bool((scales < 0).any()):
        raise WireError("bad-field", "one of its scales is negative")
    return scales


class _Float16(Compressor):
    """Rounds every value to a float of 16 bits. Larger values become the largest such float."""

    dtype: ClassVar[torch.dtype]
    rounding: ClassVar[float]
    """The largest relative error of a value that is a normal number of the dtype."""

    def compress(self, vector: Tensor, draw: Draw) -> tuple[dict[str, Tensor], Decompressed]:
        top = torch.finfo(self.dtype).max
        values = vector.clamp(-top, top).to(self.dtype)
        return {"values": values}, Decompressed(values.float())

    def decompress(self, payload: Payload, size: int, draw: Draw) -> Decompressed:
        (values,) = entries(payload, "values")
        check_numbers("values", values, self.dtype, size)
        return Decompressed(values.float())

    def guarantee(self, size: int) -> Guarantee:
        return Guarantee(False, self.rounding**2)


class FP16(_Float16):
    """Half precision: 11 significant bits. The error bound holds for magnitudes from 0.00006 to 65504."""

    kind = "fp16"
    dtype = torch.float16
    rounding = 2.0**-11


class BF16(_Float16):
    """bfloat16: 8 significant bits, and the range of float32."""

    kind = "bf16"
    dtype = torch.bfloat16
    rounding = 2.0**-8


class Blockwise(Compressor):
    """Values in blocks that share a scale."""

    block: int | None = param("The number of values that share a scale; by default, all of them.", default=None, ge=1)

    def width(self, size: int) -> int:
        """The number of values that share a scale in a vector of `size`."""
        return size if self.block is None else min(self.block, size)

    def blocks(self, size: int) -> int:
        """The number of scales of a vector of `size`."""
        return -(-size // self.width(size))

    def cut(self, vector: Tensor) -> Tensor:
        """The blocks of a vector, B x K."""
        size = len(vector)
        missing = self.blocks(size) * self.width(size) - size
        return torch.nn.functional.pad(vector, (0, missing)).view(-1, self.width(size))

    def scaled(self, shares: Tensor, scales: Tensor) -> Decompressed:
        """The vector whose values are `shares` times the scale of their block."""
        return Decompressed((self.cut(shares) * scales[:, None]).view(-1)[: len(shares)])


class Int8(Blockwise):
    """Rounds every value to one of 255 levels between minus and plus the largest magnitude of its block."""

    kind = "int8"
    block: int | None = param("The number of values that share a scale.", default=256, ge=1)

    def compress(self, vector: Tensor, draw: Draw) -> tuple[dict[str, Tensor], Decompressed]:
        blocks_BK = self.cut(vector)
        scales = blocks_BK.abs().amax(1)
        steps_BK = blocks_BK.div(torch.where(scales > 0, scales, 1.0)[:, None]).mul_(_INT8).round_()
        codes = steps_BK.view(-1)[: len(vector)].to(torch.int8)
        return {"scales": scales, "codes": codes}, self._decoded(codes, scales)

    def _decoded(self, codes: Tensor, scales: Tensor) -> Decompressed:
        return self.scaled(codes.float().div_(_INT8), scales)

    def decompress(self, payload: Payload, size: int, draw: Draw) -> Decompressed:
        scales, codes = entries(payload, "scales", "codes")
        check_numbers("codes", codes, torch.int8, size)
        if int(codes.min()) < -_INT8:
            raise WireError("bad-field", f"one of its codes is below {-_INT8}")
        return self._decoded(codes, decoded_scales(scales, self.blocks(size)))

    def guarantee(self, size: int) -> Guarantee:
        # Half a step is 1/254 of the block's largest value, which is at most its norm. No value changes its sign.
        return Guarantee(False, min(1.0, self.width(size) / (2.0 * _INT8) ** 2))


class QSGD(Blockwise):
    """QSGD (Alistarh et al., 2017): rounds every value at random to a level between 0 and the norm of its block."""

    kind = "qsgd"
    block: int | None = param("The number of values that share a norm.", default=512, ge=1)
    levels: int = param(
        "The number of levels between 0 and the norm. A value takes the bits of 2 * levels + 1 codes.", ge=1, le=127
    )
    unbiased: bool = param(
        "Whether the expectation is the vector. If not, the result is divided by 1 + its largest variance, which makes "
        "it a contraction.",
        default=True,
    )

    @property
    def _bits(self) -> int:
        return (2 * self.levels).bit_length()

    def compress(self, vector: Tensor, draw: Draw) -> tuple[dict[str, Tensor], Decompressed]:
        blocks_BK, size = self.cut(vector), len(vector)
        norms = torch.linalg.vector_norm(blocks_BK, dim=1, dtype=torch.float64).clamp_(max=_HUGE).float()
        steps = blocks_BK.div(torch.where(norms > 0, norms, 1.0)[:, None]).view(-1)[:size] * self.levels
        chance = torch.from_numpy(draw().random(size, dtype=np.float32)).to(vector.device)
        steps = (steps + chance).floor_().clamp_(-self.levels, self.levels)
        codes = (steps + self.levels).to(torch.uint8)
        scales = norms if self.unbiased else norms / (1.0 + self._variance(size))
        return {"scales": scales, "codes": pack_bits(codes, self._bits)}, self._decoded(codes, scales)

    def _decoded(self, codes: Tensor, scales: Tensor) -> Decompressed:
        return self.scaled(codes.float().sub_(self.levels).div_(self.levels), scales)

    def decompress(self, payload: Payload, size: int, draw: Draw) -> Decompressed:
        scales, packed = entries(payload, "scales", "codes")
        codes = unpack_bits(packed, self._bits, size)
        if int(codes.max()) > 2 * self.levels:
            raise WireError("bad-field", f"one of its codes is above {2 * self.levels}")
        return self._decoded(codes, decoded_scales(scales, self.blocks(size)))

    def _variance(self, size: int) -> float:
        width = self.width(size)
        return min(width / self.levels**2, math.sqrt(width) / self.levels)

    def guarantee(self, size: int) -> Guarantee:
        variance = self._variance(size)
        return Guarantee(True, variance) if self.unbiased else Guarantee(False, variance / (1.0 + variance))


class Sign(Blockwise):
    """Sends one bit per value, its sign, and the mean magnitude of each block."""

    kind = "sign"
    sends_magnitudes: ClassVar[bool] = False

    def compress(self, vector: Tensor, draw: Draw) -> tuple[dict[str, Tensor], Decompressed]:
        size = len(vector)
        counts = torch.full((self.blocks(size),), self.width(size), dtype=torch.float64, device=vector.device)
        counts[-1] -= self.blocks(size) * self.width(size) - size
        scales = (self.cut(vector).abs().sum(1, dtype=torch.float64) / counts).float()
        positive = (vector >= 0).to(torch.uint8)
        return {"scales": scales, "signs": pack_bits(positive, 1)}, self.scaled(signs(positive), scales)

    def decompress(self, payload: Payload, size: int, draw: Draw) -> Decompressed:
        scales, packed = entries(payload, "scales", "signs")
        positive = unpack_bits(packed, 1, size)
        return self.scaled(signs(positive), decoded_scales(scales, self.blocks(size)))

    def guarantee(self, size: int) -> Guarantee:
        return Guarantee(size == 1, 1.0 - 1.0 / self.width(size))
