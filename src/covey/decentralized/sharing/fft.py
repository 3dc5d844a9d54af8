"""The sharing of the frequencies that changed most."""

from collections.abc import Sequence

import torch
from torch import Tensor

from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.transformed import Transform, Transformed
from covey.parts.parameters import Setting, param


class FFT(Transformed):
    """The frequencies of the model whose amplitudes changed most; a baseline of JWINS."""

    kind = "fft"
    budget: float = param("The fraction of the frequencies that is sent.", gt=0, le=1)

    def transform(self, setting: Setting) -> Transform:
        return FourierTransform(setting.parameters)

    def fractions(self) -> Sequence[tuple[float, float]]:
        return [(self.budget, 1.0)]

    def fraction(self, round: Round) -> float:
        return self.budget


class FourierTransform:
    """The discrete Fourier transform of real vectors: the real and the imaginary part of every frequency from 0 on.

    Args:
        length: that of a vector.
    """

    parts = 2

    def __init__(self, length: int) -> None:
        self.length = length
        self.size = length // 2 + 1

    def forward(self, vectors: Tensor) -> Tensor:
        """The coefficients, (..., 2 * size), of vectors, (..., length)."""
        return torch.view_as_real(torch.fft.rfft(vectors, norm="ortho")).flatten(-2)

    def forward_by_torch(self, vectors: Tensor) -> Tensor:
        """The same as `forward`."""
        return self.forward(vectors)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """The vectors, (..., length), of coefficients, (..., 2 * size)."""
        frequencies = torch.view_as_complex(coefficients.reshape(*coefficients.shape[:-1], self.size, 2))
        vectors: Tensor = torch.fft.irfft(frequencies, n=self.length, norm="ortho")
        return vectors

    def project(self, coefficients: Tensor) -> None:
        """Replace coefficients by `forward(inverse(coefficients))`: the ends of a real vector's spectrum are real."""
        imaginary = [1] if self.length % 2 else [1, 2 * self.size - 1]
        coefficients.index_fill_(-1, torch.tensor(imaginary, device=coefficients.device), 0.0)
