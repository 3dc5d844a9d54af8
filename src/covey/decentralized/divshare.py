"""DivShare (Biswas et al., 2025): asynchronous learning in which slow links carry a part of every model in time."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, cast

from torch import Tensor

from covey.decentralized.graphs import SharesModels
from covey.decentralized.peers import random_sets_of_peers
from covey.decentralized.sharing.fragments import Cutting, Fragment, Fragments, count_of, cut_as
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.state import State


class Queue(State):
    """The fragments that a node has queued, and the ages of all fragments."""

    queued: list[int] = []
    """The fragment of every message of the last round, in the order of the queue."""
    sent: list[int] = []
    """The last round in which each fragment was sent to a peer; -1 if there is none."""


class Push(Fragment):
    """A fragment of the model that its sender trained in a round."""

    round: Annotated[int, range(1 << 53)]


class DivShare(SharesModels):
    """Train, send each fragment of the model to a few random peers, and average with the fragments that have arrived.

    No node waits. A round withdraws the messages of the one before that have not left. Every number becomes the mean
    of the own one and of those that arrived for it, the newest fragment of each sender and number.
    """

    kind = "divshare"
    synchronous = False
    tolerates_loss = True
    omega: float = param("The fraction of a model in a fragment: int(1 / omega) fragments.", default=0.1, gt=0, le=1)
    fanout: int = param("The number of peers to which each fragment is sent (J).", default=6, ge=1, lt="nodes")
    cutting: Cutting = cut_as()
    order: Literal["random", "oldest-first"] = param(
        "The order of the queue: random, or the fragments first that have not been sent for the longest time.",
        default="random",
    )
    withdraw: bool = param("Whether a round withdraws the messages that have not left.", default=True)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        shared, count = self.selection.narrowed(setting), count_of(self.omega)
        self._fragments = Fragments(shared, count, self.cutting, owner=self.named(), key="omega")

    def findings(self) -> Mapping[str, str]:
        return {"fragments": f"{self._fragments.in_words()}, each to {self.fanout} peers"}

    async def run(self, node: LearningNode) -> None:
        queue = node.keep(Queue)
        async for t in node.rounds():
            update = await node.train()
            part = self.selection.take(update.model)
            if self.withdraw:
                self.note_sent(node, queue, node.withdraw("fragment"), t)
            self.send(node, queue, part, t)
            node.model = self.selection.put(update.model, self._fragments.mean(part, self.receive(node, t)))

    def note_sent(self, node: LearningNode, queue: Queue, withdrawn: int, t: int) -> None:
        """Note the fragments of the last round that have left."""
        if queue.queued:
            left = len(queue.queued) - withdrawn
            node.log(sent=left / len(queue.queued))
            last = dict.fromkeys(queue.queued[:left], t - 1)
            queue.sent = [last.get(number, before) for number, before in enumerate(queue.sent)]

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        for one in self._fragments.usable(cast(LearningNode, adversary), messages, Push):
            indices = self._fragments.indices(one.number)
            yield adversary.view(one.message, one.values, indices, selection=self.selection)

    def send(self, node: LearningNode, queue: Queue, part: Tensor, t: int) -> None:
        """Send every fragment to peers of its own."""
        cut, layout = self._fragments.split(self._fragments.ordered(part)), self._fragments.digest
        fragments = [Push(number=k, values=values, layout=layout, round=t) for k, values in enumerate(cut)]
        queue.sent = queue.sent or [-1] * len(fragments)
        entries = self.entries(node, queue.sent, t)
        for peer, number in entries:
            node.send(peer, fragments[number], tag="fragment")
        queue.queued = [number for _, number in entries]

    def entries(self, node: LearningNode, sent: Sequence[int], t: int) -> list[tuple[NodeId, int]]:
        """The peer and the fragment of every message of a round, in order."""
        peers = random_sets_of_peers(node, self._fragments.count, self.fanout, t)
        every = [(copy, number, peer) for number, chosen in enumerate(peers) for copy, peer in enumerate(chosen)]
        every = [every[index] for index in node.random("order", t).permutation(len(every))]
        if self.order == "oldest-first":
            every.sort(key=lambda entry: (entry[0], sent[entry[1]]))
        return [(peer, number) for _, number, peer in every]

    def receive(self, node: LearningNode, t: int) -> Collection[Push]:
        """The newest fragment of each sender and number of those that have arrived."""
        arrived = self._fragments.usable(node, node.arrived(tag="fragment"), Push)
        newest = {(push.number, push.sender): push for push in sorted(arrived, key=lambda push: push.round)}
        if newest:
            late = sum(t - push.round for push in newest.values()) / len(newest)
            node.log(staleness=late, overwritten=len(arrived) - len(newest))
        return newest.values()
