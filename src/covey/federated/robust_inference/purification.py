"""Rules that move answers to the manifold of clean ones: projection, and CoPur (Liu et al., 2022).

An autoencoder learns the clean answers of all clients side by side; a perceptron classifies what it returns.
Shapes: S queries, N clients, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.federated.robust_inference.learned_rules import LearnedRule, filled
from covey.federated.robust_inference.networks import Autoencoder, initialised, minimise
from covey.federated.robust_inference.rule import Decision, Fitting
from covey.parts.parameters import param

_GUARD = 1e-12


@dataclass(frozen=True)
class ManifoldDecision(Decision):
    """The class of the nearest answers that an autoencoder can express."""

    clients: int
    autoencoder: Autoencoder
    server: nn.Module
    fixed_size: ClassVar[bool] = True

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        flat = filled(answers, valid, self.clients).flatten(1)
        return self.classified(self.autoencoder(flat))

    def classified(self, clean: Tensor) -> Tensor:
        """The probabilities of classes for cleaned answers."""
        found: Tensor = self.server(clean).softmax(-1)
        return found


@dataclass(frozen=True)
class CoPurDecision(ManifoldDecision):
    """The class of purified answers. Attacks follow the gradient of the projection, from which purification starts."""

    steps: int = 0
    lr: float = 0.0
    tau: float = 0.0

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        given = filled(answers, valid, self.clients)
        start = self.autoencoder(given.flatten(1))
        return self.classified(self.autoencoder(self.purified(given.detach(), start.detach())))

    def surrogates(self) -> Mapping[str, Decision]:
        return {"straight-through": ManifoldDecision(self.clients, self.autoencoder, self.server)}

    def purified(self, answers: Tensor, start: Tensor) -> Tensor:
        """The point L near the manifold that differs from few clients' answers, S x N C."""
        with torch.enable_grad():
            point = start.clone().requires_grad_()

            def norms(one: Tensor, other: Tensor) -> Tensor:
                differences = (one - other).view(answers.shape)
                total: Tensor = (differences.square().sum(-1) + _GUARD).sqrt().sum()
                return total

            flat = answers.flatten(1)
            self._minimise(point, lambda: norms(self.autoencoder(point), flat))
            self._minimise(point, lambda: self.tau * norms(self.autoencoder(point), point) + norms(flat, point))
        return point.detach()

    def _minimise(self, point: Tensor, loss: Callable[[], Tensor]) -> None:
        optimizer = torch.optim.Adam([point], lr=self.lr)
        for _ in range(self.steps):
            (point.grad,) = torch.autograd.grad(loss(), point)
            optimizer.step()


class Manifold(LearnedRule):
    """The projection of the answers to the manifold of an autoencoder, then a perceptron."""

    kind = "manifold"
    hidden: int = param("The width of the autoencoder's and the perceptron's hidden layers.", default=128, ge=1)
    code: int = param("The width of the autoencoder's code.", default=32, ge=1)

    def fitted(self, to: Fitting) -> Decision:
        return ManifoldDecision(*self.trained(to))

    def trained(self, to: Fitting) -> tuple[int, Autoencoder, nn.Module]:
        """The number of clients, the autoencoder and the perceptron of three layers."""
        key = ("manifold", self.hidden, self.code, self.steps, self.lr, self.batch_size)
        return to.once(key, lambda: self._trained(to))

    def _trained(self, to: Fitting) -> tuple[int, Autoencoder, nn.Module]:
        answers, labels = self.stored(to)
        (_, clients, classes), flat, generator = answers.shape, answers.flatten(1), to.generator("manifold")
        autoencoder, wide = Autoencoder(clients * classes, self.hidden, self.code), self.hidden
        server = nn.Sequential(
            *(nn.Linear(clients * classes, wide), nn.ReLU()),
            *(nn.Linear(wide, wide), nn.ReLU()),
            nn.Linear(wide, classes),
        )
        for network in (autoencoder, server):
            initialised(network, generator)
        schedule = {"steps": self.steps, "lr": self.lr, "batch_size": self.batch_size, "generator": generator}

        def rebuilt(batch: Tensor) -> Tensor:
            return F.mse_loss(autoencoder(flat[batch]), flat[batch])

        minimise(autoencoder, rebuilt, len(labels), **schedule)  # type: ignore[arg-type]
        with torch.no_grad():
            clean = autoencoder(flat)

        def classified(batch: Tensor) -> Tensor:
            return F.cross_entropy(server(clean[batch]), labels[batch])

        minimise(server, classified, len(labels), **schedule)  # type: ignore[arg-type]
        return clients, autoencoder, server


class CoPur(Manifold):
    """CoPur: the answers are purified, so that few clients' differ from a point near the manifold, then classified."""

    kind = "copur"
    purify_steps: int = param("The steps of Adam in each of the two stages of purification.", default=50, ge=1)
    purify_lr: float = param("The learning rate of purification.", default=0.01, gt=0)
    tau: float = param("The weight of the distance to the manifold.", default=1.0, ge=0)

    def fitted(self, to: Fitting) -> Decision:
        return CoPurDecision(*self.trained(to), self.purify_steps, self.purify_lr, self.tau)
