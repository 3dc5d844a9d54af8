"""A learning node at run time: its model and its requests to the learner.

A program owns the tensors that it gets. The node takes a snapshot of those that it is given.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from covey.learning.deferred import Deferred, DeferredLoss
from covey.learning.handed import Handed
from covey.learning.jobs import DeferredUpdate, Evaluating, Judged, Learned, Predicting, Training, not_finite
from covey.learning.mixture import Mixture, depth_of
from covey.learning.node import Gradient, LearningNode, LocalData, Metrics, Samples, Update, Work
from covey.learning.optimizers import Slots
from covey.learning.requests import SPLITS, inputs_of, work_of
from covey.messages.ownership import can_be_shared, is_shared, is_written, own
from covey.messages.payloads import Payload
from covey.parts import rng
from covey.parts.errors import ModelError, ProgramError
from covey.runtime.running_node import TRAINING, RunningNode

if TYPE_CHECKING:
    from covey.learning.learner import Learner
    from covey.learning.loaded import LoadedLearning
    from covey.runtime.stage import Stage

USUAL = Work()
"""Training with the settings of the task."""
OWN = ("train", "validation")
"""The splits of a node's own data."""
JUDGED = (*OWN, "test")
"""The splits with known targets."""


class RunningLearningNode(RunningNode, LearningNode):
    """A node with data and a model, on a stage.

    Args:
        stage: its stage.
        id: its id.
        task: the loaded task.
        holder: its index among the nodes with data; None without data.
    """

    __slots__ = (
        "_lent",
        "_model",
        "_usual_samples",
        "data",
        "defers",
        "further_slots",
        "handed",
        "holder",
        "judged",
        "shape",
        "slots",
        "stream",
        "task",
    )

    def __init__(self, stage: "Stage", id: int, task: "LoadedLearning", holder: int | None) -> None:
        super().__init__(stage, id)
        learner = task.learner
        self.task = task
        self.holder = holder
        self.data = LocalData(0) if holder is None else learner.local_data(holder)
        model = learner.initial(id)
        self.shape = model.shape
        self._model: Tensor | Mixture = model
        """The model of the engine, which is never written to."""
        self._lent: Tensor | None = None
        """The copy of the model that the program has, if it may write to it."""
        self.slots: Slots | None = None
        self.further_slots: dict[str, Slots] = {}
        """The states of the optimisers of further networks, if they keep them."""
        self.judged: Judged | None = None
        """The metrics that replace those of the model in this round."""
        self.stream = rng.mix(rng.purpose_key(stage.seed, "train"), id)
        self.handed = None if stage.prepared.sends_samples else Handed()
        """The samples that its program may not send; None if it may."""
        self._usual_samples = 0
        """The cost of a training with the settings of the task, in samples; 0 before it is known."""
        self.defers = stage.batches and not self.careful and task.may_defer(stage.prepared)
        """True if its trainings and mixtures are computed when their numbers are needed."""

    # ------------------------------------------------------------------ the model

    @property
    def model(self) -> Tensor:
        if self._lent is not None:
            return self._lent
        model = self._computed()
        if not self.careful:
            return model
        self._model = model = can_be_shared(model)
        self._lent = own(model)
        return self._lent

    @model.setter
    def model(self, value: Tensor | Mixture) -> None:
        if isinstance(value, Mixture):
            self._model, self._lent = self._taken(value), None
            return
        if value.shape != self.shape or value.dtype != torch.float32:
            raise ModelError(
                f"The model of node {self.id} must be {self.shape[0]} float32 numbers. "
                f"Got {tuple(value.shape)} of {value.dtype} instead."
            )
        if self.careful:
            self._model, self._lent = self.kept(value), value
        else:
            self._model = value

    @property
    def current(self) -> Tensor | Mixture:
        """The current model, computed or not. It must not be written to."""
        return self._model

    def _computed(self) -> Tensor:
        model = self._model
        if not isinstance(model, Tensor):
            if model.value is None and self.defers:
                self._model = model = self._deferred(model)
                return model
            if model.value is None and self.stage.batches:
                self.task.compute_pending()
            self._model = model = self.mixed(model)
        elif type(model) is Deferred and model.found is not None:
            self._model = model = model.found
        return model

    def _deferred(self, mixture: Mixture) -> Deferred:
        """An open mixture as a tensor that is computed when it is needed."""
        if mixture.later is None:
            mixture.later = Deferred.of(self.shape, self.task.device, depth_of(mixture), self.stage.do_jobs)
        return mixture.later

    def mixed(self, model: Tensor | Mixture) -> Tensor:
        """A model of this node, computed now if it was not before."""
        if isinstance(model, Tensor):
            return model
        with self.measured("mixing"):
            return model.tensor()

    def check_model(self) -> None:
        """Check that the program has not changed its model in place.

        Raises:
            ProgramError: the program has.
        """
        lent = self._lent
        if lent is not None and not is_shared(lent) and is_written(lent, self._computed()):
            raise ProgramError(
                f"Node {self.id} wrote to its model in place in round {self.round}, which has no effect: "
                f"assign the new model, as in `node.model = node.model + 1`."
            )

    # ------------------------------------------------------------------ tensors of the program

    def kept(self, value: Any) -> Any:
        if value is self._lent and isinstance(value, Tensor):
            model = self._computed()
            if is_shared(value) or not is_written(value, model):
                return model
        return super().kept(value)

    def _taken(self, model: Tensor | Mixture) -> Tensor | Mixture:
        """A snapshot of a model of the program. An open mixture is queued, to be computed together with others."""
        if isinstance(model, Mixture):
            if model.value is None:
                mixture = model.kept(self.kept) if self.careful else model
                if self.stage.batches:
                    self.task.mixtures.append(mixture)
                return mixture
            model = model.value
        return self.kept(model) if self.careful else model

    def _used(self, model: Tensor | Mixture | None) -> Tensor | Mixture:
        """A snapshot of the given model or, by default, the node's own model."""
        if model is not None:
            return self._taken(model)
        self.check_model()
        return self._model

    # ------------------------------------------------------------------ work

    async def train(self, model: Tensor | Mixture | None = None, *, of: str = "", **work: Any) -> Update:
        if of:
            return await self._train_further(of, model, work)
        stage = self.stage
        began = stage.now
        training = self._new_training(model, self._work(work) if work else USUAL)
        training.waits = self.defers and training.work is USUAL
        seconds = stage.seconds(self, self._samples(training), training=True)
        await stage.compute(self, training, seconds)
        self.seconds[TRAINING] += stage.now - began
        self.busy += seconds
        if training.update is None:
            return self._trained_later(training)
        if not training.finite:
            await self._end_not_finite()
        return self.trained(training)

    async def _train_further(self, of: str, model: Tensor | Mixture | None, given: dict[str, Any]) -> Update:
        """Train a further network of the program on given samples."""
        stage, learner = self.stage, self.task.learner_of(of)
        began = stage.now
        work = work_of(given, learner, None, self._keep)
        (start,) = self._all_used([self.initial(of) if model is None else model], learner)
        slots = self.further_slots.get(of)
        training = Training(0, start, self.stream, self.mail.round, self.calls, work, slots, learner=learner)
        self.calls += 1
        samples = self._in_own(learner, learner.cost(training))
        seconds = stage.seconds(self, samples, training=True)
        await stage.compute(self, training, seconds)
        self.seconds[TRAINING] += stage.now - began
        self.evaluated += round(samples)
        self.busy += seconds
        if not training.finite:
            await self._end_not_finite(f"network {of!r}")
        assert training.update is not None
        if learner.task.optimizer.state == "keep" and training.slots is not None:
            self.further_slots[of] = training.slots
        return training.update

    def _in_own(self, learner: "Learner", samples: float) -> float:
        """The number of samples of the node's model that cost as much as `samples` of another network."""
        return samples if learner is self.task.learner else samples * learner.layout.size / self.shape[0]

    def _keep(self, tensor: Tensor) -> Tensor:
        """A snapshot of a tensor of the program."""
        return self.kept(tensor) if self.careful else tensor

    def initial(self, of: str) -> Tensor:
        return own(self.task.learner_of(of).first_model)

    async def gradient(self, model: Tensor | Mixture | None = None, *, full: bool = False) -> Gradient:
        stage = self.stage
        began = stage.now
        training = self._new_training(model, Work(steps=1), gradient="all" if full else "batch")
        seconds = stage.seconds(self, self._samples(training), training=True)
        await stage.compute(self, training, seconds)
        self.seconds[TRAINING] += stage.now - began
        self.busy += seconds
        return self.differentiated(training)

    def _new_training(
        self, model: Tensor | Mixture | None, work: Work, gradient: Literal["", "batch", "all"] = ""
    ) -> Training:
        """The request for a training or a gradient in the open round."""
        if self.holder is None and work.on is None:
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot train.")
        start: Any = self._used(model)
        if not self.stage.batches:
            start = self.mixed(start)
        learner = self.task.learner
        training = Training(self.holder or 0, start, self.stream, self.mail.round, self.calls, work, self.slots)
        training.gradient, training.learner, training.position = gradient, learner, self.samples_used
        self.calls += 1
        return training

    def _work(self, work: dict[str, Any]) -> Work:
        """The checked arguments of a training."""
        if self.holder is None and work.get("on") is None:
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot train.")
        return work_of(work, self.task.learner, self.holder, self._keep)

    def samples(self, split: str = "train", count: int | None = None, *key: int) -> Samples:
        learner, indices = self.task.learner, self._indices(split, SPLITS)
        if count is not None:
            if type(count) is not int or count < 1:
                raise ProgramError(f"The 'count' of samples must be None or an int of at least 1. Got {count!r}.")
            whose = (self.id,) if split in OWN else ()
            chosen = rng.generator(self.stage.seed, f"samples {split}", *whose, *key).permutation(len(indices))[:count]
            indices = indices[chosen]
        inputs, targets = learner.splits.taken(split, indices)
        if self.handed is not None and split in OWN:
            self.handed.add(inputs)
            self.handed.add(targets)
        return Samples(inputs, targets if split in OWN else None)

    def _taken_payload(self, payload: Payload) -> Payload:
        for name, value in payload.items():
            if self.handed is not None and self.handed.holds(value):
                raise ProgramError(
                    f"The '{name}' of a message of node {self.id} must not be a view of its samples. If nodes may send "
                    f"samples, set sends_samples = True in the class of the program or part that sends them."
                )
        return super()._taken_payload(payload)

    def _indices(self, split: str, known: Sequence[str]) -> np.ndarray:
        """The indices of a split's samples at this node."""
        if split not in known:
            wanted = ", ".join(map(repr, known))
            raise ProgramError(f"The 'split' must be one of {wanted}. Got {split!r} instead.")
        if self.holder is None and split in OWN:
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and has no {split} split.")
        indices = self.task.handed(split, self.holder)
        if not len(indices):
            missing = {
                "public": "The task has no 'public' samples: name their dataset, as in public = { dataset = ... }.",
                "validation": "There are no validation samples: set 'validation' of the task to a fraction above 0.",
            }
            raise ProgramError(missing.get(split, f"Node {self.id} has no samples of the {split} split."))
        return indices

    async def predict(
        self, models: Tensor | Mixture | Sequence[Tensor | Mixture] | None = None, *, on: Samples | Tensor, of: str = ""
    ) -> Tensor:
        stage, alone = self.stage, models is None or isinstance(models, Tensor | Mixture)
        learner = self.task.learner_of(of)
        inputs = inputs_of(on, learner)
        if models is None:
            models = [self.initial(of) if of else self._used(None)]
        used = self._all_used([models] if isinstance(models, Tensor | Mixture) else models, learner)
        predicting = Predicting(self.task.predictor(of), used, self._keep(inputs))
        samples = self._in_own(learner, len(used) * len(inputs))
        seconds = stage.seconds(self, samples)
        await stage.compute(self, predicting, seconds)
        self.evaluated += round(samples)
        self.busy += seconds
        outputs = predicting.outputs
        assert outputs is not None
        return outputs[0] if alone else outputs

    def _all_used(self, models: Any, learner: "Learner") -> list[Tensor]:
        """Snapshots of given models, after a check of their sizes."""
        each, size = list(models), learner.layout.size
        if not each or any(isinstance(model, Tensor) and model.shape != (size,) for model in each):
            shapes = [tuple(model.shape) for model in each if isinstance(model, Tensor)]
            raise ProgramError(f"The models must be 1 or more of {size} numbers. Got {shapes}.")
        return [self.mixed(self._taken(model)) for model in each]

    def judge(self, outputs: Tensor, split: str = "test") -> Metrics:
        indices = self._indices(split, JUDGED)
        learner = self.task.learner
        found = learner.judge(outputs, learner.splits.taken(split, indices)[1])
        if split != "test":
            self.log(**{f"{split}_{name}": value for name, value in found.items()})
        elif self.in_round and self.stage.recorder.is_due(self, self.round + 1):
            self.judged = Judged(found)
        else:
            self.log(**found)
        return found

    def _samples(self, training: Training) -> int:
        """The cost of a training in samples, from a cache for the settings of the task."""
        if training.work is not USUAL:
            return self.task.learner.cost(training)
        if not self._usual_samples:
            self._usual_samples = self.task.learner.cost(training)
        return self._usual_samples

    def trained(self, training: Training) -> Update:
        """Record the result of a training, and return it."""
        update = training.update
        assert update is not None
        self.slots = training.slots
        self.steps += update.steps
        self.samples_used += update.samples
        self.loss = update.loss
        return update

    def _trained_later(self, training: Training) -> Update:
        """Count a training whose time has passed, and return the result that is computed when it is needed."""
        stage, learner = self.stage, self.task.learner
        start: Any = training.start
        model = Deferred.of(self.shape, self.task.device, (depth_of(start)[0] + 1, 0), stage.do_jobs)
        if isinstance(start, Mixture):
            start = self._deferred(start) if start.value is None else start.value
        loss = DeferredLoss(stage.do_jobs)
        training.later = update = DeferredUpdate(
            training, self.id, model, start, loss, learner.steps(training.holder, training.work)
        )
        self.steps += update.steps
        self.samples_used += update.samples
        self.loss = loss
        return update

    def differentiated(self, training: Training) -> Gradient:
        """Record the result of a gradient, and return it."""
        found = training.update
        assert found is not None
        assert training.buffers is not None
        self.samples_used += found.samples
        return Gradient(found.model, found.loss, found.samples, training.buffers)

    async def _end_not_finite(self, what: str = "model") -> None:
        """End the run, or the node, because its model is not finite."""
        if self.task.learner.task.non_finite == "stop":
            raise not_finite(self.id, self.round, what)
        await self.stage.drop(self, f"its {what} is not finite in round {self.round}")

    async def evaluate(self, model: Tensor | Mixture | None = None, split: str = "validation") -> Metrics:
        if split not in ("train", "validation", "test"):
            raise ProgramError(f"The 'split' of evaluate must be one of 'train', 'validation', 'test'. Got {split!r}.")
        if self.holder is None and split != "test":
            raise ProgramError(f"Node {self.id} ({self.role}) holds no data and cannot evaluate on its {split} split.")
        used = self._used(model)
        if model is None:
            used = self._computed()
        evaluating = Evaluating(self.task.judge(split, self.holder), used if self.stage.batches else self.mixed(used))
        samples = len(evaluating.worker.split)
        seconds = self.stage.seconds(self, samples)
        await self.stage.compute(self, evaluating, seconds)
        self.evaluated += samples
        self.busy += seconds
        assert evaluating.metrics is not None
        return evaluating.metrics

    # ------------------------------------------------------------------ for the stage

    def learned(self) -> Learned:
        return Learned(self._model, _joined(self.slots, self.further_slots))

    def restore_learned(self, learned: Learned) -> None:
        self._model, self._lent, self.judged = learned.model, None, None
        self.slots, self.further_slots = _parted(learned.slots)

    def check_commit(self) -> None:
        self.check_model()
        super().check_commit()


def _joined(own: Slots | None, further: dict[str, Slots]) -> Slots | None:
    """The optimiser states of the node's model and of further networks, whose entries begin with their names."""
    named = {f"@{of}/{name}": slot for of, slots in further.items() for name, slot in slots.items()}
    return {**(own or {}), **named} or None


def _parted(slots: Slots | None) -> tuple[Slots | None, dict[str, Slots]]:
    """The inverse of `_joined`."""
    own: Slots = {}
    further: dict[str, Slots] = {}
    for name, slot in (slots or {}).items():
        of, _, entry = name.partition("/")
        if of.startswith("@"):
            further.setdefault(of[1:], {})[entry] = slot
        else:
            own[name] = slot
    return own or None, further
