"""Shatter with virtual nodes that are activities of their own, to and from which chunks are messages."""

from collections.abc import Set
from dataclasses import replace

import torch
from torch import Tensor

from covey.decentralized.sharing.fragments import Fragment, Fragments
from covey.decentralized.shatter import Shatter
from covey.learning.node import LearningNode
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting
from covey.runtime.content import Content
from covey.runtime.node import Message, Pseudonym
from covey.runtime.sampler import Overlay

_STEPS = 3
"""The waits, one after the other, until chunks are back: for the own chunk, for those of others, for a virtual node."""


class Brought(Content):
    """All chunks that came to a virtual node, in the order of their senders' names."""

    numbers: list[int]
    values: Tensor


class ShatterApart(Shatter):
    """Shatter whose virtual nodes are not folded into their node.

    A node sends each chunk over its links to a virtual node. That exchanges it with its neighbours, and sends all that
    came over the same links back. So links from nodes to virtual nodes have their own events, losses and delays.
    Models are those of `shatter`.
    """

    kind = "shatter-apart"

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.placement == "own":
            raise ConfigurationError(
                f"The 'placement' of {self.named()} must be 'others': virtual nodes on their node's machine need no "
                f"links to it. Use the program shatter. Got 'own' instead."
            )

    def overlay(self, nodes: int) -> Overlay:
        return replace(super().overlay(nodes), legs=1)

    async def round(self, node: LearningNode, t: int) -> None:
        """Do one round of one node."""
        trained, chunks = (await node.train()).model, self.chunks(t)
        own, virtual = self.selection.take(trained), await node.sampled(t)
        names = {one.id for one in virtual} if self.exclude_own else set()
        for one in virtual:
            node.spawn(self.carry(node, one, t, names))
            node.send(node.id, chunks.cut(own, one.number), tag=f"give {one.number}", round=t)
        received = []
        for one in virtual:
            for brought in node.usable(await self.from_itself(node, f"bring {one.number}", t, _STEPS), Brought):
                received += split(chunks, brought)
        node.model = self.selection.put(trained, chunks.mean(own, received))

    async def carry(self, node: LearningNode, one: Pseudonym, t: int, excluded: Set[NodeId]) -> None:
        """Do one round of a virtual node: pass its chunk on, and bring what comes to its node."""
        chunks = self.chunks(t)
        for given in await self.from_itself(node, f"give {one.number}", t):
            one.send(given.shared)
        inbox = [message for message in await one.receive(timeout=self.patience) if message.sender not in excluded]
        came = chunks.usable(node, inbox, Fragment)
        values = torch.cat([chunk.values for chunk in came]) if came else torch.empty(0)
        node.send(node.id, Brought(numbers=[c.number for c in came], values=values), tag=f"bring {one.number}", round=t)

    async def from_itself(self, node: LearningNode, tag: str, t: int, steps: int = 1) -> list[Message]:
        """A message between the node and one of its virtual nodes, within its patience."""
        timeout = None if self.patience is None else steps * self.patience
        return await node.receive(tag=tag, round=t, senders=[node.id], timeout=timeout)


def split(chunks: Fragments, brought: Brought) -> list[Fragment]:
    """The chunks that a virtual node has brought; none if they do not fit."""
    sizes = [chunks.sizes[number] for number in brought.numbers if 0 <= number < chunks.count]
    if len(sizes) < len(brought.numbers) or brought.values.shape != (sum(sizes),):
        return []
    parts = zip(brought.numbers, torch.split(brought.values, sizes), strict=True)
    return [Fragment(number=number, values=values, layout=chunks.digest) for number, values in parts]
