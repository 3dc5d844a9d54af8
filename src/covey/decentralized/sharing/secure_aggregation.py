"""Secure aggregation: whole models under masks that cancel in the sum of a receiver's neighbours."""

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from covey.decentralized.sharing.masked import Masked
from covey.decentralized.sharing.round import Round
from covey.messages.payloads import Payload
from covey.parts.parameters import Setting
from covey.runtime.node import Message


class SecureAggregation(Masked):
    """The whole model under pairwise masks: a receiver learns only the weighted sum of its neighbours' models."""

    kind = "secure-aggregation"
    exact = True
    takes_buffers = True

    def whole(self) -> Self:
        return replace(self)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._all = torch.arange(setting.parameters)

    @property
    def foreseen(self) -> bool:
        return True

    def choose(self, round: Round) -> tuple[Tensor, Payload]:
        return self._all, {}

    def chosen(self, message: Message) -> Tensor:
        return self._all
