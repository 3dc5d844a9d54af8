"""Rules that are fitted to stored outputs: DeepSet with trimming at test time, and FENS's perceptron.

Shapes: S queries, N clients, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, softmax
from torch.nn import functional as F

from covey.federated.robust_inference import order
from covey.federated.robust_inference.adversarial import Goal, train_adversarially
from covey.federated.robust_inference.answers import AnswersError, Outputs
from covey.federated.robust_inference.networks import (
    Concatenated,
    DeepSet,
    bounded,
    initialised,
    minimise,
    read_deepset,
)
from covey.federated.robust_inference.rule import Decision, Fitting, Rule
from covey.federated.robust_inference.static_rules import Trim, check_trim, trim_of
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param


class LearnedRule(Rule):
    """A rule that is trained by Adam on stored outputs."""

    steps: int = param("The number of steps of Adam.", default=1500, ge=1)
    lr: float = param("The learning rate of Adam.", default=5e-4, gt=0)
    batch_size: int = param("The number of queries in a step.", default=128, ge=1)

    @property
    def needs_outputs(self) -> bool:
        return True

    @property
    def remedy(self) -> str:
        """The way to a trained rule where there are no outputs, as half a sentence."""
        return "covey infer trains it on a run whose clients keep validation samples"

    def stored(self, to: Fitting) -> Outputs:
        """The outputs to train on.

        Raises:
            ConfigurationError: there are none.
        """
        if to.outputs is None or not len(to.outputs.labels):
            raise ConfigurationError(
                f"{self.named().capitalize()} is trained on stored outputs with their classes, and there are none: "
                f"{self.remedy}."
            )
        return to.outputs


@dataclass(frozen=True)
class DeepSetDecision(Decision):
    """A trained DeepSet, with a trimmed mean of the encoded rows if `trim` is given."""

    network: DeepSet
    faulty: int
    trim: Trim | None = None
    straight: bool = False

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        if answers.shape[2] != self.network.classes:
            raise AnswersError(
                f"The deepset was trained for answers of {self.network.classes} classes. "
                f"Got {answers.shape[2]} instead."
            )
        if not self.straight or self.trim is None:
            return softmax(self.network(answers, valid, self.trim), dim=-1)
        encoded = self.network.phi(answers)
        merged = order.straight_through(self.trim.mean(encoded, valid), encoded, valid)
        return softmax(self.network.rho(merged), dim=-1)

    def surrogates(self) -> Mapping[str, Decision]:
        own = {"gradient": self}
        return own if self.trim is None else {**own, "straight-through": replace(self, straight=True)}

    def weights(self) -> Mapping[str, Tensor]:
        return self.network.state_dict()

    def bounds(self, answers: Tensor, faulty: int) -> tuple[Tensor, Tensor] | None:
        """Bounds of the logits. Encoded lies may be any numbers, so all of them must be trimmed."""
        if self.trim is None or self.trim.of(answers.shape[1]) < faulty:
            return None
        encoded = self.network.phi(answers)
        return bounded(self.network.rho, *self.trim.bounds(encoded, faulty, -torch.inf, torch.inf))


class DeepSetRule(LearnedRule):
    """A DeepSet that is trained with liars, and takes a trimmed mean of encoded rows when it decides (DeepSet-TM)."""

    kind = "deepset"
    hidden: int = param("The width of the hidden layers.", default=128, ge=1)
    adversarial: bool = param("Whether some rows of the training queries lie.", default=True)
    trimmed: bool = param("Whether the encoded rows are trimmed when it decides.", default=True)
    inner_steps: int = param("The steps of a lie's ascent in training.", default=10, ge=1)
    goal: Goal = param(
        "The loss that a lie raises in training: cw, that of Carlini and Wagner, or cross-entropy.", default="cw"
    )
    trim: int | None = param(
        "The number of values that are left out at each end; by default, that of the clients that may lie.",
        default=None,
        ge=0,
    )
    ratio: float | None = param("The share of values to leave out at each end, instead.", default=None, ge=0, lt=0.5)
    weights: Path | None = param("The file with a network that covey infer has trained, instead.", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trim(self, self.trim, self.ratio)

    def fitted(self, to: Fitting) -> Decision:
        if self.weights is not None:
            network = read_deepset(self.weights, self.named())
            return DeepSetDecision(network, to.faulty, self._trim(to))
        key = (self.kind, self.hidden, self.adversarial, self.inner_steps, self.goal, *self._schedule)
        network = to.once(key, lambda: self._trained(to))
        return DeepSetDecision(network, to.faulty, self._trim(to))

    @property
    def remedy(self) -> str:
        return "covey infer trains it on a run, and writes the file that 'weights' takes"

    def _trim(self, to: Fitting) -> Trim | None:
        return trim_of(self.trim, self.ratio, to.faulty) if self.trimmed else None

    @property
    def needs_outputs(self) -> bool:
        return self.weights is None

    @property
    def _schedule(self) -> tuple[int, float, int]:
        return self.steps, self.lr, self.batch_size

    def _trained(self, to: Fitting) -> DeepSet:
        outputs, generator = self.stored(to), to.generator("deepset")
        network = DeepSet(outputs.answers.shape[2], self.hidden)
        initialised(network, generator)
        schedule = {"steps": self.steps, "lr": self.lr, "batch_size": self.batch_size, "generator": generator}
        if self.adversarial:
            work = {"inner_steps": self.inner_steps, "goal": self.goal}
            train_adversarially(network, outputs, to.faulty, **work, **schedule)  # type: ignore[arg-type]
            return network
        answers, labels = outputs
        minimise(
            network,
            lambda batch: F.cross_entropy(network(answers[batch]), labels[batch]),
            len(labels),
            **schedule,  # type: ignore[arg-type]
        )
        return network


@dataclass(frozen=True)
class ConcatenatedDecision(Decision):
    """A trained perceptron on the rows of all clients. A missing row is replaced by the mean of the others."""

    network: Concatenated
    fixed_size: ClassVar[bool] = True

    def __call__(self, answers: Tensor, valid: Tensor | None = None) -> Tensor:
        return softmax(self.network(filled(answers, valid, self.network.clients)), dim=-1)


class MLPRule(LearnedRule):
    """A multilayer perceptron on the probabilities of all clients side by side, as in FENS, without any defence."""

    kind = "mlp"
    width: int = param("The hidden numbers for each client.", default=4, ge=1)

    def fitted(self, to: Fitting) -> Decision:
        answers, labels = self.stored(to)
        generator = to.generator("mlp")
        network = Concatenated(answers.shape[1], answers.shape[2], self.width)
        initialised(network, generator)
        minimise(
            network,
            lambda batch: F.cross_entropy(network(answers[batch]), labels[batch]),
            len(labels),
            steps=self.steps,
            lr=self.lr,
            batch_size=self.batch_size,
            generator=generator,
        )
        return ConcatenatedDecision(network)


def filled(answers: Tensor, valid: Tensor | None, clients: int) -> Tensor:
    """The answers of a fixed number of clients, with the mean of the others for missing rows.

    Raises:
        AnswersError: there are rows of another number of clients.
    """
    if answers.shape[1] != clients:
        raise AnswersError(
            f"A rule on concatenated answers takes those of {clients} clients, for which it was trained. "
            f"Got {answers.shape[1]} instead."
        )
    return (
        answers if valid is None else torch.where(valid.unsqueeze(-1), answers, order.mean(answers, valid).unsqueeze(1))
    )
