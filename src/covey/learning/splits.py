"""The samples that nodes train on, validate with, are tested with, and all have in common."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from covey.learning.batches import Parts
from covey.learning.dataset import Data
from covey.parts import rng


class Splits:
    """The splits of the data by name: "train", "validation" and "own" of a node, "test", "public".

    Args:
        data: the data set, on the device of models.
        train: the training samples of each node.
        validation: the validation samples of each node, indices in the training data.
        public: the inputs that all nodes have, converted for a model; None if there are none.
        seed: the experiment's seed.
    """

    def __init__(
        self, data: Data, train: Parts, validation: Sequence[np.ndarray], public: Tensor | None, seed: int
    ) -> None:
        self.data, self.train, self.validation, self.seed = data, train, validation, seed
        inputs = data.train.inputs
        self.public = data.scaled(inputs[:0]) if public is None else public.to(inputs.device)

    def indices(self, name: str, holder: int | None, limit: int | None = None) -> np.ndarray:
        """The indices of a split's samples, in the training, test or public data.

        Args:
            name: the split.
            holder: the node, for its own data.
            limit: the number of test samples for evaluations.
        """
        if name == "public":
            return np.arange(len(self.public))
        if name == "test":
            whole = len(self.data.test) if self.data.own is None else self.data.own.common
            if limit is None or limit >= whole:
                return np.arange(whole)
            return np.sort(rng.generator(self.seed, "evaluation").permutation(whole)[:limit])
        assert holder is not None
        if name == "own":
            assert self.data.own is not None
            return self.data.own.test[holder][:limit]
        self.data.check_no_stream(f"{name} split")
        return self.train.of(holder) if name == "train" else self.validation[holder]

    def taken(self, name: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """The converted inputs and the targets at some indices of a split. Public data have no targets."""
        chosen = torch.from_numpy(indices).to(self.data.train.inputs.device)
        if name == "public":
            return self.public[chosen], chosen[:0]
        split = self.data.test if name == "test" else self.data.train
        return self.data.scaled(split.inputs[chosen]), split.targets[chosen]
