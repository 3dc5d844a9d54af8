"""The knowledge of an adversary: what its nodes received in a run, and all that is public.

Public are the experiment, with it the first model and everything that follows from its seed, the data from which
nodes' samples were drawn, and the test data. The ground truth is not read here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from covey.learning.learner import Learner
from covey.learning.loaded import LoadedLearning
from covey.learning.node import LearningProgram
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import RunError
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import Prepared, prepare
from covey.runtime.runs import Run
from covey.runtime.runs.observed import ObservedMessage

COMPLETIONS = ("own model", "initial model", "mean of received")
"""The models whose numbers take the place of those that a message does not show."""


@dataclass
class Knowledge:
    """The knowledge of the adversary in control of the observed nodes of a run."""

    run: Run
    prepared: Prepared
    adversaries: dict[int, Adversary]
    views: list[View]
    messages: int
    """The number of observed messages."""
    _means: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    @property
    def program(self) -> LearningProgram:
        """The program of the run."""
        return cast(LearningProgram, self.prepared.program)

    @property
    def learner(self) -> Learner:
        """The task's data, model and kernels."""
        assert isinstance(self.prepared.task, LoadedLearning)
        return self.prepared.task.learner

    @property
    def holders(self) -> dict[int, int]:
        """The index of each node that holds data, among those nodes."""
        assert isinstance(self.prepared.task, LoadedLearning)
        return self.prepared.task.indices

    @property
    def first(self) -> Tensor:
        """The model that all nodes started with."""
        return self.learner.first_model

    @property
    def rejected(self) -> Counter[str]:
        """The number of messages that could not be read, by reason."""
        return sum((adversary.rejected for adversary in self.adversaries.values()), Counter())

    def completed(self, view: View, by: str) -> Tensor:
        """The model that a view shows, completed by one of COMPLETIONS."""
        if by == "initial model":
            return view.completed(self.first)
        own = self.adversaries[view.receiver].own(view.round)
        return view.completed(self._mean(view, own) if by == "mean of received" else own)

    def completions(self, views: Sequence[View]) -> tuple[str, ...]:
        """The ways to complete some views; one if they show whole models."""
        return COMPLETIONS[:1] if all(view.fraction(self.first) >= 1.0 for view in views) else COMPLETIONS

    def _mean(self, view: View, own: Tensor) -> Tensor:
        """The mean of what a receiver got in the round of a view, where it got anything; elsewhere its own model."""
        key = view.receiver, view.round
        if key not in self._means:
            together = [o for o in self.views if (o.receiver, o.round) == key and not o.hidden and not o.gradient]
            base = view.domain(own)
            total, count = torch.zeros_like(base), torch.zeros_like(base)
            for one in together:
                places = torch.arange(len(base)) if one.places is None else one.places
                if one.transform is view.transform and (not len(places) or int(places.max()) < len(base)):
                    total.index_add_(0, places, one.values)
                    count.index_add_(0, places, torch.ones_like(one.values))
            mean = torch.where(count > 0, total / count.clamp(min=1.0), base)
            self._means = {
                key: View(view.receiver, (), 0.0, None, mean, None, view.transform, view.part).completed(own)
            }
        return self._means[key]


def read_knowledge(run: Run | Path | str, *, data: Path | None = None, quiet: bool = True) -> Knowledge:
    """Read what the observed nodes of a run know.

    Raises:
        RunError: nothing was observed, the record is damaged, no message tells of a model, or the data differ from
            those of the run.
        ConfigurationError: the program of the run cannot be attacked.
    """
    run = run if isinstance(run, Run) else Run(run)
    observed = run.observed
    if observed is None:
        raise RunError(
            f"The run {run.folder} has no observed/: nothing can be attacked. Run it with an observer, as with "
            "--set observer.nodes=0,1."
        )
    prepared = prepare(Experiment.from_table(run.experiment), data=data, quiet=quiet)
    if not isinstance(prepared.task, LoadedLearning) or not hasattr(prepared.program, "views"):
        raise RunError(
            f"The run {run.folder} cannot be attacked: the nodes of {prepared.program.named()} do not learn."
        )
    change = prepared.change_since(run.facts)
    if change is not None:
        raise RunError(f"The run {run.folder} cannot be attacked: {change}.")
    learner = prepared.task.learner
    arrived: dict[int, list[Arrived]] = {}
    for message in observed.messages():
        if message.receiver not in range(prepared.network.nodes):
            raise RunError(f"The run {run.folder} has no readable observed/: there is no node {message.receiver}.")
        arrived.setdefault(message.receiver, []).append(_arrived(message))
    adversaries = {node: _adversary(run, prepared, learner, node) for node in sorted(arrived)}
    views = [
        view
        for node, adversary in adversaries.items()
        for view in _sound(prepared.program.views(adversary, _of_rounds(arrived[node], adversary, prepared)), adversary)
    ]
    found = Knowledge(run, prepared, adversaries, views, sum(map(len, arrived.values())))
    if not views:
        why = "".join(f"; {count} could not be read: {reason}" for reason, count in found.rejected.most_common(1))
        raise RunError(
            f"None of the {found.messages} observed messages of the run {run.folder} tells of a model that "
            f"{prepared.program.named()} sends{why}."
        )
    return found


def _arrived(found: ObservedMessage) -> Arrived:
    return Arrived(found.time, found.sender, found.tag, found.round, found.payload, found.bytes)


def _adversary(run: Run, prepared: Prepared, learner: Learner, node: int) -> Adversary:
    """An observed node with its own models."""
    assert run.observed is not None
    models = {}
    for found in run.observed.models(node):
        model = found.payload.get("model")
        if isinstance(model, Tensor) and model.shape == learner.first_model.shape and found.round is not None:
            models[found.round] = model.float()
    same = prepared.setting.same_start
    return Adversary(node, prepared.network.nodes, learner.initial(node).cpu(), models, same_start=same)


def _of_rounds(messages: Sequence[Arrived], adversary: Adversary, prepared: Prepared) -> Iterator[Arrived]:
    """The messages of rounds of the run, from nodes: a damaged record must not be believed."""
    rounds = prepared.experiment.rounds
    for message in messages:
        if message.round is not None and not 0 <= message.round < rounds:
            adversary.reject(message, f"its round {message.round} is not in [0, {rounds})")
        else:
            yield message


def _sound(views: Iterator[View], adversary: Adversary) -> Iterator[View]:
    """The views whose numbers are finite."""
    for view in views:
        if bool(torch.isfinite(view.values).all()):
            yield view
        else:
            adversary.rejected["its numbers are not finite"] += 1


def spread(views: Sequence[View], most: int) -> list[View]:
    """At most so many views, evenly over all."""
    if len(views) <= most:
        return list(views)
    return [views[index * len(views) // most] for index in range(most)]


def seen(view: View) -> str:
    """The kind of thing that a view shows, in words."""
    what = "gradient" if view.gradient else "model"
    if view.hidden:
        return f"masked {what}"
    return what if len(view.senders) == 1 else f"mean of {len(view.senders)} {what}s"
