"""JWINS: send the wavelet coefficients that changed most, a random number of them (Dhasade et al., ICDCS 2023)."""

import math
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import pywt

from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.transformed import Transform, Transformed
from covey.decentralized.sharing.wavelets import WaveletTransform
from covey.parts.errors import ConfigurationError, ConfigurationWarning, unknown
from covey.parts.parameters import Setting, param

_NONE = "none"
_ALPHAS = (0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 1.0)


class JWINS(Transformed):
    """The wavelet coefficients that changed most since they were last sent, a random fraction of them in each round."""

    kind = "jwins"
    alphas: list[float] | None = param(
        "The fractions of the coefficients. Each node draws one in each round. By default, those of the paper: 0.1, "
        "0.15, 0.2, 0.25, 0.3, 0.4 and 1.",
        default=None,
        gt=0,
        le=1,
    )
    probabilities: list[float] | None = param(
        "The probabilities of the alphas; by default, all are equal.", default=None, ge=0, le=1
    )
    budget: float | None = param(
        "The fixed fraction of the coefficients, instead of alphas and probabilities.", default=None, gt=0, le=1
    )
    metadata_cap: float = param(
        "The least alpha with which all coefficients are sent, without indices.", default=0.5, gt=0, le=1
    )
    wavelet: str = param(
        'The wavelet, one of the discrete ones of PyWavelets. With "none", the values of the model are sent '
        "themselves.",
        default="sym2",
    )
    level: int = param(
        "The number of times that the transform halves the model; a short model is halved fewer times.", default=4, ge=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and (self.alphas is not None or self.probabilities is not None):
            raise ConfigurationError(f"The 'budget' of {self.named()} replaces 'alphas' and 'probabilities'. Got both.")
        if self.alphas == []:
            raise ConfigurationError(f"The 'alphas' of {self.named()} must be at least one fraction. Got [] instead.")
        self._alphas = self.alphas or (list(_ALPHAS) if self.budget is None else [self.budget])
        chances = self.probabilities
        if chances is not None and (
            len(chances) != len(self._alphas) or not math.isclose(sum(chances), 1, abs_tol=1e-6)
        ):
            raise ConfigurationError(
                f"The 'probabilities' of {self.named()} must be {len(self._alphas)} numbers, one for each alpha, "
                f"with the sum 1. Got {chances!r} instead."
            )
        known = [_NONE, *pywt.wavelist(kind="discrete")]
        if self.wavelet not in known:
            raise ConfigurationError(unknown(f"'wavelet' of {self.named()}: '{self.wavelet}'", self.wavelet, known))

    def transform(self, setting: Setting) -> Transform | None:
        if self.wavelet == _NONE:
            return None
        transform = WaveletTransform(self.wavelet, self.level, setting.parameters)
        if transform.level < self.level:
            warnings.warn(
                f"The 'level' of {self.named()} is {self.level}, but {self.wavelet} can halve a model of "
                f"{setting.parameters} numbers only {transform.level} times: {transform.level} is used.",
                ConfigurationWarning,
                stacklevel=2,
            )
        return transform if transform.level else None

    def fractions(self) -> Sequence[tuple[float, float]]:
        chances = self.probabilities or [1.0 / len(self._alphas)] * len(self._alphas)
        cap = self.metadata_cap if self.budget is None else 1.0
        return [(1.0 if alpha >= cap else alpha, chance) for alpha, chance in zip(self._alphas, chances, strict=True)]

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        fractions = self.fractions()
        self._choices: list[float] = [fraction for fraction, _ in fractions]
        self._chances = list(accumulate(chance for _, chance in fractions))

    def fraction(self, round: Round) -> float:
        if len(self._choices) == 1:
            return self._choices[0]
        drawn = round.node.random("jwins", round.t).random() * self._chances[-1]
        return self._choices[bisect_right(self._chances, drawn)]
