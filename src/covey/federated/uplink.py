"""Ways to send clients' models to the server: whole, or as compressed changes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from covey.federated.ends import SAMPLES, SERVER, Ends
from covey.learning.node import LearningNode, Update
from covey.learning.selection import BUFFERS
from covey.messages.compression import Compressor, Decompressed
from covey.messages.payloads import Payload
from covey.parts.parameters import Setting
from covey.runtime.node import Inbox, Message
from covey.runtime.reading import understood
from covey.runtime.state import State

if TYPE_CHECKING:
    from covey.federated.fedavg import FedAvg


class Unsent(State):
    """The part of its changes that a client's messages left out."""

    residual: Tensor | None = None


class WholeUp(Ends):
    """The whole models of clients."""

    def send(self, node: LearningNode, update: Update, t: int) -> None:
        """Send the result of a client's training to the server."""
        node.send(SERVER, {**self.payload(node, update, t), "samples": node.data.samples}, tag="update", round=t)

    def payload(self, node: LearningNode, update: Update, t: int) -> Payload:
        """The entries for the client's model."""
        return {"model": self.selection.take(update.model)}

    def parts(self, node: LearningNode, answers: Inbox, origin: Tensor | None) -> Iterator[tuple[Message, Tensor]]:
        """The shared part of each client's model, corrected for a client's start that differs from the server's model.

        Args:
            node: the server.
            answers: the clients' messages.
            origin: the trained values that clients started with; None if those are the server's.
        """
        for answer in node.usable(answers, model=self.selection.entry, samples=SAMPLES):
            part: Tensor = answer["model"]
            if origin is not None:
                part[: self.selection.trained] += self.trained(node.model) - origin
            yield answer, part


class CompressedUp(WholeUp):
    """Compressed changes, with error feedback: a client adds the error of a change to its next one."""

    def __init__(self, program: "FedAvg", setting: Setting, compressor: Compressor) -> None:
        super().__init__(program, setting)
        self.compressor = compressor

    def payload(self, node: LearningNode, update: Update, t: int) -> Payload:
        change = self.trained(update.model) - self.trained(update.start)
        unsent = node.keep(Unsent, "up")
        if unsent.residual is not None:
            change = change + unsent.residual
        payload, sent = self.compressor.compress(change, self.draw("up", node.id, t))
        residual = change.clone()
        sent.add_to(residual, -1.0)
        unsent.residual = residual
        return self.with_buffers(payload, update.model)

    def parts(self, node: LearningNode, answers: Inbox, origin: Tensor | None) -> Iterator[tuple[Message, Tensor]]:
        start = self.trained(node.model)
        sound = node.usable(answers, samples=SAMPLES, **self.beside)
        for answer, change in understood(node, sound, self._change):
            part = torch.cat([start, answer[BUFFERS]]) if self.beside else start.clone()
            change.add_to(part[: len(start)])
            yield answer, part

    def _change(self, message: Message) -> Decompressed:
        """The change in a message.

        Raises:
            WireError: the message is malformed.
        """
        payload = {name: entry for name, entry in message.shared.items() if name not in ("samples", BUFFERS)}
        draw = self.draw("up", message.sender, message.round)
        return self.compressor.decompress(payload, self.selection.trained, draw)
