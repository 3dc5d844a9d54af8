"""Nodes that keep one value of every type, and parts of one class within each other that keep their own."""

import numpy as np
import torch
from torch import Tensor

from covey import Node, NodeId, Part, Program, State, param


class Count(State):
    """The number of uses of a tally."""

    used: int = 0


class Tally(Part):
    """Counts, and has another tally count twice as fast."""

    inner: "Tally | None" = param("The inner tally.", default=None)

    def use(self, node: Node) -> None:
        """Count once."""
        node.keep(Count, self).used += 1
        for _ in range(2 if self.inner else 0):
            assert self.inner is not None
            self.inner.use(node)


class Page(State):
    """One value of every type."""

    whole: int = 0
    real: float = 0.5
    right: bool = False
    word: str = ""
    raw: bytes = b""
    tensor: Tensor
    array: np.ndarray
    wholes: list[int] = []
    reals: list[float] = []
    words: list[str] = []
    perhaps: Tensor | None = None
    either: int | str = "none"
    by_peer: dict[NodeId, Tensor] = {}
    notes: dict[int, list[int]] = {}


class Diary(Program):
    """In every round each node writes down what the round before left there, and one more."""

    synchronous = True
    tally: Tally = param("The counter of rounds.", factory=lambda: Tally(inner=Tally()))

    async def run(self, node: Node) -> None:
        page, others = node.keep(Page), [NodeId(id) for id in range(node.nodes) if id != node.id]
        if page.whole == 0:
            page.array = np.zeros(3, np.int64)
        async for t in node.rounds():
            node.send(others, {"t": t}, round=t)
            inbox = await node.receive(round=t, senders=others)
            self.tally.use(node)
            page.whole, page.real, page.right = page.whole + 1, page.real / 2, not page.right
            page.word, page.raw = page.word + "x", page.raw + bytes([t])
            page.tensor, page.array = torch.full((2,), float(t)), page.array + node.id
            page.wholes, page.reals = [*page.wholes, t], [*page.reals, t / 3]
            page.words, page.either = [*page.words, f"{t}"], t if t % 2 else f"{t}"
            page.perhaps = None if t % 2 else torch.ones(t)
            for message in inbox:
                page.by_peer[message.sender] = page.by_peer.get(message.sender, torch.zeros(1)) + message["t"]
                page.notes[message.sender] = [*page.notes.get(message.sender, []), t]
