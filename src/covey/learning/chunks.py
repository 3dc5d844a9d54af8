"""Trainings that are computed together: their chunk of tensors, and its results.

Shapes: J trainings, P parameters.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from covey.learning.batches import Parts, Plan, plan
from covey.learning.dataset import Split
from covey.learning.jobs import Training
from covey.learning.kernels import Chunk, ModuleKernel, Privacy
from covey.learning.ldp import poisson
from covey.learning.node import Update
from covey.learning.optimizers import Optimizer, Slots
from covey.learning.protected import privacy_of
from covey.parts import rng

if TYPE_CHECKING:
    from covey.learning.learner import Learner

_AUGMENTATION = rng.purpose_key(0, "augmentation") >> 1
"""The counter that makes the key of a training that of its augmentation."""

Given = Sequence[tuple[Tensor, Tensor]]
"""The inputs and targets of each training of a chunk."""


def train_chunk(learner: "Learner", kernel: ModuleKernel, trainings: Sequence[Training]) -> None:
    """Compute trainings of one kind, and set their results.

    Args:
        learner: the learner.
        kernel: the kernel that computes them.
        trainings: the trainings, in decreasing order of their steps.
    """
    keys, work = batch_keys(trainings), trainings[0].work
    steps = [learner.steps(training.holder, training.work) for training in trainings]
    guesses = [
        kernel.optimizer.guesses_after(count, training.work.expected, training.work.guesses)
        for count, training in zip(steps, trainings, strict=True)
    ]
    given = _given(learner, kernel, trainings)
    privacy = privacy_of(learner, trainings, keys)
    batches = batches_of(learner, trainings, keys, steps, given, privacy)
    corrections = [training.work.correction for training in trainings]
    weights = [training.work.weights for training in trainings]
    chunk = Chunk(
        starts=[training.start for training in trainings],
        samples=torch.from_numpy(batches.samples).to(learner.device),
        ragged=batches.ragged,
        steps=steps,
        lr=torch.tensor([learner.rate(training) for training in trainings], device=learner.device).unsqueeze(1),
        proximal=work.proximal,
        slots=_slots(learner, trainings, kernel.optimizer),
        objective=work.objective,
        corrections=_rows(
            learner, [c if c is None else c[: learner.layout.trainable] for c in corrections], torch.stack
        ),
        given=None if given is None else Split(*(torch.cat(tensors) for tensors in zip(*given, strict=True))),
        weights=_rows(learner, weights, torch.cat),
        keys=_augmentation_keys(learner, trainings[0], keys),
        privacy=privacy,
        guesses=guesses,
    )
    if kernel.optimizer.steps_modules:
        chunk.states = [training.slots or {} for training in trainings]
    with learner.seeded(int(keys[0])):
        trained = kernel.train(chunk)
    finite, losses = trained.finite.tolist(), trained.losses.tolist()
    for index, (training, model) in enumerate(zip(trainings, trained.models, strict=True)):
        samples, rate = learner.cost(training), learner.rate(training)
        targets = (chunk.given or kernel.train_split).targets
        training.update = Update(
            model,
            training.start,
            losses[index] / samples,
            samples,
            steps[index],
            lr=rate,
            normaliser=kernel.optimizer.normaliser(steps[index], rate, work.proximal, guesses[index]),
            guesses=guesses[index],
            used=partial(label_counts_of, learner, targets, batches.samples[index]),
        )
        if training.gradient:
            training.buffers = model[learner.layout.averaged :].clone()
            model[learner.layout.trainable :] = 0.0
            continue
        training.finite = finite[index]
        if kernel.optimizer.state == "keep":
            kept = {name: slot[index : index + 1].clone() for name, slot in chunk.slots.items()}
            training.slots = chunk.states[index] if chunk.states else kept


def batch_keys(trainings: Sequence[Training]) -> rng.Keys:
    """The random key of the batches of each training."""
    streams = np.array([training.stream for training in trainings], dtype=np.uint64)
    rounds = np.array([training.round for training in trainings])
    return rng.mix_array(rng.mix_array(streams, rounds), np.array([training.call for training in trainings]))


def drawn(learner: "Learner", training: Training) -> np.ndarray:
    """The indices in the training data of the samples that a training on a node's own data uses."""
    steps, keys = [learner.steps(training.holder, training.work)], batch_keys([training])
    found = batches_of(learner, [training], keys, steps, None, privacy_of(learner, [training], keys)).samples
    return found[found >= 0]


def _augmentation_keys(learner: "Learner", training: Training, keys: rng.Keys) -> list[int] | None:
    """The keys of the augmentation of trainings of one kind; None for given samples and full gradients."""
    if not learner.task.augmentation or training.work.on is not None or training.gradient == "all":
        return None
    return augmentation_keys(keys)


def augmentation_keys(keys: rng.Keys) -> list[int]:
    """The key of the augmentation of each training, of the key of its batches."""
    found: list[int] = rng.mix_array(keys, _AUGMENTATION).tolist()
    return found


def batches_of(
    learner: "Learner",
    trainings: Sequence[Training],
    keys: rng.Keys,
    steps: Sequence[int],
    given: Given | None,
    privacy: Privacy | None,
) -> Plan:
    """The samples of each training in each step, of the training data or of given samples."""
    holders, parts = np.array([training.holder for training in trainings], dtype=np.int64), learner.parts
    batch_size, ldp = learner.batch_size_of(trainings[0].work), learner.task.ldp
    if trainings[0].gradient == "all":
        return Plan(parts.of(int(holders[0]))[None, None], ragged=False)
    if given is not None:
        ends = np.cumsum([len(inputs) for inputs, _ in given])
        parts, holders = Parts(np.split(np.arange(ends[-1]), ends[:-1])), np.arange(len(given))
    if privacy is not None and ldp is not None and ldp.sampling == "poisson":
        return poisson(parts, holders, privacy.keys, steps, batch_size)
    return plan(parts, holders, keys, np.array(steps, dtype=np.int64), batch_size)


def _given(learner: "Learner", kernel: ModuleKernel, trainings: Sequence[Training]) -> Given | None:
    """The inputs and targets of trainings with given, streamed or weighted samples; None for the others."""
    work, device = trainings[0].work, learner.device
    if work.on is not None:
        each = [training.work.on for training in trainings]
        return [(on.inputs.to(device), on.targets.to(device)) for on in each if on is not None]
    if learner.streams is not None:
        if work.weights is not None:
            learner.data.check_no_stream("weights of samples")
        taken = [learner.streams.take(one.holder, one.position, learner.cost(one)) for one in trainings]
        return [(inputs.to(device), targets.to(device)) for inputs, targets in taken]
    if work.weights is None:
        return None
    split = kernel.train_split
    own = [torch.from_numpy(learner.parts.of(training.holder)).to(device) for training in trainings]
    return [(split.inputs[samples], split.targets[samples]) for samples in own]


def _rows(
    learner: "Learner", each: Sequence[Tensor | None], together: Callable[[list[Tensor]], Tensor]
) -> Tensor | None:
    """The tensors of the trainings of a chunk, combined; None if they have none."""
    found = [row.to(learner.device) for row in each if row is not None]
    return together(found) if found else None


def label_counts_of(learner: "Learner", targets: Tensor, samples: np.ndarray) -> np.ndarray | None:
    """The number of samples of each class that a training used; None if targets are not classes."""
    if learner.data.objective != "classes" or targets.dtype != torch.int64:
        return None
    used = targets[torch.from_numpy(samples[samples >= 0]).to(learner.device)]
    return torch.bincount(used, minlength=learner.data.classes).cpu().numpy()


def _slots(learner: "Learner", trainings: Sequence[Training], optimizer: Optimizer) -> Slots:
    """The slots of the optimisers of trainings, a row each."""
    if not optimizer.slots():
        return {}
    trainable = learner.first_model[: learner.layout.trainable].unsqueeze(0)
    each = [training.slots or optimizer.fresh(trainable) for training in trainings]
    return {name: torch.cat([slots[name] for slots in each]) for name in optimizer.slots()}
