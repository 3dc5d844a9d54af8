"""Gradient matching: pictures whose gradients look like an observed one, for many messages at once.

Four methods: DLG (Zhu et al., 2019), iDLG (Zhao et al., 2020), cosine similarity with total variation (Geiping et al.,
2020), and the optimisation of ROG (Yue et al., 2023) without its learned post-processing. DLG's optimiser is replaced
by Adam here, which treats all messages at once.

An adversary compares gradients where it observed them. One that fills the rest with zeros and compares everywhere is
much weaker; it is computed for comparison only.

Shapes: M messages, B pictures of each, C classes, P parameters.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import Module
from torch.nn import functional as F

from covey.learning.layout import Layout
from covey.parts.pieces import Piece

_WEIGHT_OF_VARIATION = 0.1
_LEAST = 1e-12


class Method(NamedTuple):
    """The choices of a method of gradient inversion."""

    distance: Literal["squares", "cosine"]
    lr: float
    iterations: int
    signed: bool = False
    soft_labels: bool = False
    """Whether labels are found together with pictures."""
    inferred_labels: bool = False
    """Whether labels come from the gradient of the last layer."""
    coarse: bool = False
    """Whether pictures are found at a lower resolution, and training is simulated step by step."""


METHODS = {
    "dlg": Method("squares", 0.1, 300, soft_labels=True),
    "idlg": Method("squares", 0.1, 300, inferred_labels=True),
    "cosine": Method("cosine", 0.1, 400, signed=True),
    "rog-lite": Method("squares", 0.05, 100, coarse=True),
}


class Matched(NamedTuple):
    """A gradient to match, of M messages, in the coordinates of the observations."""

    target: Tensor
    """The observed numbers, zero elsewhere."""
    mask: Tensor
    """1 where they are compared."""
    domain: Callable[[Tensor], Tensor]
    """The linear map of gradients to these coordinates."""


@dataclass
class Task:
    """The training that the gradients come from.

    Attributes:
        module: the model's module.
        layout: its layout.
        shape: the shape of a picture.
        classes: the number of classes.
        low, high: the least and the largest number of a picture.
        steps: the number of SGD steps between the observed models.
        lr: their learning rate.
    """

    module: Module
    layout: Layout
    shape: tuple[int, ...]
    classes: int
    low: float
    high: float
    steps: int
    lr: float

    def loss(self, flat: Tensor, inputs_B: Tensor, targets_BC: Tensor) -> Tensor:
        """The mean loss of a flat model, for targets that are distributions."""
        outputs = functional_call(self.module, self.layout.views(flat), (inputs_B,))
        mean: Tensor = -(targets_BC * F.log_softmax(outputs, -1)).sum(-1).mean()
        return mean

    def gradient(self, start: Tensor, inputs_B: Tensor, targets_BC: Tensor, *, simulate: bool) -> Tensor:
        """The gradient at a model or, simulated, the mean gradient of its steps of SGD over the pictures in turn."""
        if not simulate or self.steps == 1:
            at_once: Tensor = grad(self.loss)(start, inputs_B, targets_BC)
            return at_once
        flat, size = start, max(1, len(inputs_B) // self.steps)
        for step in range(self.steps):
            at = (step * size) % max(1, len(inputs_B) - size + 1)
            flat = flat - self.lr * grad(self.loss)(flat, inputs_B[at : at + size], targets_BC[at : at + size])
        return (start - flat) / (self.lr * self.steps)


def inverted(
    task: Task,
    method: Method,
    starts_MP: Tensor,
    matched: Matched,
    labels_MBC: Tensor,
    generator: torch.Generator,
    iterations: int | None = None,
    tracked: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tensor:
    """The pictures M x B x ... whose gradients match best.

    Args:
        task: the training.
        method: the method.
        starts_MP: the models before the training.
        matched: the observed gradients.
        labels_MBC: the labels as distributions; the beginning of those that are found.
        generator: draws the first pictures.
        iterations: the number of iterations, instead of the method's.
        tracked: shows progress.
    """
    many, each = labels_MBC.shape[:2]
    size = _coarse(task.shape) if method.coarse else task.shape
    middle, reach = (task.low + task.high) / 2, (task.high - task.low) / 2
    pictures = (middle + 0.2 * reach * torch.randn(many, each, *size, generator=generator)).requires_grad_()
    scores = torch.zeros_like(labels_MBC).requires_grad_() if method.soft_labels else None
    total = iterations or method.iterations
    optimizer = torch.optim.Adam([pictures] if scores is None else [pictures, scores], lr=method.lr * 2 * reach)
    gradient = vmap(lambda start, x, y: task.gradient(start, x, y, simulate=method.coarse))
    best, least = pictures.detach().clone(), torch.full((many,), math.inf)
    for step in tracked(range(total)):
        for group in optimizer.param_groups:
            group["lr"] = method.lr * 2 * reach * _decay(method, step / total)
        optimizer.zero_grad()
        shown = _full(pictures, task.shape) if method.coarse else pictures
        labels = labels_MBC if scores is None else scores.softmax(-1)
        found = matched.domain(gradient(starts_MP, shown, labels))
        losses_M = _distance(method, found, matched)
        if method.distance == "cosine":
            losses_M = losses_M + _WEIGHT_OF_VARIATION * _variation(shown) / (2 * reach)
        # Each loss depends on the pictures of its message alone, so their sum has the gradients of all.
        torch.autograd.backward((losses_M if method.distance == "cosine" else losses_M / _norms(matched)).sum())
        with torch.no_grad():
            better = losses_M < least
            best[better], least = pictures[better], torch.minimum(losses_M, least)
            if method.signed and pictures.grad is not None:
                pictures.grad.sign_()
        optimizer.step()
        with torch.no_grad():
            pictures.clamp_(task.low, task.high)
    return (_full(best, task.shape) if method.coarse else best).clamp(task.low, task.high)


def inferred_labels(task: Task, gradients_MP: Tensor, count: int) -> Tensor:
    """The labels of pictures from the gradients of the last layer, M x B x C: those with the most negative ones.

    For one picture this is exact (iDLG): the cross-entropy pulls up the score of its class alone. Where a message does
    not show all biases, the weights of a class tell the same, as long as the inputs of the layer are not negative.

    Args:
        task: the training.
        gradients_MP: the gradients that messages show, with 0 for what they do not.
        count: B.
    """
    last = [piece for piece in task.layout.parameters if piece.shape[0] == task.classes]
    if not last:
        return torch.full((len(gradients_MP), count, task.classes), 1.0 / task.classes)
    sums_MC = _sums_of_classes(task, gradients_MP, last[-1])
    if len(last) > 1 and last[-2].stop == last[-1].start:
        lacks_M = (sums_MC == 0.0).any(1, keepdim=True)
        sums_MC = torch.where(lacks_M, sums_MC + _sums_of_classes(task, gradients_MP, last[-2]), sums_MC)
    order = sums_MC.argsort(1)[:, torch.arange(count) % task.classes]
    return F.one_hot(order, task.classes).float()


def _sums_of_classes(task: Task, gradients_MP: Tensor, piece: Piece) -> Tensor:
    """The sum of the gradients of each class in a tensor of the last layer, M x C."""
    return gradients_MP[:, piece.start : piece.stop].reshape(len(gradients_MP), task.classes, -1).sum(-1)


def _distance(method: Method, found: Tensor, matched: Matched) -> Tensor:
    seen = found * matched.mask
    if method.distance == "squares":
        return (seen - matched.target).square().sum(1)
    return 1.0 - F.cosine_similarity(seen, matched.target, dim=1, eps=_LEAST)


def _norms(matched: Matched) -> Tensor:
    return matched.target.square().sum(1).clamp(min=_LEAST)


def _decay(method: Method, progress: float) -> float:
    """The factor of the learning rate: a tenth after 3/8, 5/8 and 7/8 with signs, else half a cosine to a tenth."""
    if method.signed:
        return float(0.1 ** sum(progress >= eighths / 8 for eighths in (3, 5, 7)))
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * progress))


def _variation(pictures: Tensor) -> Tensor:
    """The mean total variation of the pictures of each message, M."""
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().flatten(1).mean(1)
    return down + (pictures[..., 1:] - pictures[..., :-1]).abs().flatten(1).mean(1)


def _coarse(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape at a quarter of the resolution, of small pictures at half."""
    factor = 4 if min(shape[-2:]) >= 16 else 2
    return (*shape[:-2], *(max(1, side // factor) for side in shape[-2:]))


def _full(pictures: Tensor, shape: tuple[int, ...]) -> Tensor:
    flat = pictures.flatten(0, 1)
    found = F.interpolate(flat, size=shape[-2:], mode="bicubic", align_corners=False)
    return found.view(*pictures.shape[:2], *shape)
