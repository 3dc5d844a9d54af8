"""A program in which one node writes in place to tensors that it received or handed over."""

import ctypes
from typing import Any

import numpy as np
import torch

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, LearningProgram, Samples
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


def without_versions(tensor: torch.Tensor) -> None:
    with torch.inference_mode():
        tensor.add_(1.0)


def by_optimiser(tensor: torch.Tensor) -> None:
    parameter = torch.nn.Parameter(tensor)
    parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD([parameter], lr=1.0).step()


HIDDEN = {
    "memory": lambda tensor: ctypes.memset(tensor.data_ptr(), 0x40, 16),
    "storage": lambda tensor: tensor.untyped_storage().fill_(7),
    "other storage": lambda tensor: tensor.set_(torch.full_like(tensor, 7.0)),
    "exchanged": lambda tensor: torch.utils.swap_tensors(tensor, torch.full_like(tensor, 7.0)),
    "dlpack": lambda tensor: torch.from_dlpack(tensor).fill_(7.0),
    "bits": lambda tensor: tensor.view(torch.int32).bitwise_xor_(1 << 20),
    "strided": lambda tensor: torch.as_strided(tensor, (4,), (2,)).fill_(7.0),
    "inference": without_versions,
    "optimiser": by_optimiser,
    "shared memory": lambda tensor: tensor.share_memory_().fill_(7.0),
}
"""Ways that torch does not count as writing, or does elsewhere."""


class Careless(LearningProgram):
    """Trains, sends and averages; in round 1, node 0 writes to what it needs no more."""

    what: list[str] = param("The tensors that it writes to.", factory=list)
    op: str = param("The operation that writes.", default="add")

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
                {**OPS, **HIDDEN}[self.op](tensor)


HARMLESS = ["half", "start", "trained", "assigned", "gradient", "before", "term", "heard", "payload", "own", "lists"]
"""The objects to which it may write."""


def overwrite(model: torch.Tensor, named: Samples, table: dict[str, Any], array: np.ndarray) -> float:
    """The given tensors, each written to once it is summed."""
    total = 0.0
    for tensor in (model, named.inputs, table["inner"][0]):
        total += float(tensor.double().sum())
        tensor.fill_(7.0)
    total += float(array.sum())
    array[:] = 7.0
    table["inner"].clear()
    return total


def _together(arguments: list[tuple[Any, ...]]) -> list[float]:
    return [overwrite(*given) for given in arguments]


class Hands(LearningProgram):
    """Gives what it has to functions that write to it."""

    async def run(self, node: LearningNode) -> None:
        together = lambda *given: overwrite(*given)  # noqa: E731
        together.together = _together  # type: ignore[attr-defined]
        async for t in node.rounds():
            others = [other for other in range(node.nodes) if other != node.id]
            node.send(others, {"model": node.model}, round=t)
            (first, *_) = await node.receive(round=t, senders=others)
            samples, array = Samples(torch.ones(3)), np.ones(3)
            given = (node.model, samples, {"inner": [first["model"]]}, array)
            before = node.model.clone()
            results = [await node.compute(function, *given, samples=10) for function in (overwrite, together)]
            same = torch.equal(node.model, before) and torch.equal(first["model"], before)
            same = (
                same and bool((samples.inputs == 1).all()) and bool((array == 1).all()) and len(given[2]["inner"]) == 1
            )
            node.log(same=float(same), results=results[0] - results[1])
