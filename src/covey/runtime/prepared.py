"""Experiments ready for an engine: with checks done, data loaded and parts prepared."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.network import Network
from covey.parts import native, rng
from covey.parts.errors import ConfigurationError
from covey.parts.kinds import is_registered, why_not_importable
from covey.parts.mechanisms import Mechanism
from covey.parts.parameters import Setting, give_places, parts_of
from covey.runtime.callbacks import Callbacks
from covey.runtime.experiment import Experiment
from covey.runtime.node import Node, Program
from covey.runtime.sampler import Overlay
from covey.runtime.task import LoadedTask, Nothing, Request, Task, data_folder

if TYPE_CHECKING:
    from covey.runtime.simulation.playing import Played


_SAME = {"data": "data set", "partition": "partition", "start": "start", "parameters": "model"}
"""The facts of a run that must be the same when it is resumed or attacked, in words."""


_RECORDED, _SAMPLE = 100_000, 1000
"""The nodes up to which the rows of all are kept by default, and those whose rows are kept beyond."""


@dataclass(frozen=True)
class Prepared:
    """A prepared experiment, which an engine runs.

    Attributes:
        experiment: a copy of the experiment with prepared parts, so that runs of one experiment are independent.
        setting: the facts that parts know.
        task: the loaded task.
        roles: the role of each node.
        evaluated: the ids of the nodes whose models are evaluated.
        data: the data folder.
        callbacks: those of the experiment. The process that records the run calls them.
    """

    experiment: Experiment
    setting: Setting
    task: LoadedTask
    roles: list[str]
    evaluated: list[int]
    data: Path
    callbacks: Callbacks

    @property
    def program(self) -> Program:
        return self.experiment.program

    @property
    def network(self) -> Network:
        return self.experiment.network

    @property
    def in_step(self) -> bool:
        """True if all nodes go through the same rounds. If not, each resumes at its own last commit."""
        return self.program.synchronous and not self.network.churn.has_churn and not self.experiment.faults

    @property
    def waits_for_all(self) -> bool:
        """True if nodes wait for ever for missing messages. Such a run can only be resumed at a cut."""
        is_lossy = self.program.tolerates_loss or self.network.churn.has_churn or bool(self.experiment.faults)
        return not is_lossy

    @property
    def keeps_mail(self) -> bool:
        """True if nodes may resume at different moments, so that their mail is kept for checkpoints.

        Nodes of a synchronous program may do so where some go on without others for many rounds.
        """
        kept = not self.program.synchronous or (self.in_step and self._may_part)
        return kept and self.experiment.checkpoint.every != 0 and self.overlay is None

    @property
    def _may_part(self) -> bool:
        """True if nodes may go on without others: not all follow a graph."""
        if self.overlay is not None:
            return False
        return self.program.graph(0) is None or len({*self.roles}) > 1

    @cached_property
    def overlay(self) -> Overlay | None:
        """The virtual nodes of the program."""
        return self.program.overlay(self.network.nodes)

    @cached_property
    def is_trusted(self) -> bool:
        """True if only covey's own code handles the program's tensors. It never writes to tensors of others."""
        return all(is_registered(type(part)) for part in parts_of(self.program) if part.handles_arrays)

    @property
    def sends_samples(self) -> bool:
        """True if the program, or one of its parts, declares that nodes send samples of their data."""
        return any(part.sends_samples for part in parts_of(self.program))

    @property
    def keeps_states(self) -> bool:
        """True if the run keeps the final states of nodes."""
        keeps = self.experiment.output.states
        return self.program.needs is Node if keeps is None else keeps

    def change_since(self, facts: Mapping[str, Any]) -> str | None:
        """The first of data, partition, start and model that differs from a run's facts, in words; or None."""
        for name, now in self.task.signature().items():
            before = facts.get(name)
            if name in _SAME and before is not None and before != now:
                return f"its {_SAME[name]} differs from that with which it began ({before}, now {now})"
        return None

    @cached_property
    def recorded(self) -> list[int] | None:
        """The ids of the nodes whose rows of completed rounds are kept, beside quantiles; None for all nodes."""
        nodes, asked = self.network.nodes, self.experiment.output.commits
        if asked == "all" or (asked is None and nodes <= _RECORDED):
            return None
        count = asked if isinstance(asked, int) else _SAMPLE
        if count >= nodes:
            return None
        first = self.evaluated if len(self.evaluated) <= count else []
        drawn = rng.generator(self.setting.seed, "recorded nodes").permutation(nodes)
        others = drawn[~np.isin(drawn, first)][: count - len(first)]
        return sorted([*first, *others.tolist()])

    def mechanisms(self) -> list[Mechanism]:
        """The noise by which parts of the program and of the task state that they protect data."""
        parts = parts_of(self.experiment.program)
        stated = [one for part in parts for one in part.mechanisms(self.setting)]
        return [*self.task.mechanisms(self.setting), *stated]

    def judged(self) -> np.ndarray:
        """N, True for nodes that are evaluated."""
        return np.isin(np.arange(self.network.nodes), self.evaluated)

    def modules(self) -> list[str]:
        """The modules of covey's own parts in it."""
        parts = [part for part in parts_of(self.experiment) if is_registered(type(part))]
        return sorted({type(part).__module__ for part in [*parts, self.task]})

    @cached_property
    def played(self) -> "Played":
        """The messages of the first rounds, counted without training. Use it before the run."""
        from covey.runtime.simulation.playing import play

        return play(self)


def notes_on_cycles(experiment: Experiment) -> list[str]:
    """Notes on evaluations within a schedule's cycle."""
    cycle, every = experiment.program.cycle(), experiment.evaluation.every
    notes = []
    if every and every % cycle:
        notes.append(
            f"models are evaluated every {every} rounds, at different points of the schedule's cycle of {cycle}: "
            f"accuracies go up and down within it"
        )
    if experiment.rounds % cycle:
        notes.append(
            f"the last of the {experiment.rounds} rounds is within the schedule's cycle of {cycle}: accuracies go up "
            f"and down within it, so those at the end differ from those at the end of a cycle"
        )
    return notes


def check(experiment: Experiment) -> None:
    """Check an experiment without its data, so that mistakes show before a download or other runs.

    Raises:
        ConfigurationError: the experiment is wrong.
    """
    _checked(copy.deepcopy(experiment), experiment.engine.clock)


def check_importable(experiment: Experiment, processes: str) -> None:
    """Refuse an experiment with parts that other processes cannot import.

    Args:
        experiment: the experiment.
        processes: the name of the processes, for the middle of a sentence.

    Raises:
        ConfigurationError: there is such a part.
    """
    for part in parts_of(experiment):
        why = why_not_importable(type(part)) if part.family else None
        if why is not None:
            name = part.title().rpartition(":")[2].rpartition(".")[2]
            raise ConfigurationError(
                f"The {part.family} {name} {why}: {processes} cannot import it. Put it into a module."
            )
    Experiment.from_table(experiment.to_table())


def _checked(experiment: Experiment, clock: str) -> tuple[list[str], list[int]]:
    """Check the parts of an experiment, and return the role of every node and the ids of those with data."""
    for part in parts_of(experiment):
        part.check_again()
    nodes, program = experiment.network.nodes, experiment.program
    if not inspect.iscoroutinefunction(program.run):
        raise ConfigurationError(f"The 'run' of the program {program.title()} must be an async function.")
    give_places(program)
    roles = _role_of_each(program.roles(nodes), nodes, program)
    ids = [node for node in range(nodes) if roles[node] not in program.without_data]
    task = _task_of(experiment)
    if task is not None and task.is_private and any(part.sends_samples for part in parts_of(program)):
        raise ConfigurationError(
            f"The program {program.title()} sends samples, and the data of the task are private: choose another one."
        )
    if task is not None and not ids:
        raise ConfigurationError(f"The program {program.title()} leaves no node with data: nodes is {nodes}.")
    setting = _setting(experiment, ids, clock)
    experiment.network.check(setting)
    energy = experiment.network.energy
    setting = replace(setting, battery_joules=energy.batteries(nodes), devices=energy.devices())
    program.check(setting)
    for fault in experiment.faults:
        fault.check(setting)
        fault.check_with(experiment.network)
    if experiment.observer is not None:
        experiment.observer.check(setting)
    for callback in experiment.callback:
        if task is None:
            raise ConfigurationError(
                f"The callback {callback.title()} needs evaluated rounds: the program {program.title()} learns nothing."
            )
        callback.check(setting)
    experiment.engine.check_with(experiment)
    return roles, ids


def _task_of(experiment: Experiment) -> Task | None:
    """The task of an experiment, or None if its program does not need one.

    Raises:
        ConfigurationError: the program needs a task, and the experiment has none.
    """
    program = experiment.program
    if program.needs is Node:
        return None
    if experiment.task is None:
        raise ConfigurationError(
            f"The 'task' of the experiment is missing: the nodes of the program {program.title()} learn."
        )
    return experiment.task


def _setting(experiment: Experiment, holders: Sequence[int], clock: str) -> Setting:
    """The setting of an experiment before its data are loaded."""
    return Setting(
        experiment.network.nodes,
        experiment.seed,
        holders=tuple(holders),
        rounds=experiment.rounds,
        same_start=experiment.task is None or experiment.task.starts_equal,
        adds_gradients=experiment.task is None or experiment.task.adds_gradients,
        stateless=experiment.task is None or experiment.task.stateless,
        clock=clock,
        losses=_losses(experiment),
        lossy=_is_lossy(experiment),
        ordered=experiment.network.is_ordered,
    )


def _losses(experiment: Experiment) -> tuple[str, ...]:
    """The reasons why a message of an experiment may never arrive, in words."""
    faults = (fault.named() for fault in experiment.faults if fault.loses)
    return *experiment.network.losses(), *dict.fromkeys(faults)


def _is_lossy(experiment: Experiment) -> bool:
    return experiment.network.loss > 0 or any(fault.thins for fault in experiment.faults)


def prepare(
    experiment: Experiment,
    *,
    data: Path | None = None,
    quiet: bool = True,
    clock: str | None = None,
    here: Sequence[int] | None = None,
    local: Mapping[str, Any] | None = None,
    shipped: tuple[Any, Any] | None = None,
    **compute: Any,
) -> Prepared:
    """Check an experiment, load its data and prepare its parts.

    Args:
        experiment: the experiment, which is not changed.
        data: the data folder; by default, that of the environment.
        quiet: show no progress bar of a download.
        clock: the time of the nodes' clocks; by default, that of the experiment's engine.
        here: the ids of the nodes whose samples this process has; by default, those that the engine names.
        local: the tables with this machine's own data; None if there are none.
        shipped: the data that this process got in place of files, common to all and its own; None to load them.
        compute: the settings of computing, as arguments for the task.

    Raises:
        ConfigurationError, DataError: the experiment or its data are wrong.
    """
    native.kernels()  # A mistake in the environment shows now.
    experiment = copy.deepcopy(experiment)
    nodes, program = experiment.network.nodes, experiment.program
    clock = clock or experiment.engine.clock
    roles, ids = _checked(experiment, clock)
    folder = data_folder(data)
    wanted = _task_of(experiment)
    here = experiment.engine.here() if here is None else here
    request = Request(experiment, ids, folder, quiet, compute, here, local, shipped)
    task = Nothing() if wanted is None else wanted.load(request)
    setting = task.informed(_setting(experiment, ids, clock))
    experiment.network.prepare(setting)
    setting = replace(_with_energy(setting, experiment), latency=experiment.network.latency.between)
    program.prepare(setting)
    for part in (*experiment.faults, experiment.observer):
        if part is not None:
            part.prepare(setting)
    judged = list(range(nodes)) if task.judges else []
    judged_roles = program.judged_roles()
    if judged_roles is not None:
        judged = [node for node in judged if roles[node] in judged_roles]
    judged = task.judged(judged)
    limit = experiment.evaluation.nodes
    if limit is not None and limit < len(judged):
        picked = rng.generator(experiment.seed, "evaluated nodes").choice(len(judged), limit, replace=False)
        judged = sorted(judged[index] for index in picked)
    prepared = Prepared(
        experiment=experiment,
        setting=setting,
        task=task,
        roles=roles,
        evaluated=judged,
        data=folder,
        callbacks=Callbacks(experiment.callback),
    )
    experiment.engine.check_prepared(prepared)
    return prepared


def _with_energy(setting: Setting, experiment: Experiment) -> Setting:
    """The setting with the energy of a training and of the battery of every node."""
    network = experiment.network
    energy, speeds, devices = network.energy, network.compute_speeds(), network.devices
    if not energy.is_measured:
        return setting
    costs = np.zeros(setting.nodes)
    for node, samples in zip(setting.holders or (), setting.training_samples, strict=False):
        speed = speeds[node]
        if devices is not None and samples:
            speed = samples / (devices.fixed + samples / speed)
        costs[node] = energy.per_sample(node, speed) * samples
    return replace(
        setting, training_joules=costs, battery_joules=energy.batteries(setting.nodes), devices=energy.devices()
    )


def _role_of_each(assigned: Any, nodes: int, program: Program) -> list[str]:
    roles = [""] * nodes
    for role, ids in assigned.items():
        for node in ids:
            if not 0 <= node < nodes or roles[node]:
                raise ConfigurationError(
                    f"The roles of {program.title()} must give every node in [0, {nodes}) one role."
                )
            roles[node] = role
    if "" in roles:
        raise ConfigurationError(f"The roles of {program.title()} leave node {roles.index('')} without a role.")
    return roles
