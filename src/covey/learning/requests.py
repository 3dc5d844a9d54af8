"""Checks of the arguments of trainings and predictions, before anything is computed.

Shapes: K models, S samples, P parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from covey.learning.dataset import Split
from covey.learning.node import Samples, Work
from covey.learning.objectives import Objective
from covey.parts.errors import ProgramError, quoted
from covey.parts.parameters import build

if TYPE_CHECKING:
    from covey.learning.learner import Learner

SPLITS = ("train", "validation", "test", "public")
_FIELDS = frozenset(field.name for field in fields(Work))
_COUNTS = ("steps", "epochs", "batch_size")


def work_of(given: Mapping[str, Any], learner: "Learner", holder: int | None, keep: Callable[[Tensor], Tensor]) -> Work:
    """The `Work` of a program's arguments.

    Args:
        given: the arguments.
        learner: the learner that computes the training.
        holder: the node whose data are used if none are given.
        keep: returns a snapshot of a tensor.

    Raises:
        ProgramError: an argument is unknown or does not fit.
    """
    found = dict(given)
    for name in found.keys() - _FIELDS:
        raise ProgramError(f"A training has no '{name}'. Known: {', '.join(sorted(_FIELDS))}.")
    for name in _COUNTS:
        _check(found, name, lambda value: type(value) is int and value >= 1, "an int of at least 1")
    for name in ("expected", "guesses"):
        _check(found, name, lambda value: type(value) is int and value >= 0, "an int of at least 0")
    for name in ("lr", "proximal"):
        _check(found, name, lambda value: isinstance(value, int | float) and value >= 0, "a number of at least 0")
    if found.get("steps") is not None and found.get("epochs") is not None:
        raise ProgramError("A training has both 'steps' and 'epochs': give one.")
    objective = found.get("objective")
    if objective is not None and not isinstance(objective, Objective):
        found["objective"] = objective = build(Objective, objective)
    on = found.get("on")
    if on is not None:
        found["on"] = _split_of(on, objective, learner, keep)
    elif holder is None:
        raise ProgramError("A node without data must train 'on' given samples. Got none.")
    work = Work(**found)
    if work.weights is not None or work.correction is not None:
        found["weights"] = _numbers(work, "weights", (learner.size(holder or 0, work),), keep)
        size, trained = learner.layout.size, learner.layout.trainable
        found["correction"] = _numbers(work, "correction", (size, trained), keep)
        work = Work(**found)
    return work


def _check(given: Mapping[str, Any], name: str, fits: Callable[[Any], bool], wanted: str) -> None:
    value = given.get(name)
    if value is not None and not fits(value):
        raise ProgramError(f"The '{name}' of a training must be {wanted}. Got {quoted(value)} instead.")


def _numbers(work: Work, name: str, lengths: Sequence[int], keep: Callable[[Tensor], Tensor]) -> Tensor | None:
    """A tensor argument, after a check of its length."""
    value = getattr(work, name)
    if value is None:
        return None
    if isinstance(value, Tensor) and value.dtype == torch.float32 and value.dim() == 1 and len(value) in lengths:
        return keep(value)
    wanted = " or ".join(map(str, dict.fromkeys(lengths)))
    raise ProgramError(f"The '{name}' of a training must be {wanted} float32 numbers. Got {_in_words(value)} instead.")


def _split_of(on: Any, objective: Objective | None, learner: "Learner", keep: Callable[[Tensor], Tensor]) -> Split:
    """The samples of the argument 'on'."""
    if not (isinstance(on, tuple) and len(on) == 2 and isinstance(on[0], Tensor)):
        raise ProgramError(f"The 'on' of a training must be samples, (inputs, targets). Got {_in_words(on)} instead.")
    targets = on[1]
    if targets is None:
        raise ProgramError("The 'on' of a training must have targets. Got inputs only.")
    inputs = inputs_of(on[0], learner)
    if not isinstance(targets, Tensor) or targets.dim() == 0 or len(targets) != len(inputs):
        raise ProgramError(
            f"The targets of 'on' must be one for each of {len(inputs)} samples. Got {_in_words(targets)} instead."
        )
    usual = learner.data.train.targets
    minimised = learner.task.loss if objective is None else objective
    if minimised.is_the_tasks and (targets.dtype != usual.dtype or targets.dim() != usual.dim()):
        raise ProgramError(
            f"The targets of 'on' must be {usual.dtype} of {usual.dim()} dimensions for the task's own loss. "
            f"Got {_in_words(targets)} instead: name an objective, such as 'kl'."
        )
    classes, counted = learner.data.classes, learner.recipe.scoring.counted(targets, minimised)
    known = targets if counted is None else targets[counted]
    wrong = targets.dtype == torch.int64 and classes and known.numel()
    if wrong and not (0 <= int(known.min()) <= int(known.max()) < classes):
        raise ProgramError(
            f"The targets of 'on' must be classes in [0, {classes}). "
            f"Got some in [{int(known.min())}, {int(known.max())}] instead."
        )
    return Split(keep(inputs), keep(targets))


def inputs_of(on: Any, learner: "Learner") -> Tensor:
    """The inputs of given samples."""
    inputs = on[0] if isinstance(on, Samples) else on
    shape = learner.data.sample_shape
    if not isinstance(inputs, Tensor) or inputs.shape[1:] != shape or not len(inputs):
        raise ProgramError(f"The inputs of 'on' must be 1 or more of shape {shape}. Got {_in_words(inputs)} instead.")
    return inputs


def _in_words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of {tuple(value.shape)}"
    return quoted(value)
