"""Aggregators of outputs for FENS (Allouah et al., 2024): functions of what all models say of a sample.

Shapes: B samples, M models, C classes, D numbers of an input.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.federated.ensembles import MEANS, mean_by_labels, mean_of_logits, weights_by_labels
from covey.learning.models import MLP, Model, Module
from covey.learning.node import Further
from covey.learning.optimizers import SGD
from covey.parts.parameters import Part, param


class Aggregator(Part):
    """A function from the logits of M models to C scores, which may have a network that clients train together."""

    family: ClassVar[str] = "aggregator"
    eta: ClassVar[float] = 0.001
    """The learning rate of FedAdam with which its network is trained."""
    needs_inputs: ClassVar[bool] = False
    """Whether its network reads the inputs of samples beside the logits."""
    needs_labels: ClassVar[bool] = False
    """Whether `combined` reads the numbers of training samples, which clients send only then."""
    needs_counts: ClassVar[bool] = False
    """Whether `combined` reads `counts` on the proxy samples of all clients."""

    def network(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Further | None:
        """Its network, from the numbers of `features` to C scores; None if it is not trained."""
        return None

    def features(self, logits_BMC: Tensor, inputs: Tensor | None) -> Tensor:
        """The input of the network: the logits of a sample and, if it needs them, the numbers of its input."""
        flat = logits_BMC.flatten(1)
        return torch.cat([flat, inputs.flatten(1)], dim=1) if self.needs_inputs and inputs is not None else flat

    def counts(self, logits_BMC: Tensor, targets_B: Tensor) -> Tensor:
        """The counts on the proxy samples of a client, int32 M x C x C, which the server sums over clients."""
        raise NotImplementedError

    def combined(self, logits_BMC: Tensor, labels_MC: Tensor, counts: Tensor | None) -> Tensor:
        """The scores of an aggregator that is not trained, B x C; by default, and before training, the mean of logits.

        Args:
            logits_BMC: the logits. Those of a model that is missing are 0.
            labels_MC: the training samples of each class with which each model was trained, or 0.
            counts: the sum of `counts` over clients, or None.
        """
        return mean_of_logits(logits_BMC, labels_MC)


class Average(Aggregator):
    """The mean of logits or of probabilities."""

    kind = "average"
    of: str = param("The outputs of which it is the mean.", default="logits", choices=("logits", "probabilities"))

    def combined(self, logits_BMC: Tensor, labels_MC: Tensor, counts: Tensor | None) -> Tensor:
        return MEANS[self.of](logits_BMC, labels_MC)


class Weighted(Aggregator):
    """The sum of logits, weighted for each class by a client's share of the training samples of that class."""

    kind = "weighted"
    needs_labels = True

    def combined(self, logits_BMC: Tensor, labels_MC: Tensor, counts: Tensor | None) -> Tensor:
        return mean_by_labels(logits_BMC, weights_by_labels(labels_MC))


class Voting(Aggregator):
    """Polychotomous voting: the class for which the labels that all models give are most likely on proxy samples.

    A class without proxy samples counts as labelled once with each of the others.
    """

    kind = "voting"
    needs_counts = True
    smoothing: float = param("The number that is added to each count, so that none is 0.", default=1.0, gt=0)

    def counts(self, logits_BMC: Tensor, targets_B: Tensor) -> Tensor:
        """The samples of each class to which a model gives each label, M x C x C; 0 for a missing model."""
        classes = logits_BMC.shape[2]
        truth = F.one_hot(targets_B, classes)
        given = F.one_hot(logits_BMC.argmax(2), classes) * (logits_BMC != 0).any(2, keepdim=True)
        return torch.einsum("by,bml->myl", truth.double(), given.double()).int()

    def combined(self, logits_BMC: Tensor, labels_MC: Tensor, counts: Tensor | None) -> Tensor:
        assert counts is not None
        return torch.einsum("bml,myl->by", self.labels(logits_BMC), self.competence(counts).log())

    def competence(self, counts_MCC: Tensor) -> Tensor:
        """The smoothed share of the samples of a class to which a model gives a label, M x C x C."""
        seen_C = (counts_MCC.sum((0, 2)) > 0).double()
        unknown_MC = counts_MCC.sum(2) == 0
        found = torch.where(unknown_MC[:, :, None], seen_C, counts_MCC.double()) + self.smoothing
        return found / found.sum(2, keepdim=True)

    def labels(self, logits_BMC: Tensor) -> Tensor:
        """The labels that models give, B x M x C."""
        return F.one_hot(logits_BMC.argmax(2), logits_BMC.shape[2]).double()


class Learned(Aggregator):
    """An aggregator that clients train together on their proxy samples."""

    def model(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Model:
        """Its network, from the numbers of `features` to C scores."""
        raise NotImplementedError

    def network(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Further:
        count = models * classes + (math.prod(sample_shape) if self.needs_inputs else 0)
        return Further(self.model(models, classes, sample_shape), (count,), classes, SGD(lr=1.0))


def _module(make: Callable[[], nn.Module]) -> Model:
    return Module(factory=make)


class LinearAggregator(Learned):
    """A weighted sum of the models' logits, with one weight for each model, 1/M at first, and one bias."""

    kind = "linear"
    eta = 0.01

    def model(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Model:
        return _module(partial(Scaled, models, classes, per_class=False))


class PerClass(Learned):
    """A weighted sum of the models' logits, with one weight for each model and class, 1/M at first."""

    kind = "per-class"
    eta = 0.01

    def model(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Model:
        return _module(partial(Scaled, models, classes, per_class=True))


class Network(Learned):
    """A perceptron with one hidden layer of `width` numbers for each model. The default of FENS."""

    kind = "mlp"
    width: int = param("The hidden numbers for each model.", default=4, ge=1)

    def model(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Model:
        return MLP(hidden=[self.width * models])


class Gating(Learned):
    """A mixture of experts: a small convolutional network reads the image, and weighs the models by a softmax.

    Inputs that are no images pass its dense layers alone.
    """

    kind = "gating"
    needs_inputs = True
    per_class: bool = param("Whether it gives a weight for each model and class, without a softmax.", default=False)
    best: bool = param("Whether the model of the greatest weight alone predicts, after training.", default=False)
    dropout: float = param("The share of hidden numbers that a training step leaves out.", default=0.5, ge=0, lt=1)

    def model(self, models: int, classes: int, sample_shape: tuple[int, ...]) -> Model:
        return _module(
            partial(Gate, models, classes, sample_shape, per_class=self.per_class, best=self.best, dropout=self.dropout)
        )


class Scaled(nn.Module):
    """The sum of M logits times weights of each model, or of each model and class."""

    def __init__(self, models: int, classes: int, *, per_class: bool) -> None:
        super().__init__()
        self.shape = (models, classes)
        self.weight = nn.Parameter(torch.full((models, classes if per_class else 1), 1.0 / models))
        self.bias = None if per_class else nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """The scores, B x C, for B x MC logits."""
        found: Tensor = (x.view(-1, *self.shape) * self.weight).sum(1)
        return found if self.bias is None else found + self.bias


class Gate(nn.Module):
    """A network of an input that weighs the logits of M models."""

    def __init__(
        self,
        models: int,
        classes: int,
        sample_shape: tuple[int, ...],
        *,
        per_class: bool = False,
        best: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.models, self.classes, self.sample_shape = models, classes, sample_shape
        self.per_class, self.best = per_class, best
        self.convolutions = _convolutions(sample_shape)
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, *sample_shape)).flatten(1).shape[1]
        hidden = [nn.Linear(features, 120), nn.ReLU(), nn.Dropout(dropout), nn.Linear(120, 84), nn.ReLU()]
        self.dense = nn.Sequential(*hidden, nn.Linear(84, models * (classes if per_class else 1)))

    def forward(self, x: Tensor) -> Tensor:
        """The scores, B x C, for B x (MC + D) logits and inputs."""
        outputs = self.models * self.classes
        said, inputs = x[:, :outputs], x[:, outputs:]
        logits = said.reshape(-1, self.models, self.classes)
        hidden = self.convolutions(inputs.reshape(-1, *self.sample_shape))
        weights: Tensor = self.dense(hidden.flatten(1)).reshape(-1, self.models, self.classes if self.per_class else 1)
        if not self.per_class:
            weights = weights.softmax(1)
        if self.best and not self.training:
            weights = F.one_hot(weights.argmax(1), self.models).transpose(1, 2).to(logits.dtype)
        found: Tensor = (logits * weights).sum(1)
        return found


def _convolutions(sample_shape: tuple[int, ...]) -> nn.Sequential:
    """Two convolutions with pooling for images of 8 x 8 or more; nothing for other inputs."""
    if len(sample_shape) != 3 or min(sample_shape[1:]) < 8:
        return nn.Sequential()
    pooled = (nn.ReLU(), nn.MaxPool2d(2))
    first, second = nn.Conv2d(sample_shape[0], 6, 5, padding=2), nn.Conv2d(6, 16, 5, padding=2)
    return nn.Sequential(first, *pooled, second, *pooled)
