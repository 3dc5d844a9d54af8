"""Multilevel discrete wavelet transforms of vectors.

A level of the transform halves a vector into averages and details, and the next one halves the averages. The
coefficients lie coarse to fine: the last averages, then the details from the coarsest level to the finest. Vectors are
extended symmetrically at both ends, as `pywt.wavedec(mode="symmetric")` does, whose coefficients these are.

On a CPU, the numbers at even and those at odd indices are first copied apart. The two filters of an orthogonal wavelet
are then a lattice (Vaidyanathan and Hoang, 1988): a rotation of each pair, a shift of one half by one, another
rotation, and so on, which is half the work of summing over the taps of both. Other filters, and those whose rotations
would lose digits, are such sums. On other devices a filter is a product with overlapping windows. For sym2 and 90,000
numbers on a CPU the lattice takes two thirds of the time of `pywt.wavedec`; the way back is fastest by `pywt.waverec`.

Shapes: N vectors, L numbers of one, C coefficients of a band.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats: TypeAlias = NDArray[Any]
_STEEP = 4.0
"""The largest tangent of a rotation. With a larger one, float32 numbers would have to cancel."""


class WaveletTransform:
    """The transform of vectors of one length, along their last axis.

    Args:
        wavelet: a discrete wavelet of PyWavelets.
        level: the number of times that the vector is halved; a short vector is halved fewer times.
        length: the length of a vector.

    Attributes:
        level: the actual number of halvings.
        bands: the number of coefficients of each band, coarse to fine.
        size: the number of all coefficients: at least `length`, and a few more for the ends.
    """

    parts = 1

    def __init__(self, wavelet: str, level: int, length: int) -> None:
        self.wavelet, self.length = wavelet, length
        self._bank = pywt.Wavelet(wavelet)
        self._taps: int = self._bank.dec_len
        self.level = min(level, pywt.dwt_max_level(length, self._taps))
        lengths = [length]
        for _ in range(self.level):
            lengths.append((lengths[-1] + self._taps - 1) // 2)
        self._lengths = lengths
        self.bands = [lengths[-1], *reversed(lengths[1:])]
        self.size = sum(self.bands)
        starts = [0, *accumulate(self.bands)]
        self._slices = [slice(*ends) for ends in pairwise(starts)]
        bank = self._bank
        self._analysis = torch.tensor([bank.dec_lo[::-1], bank.dec_hi[::-1]], dtype=torch.float64).T
        synthesis = torch.tensor([bank.rec_lo[::-1], bank.rec_hi[::-1]], dtype=torch.float64)
        self._synthesis = synthesis.view(2, self._taps // 2, 2).flip(-1)
        self._tangents = _tangents(bank.dec_lo[::-1]) if bank.orthogonal else []
        self._converted: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def forward(self, vectors: Tensor) -> Tensor:
        """The coefficients, (..., size), of vectors, (..., length)."""
        if vectors.device.type != "cpu":
            return self.forward_by_torch(vectors)
        averages = vectors.numpy()
        coefficients = np.empty((*averages.shape[:-1], self.size), dtype=averages.dtype)
        bands = [coefficients[..., band] for band in self._slices]
        filters = self._rotate if self._tangents else self._add_up
        for details in reversed(bands[1:]):
            even, odd = self._phases(averages)
            averages = filters(even, odd, details)
        bands[0][:] = averages
        return torch.from_numpy(coefficients)

    def _rotate(self, even: Floats, odd: Floats, out: Floats) -> Floats:
        """The averages of the numbers at even and odd indices, in the memory of these; the details go to `out`."""
        count = out.shape[-1] + len(self._tangents) - 1
        averages, details = even[..., :count], odd[..., :count]
        for shift, tangent in enumerate(self._tangents):
            if shift:
                averages, details = averages[..., :-1], details[..., 1:]
            rotated = details * tangent
            rotated += averages
            averages *= -tangent
            averages += details
            averages, details = rotated, averages
        np.multiply(details, self._bank.dec_hi[0], out=out)
        averages *= self._bank.dec_lo[-1]
        return averages

    def _add_up(self, even: Floats, odd: Floats, out: Floats) -> Floats:
        """The same, tap by tap."""
        averages = np.empty_like(out)
        _filter((even, odd), self._bank.dec_lo[::-1], averages)
        _filter((even, odd), self._bank.dec_hi[::-1], out)
        return averages

    def _phases(self, vectors: Floats) -> list[Floats]:
        """The numbers at even and those at odd indices of vectors that are mirrored at their ends."""
        reach, length = self._taps - 1, vectors.shape[-1]
        first, last = vectors[..., : reach - 1][..., ::-1], vectors[..., -reach:][..., ::-1]
        return [
            np.concatenate([first[..., odd::2], vectors[..., odd::2], last[..., (odd + length) % 2 :: 2]], axis=-1)
            for odd in (0, 1)
        ]

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The vectors, (..., length), of coefficients, (..., size)."""
        if coefficients.device.type != "cpu":
            return self.inverse_by_torch(coefficients)
        numbers = coefficients.numpy()
        bands = [numbers[..., band] for band in self._slices]
        return torch.from_numpy(pywt.waverec(bands, self._bank, "symmetric", axis=-1)[..., : self.length])

    def forward_by_torch(self, vectors: Tensor) -> Tensor:
        """The same as `forward`, on any device."""
        reach, filters = self._taps - 1, self._analysis.to(vectors)
        averages_NL, details = vectors.reshape(-1, self.length), []
        for _ in range(self.level):
            first, last = averages_NL[:, : reach - 1].flip(-1), averages_NL[:, -reach:].flip(-1)
            windows = torch.cat([first, averages_NL, last], dim=-1).unfold(-1, self._taps, 2)
            averages_NL, details_NC = (windows @ filters).unbind(-1)
            details.append(details_NC)
        return torch.cat([averages_NL, *reversed(details)], dim=-1).view(*vectors.shape[:-1], self.size)

    def inverse_by_torch(self, coefficients: Tensor) -> Tensor:
        """The same as `inverse`, on any device."""
        from_averages, from_details = self._synthesis.to(coefficients)
        bands = torch.split(coefficients.reshape(-1, self.size), self.bands, dim=-1)
        vectors_NL, half = bands[0], self._taps // 2
        for details_NC, length in zip(bands[1:], reversed(self._lengths[:-1]), strict=True):
            averages_NC = vectors_NL[:, : details_NC.shape[-1]]
            pairs = averages_NC.unfold(-1, half, 1) @ from_averages + details_NC.unfold(-1, half, 1) @ from_details
            vectors_NL = pairs.flatten(1)[:, :length]
        return vectors_NL.reshape(*coefficients.shape[:-1], self.length)

    def project(self, coefficients: Tensor) -> None:
        """Replace coefficients by `forward(inverse(coefficients))`, in place and without transforms.

        There are more coefficients than numbers, so not all coefficients are those of a vector. An average of some
        coefficients differs from the coefficients of its vector at the ends of the bands.
        """
        if self.size > self.length:
            ends, change = self._ends_for(coefficients.device, coefficients.dtype)
            coefficients.index_copy_(-1, ends, coefficients.index_select(-1, ends) @ change)

    def _ends_for(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`_ends` on a device, in a dtype."""
        if (device, dtype) not in self._converted:
            ends, change = self._ends
            self._converted[device, dtype] = ends.to(device), change.to(device, dtype)
        return self._converted[device, dtype]

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The indices near the ends of the bands, and the matrix that `project` applies to them."""
        # Coefficients further inside than two filters depend on no end. So a vector that is shorter in the middle, by a
        # multiple of what a coefficient of the last level spans, has the same matrix.
        near, span = 2 * self._taps, 1 << self.level
        shorter = max(0, self._lengths[-1] - 2 * near)
        small = WaveletTransform(self.wavelet, self.level, self.length - shorter * span)
        here, there = self._near_ends(near), small._near_ends(near)
        units = torch.zeros(len(there), small.size, dtype=torch.float64)
        units[torch.arange(len(there)), there] = 1.0
        return here, small.forward(small.inverse(units))[:, there]

    def _near_ends(self, near: int) -> Tensor:
        """The indices of the first and the last `near` coefficients of every band."""
        is_near = torch.ones(self.size, dtype=torch.bool)
        for band in self._slices:
            is_near[band.start + near : max(band.stop - near, band.start + near)] = False
        return torch.nonzero(is_near)[:, 0]


def _tangents(taps: Sequence[float]) -> list[float]:
    """The tangents of the rotations of an orthogonal filter; empty if a rotation would lose digits."""
    found: list[float] = []
    rest = np.array(taps) / taps[0]
    while len(rest):
        # The other filter has the same taps the other way round, with alternating signs.
        tangent, other = float(rest[-1]), rest[::-1] * np.tile([-1.0, 1.0], len(rest) // 2)
        found.append(tangent)
        rest = ((rest - tangent * other) / (1.0 + tangent * tangent))[:-2]
    return found[::-1] if max(map(abs, found)) < _STEEP else []


def _filter(phases: Sequence[Floats], taps: Sequence[float], out: Floats) -> None:
    """Write the sums over the taps of the slices from one index after the other on, in the two phases by turns."""
    count, term = out.shape[-1], np.empty_like(out)
    np.multiply(phases[0][..., :count], taps[0], out=out)
    for index, tap in enumerate(taps[1:], start=1):
        start = index // 2
        np.multiply(phases[index % 2][..., start : start + count], tap, out=term)
        np.add(out, term, out=out)
