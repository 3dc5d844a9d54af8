"""Federated averaging with compressed messages, as sparse ternary compression has them (Sattler et al., 2019).

Who sends keeps what a message left out and adds it to the next: a client what it trained, the server what it averaged.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor

from covey import wire
from covey.compression import FIRST_MARK, Compressor, Decompressed, Draw, mark_of, next_mark
from covey.learning.fedavg import SAMPLES, SERVER, FedAvg
from covey.node import MODEL, Inbox, Message, Node, NodeId, Payload, Update
from covey.parameters import Setting, param
from covey.sharing.sharing import understood

_ASK, _BEFORE, _MARK = "ask", "before", "mark"
"""The tag under which a client asks for the whole model; the entries for the mark that a change begins from, and for
that of a whole model."""


class CompressedFedAvg(FedAvg):
    """Federated averaging in which clients, and if wanted the server, send compressed changes and keep what was lost.

    Where the server does, all clients follow its changes in every round, also those that were not chosen; the first
    message is its whole model. A client that missed a change asks for all of the model that clients follow.
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
        down = float(model_bytes * chosen)
        if self.down is not None:
            if setting.losses:
                return None  # How often the model must be told anew is known to nobody.
            marked = wire.size({_BEFORE: FIRST_MARK}) - wire.size({})
            down = (self.down.expected_bytes(setting.parameters) + marked) * clients
        return (self.up.expected_bytes(setting.parameters) * chosen + down) / setting.nodes

    def _draw(self, way: str, sender: int, t: int | None) -> Draw:
        return partial(self._setting.generator, f"fedavg {way}", sender, t or 0)

    def tell(self, node: Node, chosen: Sequence[NodeId], t: int) -> None:
        if self.down is None:
            super().tell(node, chosen, t)
            return
        everybody = [NodeId(client) for client in range(1, node.nodes)]
        asked = set(cast(list[int], node.state.get("asked", [])))
        known = node.state.get("clients' copy")
        if not isinstance(known, Tensor):
            copy, mark, asked = node.model, FIRST_MARK, {*everybody}
        else:
            copy, before = known.clone(), cast(bytes, node.state["mark"])
            payload, change = self.down.compress(node.model - copy, self._draw("down", node.id, t))
            change.add_to(copy)
            mark = next_mark(before, payload)
            follow = [client for client in everybody if client not in asked]
            node.send(follow, {**payload, _BEFORE: before}, tag="model", round=t)
        node.state["clients' copy"], node.state["mark"] = copy, mark
        node.send(
            [client for client in everybody if client in asked], {"model": copy, _MARK: mark}, tag="model", round=t
        )

    def average(self, node: Node, answers: Inbox, t: int) -> None:
        usable = list(understood(node, node.usable(answers, samples=SAMPLES), self._change))
        model = node.model.clone()
        for (_, change), weight in zip(usable, self.weights([answer for answer, _ in usable]), strict=True):
            change.add_to(model, weight)
        node.model = model
        if self.down is not None:
            node.state["asked"] = [int(message.sender) for message in node.arrived(tag=_ASK, round=t)]

    def _change(self, answer: Message) -> Decompressed:
        payload = {name: entry for name, entry in answer.payload.items() if name != "samples"}
        return self.up.decompress(payload, self._setting.parameters, self._draw("up", answer.sender, answer.round))

    def listens(self, node: Node, t: int) -> bool:
        return self.down is not None or super().listens(node, t)

    async def hear(self, node: Node, t: int) -> Inbox:
        if node.state.pop("behind", False):
            node.send(SERVER, {}, tag=_ASK, round=t)
        return await super().hear(node, t)

    def told(self, node: Node, inbox: Inbox) -> Tensor | None:
        if self.down is None:
            return super().told(node, inbox)
        for _, found in understood(node, inbox, partial(self._followed, node)):
            if found is not None:
                node.state["server's copy"], node.state["mark"] = found
                return found[0]
        node.state["behind"] = True
        return None

    def _followed(self, node: Node, message: Message) -> tuple[Tensor, bytes] | None:
        """The server's model after a message, and its mark; None where it changes another model than the known one.

        Raises:
            WireError: the message tells neither.
        """
        assert self.down is not None
        payload = dict(message.payload)
        if "model" in payload:
            if not node.usable([message], model=MODEL):
                return None
            return cast(Tensor, payload["model"]), mark_of(payload, _MARK)
        before = mark_of(payload, _BEFORE)
        del payload[_BEFORE]
        draw = self._draw("down", SERVER, message.round)
        change = self.down.decompress(payload, self._setting.parameters, draw)
        known = node.state.get("server's copy")
        if not isinstance(known, Tensor) or node.state["mark"] != before:
            return None
        copy = known.clone()
        change.add_to(copy)
        return copy, next_mark(before, payload)

    def answer(self, node: Node, update: Update, t: int) -> Payload:
        change = update.delta
        if "unsaid" in node.state:
            change = change + cast(Tensor, node.state["unsaid"])
        payload, said = self.up.compress(change, self._draw("up", node.id, t))
        unsaid = change.clone()
        said.add_to(unsaid, -1.0)
        node.state["unsaid"] = unsaid
        return payload
