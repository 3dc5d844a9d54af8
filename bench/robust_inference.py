"""Robust inference: adversarial training against a bare loop, and the time of a decision.

Times are those of the processor, which other work on the machine changes less.
"""

import math
from collections.abc import Callable, Iterator
from time import process_time

import torch
from torch import Tensor
from torch.nn import functional as F

from covey.federated.robust_inference.adversarial import CONFIDENCE, STEP, subset_sizes, train_adversarially
from covey.federated.robust_inference.answers import Outputs
from covey.federated.robust_inference.learned_rules import DeepSetDecision
from covey.federated.robust_inference.networks import DeepSet
from covey.federated.robust_inference.rule import Decision, Fitting
from covey.federated.robust_inference.static_rules import GeometricMedian, Mean, Median, Trim, TrimmedMean

CLIENTS, FAULTY, BATCH, INNER, STEPS, TIMES = 17, 4, 128, 10, 20, 5
WIDE, MANY = 100, 25
"""The classes and the clients of a query whose decision is timed."""


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    torch.set_num_threads(1)
    for classes, hidden in ((10, 128), (100, 224)):
        ours, bare = _training(classes, hidden)
        yield [
            f"adversarial training of a DeepSet over a bare loop, {classes} classes",
            f"{ours / bare:.2f}",
            "<= 1.3",
            f"{ours * 1e3:.1f} ms a step, bare {bare * 1e3:.1f}; {CLIENTS} clients, batch {BATCH}, {INNER} inner steps",
        ]
    for name, spent in _decisions():
        detail = f"{MANY} clients, {WIDE} classes, one query"
        yield [f"decision of {name}, ms", f"{spent * 1e3:.3f}", "< 1", detail]


def _outputs(classes: int) -> Outputs:
    return Outputs(torch.randn(2000, CLIENTS, classes).mul(3.0).softmax(-1), torch.randint(classes, (2000,)))


def _training(classes: int, hidden: int) -> tuple[float, float]:
    """The least seconds of a step, of ours and of a bare loop, interleaved."""
    outputs, network = _outputs(classes), DeepSet(classes, hidden)
    ours, bare = [], []
    for _ in range(TIMES):
        network.requires_grad_()
        began = process_time()
        train_adversarially(
            network,
            outputs,
            FAULTY,
            steps=STEPS,
            inner_steps=INNER,
            lr=5e-4,
            batch_size=BATCH,
            goal="cw",
            generator=torch.Generator(),
        )
        network.requires_grad_()
        between = process_time()
        _bare(network, outputs)
        bare.append((process_time() - between) / STEPS)
        ours.append((between - began) / STEPS)
    return min(ours), min(bare)


def _bare(network: DeepSet, outputs: Outputs) -> None:
    """The loop as the paper describes it: all rows of a batch in every step, and masks drawn before."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    classes = outputs.answers.shape[2]
    counts = torch.multinomial(subset_sizes(CLIENTS, FAULTY), STEPS * BATCH, replacement=True)
    masks = (torch.rand(STEPS * BATCH, CLIENTS).argsort(1).argsort(1) < counts.unsqueeze(1)).unsqueeze(-1)
    batches = torch.randint(len(outputs.labels), (STEPS, BATCH))

    def attacked(answers: Tensor, lie: Tensor, logits: Tensor) -> Tensor:
        found: Tensor = network(torch.where(lie, logits.softmax(-1), answers))
        return found

    for batch, lie in zip(batches, masks.split(BATCH), strict=True):
        answers, labels = outputs.answers[batch], outputs.labels[batch]
        logits, own = torch.rand(BATCH, CLIENTS, classes), labels.unsqueeze(1)
        for _ in range(INNER):
            logits = logits.detach().requires_grad_()
            scores = attacked(answers, lie, logits).softmax(-1)
            margin = scores.gather(1, own).squeeze(1) - scores.scatter(1, own, -math.inf).amax(1)
            (slope,) = torch.autograd.grad(-(margin + CONFIDENCE).clamp_min(0.0).sum(), logits)
            logits = logits.detach() + STEP * slope.sign()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(attacked(answers, lie, logits), labels))
        optimizer.step()


def _decisions() -> Iterator[tuple[str, float]]:
    """The least seconds of a decision by rule, over groups of twenty."""
    answers = torch.randn(1, MANY, WIDE).mul(3.0).softmax(-1)
    rules = {rule.kind: rule.fitted(Fitting(FAULTY)) for rule in (Mean(), Median(), TrimmedMean(), GeometricMedian())}
    decisions: dict[str, Decision] = {**rules, "deepset": DeepSetDecision(DeepSet(WIDE, 224), FAULTY, Trim(FAULTY))}
    for name, decision in decisions.items():
        yield name, _least(lambda decision=decision: decision(answers))  # type: ignore[misc]


def _least(function: Callable[[], object]) -> float:
    found = []
    with torch.no_grad():
        for _ in range(30):
            began = process_time()
            for _ in range(20):
                function()
            found.append((process_time() - began) / 20)
    return min(found)
