"""What nodes learn, as far as the runtime knows of it: who holds data, what nodes go on from, how they are judged."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from covey.messages.payloads import Payload
from covey.parts.parameters import Part, Setting

if TYPE_CHECKING:
    from covey.runtime.experiment import Experiment
    from covey.runtime.running_node import RunningNode
    from covey.runtime.stage import Stage


def data_folder(given: Path | None) -> Path:
    """The data folder: the one that is given, else that of COVEY_DATA, else ~/.cache/covey."""
    return Path(given or os.environ.get("COVEY_DATA") or "~/.cache/covey").expanduser()


@dataclass(frozen=True)
class Request:
    """What a task is loaded for.

    Attributes:
        experiment: whose.
        holders: the ids of the nodes that hold data.
        data: the data folder.
        quiet: whether to show no progress bar while data are downloaded.
        compute: how to compute, as the engine says.
    """

    experiment: "Experiment"
    holders: Sequence[int]
    data: Path
    quiet: bool
    compute: Mapping[str, Any]


class Task(Part):
    """What is learned: the `[task]` of an experiment whose program needs nodes that learn."""

    family: ClassVar[str] = "task"
    usual: ClassVar[str] = "learning"

    @property
    def starts_equal(self) -> bool:
        """Whether all nodes begin with the same model."""
        return True

    def load(self, request: Request) -> "LoadedTask":
        """Load its data and make everything ready.

        Raises:
            DataError, ConfigurationError: no such files, or something that does not fit.
        """
        raise NotImplementedError


class Summary(Protocol):
    """What is known together of the nodes that were judged after one round."""

    accuracies: list[float]
    """Of the nodes so far."""

    def add(self, judged: Any, figures: Mapping[str, float]) -> None:
        """One more node."""

    def freeze(self) -> dict[str, Any]:
        """What it holds, as the entries of a payload."""

    def merge(self, frozen: Mapping[str, Any]) -> None:
        """Take in what another one held."""

    def figures(self) -> Mapping[str, float]:
        """The figures of all nodes together."""


class LoadedTask(ABC):
    """A task made ready; in each process of a run there is one."""

    device: Any = "cpu"
    """Where what nodes go on from has its place."""
    node_bytes: int = 0
    """What a checkpoint takes for one node, about."""
    model_bytes: int = 0
    """The wire size of a message with one model."""
    judges: bool = True
    """Whether nodes are judged by what they have learned."""

    # ------------------------------------------------------------------ before the run

    @abstractmethod
    def informed(self, setting: Setting) -> Setting:
        """The setting with what the parts of a program may know of the task."""

    @abstractmethod
    def signature(self) -> dict[str, int]:
        """What must be the same in all processes of a run."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a run's folder says of it."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What `covey check` says of it."""

    @abstractmethod
    def holdings(self) -> np.ndarray | None:
        """How many samples each node holds that holds data, where there are such."""

    def truth(self) -> dict[str, np.ndarray]:
        """What an observer does not see, for who scores an attack."""
        return {}

    def rehearsals(self) -> Sequence["LoadedTask"]:
        """The same task for nodes that learn nothing and only seem to, in several ways; none where there is no such."""
        return ()

    # ------------------------------------------------------------------ nodes

    @abstractmethod
    def node(self, stage: "Stage", id: int) -> "RunningNode":
        """A node on a stage."""

    @abstractmethod
    def has_died_out(self, stage: "Stage") -> str | None:
        """Why nothing is left to be done once a node has left for good, if so."""

    def at_work(self) -> AbstractContextManager[None]:
        """While nodes run."""
        return nullcontext()

    def begin_thread(self) -> None:
        """What a thread does first that computes."""

    def compute_pending(self) -> None:
        """Compute what waits to be computed with others."""

    # ------------------------------------------------------------------ judging

    @abstractmethod
    def shown(self, node: "RunningNode") -> Any:
        """What a node is judged by, as it is now."""

    def ready(self, shown: Any) -> None:
        """Compute now what a node has shown, where it was not yet."""

    @abstractmethod
    def evaluate(self, shown: Sequence[Any]) -> list[dict[str, float]]:
        """The figures of what nodes have shown."""

    @abstractmethod
    def evaluation_samples(self) -> int:
        """How many samples that takes for each."""

    @abstractmethod
    def summary(self, *, keeps: bool | None = None) -> Summary:
        """An empty summary.

        Args:
            keeps: whether models are summed; by default as the experiment says.
        """

    @abstractmethod
    def check_share(self, frozen: Mapping[str, Any], nodes: int) -> bool:
        """Whether a part of a summary that came from elsewhere can be that of at most so many nodes."""

    @abstractmethod
    def check_frozen(self, name: str, value: Any) -> bool:
        """Whether an entry of a part of a summary is one."""

    # ------------------------------------------------------------------ what nodes go on from

    @abstractmethod
    def initial(self, id: int) -> Any:
        """What a node that learns begins with, as `RunningNode.learned` gives it."""

    @abstractmethod
    def pack(self, learned: Sequence[Any]) -> dict[str, Any]:
        """What nodes go on from, as the entries of a payload."""

    @abstractmethod
    def unpack(self, payload: Payload, count: int) -> list[Any]:
        """What `pack` was given, for so many nodes."""

    @abstractmethod
    def check(self, payload: Payload, nodes: int) -> None:
        """See whether a payload holds what `pack` makes of so many nodes.

        Raises:
            RunError: it does not.
        """

    def owns(self, name: str) -> bool:
        """Whether an entry of a checkpoint is one of `pack`."""
        return False

    # ------------------------------------------------------------------ the end

    def kept(self, node: "RunningNode") -> Any:
        """What a node has learned, without what is needed only to go on."""
        return None

    def layout(self) -> tuple[bytes, Mapping[str, np.ndarray]] | None:
        """(the layout of the models of `result`, as JSON; the tensors that are in none of them), or None."""
        return None

    @abstractmethod
    def result(self, learned: Sequence[Any]) -> Any:
        """What the run keeps of what all nodes have learned; None for nothing."""

    def close(self) -> None:
        """Let go of threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Nothing(LoadedTask):
    """What nodes learn that learn nothing."""

    judges = False

    def informed(self, setting: Setting) -> Setting:
        return setting

    def signature(self) -> dict[str, int]:
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
