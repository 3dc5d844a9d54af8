"""The joint computation of many nodes' mixtures.

Shapes: M mixtures, R distinct models in them, P parameters.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.deferred import Depth
from covey.learning.jobs import Training
from covey.learning.learner import Learner
from covey.learning.mixture import SHORT, Mixture, depth_of

SMALL = 1 << 11
"""The largest model for which one sparse product of all models beats separate additions, whose cost is mostly that of
calls. For larger models memory bandwidth decides, and copying does not pay. See "mixing" in bench/RESULTS.md."""


def mix(mixtures: Sequence[Mixture], learner: Learner) -> None:
    """Compute every mixture that is not computed yet. One that occurs twice is computed once: two threads must not
    compute the same one."""
    open_ones = [mixture for mixture in {id(one): one for one in mixtures}.values() if mixture.value is None]
    for mixture in open_ones:
        mixture.settle()
    small = learner.layout.size <= SMALL and learner.device.type == "cpu"
    apart = [mixture for mixture in open_ones if not small or type(mixture) is not Mixture]
    if apart:
        learner.mix([partial(_one, mixture) for mixture in apart])
        open_ones = [mixture for mixture in open_ones if mixture.value is None]
    for long in (False, True):
        some = [mixture for mixture in open_ones if mixture.is_long is long]
        if some:
            _together(some, np.float64 if long else np.float32)


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


def _together(open_ones: Sequence[Mixture], dtype: type[np.float32 | np.float64]) -> None:
    """Compute mixtures by one sparse product of numbers of a type."""
    models: list[Tensor] = []
    weights: list[float] = []
    ends = [0]
    for mixture in open_ones:
        assert mixture.models is not None
        models += mixture.models
        weights += mixture.weights
        ends.append(len(models))
    # Any index of each model serves. `return_index` would make numpy sort more slowly.
    distinct, columns = np.unique(np.array(list(map(id, models))), return_inverse=True)
    indices = np.empty(len(distinct), dtype=np.int64)
    indices[columns] = np.arange(len(models))
    stacked_RP = torch.stack([models[index] for index in indices.tolist()]).numpy()
    shape = (len(open_ones), len(distinct))
    matrix = sp.csr_array((np.array(weights, dtype=dtype), columns, np.array(ends)), shape=shape)
    mixed_MP = torch.from_numpy(matrix @ stacked_RP.astype(dtype, copy=False)).float()
    _pull(mixed_MP, open_ones, torch.from_numpy(stacked_RP[columns[ends[:-1]]]))
    # With 90 floats per row: 1.5 µs per row, against 3 µs with `clone`.
    for mixture, row in zip(open_ones, mixed_MP.numpy(), strict=True):
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
    if models_NP.shape[1] > SMALL:
        _each_row(entries, since, until, models_NP, mixed_MP)
        return
    ends = entries.ends[since : until + 1]
    here, counts = slice(int(ends[0]), int(ends[-1])), np.diff(ends)
    columns, weights, models = entries.columns[here], entries.weights[here], models_NP.numpy()
    is_long = counts > SHORT
    if not is_long.any():
        matrix = sp.csr_array((weights.astype(np.float32), columns, ends - ends[0]), shape=(len(counts), len(models)))
        mixed_MP.copy_(torch.from_numpy(matrix @ models))
        return
    for some, dtype in ((~is_long, np.float32), (is_long, np.float64)):
        entry = np.repeat(some, counts)
        distinct, index = np.unique(columns[entry], return_inverse=True)
        ends = np.concatenate([[0], np.cumsum(counts[some])])
        matrix = sp.csr_array((weights[entry].astype(dtype), index, ends), shape=(len(ends) - 1, len(distinct)))
        mixed = matrix @ models[distinct].astype(dtype, copy=False)
        mixed_MP[torch.from_numpy(some)] = torch.from_numpy(mixed.astype(np.float32, copy=False))


def _each_row(entries: Entries, since: int, until: int, models_NP: Tensor, mixed_MP: Tensor) -> None:
    """The same for large models, one mixture after the other."""
    ends = entries.ends[since : until + 1].tolist()
    for row, (start, end) in enumerate(pairwise(ends)):
        models = [models_NP[column] for column in entries.columns[start:end].tolist()]
        mixed_MP[row] = Mixture(models, entries.weights[start:end].tolist()).tensor()


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
