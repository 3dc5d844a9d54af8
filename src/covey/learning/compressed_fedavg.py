"""Federated averaging with compressed messages, as sparse ternary compression has them (Sattler et al., 2019).

Who sends keeps what a message left out and adds it to the next: a client what it trained, the server what it averaged.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor

from covey.compression import Compressor, Decompressed, Draw
from covey.errors import ProgramError, WireError
from covey.learning.fedavg import SAMPLES, SERVER, FedAvg
from covey.node import Inbox, Message, Node, NodeId, Payload, Update
from covey.parameters import Setting, param
from covey.sharing.sharing import understood


class CompressedFedAvg(FedAvg):
    """Federated averaging in which clients, and if wanted the server, send compressed changes and keep what was lost.

    Where the server does, all clients follow its changes in every round, also those that were not chosen; the first
    message is its whole model.
    """

    kind = "compressed-fedavg"
    up: Compressor = param("What makes messages of the changes that clients made.")
    down: Compressor | None = param(
        "What makes messages of the changes of the server's model, which all clients get; "
        "by default those chosen get the whole model.",
        default=None,
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._setting = setting
        for key, compressor in (("up", self.up), ("down", self.down)):
            if compressor is not None and setting.parameters:
                compressor.need_contraction(self, setting.parameters, key)

    def round_bytes(self, setting: Setting, model_bytes: int) -> float | None:
        clients = setting.nodes - 1
        chosen = self.clients or clients
        down = model_bytes * chosen if self.down is None else self.down.expected_bytes(setting.parameters) * clients
        return (self.up.expected_bytes(setting.parameters) * chosen + down) / setting.nodes

    def _draw(self, way: str, sender: int, t: int | None) -> Draw:
        return partial(self._setting.generator, f"fedavg {way}", sender, t or 0)

    def tell(self, node: Node, chosen: Sequence[NodeId], t: int) -> None:
        if self.down is None:
            super().tell(node, chosen, t)
            return
        everybody = [NodeId(client) for client in range(1, node.nodes)]
        if t == 0:
            node.state["clients' copy"] = node.model
            super().tell(node, everybody, t)
            return
        copy = cast(Tensor, node.state["clients' copy"]).clone()
        payload, change = self.down.compress(node.model - copy, self._draw("down", node.id, t))
        change.add_to(copy)
        node.state["clients' copy"] = copy
        node.send(everybody, payload, tag="model", round=t)

    def average(self, node: Node, answers: Inbox) -> None:
        usable = list(understood(node, node.usable(answers, samples=SAMPLES), self._change))
        model = node.model.clone()
        for (_, change), weight in zip(usable, self.weights([answer for answer, _ in usable]), strict=True):
            change.add_to(model, weight)
        node.model = model

    def _change(self, answer: Message) -> Decompressed:
        payload = {name: entry for name, entry in answer.payload.items() if name != "samples"}
        return self.up.decompress(payload, self._setting.parameters, self._draw("up", answer.sender, answer.round))

    def listens(self, node: Node, t: int) -> bool:
        return self.down is not None or super().listens(node, t)

    def told(self, node: Node, inbox: Inbox, heard: int, t: int) -> Tensor | None:
        """The server's model, as far as it has told its changes.

        Raises:
            ProgramError: the client missed one.
        """
        if self.down is None:
            return super().told(node, inbox, heard, t)
        copy = super().told(node, inbox, heard, t) if t == 0 else None
        if heard == t - 1 and t > 0 and inbox:
            copy = cast(Tensor, node.state["server's copy"]).clone()
            try:
                draw = self._draw("down", SERVER, t)
                self.down.decompress(inbox[0].payload, self._setting.parameters, draw).add_to(copy)
            except WireError as error:
                node.reject(inbox[0], error.detail)
                copy = None
        if copy is None:
            raise ProgramError(
                f"Node {node.id} has no valid message of node {SERVER}, the server, in round {heard + 1}, and so can "
                f"never again know its model, of which 'down' tells changes alone. Use compressed-fedavg without "
                f"'down' where messages are lost or nodes are away."
            )
        node.state["server's copy"] = copy
        return copy

    def answer(self, node: Node, update: Update, t: int) -> Payload:
        change = update.delta
        if "unsaid" in node.state:
            change = change + cast(Tensor, node.state["unsaid"])
        payload, said = self.up.compress(change, self._draw("up", node.id, t))
        unsaid = change.clone()
        said.add_to(unsaid, -1.0)
        node.state["unsaid"] = unsaid
        return payload
