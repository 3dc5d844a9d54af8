"""The networks of learned rules, and their plain training.

Shapes: S queries, N clients, C classes, W numbers of the hidden layer.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from covey.federated.robust_inference import order
from covey.federated.robust_inference.static_rules import Trim
from covey.parts.errors import ConfigurationError, described


class DeepSet(nn.Module):
    """A function of a set of rows: rho of the mean of phi of each (Zaheer et al., 2017)."""

    def __init__(self, classes: int, hidden: int) -> None:
        super().__init__()
        self.classes = classes
        self.phi = nn.Sequential(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.rho = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, answers: Tensor, valid: Tensor | None = None, trim: Trim | None = None) -> Tensor:
        """The logits, S x C. With `trim`, the trimmed mean of the encoded rows takes the place of the mean."""
        encoded = self.phi(answers)
        merged: Tensor = self.rho(order.mean(encoded, valid) if trim is None else trim.mean(encoded, valid))
        return merged


class Concatenated(nn.Module):
    """A multilayer perceptron on the rows of all clients side by side, N d hidden numbers (FENS)."""

    def __init__(self, clients: int, classes: int, width: int) -> None:
        super().__init__()
        self.clients = clients
        hidden = clients * width
        self.layers = nn.Sequential(nn.Linear(clients * classes, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, answers: Tensor) -> Tensor:
        """The logits, S x C."""
        merged: Tensor = self.layers(answers.flatten(1))
        return merged


class Autoencoder(nn.Module):
    """An autoencoder of the rows of all clients side by side, with leaky rectifiers of slope 0.8 (CoPur)."""

    def __init__(self, inputs: int, hidden: int, code: int) -> None:
        super().__init__()
        sizes = (inputs, hidden, code, hidden, inputs)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        between = [nn.LeakyReLU(0.8) for _ in layers[1:]]
        self.layers = nn.Sequential(
            *(layer for pair in zip(layers, between, strict=False) for layer in pair), layers[-1]
        )

    def forward(self, flat: Tensor) -> Tensor:
        """The nearest values that it can express, S x N C."""
        found: Tensor = self.layers(flat)
        return found


def initialised(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """A network whose linear layers begin as torch's do, from a generator of its own."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            bound = 1.0 / math.sqrt(layer.in_features)
            for values in (layer.weight, layer.bias):
                nn.init.uniform_(values, -bound, bound, generator=generator)
    return network


def read_deepset(file: Path, owner: str) -> DeepSet:
    """The DeepSet in a safetensors file.

    Args:
        file: the file.
        owner: the rule, for errors.

    Raises:
        ConfigurationError: the file cannot be read, or holds another network.
    """
    from safetensors.torch import load_file

    try:
        found = load_file(str(file))
        hidden, classes = found["phi.0.weight"].shape
        network = DeepSet(classes, hidden)
        network.load_state_dict(found)
    except Exception as error:  # A SafetensorError, an OSError or a panic of Rust, a KeyError or RuntimeError of torch.
        raise ConfigurationError(
            f"The 'weights' of {owner} must be a file of a deepset, as covey infer writes it. Got {file}: "
            f"{described(error)}."
        ) from error
    if not all(bool(values.isfinite().all()) for values in found.values()):
        raise ConfigurationError(f"The 'weights' of {owner} in {file} have numbers that are not finite.")
    network.requires_grad_(False)
    return network


def minimise(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    samples: int,
    *,
    steps: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
) -> None:
    """Train a network by Adam on batches that are drawn with replacement.

    Args:
        network: the network. It is frozen afterwards.
        loss: the loss of a batch, given the indices of its samples.
        samples: the number of samples.
        steps, lr, batch_size: the steps of Adam, their learning rate and batch size.
        generator: draws the batches.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for _ in range(steps):
        chosen = torch.randint(samples, (min(batch_size, samples),), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(chosen))
        optimizer.step()
    network.requires_grad_(False)


def bounded(network: nn.Sequential, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The bounds of the outputs of linear layers and rectifiers for inputs within bounds, layer by layer."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            middle, radius = F.linear((low + high) / 2, layer.weight, layer.bias), (high - low) / 2
            spread = F.linear(radius, layer.weight.abs())
            low, high = middle - spread, middle + spread
        else:
            low, high = low.relu(), high.relu()
    return low, high
