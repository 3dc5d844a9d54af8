"""The task ready to compute: its data, dealt to nodes, the flat model, and a kernel with threads.

Shapes: J trainings, P parameters, S samples.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from covey.learning.augmentation import check_keyed
from covey.learning.batches import Parts, samples_of, steps_of
from covey.learning.chunks import train_chunk
from covey.learning.dataset import Data, Split
from covey.learning.datasets.streaming import Streams
from covey.learning.devices import device_named, seed_generators, set_up_mathematics
from covey.learning.fields import unpack
from covey.learning.jobs import Predicting, Training
from covey.learning.kernels import ModuleKernel, PrivateKernel, Recipe
from covey.learning.kernels.choice import KERNELS, Candidate, draws, moves_generator
from covey.learning.layout import Layout
from covey.learning.mixture import computed
from covey.learning.node import LocalData, Metrics, Work
from covey.learning.objectives import Misfit, Objective
from covey.learning.optimizers import Differentiation
from covey.learning.partition import held_out, label_counts
from covey.learning.protected import check_protected, check_stated
from covey.learning.scoring import Scoring
from covey.learning.splits import Splits
from covey.learning.task import LearningTask
from covey.learning.trial import check_layers, check_numbers, check_targets, try_out
from covey.messages.ownership import own
from covey.parts import rng
from covey.parts.errors import ConfigurationError, CoveyError, ModelError, ProgramError, described
from covey.parts.machine import demand

if TYPE_CHECKING:
    from covey.learning.shipping import Shipped

_BYTES_AT_ONCE = 64_000_000
"""The memory of trained models that are computed ahead of their time."""
_COPIES = 4
"""The copies of a model that a training needs: start, result, gradient, module."""
_GENERATOR = threading.RLock()
"""The lock of torch's global generator, which all threads and learners share."""

A = TypeVar("A")
B = TypeVar("B")


class Learner:
    """Computes trainings, gradients, evaluations and predictions, many at once.

    Args:
        task: the task.
        data: its data set.
        parts: the samples of each node that holds data.
        seed: the experiment's seed.
        device: the name of the device.
        workers: the number of threads. It does not change results.
        chunk: the number of nodes that are computed together; 0 is the kernel's choice.
        kernel: "auto", or a name of KERNELS.
        public: the inputs that all nodes have, converted for a model; none by default.
    """

    def __init__(
        self,
        task: LearningTask,
        data: Data,
        parts: Sequence[np.ndarray],
        *,
        seed: int,
        device: str = "cpu",
        workers: int = 1,
        chunk: int = 0,
        kernel: str = "auto",
        public: Tensor | None = None,
    ) -> None:
        set_up_mathematics()
        self.task, self.seed = task, seed
        self.device = device_named(device)
        check_targets(data, task.dataset.title())
        if task.validation:
            data.check_no_stream("validation samples")
        self.streams = None if data.stream is None else Streams(data.stream, seed, len(parts))
        self.label_counts = None if data.stream is not None else label_counts(data, parts)
        if self.label_counts is not None:
            self.label_counts.setflags(write=False)
        self.dealt = parts if task.validation else None
        """The samples of each node before some are kept for validation; None if none are."""
        self.shipped: Shipped | None = None
        """The data of this process, if they were shipped to it."""
        trained, validation = held_out(parts, task.validation, seed)
        self.parts = Parts(trained)
        if data.stream is not None:
            self.parts.sizes[:] = data.stream.count
        self.data = replace(data, train=_moved(data.train, self.device), test=_moved(data.test, self.device))
        self.splits = Splits(self.data, self.parts, validation, public, seed)
        for part in task.augmentation:
            part.check_with(data)
        self.recipe = Recipe(
            task.optimizer,
            Scoring(data, task.loss, task.metrics),
            task.clip,
            task.augmentation,
            mixed=task.precision == "bf16",
        )
        self.batch_size = min(task.batch_size, int(self.parts.sizes.max()))
        self._demand_memory()
        module = self._make(0)
        check_layers(module, task.model.title())
        if task.start is not None:
            task.start.load_into(module, task.model.title())
        self.layout = Layout(module)
        check_numbers(module, self.layout, task.model.title())
        if self.layout.trainable == 0:
            raise ConfigurationError(f"The model {task.model.title()} has no parameters to train.")
        self._first = own(self.layout.flatten(module).to(self.device))
        task.optimizer.try_out(module)
        self._try_out()
        if task.ldp is not None:
            with self._named(), _GENERATOR, torch.random.fork_rng(devices=[]):
                check_protected(self, task.ldp, module)
        chosen = self.candidate().choice(kernel)
        self.kernel_name, self.why_not = chosen.kernel, chosen.why_not
        """The name of the kernel, and the reason against each faster one."""
        self.kernel = KERNELS[self.kernel_name](self.module, self.layout, self.data, self.recipe)
        self._draws = draws(module) or (self.kernel_name == "module" and self._found_drawing(module))
        # A module that draws random numbers needs torch's generator alone, seeded for every training and gradient.
        self.chunk = 1 if self._draws else chunk or self.kernel.chunk
        self.fresh_noise = False
        """Whether the keys of noise come from the operating system."""
        self.rate_factors: list[tuple[int, float]] = []
        """From which round on the learning rate is multiplied by which factor."""
        self.workers = workers if self.device.type == "cpu" and not self._draws else 1
        self._pool: ThreadPoolExecutor | None = None

    def module(self) -> torch.nn.Module:
        """A new module of the task's model."""
        return self._make(0)

    def candidate(self) -> Candidate:
        """The model, data and optimiser for which a kernel is chosen."""
        return Candidate(
            self.task.model.title(),
            self.module,
            self.layout,
            self._first,
            self.device,
            self.data,
            self.recipe,
            self.batch_size,
            fewest=int(self.parts.sizes.min()),
        )

    def _make(self, start: int) -> torch.nn.Module:
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            seed_generators(rng.mix(rng.purpose_key(self.seed, "model"), start))
            with self._named():
                module = self.task.model.build(self.data)
        if self.data.fields:
            unpack(module, self.data.fields)
        return module

    def _demand_memory(self) -> None:
        """Refuse models and trainings that exceed the memory, before any is made."""
        with _GENERATOR, self._named():
            numbers = self.task.model.numbers(self.data)
        if numbers is not None:
            demand(_COPIES * 4.0 * numbers, f"The model {self.task.model.title()} of {numbers:,} numbers")
        steps = self.steps(int(self.parts.sizes.argmax()), Work())
        demand(8.0 * steps * self.batch_size, f"A training of {steps:,} steps")

    def _try_out(self) -> None:
        """Refuse a model that fails on a batch of the node with most samples, or with fewest."""
        sizes = self.parts.sizes
        fewest = np.where(sizes > 0, sizes, sizes.max() + 1).argmin()
        batches = {len(batch): batch for batch in (self.parts.of(int(id)) for id in (sizes.argmax(), fewest))}
        with self._named(), _GENERATOR, torch.random.fork_rng(devices=[]):
            for batch in (batch[: self.batch_size] for batch in batches.values()):
                samples = torch.from_numpy(batch).to(self.device)
                check_keyed(self.task.augmentation, self.data.scaled(self.data.train.inputs[samples]))
                try_out(self.module, self.layout, self.data, self._first, samples, self.recipe)

    def _found_drawing(self, module: torch.nn.Module) -> bool:
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            return moves_generator(module, self.kernel.inputs(self.kernel.train_split, slice(2)).cpu())

    @contextmanager
    def seeded(self, key: int) -> Iterator[None]:
        """Seed torch's generator with a key, if the module draws random numbers."""
        if not self._draws:
            yield
            return
        with _GENERATOR, torch.random.fork_rng(devices=[]):
            seed_generators(key >> 1)
            yield

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the model in errors that it raises."""
        try:
            yield
        except CoveyError:
            raise
        except Misfit as error:
            raise ModelError(f"The model {self.task.model.title()} {error}.") from error
        except Exception as error:
            raise ModelError(f"The model {self.task.model.title()} fails: {described(error)}.") from error

    def initial(self, node: int) -> Tensor:
        """The initial model of a node."""
        if self.task.same_start or node == 0:
            return self._first
        return self.layout.flatten(self._make(node)).to(self.device)

    def local_data(self, holder: int) -> LocalData:
        """The facts of a node's data that its program may use."""
        counts = None if self.label_counts is None else self.label_counts[holder]
        return LocalData(int(self.parts.sizes[holder]), counts, len(self.splits.validation[holder]))

    def steps(self, holder: int, work: Work) -> int:
        """The number of optimiser steps of a training."""
        steps, epochs = work.steps, work.epochs
        if steps is None and epochs is None:
            steps, epochs = self.task.local_steps, self.task.local_epochs
        return steps_of(self.size(holder, work), self.batch_size_of(work), steps, epochs)

    def samples(self, holder: int, work: Work) -> int:
        """The number of samples that a training uses, with repetitions."""
        if self.streams is not None and work.on is None:
            return self.steps(holder, work) * self.batch_size_of(work)
        return samples_of(self.size(holder, work), self.batch_size_of(work), self.steps(holder, work))

    @cached_property
    def usual(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of steps and of samples of each node's training with the settings of the task."""
        _, first, which = np.unique(self.parts.sizes, return_index=True, return_inverse=True)
        steps, samples = ([of(int(holder), Work()) for holder in first] for of in (self.steps, self.samples))
        return np.array(steps, dtype=np.int64)[which], np.array(samples, dtype=np.int64)[which]

    def size(self, holder: int, work: Work) -> int:
        """The number of samples of a pass."""
        return int(self.parts.sizes[holder]) if work.on is None else len(work.on.inputs)

    def batch_size_of(self, work: Work) -> int:
        """The batch size of a training, at most the number of samples."""
        if work.on is None and work.batch_size is None:
            return self.batch_size
        most = int(self.parts.sizes.max()) if work.on is None else len(work.on.inputs)
        return min(work.batch_size or self.task.batch_size, most)

    def cost(self, training: Training) -> int:
        """The number of samples that a training or gradient computes, which decides its duration."""
        if training.gradient == "all":
            self.data.check_no_stream("gradient on all samples")
            return int(self.parts.sizes[training.holder])
        return self.samples(training.holder, training.work)

    @property
    def at_once(self) -> int:
        return max(_BYTES_AT_ONCE // (4 * self.layout.size), 8 * self.chunk)

    @property
    def soon(self) -> int:
        return max(1, self.chunk) * self.workers

    def do(self, jobs: Sequence[Training]) -> None:
        """Compute trainings, whose starts may be mixtures. See `train`."""
        for training in jobs:
            training.start = computed(training.start)
        self.train(jobs)
        for training in jobs:
            if training.update is not None and training.finite and not training.gradient:
                model = training.update.model
                model.known_finite = model._version  # type: ignore[attr-defined]
            if training.later is not None and training.update is not None:
                training.later.fix(training.update)

    def train(self, trainings: Sequence[Training]) -> None:
        """Compute trainings, and set their `update`, `slots` and `finite`."""
        if self.task.ldp is not None and any(training.gradient for training in trainings):
            raise ProgramError(
                "A gradient of a task with 'ldp' would have no noise: the program must use 'train'. Got 'gradient'."
            )
        if self.task.ldp is not None:
            check_stated(self, trainings)
        groups: dict[Any, list[Training]] = {}
        for training in trainings:
            groups.setdefault(self._kind(training), []).append(training)
        for group in groups.values():
            gradient = group[0].gradient
            kernel = self._differentiating if gradient else self._fitting(group[0].work.objective)
            at_once = 1 if gradient == "all" or kernel is self._any_objective else self.chunk
            together = sorted(group, key=lambda training: -self.steps(training.holder, training.work))
            self._map(
                partial(train_chunk, self, kernel),
                [together[at : at + at_once] for at in range(0, len(together), at_once)],
            )

    def _kind(self, training: Training) -> Any:
        """A key that is equal for trainings which a kernel can compute together."""
        work, on = training.work, training.work.on
        if work.is_plain:
            return training.gradient, work.proximal
        absent = [work.correction is None, work.weights is None]
        kind = (training.gradient, work.proximal, _called(work.objective), self.batch_size_of(work), *absent)
        return (*kind, on.inputs.dtype, on.targets.dtype, on.targets.shape[1:]) if on is not None else kind

    def _fitting(self, objective: Objective | None) -> ModuleKernel:
        """The kernel for an objective: the chosen one if it can, else `ModuleKernel`."""
        if self.task.ldp is not None:
            return self.private
        if objective is None or objective.is_the_tasks or self.kernel.does(objective):
            return self.kernel
        return self._any_objective

    @cached_property
    def _any_objective(self) -> ModuleKernel:
        return ModuleKernel(self.module, self.layout, self.data, self.recipe)

    @cached_property
    def private(self) -> PrivateKernel:
        """The kernel of protected training."""
        return PrivateKernel(self.module, self.layout, self.data, self.recipe)

    def rate(self, training: Training) -> float:
        """The learning rate of a training."""
        return self.rate_in(training.round) if training.work.lr is None else training.work.lr

    def rate_in(self, round: int) -> float:
        """The learning rate of the task in a round."""
        optimizer = self.task.optimizer
        factor = math.prod(factor for since, factor in self.rate_factors if round >= since)
        return optimizer.lr * optimizer.schedule.factor(round) * factor

    @property
    def draws(self) -> bool:
        """True if the module draws random numbers."""
        return self._draws

    @cached_property
    def _differentiating(self) -> ModuleKernel:
        recipe = replace(self.recipe, optimizer=Differentiation(), clip=None)
        return type(self.kernel)(self.module, self.layout, self.data, recipe)

    @property
    def first_model(self) -> Tensor:
        """The model of node 0 before any training."""
        return self._first

    def evaluate(self, models: Sequence[Tensor], split: Split) -> list[Metrics]:
        """The loss, accuracy and metrics of models on a split."""
        chunks = [models[at : at + self.chunk] for at in range(0, len(models), self.chunk)]
        evaluated = self._map(lambda chunk: self.kernel.evaluate(chunk, split), chunks)
        return [metrics for chunk in evaluated for metrics in chunk]

    def predict(self, jobs: Sequence[Predicting]) -> None:
        """Compute the outputs of the models of each job for its inputs."""

        def one(job: Predicting) -> Tensor:
            return self.kernel.predict([computed(model) for model in job.models], job.inputs.to(self.device))

        for job, outputs in zip(jobs, self._map(one, jobs), strict=True):
            job.outputs = outputs

    def judge(self, outputs: Tensor, targets: Tensor) -> Metrics:
        """The metrics of outputs.

        Raises:
            ProgramError: the outputs do not fit the targets.
        """
        try:
            return self.recipe.scoring.judge(outputs.to(self.device), targets)
        except Misfit as error:
            raise ProgramError(f"The 'outputs' to judge do not fit: the model that gave them {error}.") from error

    def split(self, name: str, holder: int | None = None, samples: int | None = None) -> Split:
        """The data of an evaluation.

        Args:
            name: "test" for the test set; "train", "validation" or "own" (its own test samples) for data of a node.
            holder: the node.
            samples: the greatest number of samples. All nodes get the same test samples.
        """
        whole = self.kernel.test_split if name in ("test", "own") else self.kernel.train_split
        chosen = self.splits.indices(name, holder, samples)
        if name == "test" and len(chosen) == len(whole):
            return whole
        if name in ("train", "validation"):
            if len(chosen) == 0:
                raise ConfigurationError(
                    "There are no validation samples: set 'validation' of the task to a fraction above 0. "
                    f"Got {self.task.validation} instead."
                )
            chosen = chosen[:samples]
        picked = torch.from_numpy(chosen).to(self.device)
        return Split(whole.inputs[picked], whole.targets[picked])

    def mix(self, rows: Sequence[Callable[[], None]]) -> None:
        """Run independent functions on the threads."""
        self._map(lambda piece: piece(), rows)

    def _map(self, function: Callable[[A], B], items: Sequence[A]) -> Iterable[B]:
        with self._named():
            if self.workers == 1 or len(items) == 1:
                return [function(item) for item in items]
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, "covey", initializer=torch.set_num_threads, initargs=(1,))
            return list(self._pool.map(function, items))

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


def _called(objective: Objective | None) -> tuple[type, str]:
    """A key that is equal for equal objectives. It has the class, because classes may share a name."""
    return type(objective), repr(objective)


def _moved(split: Split, device: torch.device) -> Split:
    return Split(split.inputs.to(device), split.targets.to(device))
