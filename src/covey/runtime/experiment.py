"""An experiment: program x task x network x engine x seed, as typed objects or as a TOML file."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from covey.network import Network
from covey.network.faults import Fault
from covey.parts import kinds, toml
from covey.parts.errors import ConfigurationError, quoted
from covey.parts.parameters import Part, build, param, to_table
from covey.parts.quantities import Seconds
from covey.runtime.node import Program
from covey.runtime.observers import Observer
from covey.runtime.task import Task

if TYPE_CHECKING:
    from covey.messages.payloads import Payload
    from covey.runtime.prepared import Prepared
    from covey.runtime.runs import RunWriter


_EVALUATED_EVERY = 10


class Evaluation(Part):
    """When and how the models of the nodes are evaluated."""

    kind: ClassVar[str] = "evaluation"
    every: int | None = param(
        "The rounds between two evaluations; the last round is always evaluated. 0: only the last. By default 10, or "
        "what follows 10 among the multiples of the schedule's cycle, within which accuracies go up and down.",
        default=None,
        ge=0,
    )
    seconds: Seconds | None = param(
        "The seconds of the nodes' clock between two evaluations of all nodes at once, whatever rounds they are in; "
        "they are rows of the table 'moments'. None by default.",
        default=None,
        gt=0,
        lt=math.inf,
    )
    samples: int | None = param("On how many test samples, the same for all nodes; all by default.", default=None, ge=1)
    nodes: int | None = param("How many nodes, chosen by the seed; all by default.", default=None, ge=1)
    average: bool = param("Whether to evaluate the average of all models, and how far they are from it.", default=True)
    takes_time: bool = param(
        "Whether evaluation costs the nodes time, as training on as many samples does.", default=False
    )

    def due(self, completed: int, rounds: int) -> bool:
        """Whether models are evaluated after so many rounds."""
        return completed == rounds or (self.every is not None and self.every > 0 and completed % self.every == 0)


class Checkpoint(Part):
    """When a run can be resumed from."""

    kind: ClassVar[str] = "checkpoint"
    every: int | None = param(
        "The rounds between two checkpoints; 0 for none but on Ctrl-C. By default they are taken by time, every five "
        "seconds or so rarely that they cost 3 % of it; but none whose models take more than 2 GiB.",
        default=None,
        ge=0,
    )
    keep: int = param("How many checkpoints are kept.", default=2, ge=1)


class Output(Part):
    """What a run keeps beside its metrics."""

    kind: ClassVar[str] = "output"
    models: bool = param("Whether the final models are saved, where nodes have models.", default=True)
    states: bool | None = param(
        "Whether what is in the state of each node at the end is saved; by default where nodes learn nothing.",
        default=None,
    )


class Engine(Part):
    """What runs the programs of the nodes."""

    family: ClassVar[str] = "engine"
    clock: ClassVar[str] = "virtual"
    """Which time the nodes' clocks show: virtual or real."""

    def compute_settings(self) -> dict[str, Any]:
        """How to compute, as a task takes it."""
        raise NotImplementedError

    def check_with(self, experiment: "Experiment") -> None:
        """See whether the engine can run an experiment.

        Raises:
            ConfigurationError: it cannot.
        """

    def check_prepared(self, prepared: "Prepared") -> None:
        """See whether the engine can run an experiment whose data and model are known.

        Raises:
            ConfigurationError: it cannot.
        """

    def check_checkpoint(self, prepared: "Prepared", checkpoint: "Payload") -> None:
        """See whether a checkpoint is one of an experiment.

        Raises:
            RunError: it is not.
        """
        from covey.runtime import mail, snapshots

        snapshots.check(checkpoint, prepared.setting, prepared.task)
        mail.check(checkpoint, prepared.setting.nodes)

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
            prepared: what to run.
            writer: where to record it; None records nothing.
            progress: told now and then how far it is.
            checkpoint: where to go on from.

        Raises:
            ProgramError, ModelError, RunError: why it cannot go on.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    rounds: float
    """Completed rounds, a mean over nodes."""
    of: int
    time: float
    """Seconds on the nodes' clock."""
    commits: int
    """Completed rounds, summed over nodes."""
    loss: float | None
    """The mean of the nodes' latest training losses."""
    accuracy: float | None
    """The mean accuracy of the latest evaluated round."""
    clock: str = "virtual"
    """Which time that is: virtual or real."""
    stopping: bool = False
    """Whether it was interrupted, and stops as soon as it can be resumed."""
    notice: str | None = None
    """What whoever watches should know."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    finished: bool
    """False where it was interrupted."""
    time: float
    """Seconds on the nodes' clock."""
    models: Any = None
    """N x P, the model of every node, where nodes have models."""
    states: Sequence[Mapping[str, Any]] = ()
    """The state of every node, where they are kept."""


def _simulation() -> Engine:
    from covey.runtime.simulation import Simulation

    return Simulation()


class Experiment(Part):
    """Everything that a run depends on."""

    kind: ClassVar[str] = "experiment"
    name: str = param("What run folders are called.", default="run")
    seed: int = param("What all randomness is derived from.", default=1, ge=0)
    rounds: int = param("How many rounds every node makes.", default=100, ge=1)
    duration: Seconds | None = param(
        "After how many seconds of the nodes' clock the run ends, if not before.", default=None, gt=0
    )
    program: Program = param("What every node does.")
    task: Task | None = param("What is learned, where the program needs nodes that learn.", default=None)
    network: Network = param("Who is there, and how well they are connected.")
    faults: list[Fault] = param("What goes wrong on purpose, and when.", factory=list)
    observer: Observer | None = param("Whose messages are kept, as a curious node would see them.", default=None)
    evaluation: Evaluation = param("When models are evaluated.", factory=Evaluation)
    checkpoint: Checkpoint = param("When a run can be resumed from.", factory=Checkpoint)
    output: Output = param("What a run keeps beside its metrics.", factory=Output)
    engine: Engine = param("What runs it.", factory=_simulation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation.every is None:
            cycle = self.program.cycle()
            self.evaluation = dataclasses.replace(self.evaluation, every=cycle * math.ceil(_EVALUATED_EVERY / cycle))
        if not re.fullmatch(r"\w[\w.-]{0,63}", self.name):
            raise ConfigurationError(
                f"The 'name' of {self.named()} must be letters, digits, '.', '_' and '-', at most 64, beginning "
                f"with none of '.' and '-': folders are called so. Got {quoted(self.name)} instead."
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
        """The experiment that the tables of a TOML file describe.

        Raises:
            ConfigurationError: an unknown, missing or impossible key.
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
            overrides: "key=value" with dots between nested keys, as `--set` takes them.
        """
        table = read_table(file)
        for override in overrides:
            assign(table, override)
        return cls.from_table(table)

    def to_table(self) -> dict[str, Any]:
        """The resolved experiment, all defaults written out."""
        return to_table(self)


def read_table(file: Path | str) -> dict[str, Any]:
    """The tables of an experiment file; its folder is searched for modules that they name."""
    path = Path(file)
    try:
        tables = toml.read(path)
    except OSError as error:
        raise ConfigurationError(f"The experiment file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigurationError(f"The experiment file {path} is not valid TOML: {error}.") from error
    kinds.search(str(path.resolve().parent))
    return tables


def assign(table: dict[str, Any], override: str) -> None:
    """Set one key of nested tables in place.

    Args:
        table: the tables of an experiment file.
        override: "network.nodes=100"; the value is TOML, or a string where it is none.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f'A setting must be written "key=value". Got {override!r} instead.')
    put(table, key.strip(), parse_value(text))


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set one key of nested tables in place; the key has dots between nested ones."""
    names = key.split(".")
    if len(names) > toml.DEEPEST:
        raise ConfigurationError(f"A key must have at most {toml.DEEPEST} parts. Got {quoted(key)} instead.")
    for name in names[:-1]:
        inner = table.setdefault(name, {})
        if isinstance(inner, str) and not inner[:1].isdigit():
            # A bare kind, not an amount such as "20ms".
            inner = table[name] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ConfigurationError(f"The key '{name}' in '{key}' is no table, but {quoted(inner)}.")
        table = inner
    table[names[-1]] = value


def parse_value(text: str) -> Any:
    """A value as it would be read from TOML, or the text itself."""
    try:
        return toml.parse(f"value = {text}")["value"]
    except ValueError:
        return text.strip()
