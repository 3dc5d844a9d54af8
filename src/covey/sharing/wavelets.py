"""Multilevel discrete wavelet transforms of vectors, as products with the matrices of filters.

A level of the transform halves a vector into averages and details, and the next one goes on with the averages. The
coefficients lie coarse to fine: the last averages, then the details from the coarsest level to the finest. Vectors are
extended symmetrically at both ends, as `pywt.wavedec(mode="symmetric")` does, whose coefficients these are.

A filter of stride 2 is one matrix product: the vector is cut into overlapping windows, and each window gives _BLOCK
coefficients. That takes a third of the time of torch's strided convolution on a CPU, and runs wherever torch does.

Shapes: N vectors, L numbers of one, C coefficients of a band, W windows.
"""

from functools import cached_property
from typing import NamedTuple

import pywt
import torch
from torch import Tensor

_BLOCK = 16
"""Coefficients of each kind that a window gives; 8 and 32 are slower, whatever the wavelet."""


class _Filters(NamedTuple):
    """The matrices of one level: a window times a matrix."""

    averages: Tensor
    details: Tensor
    from_averages: Tensor
    from_details: Tensor


class WaveletTransform:
    """The transform of vectors of one length, along their last axis.

    Args:
        wavelet: a discrete wavelet of PyWavelets.
        level: how many times the vector is halved; fewer times where it is too short.
        length: that of a vector.

    Attributes:
        level: how many times it is halved indeed.
        bands: how many coefficients each band has, coarse to fine.
        size: how many they are together: at least `length`, and a few more for the ends.
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
        self._filters: dict[tuple[torch.dtype, torch.device], _Filters] = {}

    def forward(self, vectors: Tensor) -> Tensor:
        """The coefficients, (..., size), of vectors, (..., length)."""
        filters, bands = self._filters_for(vectors), []
        averages_NL = vectors.reshape(vectors.shape[:-1].numel(), self.length)
        number = len(averages_NL)
        for count in self._lengths[1:]:
            blocks = -(-count // _BLOCK)
            windows_WL = self._extended_windows(averages_NL, blocks)
            averages_NL = torch.mm(windows_WL, filters.averages).view(number, blocks * _BLOCK)[:, :count]
            bands.append(torch.mm(windows_WL, filters.details).view(number, blocks * _BLOCK)[:, :count])
        return torch.cat([averages_NL, *reversed(bands)], dim=-1).view(*vectors.shape[:-1], self.size)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The vectors, (..., length), of coefficients, (..., size)."""
        filters = self._filters_for(coefficients)
        bands = torch.split(coefficients.reshape(coefficients.shape[:-1].numel(), self.size), self.bands, dim=-1)
        averages_NC: Tensor = bands[0]
        for details_NC, length in zip(bands[1:], reversed(self._lengths[:-1]), strict=True):
            blocks = -(-length // (2 * _BLOCK))
            vectors_WL = torch.mm(self._windows(averages_NC, blocks), filters.from_averages)
            vectors_WL.addmm_(self._windows(details_NC, blocks), filters.from_details)
            averages_NC = vectors_WL.view(len(averages_NC), blocks * 2 * _BLOCK)[:, :length]
        return averages_NC.reshape(*coefficients.shape[:-1], self.length)

    def settled(self, coefficients: Tensor) -> Tensor:
        """The coefficients of what `inverse` makes of coefficients, without the way there and back.

        As there are more coefficients than numbers, those of a vector are not any: what an average of some coefficients
        means for the vector is told by slightly different ones, at the ends of the bands.
        """
        if self.size == self.length:
            return coefficients
        ends, change = self._ends
        ends, change = ends.to(coefficients.device), change.to(coefficients)
        return coefficients.index_copy(-1, ends, coefficients[..., ends] @ change)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The places near the ends of the bands, and the matrix that `settled` applies to them."""
        # What lies further inside than two filters depends on no end. So a vector that is shorter in the middle, by a
        # multiple of what a coefficient of the last level spans, has the same matrix.
        near, span = 2 * self._taps, 1 << self.level
        shorter = max(0, self._lengths[-1] - 2 * near)
        small = WaveletTransform(self.wavelet, self.level, self.length - shorter * span)
        here, there = self._near_ends(near), small._near_ends(near)
        units = torch.zeros(len(there), small.size, dtype=torch.float64)
        units[torch.arange(len(there)), there] = 1.0
        return here, small.forward(small.inverse(units))[:, there]

    def _near_ends(self, near: int) -> Tensor:
        """The places of the first and the last `near` coefficients of every band."""
        places, start = [], 0
        for band in self.bands:
            inner = range(near, band - near)
            places += [start + place for place in range(band) if place not in inner]
            start += band
        return torch.tensor(places)

    def _extended_windows(self, vectors_NL: Tensor, blocks: int) -> Tensor:
        """The windows of vectors that are mirrored at their ends, one vector's after the other's."""
        reach, length = self._taps - 1, vectors_NL.shape[-1]
        width, step = 2 * _BLOCK + reach - 1, 2 * _BLOCK
        first, last = vectors_NL[:, : reach - 1].flip(-1), vectors_NL[:, length - reach :].flip(-1)
        return _windows([first, vectors_NL, last], width, step, blocks)

    def _windows(self, band_NC: Tensor, blocks: int) -> Tensor:
        """The windows of bands from each of which 2 * _BLOCK numbers follow, one band's after the other's."""
        return _windows([band_NC], _BLOCK + self._taps // 2 - 1, _BLOCK, blocks)

    def _filters_for(self, like: Tensor) -> _Filters:
        key = like.dtype, like.device
        if key not in self._filters:
            self._filters[key] = _Filters(*(matrix.to(like) for matrix in self._matrices()))
        return self._filters[key]

    def _matrices(self) -> _Filters:
        taps, bank = self._taps, self._bank
        analysis = [torch.zeros(2 * _BLOCK + taps - 2, _BLOCK, dtype=torch.float64) for _ in range(2)]
        synthesis = [torch.zeros(_BLOCK + taps // 2 - 1, 2 * _BLOCK, dtype=torch.float64) for _ in range(2)]
        for matrix, weights in zip(analysis, (bank.dec_lo, bank.dec_hi), strict=True):
            for out in range(_BLOCK):
                matrix[2 * out : 2 * out + taps, out] = torch.tensor(weights[::-1], dtype=torch.float64)
        for matrix, weights in zip(synthesis, (bank.rec_lo, bank.rec_hi), strict=True):
            for tap, weight in enumerate(weights):
                for place in range(len(matrix)):
                    out = tap - (taps - 2) + 2 * place
                    if 0 <= out < 2 * _BLOCK:
                        matrix[place, out] = weight
        return _Filters(*analysis, *synthesis)


def _windows(pieces: list[Tensor], width: int, step: int, blocks: int) -> Tensor:
    """Overlapping windows of what pieces are together, with zeros behind it; rows, one vector's after the other's."""
    vectors, missing = pieces[0].shape[0], (blocks - 1) * step + width - sum(piece.shape[-1] for piece in pieces)
    if missing > 0:
        pieces = [*pieces, pieces[0].new_zeros(vectors, missing)]
    joined = torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]
    return joined.unfold(-1, width, step)[:, :blocks].reshape(-1, width)
