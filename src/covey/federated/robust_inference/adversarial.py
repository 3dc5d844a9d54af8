"""Adversarial training of rules: in every batch some rows of each query lie, so that the loss is greatest.

The subsets of lying clients are drawn on the fly, so their number takes no memory.
Shapes: B queries of a batch, N clients, F the most that lie, C classes.
"""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.federated.robust_inference.answers import Outputs, check_faulty
from covey.federated.robust_inference.networks import DeepSet, minimise

Goal: TypeAlias = Literal["cw", "cross-entropy"]
STEP, CONFIDENCE = 0.1, 0.1
"""The size of a step of the ascent, and the margin that a lie aims at."""


def gain(scores: Tensor, labels: Tensor) -> Tensor:
    """The liars' gain of each query: the negative margin of the true class (Carlini and Wagner, 2017), up to 0.1."""
    return -(margins(scores, labels) + CONFIDENCE).clamp_min(0.0)


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """The score of the true class minus the greatest other."""
    own = labels.unsqueeze(-1)
    return scores.gather(-1, own).squeeze(-1) - scores.scatter(-1, own, -math.inf).amax(-1)


def ascend(start: Tensor, gained: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Raise the liars' gain by steps along the sign of its gradient, in the logits of their rows.

    There is no limit to a lie: every probability vector is allowed.

    Args:
        start: the logits of the lying rows.
        gained: the sum of the gains, given their probabilities.
        steps: the number of steps.
    """
    logits = start
    for _ in range(steps):
        logits = logits.detach().requires_grad_()
        (slope,) = torch.autograd.grad(gained(logits.softmax(-1)), logits)
        logits = logits.detach() + STEP * slope.sign()
    return logits.detach()


def subset_sizes(clients: int, faulty: int) -> Tensor:
    """The probability that 0, 1, ... F clients lie: 0.7 in proportion to the subsets of such a size, 0.3 uniform."""
    subsets = torch.tensor([math.comb(clients, lying) for lying in range(faulty + 1)], dtype=torch.float64)
    return 0.7 * subsets / subsets.sum() + 0.3 / (faulty + 1)


def draw_liars(queries: int, clients: int, sizes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The clients that lie in each query: F candidates, B x F, and True for each that does lie.

    Args:
        queries, clients: B and N.
        sizes: the probability of each number of liars.
        generator: draws the candidates, distinct and uniform, and their number.
    """
    most = len(sizes) - 1
    chosen = torch.rand(queries, clients, generator=generator).topk(most, dim=1).indices
    counts = torch.multinomial(sizes, queries, replacement=True, generator=generator)
    return chosen, torch.arange(most) < counts.unsqueeze(1)


def train_adversarially(
    network: DeepSet,
    outputs: Outputs,
    faulty: int,
    *,
    steps: int,
    inner_steps: int,
    lr: float,
    batch_size: int,
    goal: Goal,
    generator: torch.Generator,
) -> None:
    """Train a DeepSet on queries whose lying rows were made for it. `minimise` describes the other arguments.

    The rows of honest clients do not change during an ascent, so each step encodes the lying rows alone.
    """
    clients, classes = outputs.answers.shape[1:]
    check_faulty(clients, faulty)
    sizes = subset_sizes(clients, faulty)

    def loss(batch: Tensor) -> Tensor:
        answers, labels = outputs.answers[batch], outputs.labels[batch]
        chosen, lying = draw_liars(len(batch), clients, sizes, generator)
        places, lie = chosen.unsqueeze(-1).expand(-1, -1, classes), lying.unsqueeze(-1)
        with torch.no_grad():
            encoded = network.phi(answers)
            honest = encoded.scatter(1, chosen.unsqueeze(-1).expand(-1, -1, encoded.shape[-1]), 0.0).sum(1)
            honest += torch.where(lie, 0.0, network.phi(answers.gather(1, places))).sum(1)

        def gained(rows: Tensor) -> Tensor:
            merged = honest + torch.where(lie, network.phi(rows), 0.0).sum(1)
            logits = network.rho(merged / clients)
            if goal == "cross-entropy":
                return F.cross_entropy(logits, labels, reduction="sum")
            return gain(logits.softmax(-1), labels).sum()

        start = torch.rand(len(batch), faulty, classes, generator=generator)
        rows = ascend(start, gained, inner_steps).softmax(-1) if faulty else start
        attacked = answers.scatter(1, places, torch.where(lie, rows, answers.gather(1, places)))
        return F.cross_entropy(network(attacked), labels)

    minimise(network, loss, len(outputs.labels), steps=steps, lr=lr, batch_size=batch_size, generator=generator)
