"""Means that a few wrong rows cannot move far: trimmed mean, median, geometric median.

All take a batch of queries at once, and a mask of the rows that count. Shapes: S queries, N rows, D coordinates.
"""

import torch
from torch import Tensor

from covey.federated.robust_inference.answers import AnswersError

_ITERATIONS, _STILL, _GUARD = 20, 1e-6, 1e-8
"""Weiszfeld's iterations, the movement at which they end, and the least distance by which they divide."""


def mean(rows: Tensor, valid: Tensor | None = None) -> Tensor:
    """The mean of the valid rows."""
    if valid is None:
        return rows.mean(1)
    mask = valid.unsqueeze(-1)
    return torch.where(mask, rows, 0.0).sum(1) / mask.sum(1)


def least_lead_of_mean(rows: Tensor, faulty: int) -> Tensor:
    """The least lead of the mean's greatest coordinate in the sum of any N - `faulty` rows, S."""
    first = rows.mean(1).argmax(-1, keepdim=True)
    leads = rows.gather(2, first.unsqueeze(1).expand(-1, rows.shape[1], 1)) - rows
    kept = leads.sum(1) - leads.topk(faulty, dim=1).values.sum(1)
    return kept.scatter(1, first, torch.inf).amin(1)


def trimmed_mean(rows: Tensor, trim: int | Tensor, valid: Tensor | None = None) -> Tensor:
    """The mean of each coordinate without its `trim` largest and smallest values.

    Args:
        rows: S x N x D numbers.
        trim: the number of values, of all queries or of each.
        valid: True for the rows that count, S x N.

    Raises:
        AnswersError: nothing is left.
    """
    if valid is None and isinstance(trim, int):
        count = rows.shape[1]
        _check_trim(trim, count, trim < 0 or 2 * trim >= count)
        return rows.mean(1) if trim == 0 else rows.sort(1).values[:, trim : count - trim].mean(1)
    counts = _counts(rows, valid)
    trims = torch.as_tensor(trim, device=rows.device).expand_as(counts)
    wrong = (trims < 0) | (2 * trims >= counts)
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        _check_trim(int(trims[first]), int(counts[first]), True)
    # Rows that do not count are infinite, so that they are the last of the sorted.
    filled = rows if valid is None else torch.where(valid.unsqueeze(-1), rows, torch.inf)
    rank = torch.arange(rows.shape[1], device=rows.device)
    kept = (rank >= trims.unsqueeze(1)) & (rank < (counts - trims).unsqueeze(1))
    total = torch.where(kept.unsqueeze(-1), filled.sort(1).values, 0.0).sum(1)
    return total / (counts - 2 * trims).unsqueeze(-1)


def median(rows: Tensor, valid: Tensor | None = None) -> Tensor:
    """The median of each coordinate; of an even number of rows, the mean of the middle two."""
    if valid is None:
        return trimmed_mean(rows, (rows.shape[1] - 1) // 2)
    return trimmed_mean(rows, (_counts(rows, valid) - 1) // 2, valid)


def geometric_median(rows: Tensor, valid: Tensor | None = None) -> Tensor:
    """The point with the least sum of distances to the rows, by at most 20 iterations of Weiszfeld (1937)."""
    point = mean(rows, valid)
    active = torch.ones(len(rows), 1, dtype=torch.bool, device=rows.device)
    for _ in range(_ITERATIONS):
        squares = (rows - point.unsqueeze(1)).square().sum(-1)
        weights = squares.clamp_min(_GUARD**2).rsqrt()
        weights = weights if valid is None else torch.where(valid, weights, 0.0)
        moved = (weights.unsqueeze(1) @ rows).squeeze(1) / weights.sum(1, keepdim=True)
        still = torch.linalg.vector_norm((moved - point).detach(), dim=1, keepdim=True) <= _STILL
        point = torch.where(active, moved, point)
        active = active & ~still
        if not bool(active.any()):
            break
    return point


def straight_through(value: Tensor, rows: Tensor, valid: Tensor | None = None) -> Tensor:
    """A value whose gradient goes to all rows alike, as if it were their mean (BPDA; Athalye et al., 2018)."""
    passed = mean(rows, valid)
    return value.detach() + (passed - passed.detach())


def _counts(rows: Tensor, valid: Tensor | None) -> Tensor:
    return torch.full((len(rows),), rows.shape[1], device=rows.device) if valid is None else valid.sum(1)


def _check_trim(trim: int, count: int, wrong: bool) -> None:
    if wrong:
        raise AnswersError(
            f"The 'trim' of a trimmed mean must be at least 0 and less than half of the {count} rows. "
            f"Got {trim} instead."
        )
