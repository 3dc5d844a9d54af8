"""The models of all nodes as one array, trained in place and multiplied with the matrix of a round.

Every number is that of the same nodes one by one: the same batches, kernels and order of additions.

Shapes: N nodes, P parameters, J trainings of a chunk.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.batches import Plan, plan
from covey.learning.chunks import augmentation_keys
from covey.learning.dataset import Split
from covey.learning.kernels import Chunk
from covey.learning.learner import Learner
from covey.learning.mixing import SMALL, Entries, mixed_rows
from covey.learning.optimizers import Slots
from covey.messages.payloads import Payload
from covey.parts import rng
from covey.runtime.models import Models

_DRAWN_AT_ONCE = 1 << 18
"""The greatest number of samples whose batches are drawn at a time."""
_ROWS, _COLUMNS = 512, 64
"""The rows of one product, and the columns where there is no memory for a second array. With 512 rows, mixing 100,000
nodes of 650 numbers with 9 weights each took 6 µs a node; with 64 columns 15."""
_JUDGED_AT_ONCE = 1024
_BYTES_AT_ONCE = 1 << 21
"""The memory of the models that are trained in one call of a kernel. Of models of 650 numbers, 512 in a call took 6 µs
each, and 32 took 25: most of that is the call."""


class Buffer(Models):
    """The models of a learner's nodes, N x P.

    Args:
        learner: computes trainings.
        split: the data of evaluations.
        spare: whether there is memory for a second array, into which models are mixed.
    """

    def __init__(self, learner: Learner, split: Callable[[], Split], *, spare: bool = True) -> None:
        self._learner, self._split = learner, split
        nodes, first = len(learner.parts.sizes), learner.first_model
        self._models_NP = torch.empty(nodes, len(first))
        self._spare_NP = torch.empty_like(self._models_NP) if spare else None
        if learner.task.same_start:
            self._models_NP.copy_(first.expand_as(self._models_NP))
        else:
            for node in range(nodes):
                self._models_NP[node] = learner.initial(node)
        self.slots: Slots = {}
        """The states of the optimisers if they are kept, each N x P or N x 1."""
        if learner.task.optimizer.state == "keep":
            self.slots = learner.task.optimizer.fresh(self._models_NP[:, : learner.layout.trainable])
        self._streams = rng.mix_array(
            np.full(nodes, rng.purpose_key(learner.seed, "train"), np.uint64), np.arange(nodes)
        )
        self.steps, self.samples = learner.usual
        self._chunk, most = learner.chunk, learner.kernel.most
        if most is not None and learner.chunk == learner.kernel.chunk:
            self._chunk = max(learner.chunk, min(most, _BYTES_AT_ONCE // (4 * len(first))))

    # ------------------------------------------------------------------ training

    def train(self, t: int, nodes: NDArray[np.int64], losses: NDArray[np.float64]) -> NDArray[np.int64]:
        learner = self._learner
        finite = np.ones(len(losses), dtype=bool)
        each = max(1, int(self.steps.max()) * learner.batch_size)
        # A multiple of the chunk, so that only the last of a block is smaller.
        block = max(1, _DRAWN_AT_ONCE // each // self._chunk) * self._chunk
        blocks = [nodes[at : at + block] for at in range(0, len(nodes), block)]
        learner.mix([partial(self._train, t, some, losses, finite) for some in blocks])
        return np.flatnonzero(~finite)

    def _train(self, t: int, nodes: NDArray[np.int64], losses: NDArray[np.float64], finite: NDArray[np.bool_]) -> None:
        """Train a block of nodes, the chunks one after the other."""
        learner = self._learner
        nodes = nodes[np.argsort(-self.steps[nodes], kind="stable")]
        keys, steps = rng.mix_array(rng.mix_array(self._streams[nodes], t), 0), self.steps[nodes]
        drawn = plan(learner.parts, nodes, keys, steps, learner.batch_size)
        for at in range(0, len(nodes), self._chunk):
            here = slice(at, at + self._chunk)
            samples_JTB = drawn.samples[here, : steps[at]]
            ragged = drawn.ragged and bool((samples_JTB < 0).any())
            self._train_chunk(t, nodes[here], keys[here], Plan(samples_JTB, ragged), losses, finite)

    def _train_chunk(
        self,
        t: int,
        nodes: NDArray[np.int64],
        keys: rng.Keys,
        drawn: Plan,
        losses: NDArray[np.float64],
        finite: NDArray[np.bool_],
    ) -> None:
        learner, kernel = self._learner, self._learner.kernel
        rows = _rows(nodes)
        models_JP = self._models_NP[rows]
        slots = {name: slot[rows] for name, slot in self.slots.items()}
        steps = self.steps[nodes].tolist()
        chunk = Chunk(
            starts=models_JP,  # type: ignore[arg-type]
            samples=torch.from_numpy(drawn.samples),
            ragged=drawn.ragged,
            steps=steps,
            lr=torch.full((len(nodes), 1), learner.rate_in(t)),
            proximal=0.0,
            slots=slots or learner.task.optimizer.fresh(models_JP[:, : learner.layout.trainable]),
            keys=augmentation_keys(keys) if learner.task.augmentation else None,
            guesses=[kernel.optimizer.guesses_after(count, None, None) for count in steps],
        )
        summed, is_finite = kernel.train_rows(models_JP, chunk)
        losses[nodes], finite[nodes] = summed.double().numpy() / self.samples[nodes], is_finite.numpy()
        if not isinstance(rows, slice):
            self._models_NP[rows] = models_JP
            for name, slot in slots.items():
                self.slots[name][rows] = slot

    def not_finite(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = [self._models_NP[_rows(nodes[at : at + _ROWS])].sum(1) for at in range(0, len(nodes), _ROWS)]
        wrong: NDArray[np.int64] = nodes[~torch.isfinite(torch.cat([*sums, torch.zeros(0)])).numpy()]
        return wrong

    # ------------------------------------------------------------------ mixing

    def mix(self, weights: sp.csr_array) -> None:
        entries = Entries(weights.indptr, weights.indices, weights.data)
        nodes, size = self._models_NP.shape
        if self._spare_NP is None:
            width = _COLUMNS if size <= SMALL else size
            pieces = [partial(self._mix_columns, entries, at, at + width) for at in range(0, size, width)]
        else:
            pieces = [partial(self._mix_rows, entries, at, min(at + _ROWS, nodes)) for at in range(0, nodes, _ROWS)]
        self._learner.mix(pieces)
        if self._spare_NP is not None:
            self._models_NP, self._spare_NP = self._spare_NP, self._models_NP

    def _mix_rows(self, entries: Entries, since: int, until: int) -> None:
        assert self._spare_NP is not None
        mixed_rows(entries, since, until, self._models_NP, self._spare_NP[since:until])

    def _mix_columns(self, entries: Entries, since: int, until: int) -> None:
        before_NC = self._models_NP[:, since:until].clone(memory_format=torch.contiguous_format)
        for at in range(0, len(before_NC), _ROWS):
            end = min(at + _ROWS, len(before_NC))
            mixed_rows(entries, at, end, before_NC, self._models_NP[at:end, since:until])

    # ------------------------------------------------------------------ judging, checkpoints, the end

    def judge(self, nodes: Sequence[int]) -> list[tuple[Any, Mapping[str, float]]]:
        found: list[tuple[Any, Mapping[str, float]]] = []
        for at in range(0, len(nodes), _JUDGED_AT_ONCE):
            models = [self._models_NP[node] for node in nodes[at : at + _JUDGED_AT_ONCE]]
            found += zip(models, self._learner.evaluate(models, self._split()), strict=True)
        return found

    def pack(self) -> dict[str, Any]:
        return {"models": self._models_NP, **{f"slots/*/{name}": slot for name, slot in self.slots.items()}}

    def unpack(self, payload: Payload) -> None:
        models: Any = payload["models"]
        self._models_NP.copy_(models)
        for key, value in payload.items():
            family, _, rest = key.partition("/")
            index, _, name = rest.partition("/")
            if family == "slots" and isinstance(value, Tensor):
                self.slots[name][slice(None) if index == "*" else slice(int(index), int(index) + 1)] = value

    def result(self) -> Tensor:
        return self._models_NP


def _rows(nodes: NDArray[np.int64]) -> Any:
    """The index of ascending nodes: a slice, which gives a view, if there is no gap between them."""
    first, count = int(nodes[0]) if len(nodes) else 0, len(nodes)
    is_run = not count or (int(nodes[-1]) - first == count - 1 and bool((np.diff(nodes) == 1).all()))
    return slice(first, first + count) if is_run else torch.from_numpy(nodes)
