"""DivShare (Biswas et al., 2025): asynchronous learning in which slow links carry a part of every model in time."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, cast

from torch import Tensor

from covey.decentralized.peers import random_sets_of_peers
from covey.decentralized.sharing.fragments import Cutting, Fragment, Fragments, count_of, cut_as
from covey.learning.mixture import Mixture, Pull
from covey.learning.node import LearningNode, LearningProgram
from covey.learning.selection import Selection
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


class DivShare(LearningProgram):
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
        self.selection = Selection.of(setting, owner=self.named())
        count = count_of(self.omega)
        self._fragments = Fragments(self.selection.narrowed(setting), count, self.cutting, owner=self.named())

    def in_words(self) -> Iterator[tuple[str, str]]:
        yield "fragments", f"{self._fragments.in_words()}, each to {self.fanout} peers"

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            update = await node.train()
            part = self.selection.take(update.model)
            if self.withdraw:
                self.withdraw_unsent(node, t)
            self.send(node, part, t)
            node.model = self.selection.put(update.model, self.merged(node, part, t))

    def withdraw_unsent(self, node: LearningNode, t: int) -> None:
        """Withdraw the messages of the last round that have not left."""
        queue, withdrawn = node.keep(Queue), node.withdraw("fragment")
        if queue.queued:
            left = len(queue.queued) - withdrawn
            node.log(sent=left / len(queue.queued))
            last = dict.fromkeys(queue.queued[:left], t - 1)
            before = queue.sent or [-1] * self._fragments.count
            queue.sent = [last.get(number, before[number]) for number in range(self._fragments.count)]

    def views(self, adversary: Adversary, messages: Iterable[Arrived]) -> Iterator[View]:
        for one in self._fragments.usable(cast(LearningNode, adversary), messages, Push):
            indices = self._fragments.indices(one.number)
            yield adversary.view(one.message, one.values, indices, selection=self.selection)

    def send(self, node: LearningNode, part: Tensor, t: int) -> None:
        """Send every fragment to peers of its own."""
        queue, count = node.keep(Queue), self._fragments.count
        cut = [Push(**vars(self._fragments.cut(part, number)), round=t) for number in range(count)]
        for peer, number in (entries := self.entries(node, t)):
            node.send(peer, cut[number], tag="fragment")
        queue.queued = [number for _, number in entries]

    def entries(self, node: LearningNode, t: int) -> list[tuple[NodeId, int]]:
        """The peer and the fragment of every message of a round, in order."""
        peers = random_sets_of_peers(node, self._fragments.count, self.fanout, t)
        every = [(copy, number, peer) for number, chosen in enumerate(peers) for copy, peer in enumerate(chosen)]
        every = [every[index] for index in node.random("order", t).permutation(len(every))]
        if self.order == "oldest-first" and (sent := node.keep(Queue).sent):
            every.sort(key=lambda entry: (entry[0], sent[entry[1]]))
        return [(peer, number) for _, number, peer in every]

    def merged(self, node: LearningNode, part: Tensor, t: int) -> Mixture:
        """The mean of the own numbers and of those that have arrived."""
        arrived = self._fragments.usable(node, node.arrived(tag="fragment"), Push)
        newest = {(push.number, push.sender): push for push in sorted(arrived, key=lambda push: push.round)}
        if arrived:
            late = sum(t - push.round for push in newest.values()) / len(newest)
            node.log(staleness=late, overwritten=len(arrived) - len(newest))
        counts = Counter(number for number, _ in newest)
        pulls = [
            Pull(self._fragments.indices(push.number), push.values, 1.0 / (1 + counts[push.number]))
            for push in newest.values()
        ]
        return Mixture([part], [1.0], pulls)
