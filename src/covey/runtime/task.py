"""The interface between the runtime and learning: tasks, data holders, resumable state, evaluation."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.mechanisms import Mechanism
from covey.parts.parameters import Part, Setting

if TYPE_CHECKING:
    from covey.runtime.experiment import Experiment
    from covey.runtime.jobs import Job, Worker
    from covey.runtime.models import Models
    from covey.runtime.running_node import RunningNode
    from covey.runtime.stage import Stage


def data_folder(given: Path | None) -> Path:
    """The data folder: the given one, else that of COVEY_DATA, else ~/.cache/covey."""
    return Path(given or os.environ.get("COVEY_DATA") or "~/.cache/covey").expanduser()


@dataclass(frozen=True)
class Request:
    """A request to load a task.

    Attributes:
        experiment: the experiment.
        holders: the ids of the nodes that hold data.
        data: the data folder.
        quiet: show no progress bar of a download.
        compute: the engine's settings of computing.
        here: the ids of the nodes whose samples this process has; None for all.
        local: the tables with this machine's own data; None if there are none.
        shipped: the samples from another process, in place of files; see `LoadedTask.shipment`.
    """

    experiment: "Experiment"
    holders: Sequence[int]
    data: Path
    quiet: bool
    compute: Mapping[str, Any]
    here: Sequence[int] | None = None
    local: Mapping[str, Any] | None = None
    shipped: tuple[Any, Any] | None = None


class Task(Part):
    """The `[task]` of an experiment whose program needs nodes that learn."""

    family: ClassVar[str] = "task"
    usual: ClassVar[str] = "learning"

    @property
    def starts_equal(self) -> bool:
        """True if all nodes start with the same model."""
        return True

    @property
    def adds_gradients(self) -> bool:
        """True if a training moves a model by a weighted sum of gradients, as SGD does."""
        return True

    @property
    def stateless(self) -> bool:
        """True if the optimizer has no state, such as momentum."""
        return True

    @property
    def is_private(self) -> bool:
        """True if each host has data that no other process may see."""
        return False

    def portable(self, folder: Path | None) -> Self:
        """The same task for the other processes of a run.

        Args:
            folder: a new one, for what no table can hold; None where the others see no file of this machine.

        Raises:
            ConfigurationError: something can be in this process alone.
        """
        return self

    def load(self, request: Request) -> "LoadedTask":
        """Load the data and the models.

        Raises:
            DataError, ConfigurationError: files are missing, or parts do not fit.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Gain:
    """The expected gain of computing trainings in other processes."""

    training: float
    """The measured seconds of a training on one processor."""
    way: float
    """The measured seconds for which a model is under way, there and back."""
    ratio: float
    """The time of trainings here over that in the other processes."""

    def in_words(self) -> str:
        """The figures, in words."""
        return (
            f"{self.ratio:.2g} times the speed of this machine alone: a training takes {self.training * 1e3:.2g} ms, "
            f"and its model {self.way * 1e3:.2g} ms there and back"
        )


class Crew(Protocol):
    """Other processes that compute trainings. They keep nothing from one to the next."""

    count: int
    """The number of processes."""
    processors: int
    """The number of processors of all."""

    def train(self, given: Mapping[int, Any]) -> Mapping[int, Any]:
        """The results of processes for what each is given, by their numbers."""

    def way(self, models: np.ndarray) -> float:
        """The measured seconds that models take to a process and back."""


class Summary(Protocol):
    """The summary of the nodes that were evaluated after one round."""

    accuracies: list[float]
    """The accuracies of the nodes so far."""

    def add(self, judged: Any, figures: Mapping[str, float]) -> None:
        """Add a node."""

    def freeze(self) -> dict[str, Any]:
        """The state as the entries of a payload."""

    def merge(self, frozen: Mapping[str, Any]) -> None:
        """Add the state of another summary."""

    def figures(self) -> Mapping[str, float]:
        """The metrics of all nodes together."""

    def mean(self) -> Any:
        """The average of the judged outputs; None if it is not kept."""


class LoadedTask(ABC):
    """A loaded task. Each process of a run has one."""

    device: Any = "cpu"
    """The device of tensors in states."""
    node_bytes: int = 0
    """The approximate bytes of one node in a checkpoint."""
    model_bytes: int = 0
    """The bytes of a message with one model."""
    judges: bool = True
    """True if nodes are evaluated."""

    # ------------------------------------------------------------------ before the run

    @abstractmethod
    def informed(self, setting: Setting) -> Setting:
        """The setting, completed with facts of the task."""

    @abstractmethod
    def signature(self) -> dict[str, int | str]:
        """The facts that must be equal in all processes of a run, and when it is resumed."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """The facts of the task in a run's folder."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """The facts of the task for `covey check`."""

    def mechanisms(self, setting: Setting) -> Sequence[Mechanism]:
        """The noise by which work of the task protects the data of nodes."""
        return ()

    @abstractmethod
    def holdings(self) -> np.ndarray | None:
        """The number of samples of each node that holds data, or None."""

    def truth(self) -> dict[str, np.ndarray]:
        """The ground truth that an observer does not see, for the scoring of attacks."""
        return {}

    def rehearsals(self) -> Sequence["LoadedTask"]:
        """Variants of the task without training, for `covey check`; empty if there are none."""
        return ()

    # ------------------------------------------------------------------ nodes

    def model_of(self, node: "RunningNode") -> Payload | None:
        """The model of a node after a round, for the record of an observed one; None if it has none."""
        return None

    @abstractmethod
    def node(self, stage: "Stage", id: int) -> "RunningNode":
        """Make a node on a stage."""

    @abstractmethod
    def has_died_out(self, stage: "Stage") -> str | None:
        """The reason why the run cannot continue after a node has left for good, or None."""

    def at_work(self) -> AbstractContextManager[None]:
        """The context in which nodes run."""
        return nullcontext()

    def begin_thread(self) -> None:
        """Initialise a computing thread."""

    def compute_pending(self, jobs: "MutableMapping[Worker, list[Job]] | None" = None) -> None:
        """Compute the values that wait to be computed together, and the jobs with which they are. These are removed."""

    def scale_learning_rate(self, round: int, factor: float) -> None:
        """Multiply the learning rate of all nodes by a factor, in all rounds from one on."""

    # ------------------------------------------------------------------ all nodes as arrays

    def against_arrays(self) -> str | None:
        """The reason why `models` cannot stand for its nodes, as the end of a sentence; None if it can."""
        return "its nodes have no models"

    def bytes_of_arrays(self) -> tuple[int, int]:
        """The bytes of memory that `models` takes for every node: at least, and with a second array for mixing."""
        return 0, 0

    def models(self, *, spare: bool) -> "Models":
        """The initial models of all nodes as one array.

        Args:
            spare: whether a second array is kept, into which models are mixed.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ judging

    def judged(self, ids: list[int]) -> list[int]:
        """The ids of the nodes that are evaluated; `ids` are those of the program."""
        return ids

    @abstractmethod
    def shown(self, node: "RunningNode") -> Any:
        """The object by which a node is evaluated, in its current state."""

    def ready(self, shown: Any) -> None:
        """Compute such an object now, if it was not before."""

    @abstractmethod
    def evaluate(self, shown: Sequence[Any]) -> list[dict[str, float]]:
        """The metrics of such objects."""

    @abstractmethod
    def evaluation_samples(self) -> int:
        """The number of samples of one evaluation."""

    @abstractmethod
    def summary(self, *, keeps: bool | None = None) -> Summary:
        """An empty summary.

        Args:
            keeps: sum models; by default, as in the experiment.
        """

    @abstractmethod
    def check_share(self, frozen: Mapping[str, Any], nodes: int) -> bool:
        """True if a part of a summary from another process is valid for at most `nodes` nodes."""

    @abstractmethod
    def check_frozen(self, name: str, value: Any) -> bool:
        """True if an entry of a part of a summary has the right type."""

    # ------------------------------------------------------------------ checkpoints

    @abstractmethod
    def initial(self, id: int) -> Any:
        """The initial state of a node that learns, in the form of `RunningNode.learned`."""

    @abstractmethod
    def pack(self, learned: Sequence[Any]) -> dict[str, Any]:
        """The states of nodes as the entries of a payload."""

    @abstractmethod
    def unpack(self, payload: Payload, count: int) -> list[Any]:
        """The states of `count` nodes from a payload of `pack`."""

    @abstractmethod
    def check(self, payload: Payload, nodes: int) -> None:
        """Refuse a payload that is not a result of `pack` for this number of nodes.

        Raises:
            RunError: an entry is missing or wrong.
        """

    def owns(self, name: str) -> bool:
        """True if an entry of a checkpoint is one of `pack`."""
        return False

    # ------------------------------------------------------------------ the end

    def kept(self, node: "RunningNode") -> Any:
        """The learned result of a node, without state that only a resumption needs."""
        return None

    def layout(self) -> tuple[bytes, Mapping[str, np.ndarray]] | None:
        """The layout of the models of `result` as JSON, and the tensors that are not part of them; or None."""
        return None

    @abstractmethod
    def result(self, learned: Sequence[Any]) -> Any:
        """The learned results of all nodes, for the run; or None."""

    def spread(self, crew: Crew, *, here: int, always: bool = False) -> Gain:
        """Let a crew compute trainings where that is faster, or always. Returns the expected gain.

        Args:
            crew: the other processes.
            here: the number of this machine's processors that would compute instead.
            always: whether trainings leave this process even where that is slower.

        Raises:
            ConfigurationError: the task has no trainings that leave a process.
        """
        raise ConfigurationError("The 'workers' of the engine must be a number: the nodes learn nothing. Got 'ray'.")

    def common_shipment(self) -> Any:
        """The data that all processes of a run get in place of files.

        Raises:
            ConfigurationError: the data are not of a kind that can be shipped.
        """
        return None

    def shipment(self, ids: Sequence[int]) -> Any:
        """The data that only the process of some nodes gets."""
        return None

    def answer(self, given: Any) -> Any:
        """The results of the trainings that a process of a crew is given."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Nothing(LoadedTask):
    """The task of nodes that do not learn."""

    judges = False

    def informed(self, setting: Setting) -> Setting:
        return setting

    def signature(self) -> dict[str, int | str]:
        return {}

    def facts(self) -> dict[str, Any]:
        return {}

    def description(self) -> dict[str, Any]:
        return {}

    def holdings(self) -> np.ndarray | None:
        return None

    def node(self, stage: "Stage", id: int) -> "RunningNode":
        from covey.runtime.running_node import RunningNode

        return RunningNode(stage, id)

    def has_died_out(self, stage: "Stage") -> str | None:
        return None

    def shown(self, node: "RunningNode") -> Any:
        return None

    def evaluate(self, shown: Sequence[Any]) -> list[dict[str, float]]:
        return [{} for _ in shown]

    def evaluation_samples(self) -> int:
        return 0

    def summary(self, *, keeps: bool | None = None) -> Summary:
        raise NotImplementedError

    def check_share(self, frozen: Mapping[str, Any], nodes: int) -> bool:
        return False

    def check_frozen(self, name: str, value: Any) -> bool:
        return False

    def initial(self, id: int) -> Any:
        return None

    def pack(self, learned: Sequence[Any]) -> dict[str, Any]:
        return {}

    def unpack(self, payload: Payload, count: int) -> list[Any]:
        return [None] * count

    def check(self, payload: Payload, nodes: int) -> None:
        pass

    def result(self, learned: Sequence[Any]) -> Any:
        return None
