"""The joint computation of many nodes' mixtures.

Shapes: M mixtures, R distinct models in them, P parameters.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.deferred import Depth
from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.mixture import SHORT, Mixture, depth_of, one_by_one
from covey.learning.sums import Terms, gathered, rounded_sums

SMALL = 1 << 11
"""The largest model for which one sparse product of all models beats separate additions, whose cost is mostly that of
calls. For larger models memory bandwidth decides, and copying does not pay. See "mixing" in bench/RESULTS.md."""


def mix(mixtures: Sequence[Mixture], learner: Learner) -> None:
    """Compute every mixture that is not computed yet. One that occurs twice is computed once: two threads must not
    compute the same one."""
    open_ones = [mixture for mixture in {id(one): one for one in mixtures}.values() if mixture.value is None]
    for mixture in open_ones:
        mixture.settle()
    on_cpu = learner.device.type == "cpu"
    is_small = on_cpu and learner.layout.size <= SMALL
    apart: list[Mixture] = []
    long: list[Mixture] = []
    short: list[Mixture] = []
    for mixture in open_ones:
        if type(mixture) is not Mixture or not (on_cpu if mixture.is_long else is_small):
            apart.append(mixture)
        else:
            (long if mixture.is_long else short).append(mixture)
    if apart:
        learner.mix([partial(_one, mixture) for mixture in apart])
    if long:
        for mixture, total in zip(long, rounded_sums(_terms(long, np.float64), learner.mix), strict=True):
            mixture.finish(total)
    short = [mixture for mixture in short if mixture.value is None]
    if short:
        _together(short)


def levels(
    mixtures: Sequence[Mixture], trainings: Sequence[Training]
) -> Iterator[tuple[list[Mixture], list[Training]]]:
    """Mixtures and trainings by depth: each level depends on the earlier ones alone, its trainings on its mixtures."""
    found: dict[Depth, tuple[list[Mixture], list[Training]]] = {}
    for mixture in mixtures:
        if mixture.value is None:
            found.setdefault(depth_of(mixture), ([], []))[0].append(mixture)
    for training in trainings:
        found.setdefault((depth_of(training.start)[0] + 1, 0), ([], []))[1].append(training)
    return (found[depth] for depth in sorted(found))


def _terms(mixtures: Sequence[Mixture], dtype: type[np.floating]) -> Terms:
    return gathered([(mixture.models or (), mixture.weights) for mixture in mixtures], dtype)


def _together(mixtures: Sequence[Mixture]) -> None:
    """Compute mixtures by one sparse product in float32."""
    matrix, models = _terms(mixtures, np.float32)
    stacked_RP = torch.stack(models).numpy()
    mixed_MP = torch.from_numpy(matrix @ stacked_RP)
    _pull(mixed_MP, mixtures, torch.from_numpy(stacked_RP[matrix.indices[matrix.indptr[:-1]]]))
    # With 90 floats per row: 1.5 µs per row, against 3 µs with `clone`.
    for mixture, row in zip(mixtures, mixed_MP.numpy(), strict=True):
        mixture.fix(torch.from_numpy(row.copy()))


class Entries(NamedTuple):
    """The weights of many mixtures of rows of one array, as those of a sparse matrix.

    Attributes:
        ends: the entries before each mixture, and of all.
        columns: the rows of models, of each mixture first its own.
        weights: the weight of each column.
    """

    ends: NDArray[np.integer]
    columns: NDArray[np.integer]
    weights: NDArray[np.float64]


def mixed_rows(entries: Entries, since: int, until: int, models_NP: Tensor, mixed_MP: Tensor) -> None:
    """Compute some mixtures of the rows of an array, to the same bits as `mix` does.

    Args:
        entries: all mixtures, of which those from `since` to before `until` are computed.
        models_NP: the models.
        mixed_MP: the results.
    """
    is_long = np.diff(entries.ends[since : until + 1]) > SHORT
    if is_long.any():
        weights, distinct = _matrix(entries, since, is_long, np.float64)
        terms = Terms(weights, [models_NP[row] for row in distinct.tolist()])
        mixed_MP[torch.from_numpy(is_long)] = torch.stack(rounded_sums(terms, one_by_one))
    if is_long.all():
        return
    if models_NP.shape[1] > SMALL:
        _each_row(entries, since, ~is_long, models_NP, mixed_MP)
    elif not is_long.any():
        ends = entries.ends[since : until + 1]
        here = slice(int(ends[0]), int(ends[-1]))
        data = (entries.weights[here].astype(np.float32), entries.columns[here], ends - ends[0])
        matrix = sp.csr_array(data, shape=(len(is_long), len(models_NP)))
        mixed_MP.copy_(torch.from_numpy(matrix @ models_NP.numpy()))
    else:
        matrix, distinct = _matrix(entries, since, ~is_long, np.float32)
        mixed_MP[torch.from_numpy(~is_long)] = torch.from_numpy(matrix @ models_NP.numpy()[distinct])


def _matrix(
    entries: Entries, since: int, chosen: NDArray[np.bool_], dtype: type[np.floating]
) -> tuple[sp.csr_array, NDArray[np.integer]]:
    """The weights of chosen mixtures, and the rows of models that are the columns of these weights."""
    ends = entries.ends[since : since + len(chosen) + 1]
    here, counts = slice(int(ends[0]), int(ends[-1])), np.diff(ends)
    entry = np.repeat(chosen, counts)
    distinct, index = np.unique(entries.columns[here][entry], return_inverse=True)
    ends = np.concatenate([[0], np.cumsum(counts[chosen])])
    data = (entries.weights[here][entry].astype(dtype), index, ends)
    return sp.csr_array(data, shape=(len(ends) - 1, len(distinct))), distinct


def _each_row(entries: Entries, since: int, chosen: NDArray[np.bool_], models_NP: Tensor, mixed_MP: Tensor) -> None:
    """The chosen mixtures of large models, one after the other."""
    for row in chosen.nonzero()[0].tolist():
        here = slice(int(entries.ends[since + row]), int(entries.ends[since + row + 1]))
        models = [models_NP[column] for column in entries.columns[here].tolist()]
        mixed_MP[row] = Mixture(models, entries.weights[here].tolist()).tensor()


def _pull(mixed_MP: Tensor, mixtures: Sequence[Mixture], own_MP: Tensor) -> None:
    """Apply the pulls of all mixtures in one scatter."""
    size = mixed_MP.shape[1]
    pulls = [(row, pull) for row, mixture in enumerate(mixtures) for pull in mixture.pulls]
    if pulls:
        indices = torch.cat([pull.indices + row * size for row, pull in pulls])
        weights = torch.tensor([pull.weight for _, pull in pulls])
        weights = weights.repeat_interleave(torch.tensor([len(pull.indices) for _, pull in pulls]))
        change = torch.cat([pull.values for _, pull in pulls]) - own_MP.view(-1)[indices]
        mixed_MP.view(-1).index_add_(0, indices, change.mul_(weights))


def _one(mixture: Mixture) -> None:
    mixture.tensor()
