"""Experiments: program, task, network, engine and seed, as typed objects or as a TOML file."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from covey.network import Network
from covey.network.faults import Fault
from covey.parts import kinds, toml
from covey.parts.errors import ConfigurationError, quoted
from covey.parts.parameters import Part, build, param, to_table
from covey.parts.quantities import Seconds
from covey.runtime.callbacks.callback import Callback
from covey.runtime.node import Program
from covey.runtime.observers import Observer
from covey.runtime.task import Task

if TYPE_CHECKING:
    from covey.messages.payloads import Payload
    from covey.runtime.prepared import Prepared
    from covey.runtime.runs import RunWriter


_EVALUATED_EVERY = 10


class Evaluation(Part):
    """The settings of the evaluation of models."""

    kind: ClassVar[str] = "evaluation"
    every: int | None = param(
        "The number of rounds between two evaluations. The last round is always evaluated; 0 means only the last. By "
        "default 10, or the next multiple of the schedule's cycle, within which accuracies go up and down.",
        default=None,
        ge=0,
    )
    seconds: Seconds | None = param(
        "The seconds of the nodes' clock between two evaluations of all nodes at the same moment, in whatever rounds "
        "they are. The results are rows of the table 'moments'. By default, there are none.",
        default=None,
        gt=0,
        lt=math.inf,
    )
    samples: int | None = param("The test samples, the same for all nodes; by default, all.", default=None, ge=1)
    nodes: int | None = param("The number of evaluated nodes, drawn by the seed; by default, all.", default=None, ge=1)
    average: bool = param("Whether to evaluate the average of all models, and their distance from it.", default=True)
    takes_time: bool = param(
        "Whether evaluation takes time of the nodes, as much as training on the same samples.", default=False
    )

    def due(self, completed: int, rounds: int) -> bool:
        """True if models are evaluated after this number of completed rounds."""
        return completed == rounds or (self.every is not None and self.every > 0 and completed % self.every == 0)


class Checkpoint(Part):
    """The settings of checkpoints, from which runs are resumed."""

    kind: ClassVar[str] = "checkpoint"
    every: int | None = param(
        "The number of rounds between two checkpoints; 0 means only on Ctrl-C. By default they are taken by time: "
        "every five seconds, or less often if they would cost more than 3 % of it, and not at all if models take "
        "more than 2 GiB.",
        default=None,
        ge=0,
    )
    keep: int = param("The number of checkpoints that are kept.", default=2, ge=1)


class Output(Part):
    """The results that a run keeps beside its metrics."""

    kind: ClassVar[str] = "output"
    commits: Literal["all", "summary"] | int | None = param(
        "The rows of completed rounds that are kept: all, or quantiles of every round and the rows of some nodes, "
        'drawn by the seed: 1,000 for "summary", or this number. By default, all of up to 100,000 nodes.',
        default=None,
        ge=1,
    )
    models: bool = param("Whether the final models are saved, if nodes have models.", default=True)
    states: bool | None = param(
        "Whether the final state of each node is saved. By default, it is saved if nodes do not learn.",
        default=None,
    )


class Engine(Part):
    """An engine, which runs the programs of the nodes."""

    family: ClassVar[str] = "engine"
    clock: ClassVar[str] = "virtual"
    """The time that clocks of nodes show: "virtual" or "real"."""

    def here(self) -> Sequence[int] | None:
        """The ids of the nodes whose samples the process has that starts a run; None for all."""
        return None

    def compute_settings(self) -> dict[str, Any]:
        """The settings of computing, as arguments for the task."""
        raise NotImplementedError

    def check_with(self, experiment: "Experiment") -> None:
        """Refuse an experiment that the engine cannot run.

        Raises:
            ConfigurationError: the engine cannot run it.
        """

    def check_prepared(self, prepared: "Prepared") -> None:
        """Refuse a prepared experiment, whose data and model are known, that the engine cannot run.

        Raises:
            ConfigurationError: the engine cannot run it.
        """

    def rounds_in_words(self, prepared: "Prepared") -> str | None:
        """The way in which rounds are computed, for `covey check`; None if there is only one."""
        return None

    def expected(self, prepared: "Prepared") -> str | None:
        """A measured expectation of a run's speed, in words, for `covey check`; None if there is none."""
        return None

    def check_checkpoint(self, prepared: "Prepared", checkpoint: "Payload") -> None:
        """Refuse a checkpoint that is not one of an experiment.

        Raises:
            RunError: it does not fit the experiment.
        """
        from covey.runtime import mail, snapshots

        snapshots.check(checkpoint, prepared.setting, prepared.task)
        mail.check(checkpoint, prepared.setting.nodes)
        prepared.callbacks.check(checkpoint)

    def execute(
        self,
        prepared: "Prepared",
        writer: "RunWriter | None" = None,
        *,
        progress: "Callable[[Progress], None] | None" = None,
        checkpoint: "Payload | None" = None,
    ) -> "Outcome":
        """Run an experiment to its end, or until Ctrl-C.

        Args:
            prepared: the experiment.
            writer: records the run; None records nothing.
            progress: called from time to time with the progress of the run.
            checkpoint: the checkpoint to resume from.

        Raises:
            ProgramError, ModelError, RunError: the run failed.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    rounds: float
    """The mean of the nodes' completed rounds."""
    of: int
    time: float
    """Seconds of the nodes' clock."""
    commits: int
    """The sum of the nodes' completed rounds."""
    loss: float | None
    """The mean of the nodes' latest training losses."""
    accuracy: float | None
    """The mean accuracy of the latest evaluated round."""
    clock: str = "virtual"
    """The kind of that time: "virtual" or "real"."""
    stopping: bool = False
    """True if the run was interrupted, and stops at the next checkpoint."""
    notice: str | None = None
    """A message for the user."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run."""

    finished: bool
    """False if it was interrupted."""
    time: float
    """Seconds of the nodes' clock."""
    models: Any = None
    """The model of every node, N x P, if nodes have models."""
    states: Sequence[Mapping[str, Any]] = ()
    """The state of every node, if states are kept."""


def _simulation() -> Engine:
    from covey.runtime.simulation import Simulation

    return Simulation()


class Experiment(Part):
    """An experiment, which determines a run."""

    kind: ClassVar[str] = "experiment"
    name: str = param("The name of run folders.", default="run")
    seed: int = param("The seed of all randomness.", default=1, ge=0)
    rounds: int = param("The rounds of every node.", default=100, ge=1)
    duration: Seconds | None = param(
        "The seconds of the nodes' clock after which the run ends, if not before.", default=None, gt=0
    )
    program: Program = param("The program of every node.")
    task: Task | None = param("The task, if the program needs nodes that learn.", default=None)
    network: Network = param("The nodes and their links.")
    faults: list[Fault] = param("The injected faults.", factory=list)
    observer: Observer | None = param("The nodes whose received messages are kept.", default=None)
    callback: list[Callback] = param("The callbacks, which are called after every evaluated round.", factory=list)
    evaluation: Evaluation = param("The evaluation of models.", factory=Evaluation)
    checkpoint: Checkpoint = param("The checkpoints.", factory=Checkpoint)
    output: Output = param("The results that a run keeps beside its metrics.", factory=Output)
    engine: Engine = param("The engine.", factory=_simulation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation.every is None:
            cycle = self.program.cycle()
            self.evaluation = dataclasses.replace(self.evaluation, every=cycle * math.ceil(_EVALUATED_EVERY / cycle))
        if not re.fullmatch(r"\w[\w.-]{0,63}", self.name):
            raise ConfigurationError(
                f"The 'name' of {self.named()} must be at most 64 letters, digits, '.', '_' and '-', and must not "
                f"begin with '.' or '-': it names folders. Got {quoted(self.name)} instead."
            )

    def __repr__(self) -> str:
        return (
            f"Experiment({self.name!r}, {self.program.title()}, {self.network.nodes} nodes, {self.rounds} rounds, "
            f"seed {self.seed})"
        )

    def _repr_html_(self) -> str:
        from covey.view.cards import of_experiment

        return of_experiment(self).html()

    def __rich__(self) -> Any:
        from covey.view.cards import of_experiment

        return of_experiment(self).rich()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Make an experiment of the tables of a TOML file.

        Raises:
            ConfigurationError: a key is unknown, missing or wrong.
        """
        try:
            toml.check(table)
        except ValueError as error:
            raise ConfigurationError(f"An experiment is not valid: {error}.") from error
        return build(cls, table)

    @classmethod
    def from_file(cls, file: Path | str, overrides: Iterable[str] = ()) -> Self:
        """Read an experiment file.

        Args:
            file: the TOML file. Its folder is searched for modules of the user's own.
            overrides: "key=value" with dots between nested keys, as for `--set`.
        """
        table = read_table(file)
        for override in overrides:
            assign(table, override)
        return cls.from_table(table)

    def to_table(self) -> dict[str, Any]:
        """The tables of the experiment, with all defaults."""
        return to_table(self)


def read_table(file: Path | str, what: str = "experiment file") -> dict[str, Any]:
    """Read the tables of an experiment file, or of another one, and search its folder for the user's own modules."""
    path = Path(file)
    try:
        tables = toml.read(path)
    except OSError as error:
        raise ConfigurationError(f"The {what} {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"The {what} {path} is not valid TOML: {error}.") from error
    kinds.search(str(path.resolve().parent))
    return tables


def assign(table: dict[str, Any], override: str) -> None:
    """Set one key of nested tables in place.

    Args:
        table: the tables of an experiment file.
        override: "network.nodes=100". A value that is not TOML is a string; whole numbers with commas are a list.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f'A setting must be written "key=value". Got {override!r} instead.')
    listed = _LISTED.fullmatch(text.strip())
    put(table, key.strip(), parse_value(f"[{text}]" if listed else text))


_LISTED = re.compile(r"\d{1,18}(?:\s*,\s*\d{1,18}){1,1000}")


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key of nested tables in place."""
    names = key.split(".")
    if len(names) > toml.DEEPEST:
        raise ConfigurationError(f"A key must have at most {toml.DEEPEST} parts. Got {quoted(key)} instead.")
    for name in names[:-1]:
        inner = table.setdefault(name, {})
        if isinstance(inner, str) and not inner[:1].isdigit():
            # A bare kind, not a quantity such as "20ms".
            inner = table[name] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ConfigurationError(f"The key '{name}' in '{key}' is not a table, but {quoted(inner)}.")
        table = inner
    table[names[-1]] = value


def parse_value(text: str) -> Any:
    """A text parsed as a TOML value, or the text itself."""
    try:
        return toml.parse(f"value = {text}")["value"]
    except ValueError:
        return text.strip()
