"""An experiment made ready for an engine: checked, its data dealt out, its parts told about each other."""

import copy
import inspect
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from covey.aggregation import Linear
from covey.decentralized.sharing import Selection
from covey.decentralized.topology import Graph, NotYetDrawn, Topology
from covey.learning.datasets.source import data_folder
from covey.learning.learner import Learner, load_learner
from covey.messages import wire
from covey.network import Network
from covey.network.faults import Corrupt, Slow
from covey.parts import rng
from covey.parts.errors import ConfigurationError
from covey.parts.kinds import is_registered
from covey.parts.parameters import Setting, parts_of
from covey.runtime.experiment import Experiment
from covey.runtime.node import Program, Work


@dataclass(frozen=True)
class Prepared:
    """What an engine runs.

    Attributes:
        experiment: with every part prepared; a copy, so that several runs of one experiment do not meet.
        setting: what the parts know.
        learner: the task, ready to compute.
        roles: the role of each node.
        holders: node id -> place among the nodes that hold data.
        evaluated: the ids of the nodes whose models are evaluated.
        model_bytes: the wire size of a message with one model.
        data: the data folder.
    """

    experiment: Experiment
    setting: Setting
    learner: Learner
    roles: list[str]
    holders: dict[int, int]
    evaluated: list[int]
    model_bytes: int
    data: Path

    @property
    def program(self) -> Program:
        return self.experiment.program

    @property
    def network(self) -> Network:
        return self.experiment.network

    @property
    def topology(self) -> Topology | None:
        """Who talks to whom, where the program has a topology."""
        return topology_of(self.program)

    @property
    def in_step(self) -> bool:
        """Whether all nodes go through the same rounds; if not, each goes on from its last commit after a resume."""
        return self.program.synchronous and not self.network.churn.has_churn and not self.experiment.faults

    @property
    def waits_for_all(self) -> bool:
        """Whether all nodes go through the same rounds and wait for ever for what does not come: a run goes on from a
        moment at which all had completed the same round, or not at all."""
        return self.in_step and not self.program.goes_on_without

    @cached_property
    def is_trusted(self) -> bool:
        """Whether covey's own code alone handles the tensors of a program: it writes to none that is another's."""
        parts = [part for part in parts_of(self.program) if not isinstance(part, Topology)]
        return all(is_registered(type(part)) for part in parts)

    @property
    def round_bytes(self) -> float | None:
        """The bytes that a node is expected to send in a round."""
        return self.program.round_bytes(self.setting, self.model_bytes)


def topology_of(program: Program) -> Topology | None:
    """The topology of a program, where it has one."""
    found = getattr(program, "topology", None)
    return found if isinstance(found, Topology) else None


def selection_of(program: Program) -> Selection | None:
    """What a prepared program shares of models, where it says so."""
    found = getattr(getattr(program, "sharing", program), "selection", None)
    return found if isinstance(found, Selection) else None


def merging_graph(program: Program, t: int) -> Graph:
    """The graph of round t of a prepared program with a topology, with the weights with which models are merged.

    Without weights where the graph does not decide on them: what arrives does, or the program has a rule of its own.
    """
    topology, aggregation = topology_of(program), getattr(program, "aggregation", None)
    assert topology is not None
    graph = topology.at(t)
    weights_E = graph.weights if aggregation is None else None
    if isinstance(aggregation, Linear):
        weights_E = aggregation.of_edges(graph)
    return Graph(graph.n, graph.sources, graph.targets, weights_E, graph.groups)


def notes_on_cycles(experiment: Experiment) -> list[str]:
    """What to know of figures that are taken within a schedule's cycle."""
    cycle, every = experiment.program.cycle(), experiment.evaluation.every
    notes = []
    if every and every % cycle:
        notes.append(
            f"models are evaluated every {every} rounds, at other places of the schedule's cycle of {cycle} each time: "
            f"accuracies go up and down within it"
        )
    if experiment.rounds % cycle:
        notes.append(
            f"the last of the {experiment.rounds} rounds is within the schedule's cycle of {cycle}: accuracies go up "
            f"and down within it, so those at the end are not those of where a cycle ends"
        )
    return notes


def check(experiment: Experiment) -> None:
    """Check what can be checked without the data: a mistake should wait neither for a download nor for other runs.

    Raises:
        ConfigurationError: whatever is wrong with it.
    """
    _prepare_without_data(copy.deepcopy(experiment), experiment.engine.clock)


def _prepare_without_data(experiment: Experiment, clock: str) -> tuple[list[str], list[int]]:
    """(the role of every node, the ids of those with data), after the program and the network know of them."""
    nodes, program = experiment.network.nodes, experiment.program
    if not inspect.iscoroutinefunction(program.run):
        raise ConfigurationError(f"The 'run' of the program {program.title()} must be an async function.")
    roles = _role_of_each(program.roles(nodes), nodes, program)
    ids = [node for node in range(nodes) if roles[node] not in program.without_data]
    if not ids:
        raise ConfigurationError(f"The program {program.title()} leaves no node with data: nodes is {nodes}.")
    same_start = experiment.task.same_start
    setting = Setting(
        nodes,
        experiment.seed,
        holders=tuple(ids),
        rounds=experiment.rounds,
        same_start=same_start,
        clock=clock,
        losses=_losses(experiment),
        lossy=_is_lossy(experiment),
        ordered=experiment.network.is_ordered,
    )
    experiment.network.prepare(setting)
    energy = experiment.network.energy
    setting = replace(setting, battery_joules=energy.batteries(nodes), devices=energy.devices())
    with suppress(NotYetDrawn):
        program.prepare(setting)
    _check_faults(experiment, setting)
    experiment.engine.check(experiment)
    return roles, ids


def _losses(experiment: Experiment) -> tuple[str, ...]:
    """What in an experiment may keep a message from ever coming, in words."""
    faults = (fault.named() for fault in experiment.faults if fault.loses)
    return *experiment.network.losses(), *dict.fromkeys(faults)


def _is_lossy(experiment: Experiment) -> bool:
    return experiment.network.loss > 0 or any(isinstance(fault, Corrupt) for fault in experiment.faults)


def _check_faults(experiment: Experiment, setting: Setting) -> None:
    for fault in experiment.faults:
        fault.prepare(setting)
        if isinstance(fault, Slow) and fault.uplink > 1 and experiment.network.uplink_rates() is None:
            raise ConfigurationError(
                f"The 'uplink' of {fault.named()} must be 1 in a network without 'bandwidth' or 'uplink'. "
                f"Got {fault.uplink:g} instead."
            )


def prepare(
    experiment: Experiment,
    *,
    data: Path | None = None,
    quiet: bool = True,
    clock: str | None = None,
    **compute: Any,
) -> Prepared:
    """Check an experiment against itself, load its data and tell its parts about each other.

    Args:
        experiment: as it was written; it is not changed.
        data: the data folder; by default that of the environment.
        quiet: whether to show no progress bar while data are downloaded.
        clock: which time the nodes' clocks show; by default that of the experiment's engine.
        compute: how to compute, as `Learner` takes it.

    Raises:
        ConfigurationError, DataError: whatever is wrong with it.
    """
    experiment = copy.deepcopy(experiment)
    nodes, program = experiment.network.nodes, experiment.program
    clock = clock or experiment.engine.clock
    roles, ids = _prepare_without_data(experiment, clock)
    learner = load_learner(
        experiment.task, len(ids), seed=experiment.seed, folder=data_folder(data), quiet=quiet, **compute
    )
    counts = None
    if learner.label_counts is not None:
        counts = np.zeros((nodes, learner.label_counts.shape[1]), dtype=np.int64)
        counts[ids] = learner.label_counts
    layout = learner.layout
    setting = Setting(
        nodes,
        experiment.seed,
        layout.size,
        tuple(layout.pieces),
        tuple(ids),
        counts,
        experiment.rounds,
        same_start=experiment.task.same_start,
        clock=clock,
        losses=_losses(experiment),
        lossy=_is_lossy(experiment),
        ordered=experiment.network.is_ordered,
    )
    experiment.network.prepare(setting)
    setting = _with_energy(setting, experiment, learner)
    program.prepare(setting)
    wanted = [n for n in range(nodes) if program.evaluated_roles is None or roles[n] in program.evaluated_roles]
    limit = experiment.evaluation.nodes
    if limit is not None and limit < len(wanted):
        picked = rng.generator(experiment.seed, "evaluated nodes").choice(len(wanted), limit, replace=False)
        wanted = sorted(wanted[place] for place in picked)
    prepared = Prepared(
        experiment=experiment,
        setting=setting,
        learner=learner,
        roles=roles,
        holders={node: place for place, node in enumerate(ids)},
        evaluated=wanted,
        model_bytes=wire.size({"model": learner.first_model}),
        data=data_folder(data),
    )
    experiment.engine.check_prepared(prepared)
    return prepared


def _with_energy(setting: Setting, experiment: Experiment, learner: Learner) -> Setting:
    """The setting with what a training costs every node, and what it has in its battery."""
    energy, speeds = experiment.network.energy, experiment.network.compute_speeds()
    if not energy.is_measured:
        return setting
    costs = np.zeros(setting.nodes)
    for place, node in enumerate(setting.holders or ()):
        costs[node] = energy.per_sample(node, speeds[node]) * learner.samples(place, Work())
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
