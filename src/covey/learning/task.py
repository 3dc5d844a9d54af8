"""The `[task]` table of an experiment that learns."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from covey.learning.augmentation import Augmentation
from covey.learning.dataset import Dataset, Location
from covey.learning.ldp import LDP
from covey.learning.metrics import Metric, named
from covey.learning.models import Model
from covey.learning.objectives import Objective, OwnLoss
from covey.learning.optimizers import SGD, Optimizer
from covey.learning.partition import IID, Partition
from covey.learning.start import Start
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, param
from covey.runtime.task import LoadedTask, Request, Task


class Public(Part):
    """Unlabelled samples that all nodes have."""

    kind = "public"
    dataset: Dataset = param("The data set of the samples, which are its training samples.")
    samples: int | None = param("The number of samples, from the front; by default, all.", default=None, ge=1)


class LearningTask(Task):
    """A data set, its partition among nodes, a model, and the settings of local training."""

    kind = "learning"
    dataset: Dataset = param("The data set.")
    model: Model = param("The model.")
    partition: Partition = param("The partition of the training samples among nodes.", factory=IID)
    optimizer: Optimizer = param("The rule of a local step.", factory=SGD)
    loss: Objective = param("The loss that local training minimises and evaluations report.", factory=OwnLoss)
    clip: float | None = param(
        "The largest norm of the gradient of a local step; a larger gradient is scaled to it. No limit by default.",
        default=None,
        gt=0,
    )
    ldp: LDP | None = param("The protection of each sample by clipped gradients and noise (DP-SGD).", default=None)
    metrics: list[Metric] = param("The further metrics of evaluations, each a column of the run.", factory=list)
    precision: Literal["float32", "bf16"] = param(
        "The precision of training. With bf16, outputs and gradients are computed in bfloat16 where torch's autocast "
        "does so; models and evaluations are float32.",
        default="float32",
    )
    augmentation: list[Augmentation] = param(
        "The random changes of the inputs of training batches, one after the other.", factory=list
    )
    batch_size: int = param("The number of samples of one local step.", default=32, ge=1)
    local_steps: int | None = param(
        "The number of local steps of one training; 1 if local_epochs is not given.", default=None, ge=1
    )
    local_epochs: int | None = param(
        "The number of passes over the local data of one training, instead of local_steps.", default=None, ge=1
    )
    public: Public | None = param("The unlabelled samples that all nodes have.", default=None)
    validation: float = param(
        "The fraction of every node's samples that it keeps for validation.", default=0.0, ge=0, lt=1
    )
    same_start: bool = param("Whether all nodes start with the same model.", default=True)
    start: Start | None = param(
        "The safetensors file with the weights that all nodes start with; by default they are drawn.", default=None
    )
    non_finite: Literal["stop", "drop"] = param(
        "The reaction to a model that is not finite: stop the run, or drop the node for good.", default="stop"
    )

    @classmethod
    def named(cls) -> str:
        return "the task"

    @property
    def starts_equal(self) -> bool:
        return self.same_start

    @property
    def adds_gradients(self) -> bool:
        return self.optimizer.adds_gradients

    @property
    def stateless(self) -> bool:
        return not self.optimizer.slots() and not self.optimizer.steps_modules

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.local_steps is not None and self.local_epochs is not None:
            raise ConfigurationError(
                f"The task has both 'local_steps' ({self.local_steps}) and "
                f"'local_epochs' ({self.local_epochs}): give one."
            )
        if self.start is not None and not self.same_start:
            raise ConfigurationError(
                f"The task has 'same_start' = false and the 'start' {self.start.path}, with which all nodes start: "
                f"give one."
            )
        named(self.metrics)
        if self.ldp is not None:
            self._check_ldp(self.ldp)
        if self.local_epochs is None and self.local_steps is None:
            self.local_steps = 1

    def _check_ldp(self, ldp: LDP) -> None:
        """Refuse settings that do not go together with protected training."""
        if self.clip is not None:
            raise ConfigurationError(
                f"The task has both 'clip' ({self.clip:g}) and that of 'ldp' ({ldp.clip:g}), which is of the gradient "
                f"of a sample: give one."
            )
        if self.precision != "float32":
            raise ConfigurationError(
                f"The 'precision' of a task with 'ldp' must be 'float32'. Got '{self.precision}' instead."
            )
        if self.optimizer.steps_modules:
            raise ConfigurationError(
                f"The 'optimizer' of a task with 'ldp' must be one of covey's, such as sgd or adam. Got "
                f"{self.optimizer.title()} instead."
            )

    @property
    def is_private(self) -> bool:
        return self.dataset.is_private

    def portable(self, folder: Path | None) -> Self:
        dataset, public = self.dataset.portable(None if folder is None else folder / "data"), self.public
        if public is not None:
            shared = public.dataset.portable(None if folder is None else folder / "public")
            public = public if shared is public.dataset else replace(public, dataset=shared)
        if dataset is self.dataset and public is self.public:
            return self
        return replace(self, dataset=dataset, public=public)

    def load(self, request: Request) -> LoadedTask:
        from covey.learning.loaded import LoadedLearning
        from covey.learning.loading import load_learner

        location = Location(request.data, request.holders, request.here, request.local, request.quiet, request.shipped)
        learner = load_learner(self, location, seed=request.experiment.seed, **request.compute)
        return LoadedLearning(learner, request)
