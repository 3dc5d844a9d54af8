"""Attacks on inference: the answers of clients that lie.

An attack is one class with one method. `lies` knows the whole scene; a black-box attack on the own answers alone,
`alone`, also serves a client of a live run. Shapes: S queries, F lying clients, H honest clients, C classes.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from covey.federated.robust_inference.adversarial import STEP, gain
from covey.federated.robust_inference.rule import Decision
from covey.federated.robust_inference.scene import Scene
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, param

_LEAST = 1e-12
"""The least probability whose logarithm is taken."""


class InferenceAttack(Part):
    """A way in which the clients that lie choose their answers."""

    family: ClassVar[str] = "inference-attack"
    white_box: ClassVar[bool] = False
    """True if it uses the decision, the answers of others, or the true classes."""

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        """The probabilities that the liars answer, S x F x C, by the name of each variant. The worst counts."""
        raise NotImplementedError

    def alone(self, own: Tensor) -> Tensor | None:
        """The lies of a client in place of its own answers, ... x C; None if it needs to know more."""
        return None


class BlackBoxAttack(InferenceAttack):
    """An attack of each liar by itself, from its own answers."""

    @abstractmethod
    def alone(self, own: Tensor) -> Tensor: ...

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        return {"": self.alone(scene.own)}


class LogitFlipping(BlackBoxAttack):
    """Logit flipping: each liar answers with the softmax of its own logits, negated and amplified."""

    kind = "logit-flipping"
    amplification: float = param("The factor of the negated logits.", default=2.0, gt=0)

    def alone(self, own: Tensor) -> Tensor:
        # The logarithms of probabilities are logits up to a constant, which softmax ignores.
        return (-self.amplification * own.clamp_min(_LEAST).log()).softmax(-1)


class SecondBest(BlackBoxAttack):
    """SIA, black box: each liar is certain of its own second-best class."""

    kind = "sia"

    def alone(self, own: Tensor) -> Tensor:
        second = own.topk(2, dim=-1).indices[..., 1]
        return torch.zeros_like(own).scatter(-1, second.unsqueeze(-1), 1.0)


class SecondBestTogether(InferenceAttack):
    """SIA, colluding: all liars are certain of the second-best class of their mean answer."""

    kind = "sia-colluding"

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        return {"": scene.same_of_all(scene.own.mean(1).topk(2, dim=-1).indices[:, 1])}


class BestWrong(InferenceAttack):
    """SIA, white box: all liars are certain of the best wrong class of the honest clients' decision."""

    kind = "sia-white-box"
    white_box = True

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        wrong = scene.consensus.scatter(-1, scene.labels.unsqueeze(-1), -torch.inf)
        return {"": scene.same_of_all(wrong.argmax(-1))}


class LeastLikely(InferenceAttack):
    """LMA: all liars are certain of the least likely class of the honest clients' decision."""

    kind = "lma"
    white_box = True

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        return {"": scene.same_of_all(scene.consensus.argmin(-1))}


class ClassPrior(InferenceAttack):
    """CPA: all liars are certain of the class that, in clean answers, is least correlated with the decision's."""

    kind = "cpa"
    white_box = True

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        clean = scene.outputs.answers if scene.clean is None else scene.clean
        centred = clean.mean(1) - clean.mean((0, 1))
        covariance = centred.T @ centred / len(centred)
        covariance.fill_diagonal_(torch.inf)
        return {"": scene.same_of_all(covariance.argmin(1)[scene.consensus.argmax(-1)])}


class Impersonation(InferenceAttack):
    """Impersonation: all liars copy the honest answer with the largest summed distance to the others."""

    kind = "impersonation"
    white_box = True

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        farthest = torch.cdist(scene.honest, scene.honest).sum(-1).argmax(-1)
        return {"": scene.honest[torch.arange(len(farthest)), farthest].unsqueeze(1).expand_as(scene.own)}


class GradientAscent(InferenceAttack):
    """PGD on the loss of Carlini and Wagner, against the decision itself.

    Against a decision that sorts, a second variant sends its gradient to all rows alike (BPDA).
    """

    kind = "pgd-cw"
    white_box = True
    steps: int = param("The number of steps.", default=50, ge=1)

    def lies(self, scene: Scene) -> Mapping[str, Tensor]:
        return {name: self._ascended(scene, one) for name, one in scene.decision.surrogates().items()}

    def _ascended(self, scene: Scene, decision: Decision) -> Tensor:
        """The rows with the greatest gain on the way from a random start along the sign of the gradient."""
        logits = torch.rand(scene.own.shape, generator=scene.generator(self.kind), dtype=scene.own.dtype)
        best, most = logits.softmax(-1), torch.full((len(logits),), -torch.inf)
        if not logits.shape[1]:
            return best
        for step in range(self.steps + 1):
            logits = logits.detach().requires_grad_()
            rows = logits.softmax(-1)
            gains = gain(decision(scene.attacked(rows)), scene.labels)
            better = gains.detach() > most
            most = torch.where(better, gains.detach(), most)
            best = torch.where(better[:, None, None], rows.detach(), best)
            if step < self.steps:
                (slope,) = torch.autograd.grad(gains.sum(), logits)
                logits = logits.detach() + STEP * slope.sign()
        return best


def check_alone(attack: InferenceAttack, owner: str) -> None:
    """See whether a client of a live run can make an attack by itself.

    Raises:
        ConfigurationError: it needs the answers of others.
    """
    if attack.alone(torch.full((1, 2), 0.5)) is None:
        raise ConfigurationError(
            f"The 'lie' of {owner} must be an attack from own answers: logit-flipping or sia. "
            f"Got {attack.title()!r} instead."
        )
