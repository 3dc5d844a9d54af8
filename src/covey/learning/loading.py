"""The loading of a task: its data are read, dealt to nodes and given to a learner."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from covey.learning.dataset import Data, Location
from covey.learning.datasets.checks import check
from covey.learning.devices import device_named
from covey.learning.learner import Learner
from covey.learning.shipping import unpacked
from covey.learning.task import LearningTask, Public
from covey.parts.errors import ConfigurationError, CoveyError, DataError, described, quoted
from covey.parts.parameters import Part, default_of

A = TypeVar("A")


def load_learner(task: LearningTask, location: Location, *, seed: int, **engine: Any) -> Learner:
    """Load the task's data, deal them to the nodes that hold data, and make a learner.

    Raises:
        DataError, ConfigurationError: files are missing, or the partition or the model does not fit.
    """
    device_named(engine.get("device", "cpu"))
    if location.shipped is not None:
        shipped = unpacked(*location.shipped)
        learner = Learner(task, shipped.data, shipped.parts, seed=seed, **engine)
        learner.shipped, learner.label_counts = shipped, shipped.label_counts
        return learner
    data = _made(task.dataset, Data, lambda: task.dataset.load_at(location))
    check(data, task.dataset.title())
    if data.own is not None:
        parts = list(data.own.train)
    elif data.stream is not None:
        if task.partition != default_of(type(task), "partition"):
            raise ConfigurationError(
                f"The dataset {task.dataset.title()} has a stream for each node, and no 'partition' deals it out. "
                f"Got {task.partition.title()}: leave it out."
            )
        parts = [np.arange(len(data.train))] * len(location.holders)
    else:
        parts = _made(task.partition, list, lambda: task.partition.assign(data, len(location.holders), seed))
    public = None if task.public is None else _public_inputs(task.public, task, data, location)
    return Learner(task, data, parts, seed=seed, public=public, **engine)


def _made(part: Part, wanted: type[A], make: Callable[[], A]) -> A:
    """The result of a part. Errors of a user's own class become a `DataError`."""
    try:
        found = make()
    except CoveyError:
        raise
    except Exception as error:
        raise DataError(f"The {part.family} {part.title()} fails: {described(error)}.") from error
    if not isinstance(found, wanted):
        raise DataError(f"The {part.family} {part.title()} must make {wanted.__name__}. Got {quoted(found)} instead.")
    return found


def _public_inputs(public: Public, task: LearningTask, data: Data, location: Location) -> Tensor:
    """The inputs that all nodes have, converted for a model."""
    found = _made(public.dataset, Data, lambda: public.dataset.load_at(location))
    if found.sample_shape != data.sample_shape:
        raise ConfigurationError(
            f"The 'public' of the task must have samples of the shape {data.sample_shape}, as the dataset "
            f"{task.dataset.title()} has. Got {found.sample_shape} of {public.dataset.title()} instead."
        )
    known = len(found.train.inputs)
    if public.samples is not None and public.samples > known:
        raise ConfigurationError(
            f"The 'samples' of the task's public must be an int in [1, {known}], the training samples of the dataset "
            f"{public.dataset.title()}. Got {public.samples} instead."
        )
    return found.scaled(found.train.inputs[: public.samples].clone())
