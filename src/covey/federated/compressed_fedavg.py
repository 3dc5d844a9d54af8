"""Federated averaging with compressed messages, as sparse ternary compression has them (Sattler et al., 2019).

Who sends keeps what a message left out and adds it to the next: a client what it trained, the server what it averaged.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor

from covey.federated.fedavg import SAMPLES, SERVER, FedAvg
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, Update
from covey.learning.selection import BUFFERS
from covey.messages.compression import FIRST_MARK, Compressor, Decompressed, Draw, mark_of, next_mark
from covey.messages.payloads import Payload
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.node import Expected, Inbox, Message, Numbers
from covey.runtime.reading import understood

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
                compressor.need_contraction(self, self.selection.trained, key)
        buffered = self.selection.buffered
        self._beside: dict[str, Expected] = {BUFFERS: Numbers(buffered)} if buffered else {}
        """What messages hold beside compressed changes."""

    def _draw(self, way: str, sender: int, t: int | None) -> Draw:
        return partial(self._setting.generator, f"fedavg {way}", sender, t or 0)

    def tell(self, node: LearningNode, chosen: Sequence[NodeId], t: int) -> None:
        if self.down is None:
            super().tell(node, chosen, t)
            return
        everybody = [NodeId(client) for client in range(1, node.nodes)]
        asked = set(cast(list[int], node.state.get("asked", [])))
        known, trained = node.state.get("clients' copy"), self._trained(node.model)
        if not isinstance(known, Tensor):
            copy, mark, asked = trained, FIRST_MARK, {*everybody}
        else:
            copy, before = known.clone(), cast(bytes, node.state["mark"])
            payload, change = self.down.compress(trained - copy, self._draw("down", node.id, t))
            change.add_to(copy)
            mark = next_mark(before, payload)
            follow = [client for client in everybody if client not in asked]
            node.send(follow, self._with_buffers({**payload, _BEFORE: before}, node.model), tag="model", round=t)
        node.state["clients' copy"], node.state["mark"] = copy, mark
        whole = self._with_buffers({"model": copy, _MARK: mark}, node.model)
        node.send([client for client in everybody if client in asked], whole, tag="model", round=t)

    def average(self, node: LearningNode, answers: Inbox, t: int) -> None:
        sound = node.usable(answers, samples=SAMPLES, **self._beside)
        usable = list(understood(node, sound, partial(self._change, self.up, "up")))
        weights = self.weights([answer for answer, _ in usable])
        trained = self._trained(node.model).clone()
        for (_, change), weight in zip(usable, weights, strict=True):
            change.add_to(trained, self.server_lr * weight)
        buffers: Tensor | Mixture | None = None
        if self._beside:
            buffers = self.selection.buffers(node.model)
            if sum(weights):
                buffers = Mixture([answer[BUFFERS] for answer, _ in usable], weights)
        node.model = self.selection.put(node.model, trained, buffers)
        if self.down is not None:
            node.state["asked"] = [int(message.sender) for message in node.arrived(tag=_ASK, round=t)]

    def _trained(self, model: Tensor) -> Tensor:
        """What is compressed of a model."""
        return self.selection.split(self.selection.take(model))[0]

    def _with_buffers(self, payload: Payload, model: Tensor) -> Payload:
        """A message with a compressed change, and with the buffers as they are."""
        return {**payload, BUFFERS: self.selection.buffers(model)} if self._beside else payload

    def _change(self, compressor: Compressor, way: str, message: Message) -> Decompressed:
        """The change that a message tells.

        Raises:
            WireError: it tells none.
        """
        payload = {name: entry for name, entry in message.shared.items() if name not in ("samples", BUFFERS)}
        return compressor.decompress(payload, self.selection.trained, self._draw(way, message.sender, message.round))

    def listens(self, node: LearningNode, t: int) -> bool:
        return self.down is not None or super().listens(node, t)

    async def hear(self, node: LearningNode, t: int) -> Inbox:
        if node.state.pop("behind", False):
            node.send(SERVER, {}, tag=_ASK, round=t)
        return await super().hear(node, t)

    def told(self, node: LearningNode, inbox: Inbox) -> Tensor | Mixture | None:
        if self.down is None:
            return super().told(node, inbox)
        sound = node.usable(inbox, **self._beside)
        for message, found in understood(node, sound, partial(self._followed, node)):
            if found is not None:
                node.state["server's copy"], node.state["mark"] = found
                return self.selection.put(node.model, found[0], message[BUFFERS] if self._beside else None)
        node.state["behind"] = True
        return None

    def _followed(self, node: LearningNode, message: Message) -> tuple[Tensor, bytes] | None:
        """What is trained of the server's model after a message, and its mark; None where it changes another model than
        the known one.

        Raises:
            WireError: the message tells neither.
        """
        assert self.down is not None
        if "model" in message.shared:
            if not node.usable([message], model=Numbers(self.selection.trained)):
                return None
            return cast(Tensor, message["model"]), mark_of(message.shared, _MARK)
        before = mark_of(message.shared, _BEFORE)
        payload = {name: entry for name, entry in message.shared.items() if name not in (_BEFORE, BUFFERS)}
        change = self.down.decompress(payload, self.selection.trained, self._draw("down", SERVER, message.round))
        known = node.state.get("server's copy")
        if not isinstance(known, Tensor) or node.state["mark"] != before:
            return None
        copy = known.clone()
        change.add_to(copy)
        return copy, next_mark(before, payload)

    def answer(self, node: LearningNode, update: Update, t: int) -> Payload:
        change = self._trained(update.model) - self._trained(update.start)
        if "unsaid" in node.state:
            change = change + cast(Tensor, node.state["unsaid"])
        payload, said = self.up.compress(change, self._draw("up", node.id, t))
        unsaid = change.clone()
        said.add_to(unsaid, -1.0)
        node.state["unsaid"] = unsaid
        return self._with_buffers(payload, update.model)
