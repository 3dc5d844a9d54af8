"""CHOCO-SGD: gossip over public copies that compressed messages keep up to date (Koloskova et al., 2019 and 2020)."""

from typing import Literal

import torch
from torch import Tensor

from covey.decentralized.sharing.public_copies import PublicCopies
from covey.messages.compression import Compressor
from covey.parts.parameters import Setting, param


class Choco(PublicCopies):
    """CHOCO-SGD: sends the compressed difference to a public copy, and moves towards the neighbours' copies."""

    kind = "choco"
    compressor: Compressor = param("The compressor of the difference between a model and its public copy.")
    order: Literal["exchange-first", "move-first"] = param(
        "The order of a round: exchange differences, then move towards the new copies (Koloskova et al., 2020), or "
        "move towards the copies of the round before, then exchange (2019).",
        default="exchange-first",
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.compressor.need_contraction(self, setting.parameters)

    @property
    def codec(self) -> Compressor:
        return self.compressor

    @property
    def moves_first(self) -> bool:
        return self.order == "move-first"

    def first_copy(self, start: Tensor) -> Tensor:
        return torch.zeros_like(start)
