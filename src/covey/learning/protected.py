"""The bounds and the protection of a learner's trainings."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from covey.learning.jobs import Training
from covey.learning.kernels import Chunk, Privacy
from covey.learning.ldp import LDP, secret_of
from covey.learning.node import Work
from covey.messages.crypto import KEY_BYTES
from covey.parts import rng
from covey.parts.errors import ProgramError
from covey.parts.mechanisms import Mechanism

if TYPE_CHECKING:
    from covey.learning.learner import Learner

_PROTECTION = rng.purpose_key(0, "ldp") >> 1
"""The counter that makes the key of a training that of its protection."""


def check_protected(learner: "Learner", ldp: LDP, module: nn.Module) -> None:
    """Refuse models and data that protected training cannot use, by a trial.

    Raises:
        ConfigurationError: the gradient of a sample would depend on others.
        Exception: the gradients of samples cannot be computed together.
    """
    ldp.check_model(module, learner.layout, learner.task.model.title())
    learner.data.check_no_stream("protected training")
    trial = Chunk(
        starts=[learner.first_model],
        samples=torch.arange(min(2, len(learner.data.train)), device=learner.device).view(1, 1, -1),
        ragged=True,
        steps=[1],
        lr=torch.zeros(1, 1, device=learner.device),
        proximal=0.0,
        slots=learner.task.optimizer.fresh(learner.first_model[: learner.layout.trainable].unsqueeze(0)),
        privacy=Privacy(ldp.clip, ldp.noise, [bytes(KEY_BYTES)], [1.0]),
    )
    learner.private.train(trial)


def privacy_of(learner: "Learner", trainings: Sequence[Training], keys: rng.Keys) -> Privacy | None:
    """The protection of trainings whose random keys are known; None without any."""
    ldp = learner.task.ldp
    if ldp is None:
        return None
    known = rng.mix_array(keys, _PROTECTION).tolist()
    secrets = [os.urandom(KEY_BYTES) if learner.fresh_noise else secret_of(key) for key in known]
    most = learner.batch_size_of(trainings[0].work)
    expected = [float(min(most, learner.size(training.holder, training.work))) for training in trainings]
    return Privacy(ldp.clip, ldp.noise, secrets, expected)


def check_stated(learner: "Learner", trainings: Sequence[Training]) -> None:
    """Refuse trainings on nodes' own data of more steps or samples than the stated epsilon counts.

    Raises:
        ProgramError: a training has more.
    """
    own = [training for training in trainings if training.work.on is None]
    changed = [one for one in own if one.work.steps or one.work.epochs or one.work.batch_size]
    most = _most_steps(learner) if changed else 0
    for training in changed:
        steps, batch = learner.steps(training.holder, training.work), learner.batch_size_of(training.work)
        if steps > most or batch > learner.batch_size:
            raise ProgramError(
                f"The stated epsilon of 'ldp' counts at most {most} steps of {learner.batch_size} samples in a "
                f"training, as the task has them. Got {steps} of {batch}: raise 'local_steps' or 'batch_size'."
            )


def mechanism_of(learner: "Learner", rounds: int) -> Mechanism | None:
    """The statement of the protection of trainings; None without any."""
    ldp, sizes = learner.task.ldp, learner.parts.sizes.tolist()
    if ldp is None:
        return None
    return ldp.mechanism(sizes, learner.batch_size, _most_steps(learner), rounds, fresh=learner.fresh_noise)


def largest_update(learner: "Learner", rounds: int) -> float | None:
    """The largest distance by which a training moves a model in any of the rounds; None if it has no bound."""
    optimizer, clip = learner.task.optimizer, learner.task.clip
    reach = None if clip is None else optimizer.reach(_most_steps(learner))
    if clip is None or reach is None:
        return None
    return optimizer.lr * max(optimizer.schedule.factor(t) for t in range(max(rounds, 1))) * clip * reach


def _most_steps(learner: "Learner") -> int:
    """The most steps of a training of a node."""
    return max(learner.steps(holder, Work()) for holder in range(len(learner.parts.sizes)))
