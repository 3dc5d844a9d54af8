"""State and functions that the server and its clients share."""

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from covey.learning.selection import BUFFERS
from covey.messages.compression import Draw
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.entries import Numbers, Within
from covey.runtime.node import Expected

if TYPE_CHECKING:
    from covey.federated.fedavg import FedAvg

SERVER = NodeId(0)
SAMPLES = range(1 << 53)
"""The numbers of samples that a client may report."""
LOSS = 1e300
"""The greatest magnitude of a loss that a client may report, so that sums of losses are finite."""
_MOST = 1 << 40
"""The most samples of a class that a client may report, so that sums of them are integers of 64 bits."""
WEIGHT = Within(ge=2.0**-32, le=1 << 32)
"""The total weights of gradients that a client may report."""


def wrong_labels(labels: Tensor) -> str | None:
    """The fault of the numbers of samples of each class that a client reports; None if they are possible."""
    right = bool(((labels >= 0) & (labels <= _MOST)).all())
    return None if right else f"it has fewer than 0 or more than {_MOST} samples of a class"


class Ends:
    """The base of uplinks and downlinks.

    Attributes:
        selection: the shared part of the model.
        setting: the experiment.
        copies: whether clients hold a copy of the server's model, instead of getting the model itself.
        beside: the entries of messages beside compressed values. Buffers are sent and averaged uncompressed.
    """

    def __init__(self, program: "FedAvg", setting: Setting) -> None:
        self.selection, self.patience = program.selection, program.patience
        self.copies = program.down is not None
        self.setting = setting
        buffered = self.selection.buffered
        self.beside: dict[str, Expected] = {BUFFERS: Numbers(buffered)} if buffered else {}

    def trained(self, model: Tensor) -> Tensor:
        """The values of a model that are compressed: trained and shared ones."""
        return self.selection.split(self.selection.take(model))[0]

    def with_buffers(self, payload: Payload, model: Tensor) -> Payload:
        """A payload of compressed values, with uncompressed buffers if the model has shared ones."""
        return {**payload, BUFFERS: self.selection.buffers(model)} if self.beside else payload

    def draw(self, way: str, sender: int, t: int | None) -> Draw:
        """The generator of one message, the same at both ends."""
        return partial(self.setting.generator, f"fedavg {way}", sender, t or 0)
