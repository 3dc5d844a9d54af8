"""Gradient matching (Zhao et al., 2021): a few made-up samples of a class that teach an MLP what all real ones do."""

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.learning.node import LearningNode, LearningProgram
from covey.parts.parameters import Setting, param


def gradient(model: Tensor, shapes: list[list[int]], inputs: Tensor, label: int) -> Tensor:
    """The gradient of an MLP's loss at a flat model, itself to be differentiated."""
    x, pieces = inputs.flatten(1), model.split([torch.Size(shape).numel() for shape in shapes])
    for depth in range(0, len(shapes), 2):
        x = F.linear(torch.relu(x) if depth else x, pieces[depth].view(*shapes[depth]), pieces[depth + 1])
    loss = F.cross_entropy(x, torch.full((len(x),), label))
    return torch.autograd.grad(loss, model, create_graph=True)[0]


def matched(
    model: Tensor, shapes: list[list[int]], real: Tensor, made: Tensor, label: int, steps: int
) -> tuple[Tensor, float]:
    """(made-up samples after some steps towards the gradient of the real ones, how far their gradient is from it)."""
    model, made = model.clone().requires_grad_(), made.clone().requires_grad_()
    wanted, rule = gradient(model, shapes, real, label).detach(), torch.optim.Adam([made], lr=0.05)
    for _ in range(steps):
        distance = 1 - torch.cosine_similarity(gradient(model, shapes, made, label), wanted, dim=0)
        (made.grad,) = torch.autograd.grad(distance, made)
        rule.step()
    return made.detach(), float(distance.detach())


class Condenses(LearningProgram):
    """Every node condenses the class of which it has most, and in the end learns from what it made up."""

    count: int = param("The number of made-up samples.", default=3, ge=1)
    steps: int = param("The number of steps of a round.", default=20, ge=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self.shapes = [list(piece.shape) for piece in setting.pieces]

    async def run(self, node: LearningNode) -> None:
        inputs, targets = node.samples("train")
        assert targets is not None
        label = int(targets.bincount().argmax())
        real = inputs[targets == label]
        made = torch.from_numpy(node.random("made").random((self.count, *inputs.shape[1:]), dtype="float32"))
        async for _ in node.rounds():
            work = (node.model, self.shapes, real, made, label, self.steps)
            made, distance = await node.compute(matched, *work, samples=2 * self.steps * self.count + len(real))
            node.log(distance=distance)
        learned = await node.train(on=(made, torch.full((self.count,), label)), steps=5)
        before, after = [await node.predict(model, on=real) for model in (node.model, learned.model)]
        node.record(
            "condensed",
            before=float(before.log_softmax(1)[:, label].mean()),
            after=float(after.log_softmax(1)[:, label].mean()),
        )
