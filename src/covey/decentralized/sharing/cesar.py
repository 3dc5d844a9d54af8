"""CESAR (Biswas et al., 2024): secure aggregation of sparse models, by masks over the common indices of neighbours."""

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from covey.decentralized.sharing.decoded import Decoded
from covey.decentralized.sharing.masked import Masked
from covey.decentralized.sharing.partial import Partial
from covey.decentralized.sharing.random import Random
from covey.decentralized.sharing.round import Round
from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.node import Message


class Cesar(Masked):
    """The values that enough neighbours of a receiver have chosen, under pairwise masks."""

    kind = "cesar"
    takes_buffers = True
    subset: Partial = param("The sharing that chooses the values to send, such as random or top-k.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.by_change = self.subset.by_change  # type: ignore[misc]
        if self.subset.values != "raw":
            raise ConfigurationError(
                f"The 'values' of the subset of {self.named()} must be 'raw': masked values are noise, which cannot "
                f"be compressed. Got '{self.subset.values}' instead."
            )
        if self.subset.share != "trained" or self.subset.buffers != "average":
            raise ConfigurationError(
                f"The subset of {self.named()} must have neither 'share' nor 'buffers': those of {self.named()} apply."
            )

    def whole(self) -> Self:
        return replace(self, subset=Random(budget=1.0))

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._all = torch.arange(setting.parameters)
        self._picked = self.subset.selection.size
        self._buffers = self._all[self._picked :]
        """The indices of the buffers, which every node sends besides the chosen ones."""
        self._joined = Decoded()

    @property
    def _whole(self) -> bool:
        return self.subset.count >= self._picked

    @property
    def foreseen(self) -> bool:
        return self._whole or self.subset.foreseen

    def choose(self, round: Round) -> tuple[Tensor, Payload]:
        if self._whole:
            return self._all, {}
        indices = self.subset.choose(round.of(self.subset.selection))
        return self._with_buffers(indices), self.subset.describe(indices)

    def chosen(self, message: Message) -> Tensor:
        return self._all if self._whole else self._with_buffers(self.subset.placed(message, self.subset.count))

    def _with_buffers(self, indices: Tensor) -> Tensor:
        if not len(self._buffers):
            return indices
        joined = self._joined.recall(indices)
        if joined is None:
            joined = torch.cat([indices, self._buffers])
            self._joined.remember(indices, joined)
        return joined
