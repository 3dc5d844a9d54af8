"""Ways to combine the outputs of several models that need no training.

Shapes: B samples, M models, C classes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from covey.parts.errors import ModelError


def joined(outputs: Sequence[Tensor], names: Sequence[int] | None = None) -> Tensor:
    """The outputs of several models for the same samples as one tensor, B x M x C.

    Args:
        outputs: the outputs of each model, B x C.
        names: the names of the models in errors; by default, 0, 1, 2 ...

    Raises:
        ValueError: the models differ in their classes or samples.
        ModelError: the outputs of a model are not finite.
    """
    names = range(len(outputs)) if names is None else names
    for name, found in zip(names, outputs, strict=True):
        if found.shape != outputs[0].shape:
            raise ValueError(
                f"The outputs of all models must be of one shape, samples x classes. Got {tuple(found.shape)} of model "
                f"{name} and {tuple(outputs[0].shape)} of model {names[0]}."
            )
        if not bool(found.isfinite().all()):
            raise ModelError(f"The outputs of model {name} are not finite.")
    return torch.stack(list(outputs), dim=1)


def weights_by_labels(labels_MC: Tensor) -> Tensor:
    """The share of each model in the samples of each class, M x C; equal shares of a class without samples."""
    counts_MC = labels_MC.double()  # Sums of integers may wrap around.
    total_C = counts_MC.sum(0)
    return torch.where(total_C > 0, counts_MC / total_C.clamp(min=1), 1.0 / len(labels_MC)).float()


def mean_of_logits(logits_BMC: Tensor, weights_MC: Tensor) -> Tensor:
    """The mean of logits. The weights are not used."""
    return logits_BMC.mean(1)


def mean_of_probabilities(logits_BMC: Tensor, weights_MC: Tensor) -> Tensor:
    """The logarithm of the mean of probabilities, so that its softmax is that mean. The weights are not used."""
    return logits_BMC.log_softmax(-1).logsumexp(1) - torch.tensor(float(logits_BMC.shape[1])).log()


def mean_by_labels(logits_BMC: Tensor, weights_MC: Tensor) -> Tensor:
    """The sum of logits, weighted for each model and class."""
    return torch.einsum("bmc,mc->bc", logits_BMC, weights_MC.to(logits_BMC.dtype))


MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": mean_of_logits,
    "probabilities": mean_of_probabilities,
    "labels": mean_by_labels,
}
"""The means by their names in experiment files."""
