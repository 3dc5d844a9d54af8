"""Sums of many models, each rounded once: a sum has the same bits whichever others are computed with it, and how.

A sum in float64 differs from the exact one by less than a bound. Where all numbers within the bound round to the same
float32, that is the result; the few others are computed exactly. One in n means of n float32 numbers lies midway
between two others, where no small bound would do; so sums are rounded after a growth by a share of 2 ** -40.

Shapes: M sums, R distinct models in them, P parameters, B of these in a block.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCK = 1 << 20
"""The numbers in a block of all models: 8 MB of float64. Half or twice as many are slower."""
_DENSE = 1 / 16
"""The share of weights that are not 0 from which a dense product beats a sparse one: with 1,000 models of 7,850
parameters, it is 7 times as fast if all are not 0."""
_TERMS = 128
"""The products that a dense product adds at once. With more, more numbers have to be computed exactly."""
_GROWTH = 2.0**-40
_EPSILON = 2.0**-53

Run = Callable[[Sequence[Callable[[], None]]], None]


class Terms(NamedTuple):
    """The terms of several sums: the weights, M x R, and the distinct models, R."""

    weights: sp.csr_array
    models: list[Tensor]


def gathered(sums: Sequence[tuple[Sequence[Tensor], Sequence[float]]], dtype: type[np.floating]) -> Terms:
    """The terms of sums that may have models in common. The weights of a row keep their order."""
    models: list[Tensor] = []
    weights: list[float] = []
    ends = [0]
    for some, theirs in sums:
        models += some
        weights += theirs
        ends.append(len(models))
    # Any index of each model serves. `return_index` would make numpy sort more slowly.
    distinct, columns = np.unique(np.array(list(map(id, models))), return_inverse=True)
    indices = np.empty(len(distinct), dtype=np.int64)
    indices[columns] = np.arange(len(models))
    matrix = sp.csr_array((np.array(weights, dtype), columns, np.array(ends)), shape=(len(sums), len(distinct)))
    return Terms(matrix, [models[index] for index in indices.tolist()])


def rounded_sums(terms: Terms, run: Run) -> list[Tensor]:
    """The sums, in float32.

    Args:
        terms: the weights in float64, and models on the CPU.
        run: calls independent functions, perhaps in several threads.
    """
    models, product = terms.models, _product(terms.weights)
    size, step = len(models[0]), max(64, _BLOCK // len(models))
    sums = [torch.empty(size) for _ in range(terms.weights.shape[0])]

    def compute(span: slice) -> None:
        models_RB = torch.stack([model[span] for model in models]).double()
        for total, row_B in zip(sums, product.rounded(models_RB), strict=True):
            total[span] = row_B

    run([partial(compute, slice(at, at + step)) for at in range(0, size, step)])
    return sums


class _Product(NamedTuple):
    """The product of weights and models, by the way that is fastest for these weights.

    Attributes:
        weights: the weights of each sum in the order of its terms.
        dense: the same weights, M x R, if few are 0.
        common: the weights that most sums give, if they differ in few; R.
        others: the differences of the weights from the common ones.
        share_M1: the greatest error of a sum as a share of the largest magnitude in the models.
    """

    weights: sp.csr_array
    dense: Tensor | None
    common: Tensor | None
    others: sp.csr_array
    share_M1: Tensor

    def rounded(self, models_RB: Tensor) -> Tensor:
        """Some numbers of all sums."""
        most_B = models_RB.abs().amax(0)
        if most_B.isfinite().all():
            sums_MB = self._sums(models_RB)
        else:
            # An infinite number times 0, or minus itself, would reach sums that do not have it.
            sums_MB = torch.from_numpy(self.weights @ models_RB.numpy())
            most_B = models_RB.abs().nan_to_num_(0.0, 0.0).amax(0)
        sums_MB.mul_(1.0 + _GROWTH)
        margin_MB = self.share_M1 * most_B
        least_MB, rounded_MB = (sums_MB - margin_MB).float(), margin_MB.add_(sums_MB).float()
        self._correct(rounded_MB, models_RB.numpy(), (least_MB != rounded_MB) & rounded_MB.isfinite())
        return rounded_MB.add_(0.0)  # No -0.0, whose sign would depend on the margin.

    def _sums(self, models_RB: Tensor) -> Tensor:
        if self.dense is None:
            return torch.from_numpy(self.weights @ models_RB.numpy())
        if self.common is None:
            return _added(self.dense, models_RB)
        return torch.from_numpy(self.others @ models_RB.numpy()).add_(_added(self.common[None], models_RB))

    def _correct(self, rounded_MB: Tensor, models_RB: NDArray[np.float64], doubtful_MB: Tensor) -> None:
        """Compute the doubtful numbers exactly."""
        common: dict[int, list[float]] = {}
        for row, column in doubtful_MB.nonzero().tolist():
            values_R = models_RB[:, column]
            if self.dense is None or self.common is None:
                own = slice(*self.weights.indptr[row : row + 2])
                terms = products(self.weights.data[own], values_R[self.weights.indices[own]])
            else:
                if column not in common:
                    common[column] = expansion(products(self.common.numpy(), values_R))
                indices = self.others.indices[slice(*self.others.indptr[row : row + 2])]
                added = products(self.dense[row].numpy()[indices], values_R[indices])
                removed = products(-self.common.numpy()[indices], values_R[indices])
                terms = [*common[column], *added, *removed]
            rounded_MB[row, column] = rounded_sum(terms)


def _added(weights_MR: Tensor, models_RB: Tensor) -> Tensor:
    """A product that adds at most _TERMS products to each other, so that its error is small."""
    sums_MB = weights_MR[:, :_TERMS] @ models_RB[:_TERMS]
    for at in range(_TERMS, len(models_RB), _TERMS):
        sums_MB += weights_MR[:, at : at + _TERMS] @ models_RB[at : at + _TERMS]
    return sums_MB


def _product(weights_MR: sp.csr_array) -> _Product:
    terms, models = int(np.diff(weights_MR.indptr).max()), weights_MR.shape[1]
    few = _DENSE * weights_MR.shape[0] * models
    sizes_M = abs(weights_MR).sum(axis=1)
    if weights_MR.nnz < few:
        return _Product(weights_MR, None, None, weights_MR, _share(terms, sizes_M))
    dense_MR = weights_MR.toarray()
    dense, added = torch.from_numpy(dense_MR), min(_TERMS, models) + models // _TERMS
    if np.count_nonzero(dense_MR) < weights_MR.nnz:
        # Weights of a model that occurs twice in a sum were added, and so are their errors.
        return _Product(weights_MR, dense, None, weights_MR, _share(added + terms, sizes_M))
    common_R = np.median(dense_MR, axis=0)
    others = sp.csr_array(dense_MR - common_R)
    if others.nnz >= few:
        return _Product(weights_MR, dense, None, weights_MR, _share(added, sizes_M))
    added += int(np.diff(others.indptr).max())
    sizes_M = np.abs(common_R).sum() + abs(others).sum(axis=1)
    return _Product(weights_MR, dense, torch.from_numpy(common_R), others, _share(added, sizes_M))


def _share(terms: int, sizes_M: NDArray[Any]) -> Tensor:
    """A bound of the error of sums of so many products, whose weights have these sums of magnitudes."""
    return torch.from_numpy(1.01 * _EPSILON * (terms + 8) * sizes_M)[:, None]


def products(weights: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """Numbers whose exact sum is that of weights times values, which are float32 numbers in float64."""
    # A part of a weight has at most 27 bits, a value 24: their products are exact.
    mantissas, exponents = np.frexp(weights)
    high = np.ldexp(np.round(mantissas * 2.0**26), exponents - 26)
    return [*(high * values).tolist(), *((weights - high) * values).tolist()]


def expansion(terms: Sequence[float]) -> list[float]:
    """The exact sum as a few numbers, each of them what rounding left over of those before."""
    found: list[float] = []
    while rest := math.fsum([*terms, *(-part for part in found)]):
        found.append(rest)
        if not math.isfinite(rest):
            break
    return found


def rounded_sum(terms: Sequence[float]) -> float:
    """The exact sum of some numbers, after its growth, rounded to float32."""
    total, *rest = [*expansion([*terms, *(term * _GROWTH for term in terms)]), 0.0]
    nearest = np.float32(total)
    if not np.isfinite(nearest):
        return float(nearest)
    # `total` itself is rounded: where it lies midway between two float32 numbers, the rest decides.
    other = np.nextafter(nearest, np.float32(math.copysign(math.inf, total - float(nearest))))
    if rest and rest[0] and total - float(nearest) == float(other) - total and (other > nearest) == (rest[0] > 0):
        return float(other)
    return float(nearest)
