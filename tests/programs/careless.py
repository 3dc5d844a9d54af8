"""A program of which one node writes in place to what it was handed, or has handed over."""

from typing import Any

import torch

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, LearningProgram
from covey.parts.parameters import param


def through_parameters(tensor: torch.Tensor) -> None:
    layer = torch.nn.Linear(len(tensor), 1, bias=False)
    torch.nn.utils.vector_to_parameters(tensor, layer.parameters())
    with torch.no_grad():
        layer.weight.fill_(7.0)


def by_item(tensor: torch.Tensor) -> None:
    tensor[3] = 7.0


def into_numpy(tensor: torch.Tensor) -> None:
    tensor.numpy()[:] = 7.0


OPS = {
    "add": lambda tensor: tensor.add_(1.0),
    "item": by_item,
    "view": lambda tensor: tensor.view(-1)[2:4].fill_(7.0),
    "out": lambda tensor: torch.mul(tensor, 2.0, out=tensor),
    "data": lambda tensor: tensor.data.zero_(),
    "detached": lambda tensor: tensor.detach().mul_(3.0),
    "numpy": into_numpy,
    "parameters": through_parameters,
    "resized": lambda tensor: tensor.resize_(2).fill_(7.0),
}
"""Ways to write to a tensor."""


class Careless(LearningProgram):
    """Trains, sends and averages; in round 1, node 0 writes to what it needs no more."""

    what: list[str] = param("To what it writes.", factory=list)
    op: str = param("How.", default="add")

    async def run(self, node: LearningNode) -> None:
        others = [other for other in range(node.nodes) if other != node.id]
        before: Any = None
        async for t in node.rounds():
            update = await node.train()
            start, trained = update.start, update.model
            node.model = trained
            assigned = node.model * 1.0
            node.model = assigned
            own = node.model
            half, numbers = own * 0.5, [t, t]
            payload: dict[str, Any] = {"half": half, "model": own, "numbers": numbers}
            node.send(others, payload, round=t)
            gradient = (await node.gradient()).vector
            if t == 1 and node.id == 0:
                self._write({"half": half})
                if "lists" in self.what:
                    payload["half"] = half * 3
                    numbers.append(9)
            inbox = await node.receive(round=t, senders=others)
            term = torch.full_like(own, 0.01)
            terms = [own, term, *(message["half"] for message in inbox)]
            heard, sent = inbox[0]["model"], inbox[0].payload["model"]
            node.model = Mixture(terms, [0.5, 1.0, *[1.0 / len(others)] * len(others)])
            node.log(numbers=float(sum(sum(message["numbers"]) for message in inbox)))
            if t == 1 and node.id == 0:
                if "lists" in self.what:
                    inbox[0]["numbers"].append(5)
                    terms.append(term)
                things = {"start": start, "trained": trained, "assigned": assigned, "gradient": gradient}
                things |= {"before": before, "term": term, "heard": heard, "payload": sent, "own": own}
                self._write(things)
                if "model" in self.what:
                    self._write({"model": node.model})
            before = node.model
            await node.sleep(0.001)

    def _write(self, things: dict[str, torch.Tensor]) -> None:
        for name, tensor in things.items():
            if name in self.what:
                OPS[self.op](tensor)


HARMLESS = ["half", "start", "trained", "assigned", "gradient", "before", "term", "heard", "payload", "own", "lists"]
"""What it may write to."""
