"""The server, and what it and its clients know of their messages."""

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from covey.learning.selection import BUFFERS
from covey.messages.compression import Draw
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.node import Expected, Numbers

if TYPE_CHECKING:
    from covey.federated.fedavg import FedAvg

SERVER = NodeId(0)
SAMPLES = range(1 << 53)
"""How many samples a client may say that it has."""


class Ends:
    """What both ends of a way know.

    Attributes:
        beside: what messages hold beside compressed numbers: buffers are averaged as they are.
    """

    def __init__(self, program: "FedAvg", setting: Setting) -> None:
        self.selection, self.patience = program.selection, program.patience
        self.setting = setting
        buffered = self.selection.buffered
        self.beside: dict[str, Expected] = {BUFFERS: Numbers(buffered)} if buffered else {}

    def trained(self, model: Tensor) -> Tensor:
        """The numbers of a model that are compressed: those that are trained and shared."""
        return self.selection.split(self.selection.take(model))[0]

    def with_buffers(self, payload: Payload, model: Tensor) -> Payload:
        """A message with compressed numbers, and with the buffers as they are."""
        return {**payload, BUFFERS: self.selection.buffers(model)} if self.beside else payload

    def draw(self, way: str, sender: int, t: int | None) -> Draw:
        """The randomness of one message, which both ends have."""
        return partial(self.setting.generator, f"fedavg {way}", sender, t or 0)
