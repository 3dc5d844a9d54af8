"""Send a random subset: the receiver draws the same indices, so that a message holds values alone."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from covey.decentralized.sharing.partial import Partial
from covey.decentralized.sharing.round import Round
from covey.messages.payloads import Payload
from covey.parts.errors import WireError
from covey.parts.parameters import Setting, param
from covey.runtime.node import Message


class Random(Partial):
    """A fresh random subset of the values in every round; its indices follow from the experiment's seed."""

    kind = "random"
    foreseen: ClassVar[bool] = True
    common: bool = param("Whether all nodes draw the same indices.", default=False)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._last: dict[int, tuple[int, Tensor]] = {}

    def choose(self, round: Round) -> Tensor:
        return self._drawn(round.node.id, round.t)

    def _drawn(self, sender: int, t: int) -> Tensor:
        sender = 0 if self.common else sender
        known = self._last.get(sender)
        if known is None or known[0] != t:
            known = self._last[sender] = t, self._draw(sender, t)
        return known[1]

    def _draw(self, sender: int, t: int) -> Tensor:
        generator = self._setting.generator("random-sharing", sender, t)
        indices = generator.choice(self._setting.parameters, self.count, replace=False, shuffle=False)
        return torch.from_numpy(np.sort(indices))

    def describe(self, indices: Tensor) -> Payload:
        return {}

    def placed(self, message: Message, count: int) -> Tensor:
        if count != self.count or message.round is None:
            raise WireError("bad-field", f"it holds {count} values instead of {self.count}")
        return self._drawn(message.sender, message.round)
