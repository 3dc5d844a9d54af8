"""What is learned: the `[task]` of an experiment."""

from typing import Literal

from covey.learning.dataset import Dataset
from covey.learning.models import Model
from covey.learning.objectives import Objective, OwnLoss
from covey.learning.optimizers import SGD, Optimizer
from covey.learning.partition import IID, Partition
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, param
from covey.runtime.task import LoadedTask, Request, Task


class Public(Part):
    """Samples that all nodes have, and nobody's labels."""

    kind = "public"
    dataset: Dataset = param("Whose training samples they are.")
    samples: int | None = param("How many, from the front; all by default.", default=None, ge=1)


class LearningTask(Task):
    """A data set, who holds which part of it, a model, and how it is trained."""

    kind = "learning"
    dataset: Dataset = param("What is learned from.")
    model: Model = param("What is learned.")
    partition: Partition = param("Who holds which samples.", factory=IID)
    optimizer: Optimizer = param("The rule of a local step.", factory=SGD)
    objective: Objective = param("What local training minimises.", factory=OwnLoss)
    batch_size: int = param("Samples of one local step.", default=32, ge=1)
    local_steps: int | None = param(
        "Local steps of one training; 1 where no local_epochs are given.", default=None, ge=1
    )
    local_epochs: int | None = param(
        "Passes over the local data of one training, in place of local_steps.", default=None, ge=1
    )
    public: Public | None = param("Unlabelled samples that all nodes have.", default=None)
    validation: float = param(
        "The share of every node's samples that it keeps for validation.", default=0.0, ge=0, lt=1
    )
    same_start: bool = param("Whether all nodes begin with the same model.", default=True)
    non_finite: Literal["stop", "drop"] = param(
        "What happens when a model is no longer finite: the run stops, or the node leaves for good.", default="stop"
    )

    @classmethod
    def named(cls) -> str:
        return "the task"

    @property
    def starts_equal(self) -> bool:
        return self.same_start

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.local_steps is not None and self.local_epochs is not None:
            raise ConfigurationError(
                f"The task has both 'local_steps' ({self.local_steps}) and "
                f"'local_epochs' ({self.local_epochs}): give one."
            )
        if self.local_epochs is None and self.local_steps is None:
            self.local_steps = 1

    def load(self, request: Request) -> LoadedTask:
        from covey.learning.loaded import LoadedLearning
        from covey.learning.loading import load_learner

        learner = load_learner(
            self,
            len(request.holders),
            seed=request.experiment.seed,
            folder=request.data,
            quiet=request.quiet,
            **request.compute,
        )
        return LoadedLearning(learner, request)
