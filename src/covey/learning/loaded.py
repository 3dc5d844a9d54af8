"""The loaded learning task: the form that the runtime uses.

Shapes: N nodes, P parameters.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from covey.learning.arrays import Buffer
from covey.learning.average import Average
from covey.learning.dataset import Own, Split
from covey.learning.datasets.digests import digest
from covey.learning.exported import describe
from covey.learning.further import further_learner
from covey.learning.jobs import Judge, Judged, Learned, Predictor, Shown
from covey.learning.learner import Learner
from covey.learning.mixing import levels, mix
from covey.learning.mixture import Mixture, computed
from covey.learning.optimizers import Slots
from covey.learning.protected import largest_update, mechanism_of
from covey.learning.rehearsal import Rehearsal
from covey.learning.running_node import RunningLearningNode
from covey.learning.shipping import common
from covey.learning.shipping import own as own_samples
from covey.learning.spread import Spread, answer
from covey.messages import wire
from covey.messages.payloads import Payload
from covey.parts.errors import ProgramError, RunError
from covey.parts.mechanisms import Mechanism
from covey.parts.parameters import Setting
from covey.parts.seeds import is_fresh
from covey.runtime.task import Crew, Gain, LoadedTask, Request

if TYPE_CHECKING:
    from covey.runtime.jobs import Job, Worker
    from covey.runtime.prepared import Prepared
    from covey.runtime.running_node import RunningNode
    from covey.runtime.stage import Stage

_MODELS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class LoadedLearning(LoadedTask):
    """A learner and the nodes that learn with it.

    Args:
        learner: computes trainings.
        request: the experiment and the nodes for which the task was loaded.
    """

    def __init__(self, learner: Learner, request: Request) -> None:
        self.learner = learner
        self.indices = {id: index for index, id in enumerate(request.holders)}
        """The index of each node that holds data, among those nodes."""
        self._evaluation = request.experiment.evaluation
        self._nodes = request.experiment.network.nodes
        self.device = learner.device
        self.node_bytes = 4 * learner.layout.size
        self.model_bytes = wire.size({"model": learner.first_model})
        self.mixtures: list[Mixture] = []
        """The mixtures that wait to be computed together."""
        self._program = request.experiment.program
        self.further: dict[str, Learner] = {}
        """The learners of the program's further networks."""
        self._predictors: dict[str, Predictor] = {}
        self._judges: dict[tuple[str, int | None], Judge] = {}
        self.own = learner.data.own
        """The samples of each node, if hosts have data of their own."""

    # ------------------------------------------------------------------ before the run

    def informed(self, setting: Setting) -> Setting:
        learner, counts = self.learner, None
        if learner.task.ldp is not None:
            learner.fresh_noise = is_fresh(learner.task.ldp.seeds, setting.clock)
        holders = list(self.indices)
        taken: tuple[int, ...] = ()
        held_out: tuple[int, ...] = ()
        if self.own is None:
            taken = tuple(learner.usual[1].tolist())
            held_out = tuple(map(len, learner.splits.validation))
        if self.own is None and learner.label_counts is not None:
            counts = np.zeros((self._nodes, learner.label_counts.shape[1]), dtype=np.int64)
            counts[holders] = learner.label_counts
        informed = replace(
            setting,
            parameters=learner.layout.size,
            pieces=tuple(learner.layout.pieces),
            sample_shape=tuple(learner.data.sample_shape),
            label_counts=counts,
            training_samples=taken,
            validation_samples=held_out,
            classes=learner.data.classes or 0,
            public_samples=len(learner.splits.public),
            protects_samples=learner.task.ldp is not None,
            largest_update=None if self.own is not None else largest_update(learner, setting.rounds),
        )
        if not self.further:
            networks = self._program.networks(informed)
            self.further = {name: further_learner(learner, name, further) for name, further in networks.items()}
        return informed

    def learner_of(self, name: str) -> Learner:
        """The learner of the nodes' model, or of a further network of the program.

        Raises:
            ProgramError: the program has no network of that name.
        """
        if name and name not in self.further:
            known = ", ".join(map(repr, self.further)) or "none"
            raise ProgramError(f"The program has no network {name!r}. Known: {known}.")
        return self.further[name] if name else self.learner

    @cached_property
    def _digests(self) -> dict[str, str]:
        if self.learner.shipped is not None:
            return self.learner.shipped.digests
        if self.own is not None:
            found = {"data": self.own.digest}
        else:
            found = {"data": digest(self.learner.data), "partition": self.learner.parts.digest()}
        if self.learner.task.start is not None:
            first = self.learner.first_model.cpu().numpy()
            found["start"] = f"sha256:{hashlib.sha256(first.tobytes()).hexdigest()}"
        return found

    def signature(self) -> dict[str, int | str]:
        return {"parameters": self.learner.layout.size, **self._digests}

    def facts(self) -> dict[str, Any]:
        learner = self.learner
        found = {"torch": torch.__version__, **self.signature()}
        metrics = list(learner.recipe.scoring.metrics)
        return {**found, "kernel": learner.kernel_name, "device": str(learner.device), "metrics": metrics}

    def description(self) -> dict[str, Any]:
        learner = self.learner
        sizes = learner.parts.sizes
        dealt = {"smallest_node": int(sizes.min()), "largest_node": int(sizes.max())}
        known = {"train": int(sizes.sum()), **dealt} if self.own is None else {}
        return {
            "parameters": learner.layout.size,
            "kernel": learner.kernel_name,
            "why_not": dict(learner.why_not),
            "loss": learner.task.loss.title(),
            "optimizer": learner.task.optimizer.title(),
            "precision": learner.task.precision,
            "augmentation": [part.title() for part in learner.task.augmentation],
            "metrics": list(learner.recipe.scoring.metrics),
            "samples": {"test": len(learner.data.test), **known},
            "model_bytes": self.model_bytes,
        }

    def mechanisms(self, setting: Setting) -> list[Mechanism]:
        stated = mechanism_of(self.learner, setting.rounds)
        if stated is not None and self.own is not None:
            stated = replace(stated, why_not="the hosts' numbers of samples are not known here")
        return [] if stated is None else [stated]

    def holdings(self) -> np.ndarray | None:
        return self.learner.parts.sizes if self.own is None else None

    def truth(self) -> dict[str, np.ndarray]:
        if self.own is not None or self.learner.data.stream is not None:
            return {}
        return {f"samples_of/{id}": self.learner.parts.of(index) for id, index in self.indices.items()}

    def rehearsals(self) -> list["LoadedLearning"]:
        found = []
        for alike in (True, False):
            task = copy.copy(self)
            task.learner, task.mixtures, task._judges = Rehearsal(self.learner, alike=alike), [], {}
            task.further = {name: Rehearsal(learner, alike=alike) for name, learner in self.further.items()}
            task._predictors = {}
            found.append(task)
        return found

    # ------------------------------------------------------------------ nodes

    def model_of(self, node: "RunningNode") -> Payload | None:
        assert isinstance(node, RunningLearningNode)
        # Of a copy: alone, a mixture may round otherwise than with others, and observing changes nothing.
        return {"model": computed(copy.copy(node.current))}

    def node(self, stage: "Stage", id: int) -> RunningLearningNode:
        return RunningLearningNode(stage, id, self, self.indices.get(id))

    def has_died_out(self, stage: "Stage") -> str | None:
        nodes = [stage.here[id] for id in self.indices if id in stage.here]
        if len(nodes) == len(self.indices) and all(node.mail.ended and node.mail.away for node in nodes):
            return (
                "The models of all nodes with data were dropped, because they were not finite: none is left to train."
            )
        return None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        # Two intra-op threads beside busy workers make a loop many times slower.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def begin_thread(self) -> None:
        torch.set_num_threads(1)

    def compute_pending(self, jobs: "MutableMapping[Worker, list[Job]] | None" = None) -> None:
        trainings: Any = jobs.pop(self.learner, []) if jobs else []
        mixtures, self.mixtures = self.mixtures, []
        for some, those in levels(mixtures, trainings):
            mix(some, self.learner)
            if those:
                self.learner.do(those)

    def may_defer(self, prepared: "Prepared") -> bool:
        """True if trainings may be computed after their time: nothing that decides on the run needs their numbers."""
        task = self.learner.task
        keeps = task.optimizer.state == "keep" and (bool(task.optimizer.slots()) or task.optimizer.steps_modules)
        free = task.ldp is None and task.non_finite == "stop" and not keeps
        return free and not prepared.in_step and prepared.experiment.observer is None

    def scale_learning_rate(self, round: int, factor: float) -> None:
        for learner in (self.learner, *self.further.values()):
            learner.rate_factors.append((round, factor))

    # ------------------------------------------------------------------ all nodes as arrays

    def against_arrays(self) -> str | None:
        learner = self.learner
        task, kept = learner.task, learner.task.optimizer.state == "keep"
        found = {
            "not every node holds data": len(self.indices) < self._nodes,
            "hosts have data of their own": self.own is not None,
            "samples come in streams": learner.streams is not None,
            "the task has 'ldp'": task.ldp is not None,
            "its 'non_finite' drops nodes": task.non_finite == "drop",
            "the model draws random numbers": learner.draws,
            "an optimizer of torch keeps its state": kept and task.optimizer.steps_modules,
            "models are not on the CPU": learner.device.type != "cpu",
            "the program has further networks": bool(self.further),
        }
        return next((why for why, is_so in found.items() if is_so), None)

    def bytes_of_arrays(self) -> tuple[int, int]:
        optimizer = self.learner.task.optimizer
        copies = 1 + (len(optimizer.slots()) if optimizer.state == "keep" else 0)
        return copies * self.node_bytes, (copies + 1) * self.node_bytes

    def models(self, *, spare: bool) -> Buffer:
        return Buffer(self.learner, lambda: self.judge("test").split, spare=spare)

    # ------------------------------------------------------------------ judging

    def judge(self, split: str, holder: int | None = None) -> Judge:
        """The judge of a split, from a cache."""
        split = self._of_nodes(split)
        key = (split, None if split == "test" else holder)
        if key not in self._judges:
            samples = self._evaluation.samples if split in ("test", "own") else None
            self._judges[key] = Judge(self.learner, self.learner.split(split, holder, samples))
        return self._judges[key]

    def _of_nodes(self, split: str) -> str:
        """The name of a split, where nodes may have test samples of their own alone."""
        return "own" if split == "test" and self.own is not None and not self.own.common else split

    def judged(self, ids: list[int]) -> list[int]:
        if self.own is None:
            return ids
        return sorted({*self.indices, *(ids if self.own.common else ())})

    def shown(self, node: "RunningNode") -> Tensor | Mixture | Judged | Shown:
        assert isinstance(node, RunningLearningNode)
        judged, node.judged = node.judged, None
        return (judged or node.current) if self.own is None else Shown(judged or node.current, node.holder)

    def ready(self, shown: Tensor | Mixture | Judged | Shown) -> None:
        computed(shown.model if isinstance(shown, Shown) else shown)

    def evaluate(self, shown: Sequence[Any]) -> list[dict[str, float]]:
        if self.own is not None:
            return self._evaluate_own(shown, self.own)
        return self._evaluate_on(shown, self.judge("test").split)

    def _evaluate_on(self, shown: Sequence[Any], split: Split) -> list[dict[str, float]]:
        models = [computed(one) for one in shown if not isinstance(one, Judged)]
        figures = iter(self.learner.evaluate(models, split))
        return [one.figures if isinstance(one, Judged) else next(figures) for one in shown]

    def _evaluate_own(self, shown: Sequence[Shown], own: Own) -> list[dict[str, float]]:
        """The metrics on each node's own test samples, beside those on the common ones or in their place."""
        found: list[dict[str, float]] = [{} for _ in shown]
        if own.common:
            found = self._evaluate_on([one.model for one in shown], self.judge("test").split)
        for index, one in enumerate(shown):
            if one.holder is not None:
                (figures,) = self._evaluate_on([one.model], self.judge("own", one.holder).split)
                named = {f"own_{name}": value for name, value in figures.items()}
                found[index] = {**(found[index] or figures), **named}
        return found

    def predictor(self, name: str) -> Predictor:
        """The predictor of the nodes' model, or of a further network, from a cache."""
        if name not in self._predictors:
            self._predictors[name] = Predictor(self.learner_of(name))
        return self._predictors[name]

    def handed(self, split: str, holder: int | None) -> np.ndarray:
        """The indices of a split's samples that a node gives to its program."""
        return self.learner.splits.indices(self._of_nodes(split), holder, self._evaluation.samples)

    def evaluation_samples(self) -> int:
        if self.own is not None and not self.own.common:
            return max(map(len, self.own.test))
        return len(self.judge("test").split)

    def summary(self, *, keeps: bool | None = None) -> Average:
        keeps = self._evaluation.average if keeps is None else keeps
        if self.own is not None and not self.own.common:
            return Average(self.learner, None, keeps=keeps)
        return Average(self.learner, lambda: self.judge("test").split, keeps=keeps)

    def check_share(self, frozen: Mapping[str, Any], nodes: int) -> bool:
        grades, keeps = frozen["accuracies"], self._evaluation.average
        right = all(self.check_frozen(name, frozen[name]) for name in ("total", "squares", "count", "accuracies"))
        shape = (self.learner.layout.size if keeps else 0,)
        right = right and 0 < len(grades) <= nodes and 0 <= frozen["count"] <= len(grades) * keeps
        return bool(right and frozen["total"].shape == shape)

    def check_frozen(self, name: str, value: Any) -> bool:
        if name == "total":
            return isinstance(value, Tensor) and value.shape in ((0,), (self.learner.layout.size,))
        if name == "accuracies":
            return isinstance(value, list) and all(type(one) is float for one in value)
        return type(value) is {"squares": float, "count": int}.get(name)

    # ------------------------------------------------------------------ checkpoints

    def initial(self, id: int) -> Learned:
        return Learned(self.learner.initial(id), None)

    def pack(self, learned: Sequence[Learned]) -> dict[str, Any]:
        payload: dict[str, Any] = {"models": torch.stack([computed(one.model) for one in learned]).cpu()}
        for index, one in enumerate(learned):
            for name, slot in (one.slots or {}).items():
                payload[f"slots/{index}/{name}"] = slot
        return payload

    def unpack(self, payload: Payload, count: int) -> list[Learned]:
        models: Any = payload["models"]
        slots: list[Slots] = [{} for _ in range(count)]
        for key, value in payload.items():
            family, _, rest = key.partition("/")
            index, _, name = rest.partition("/")
            if family == "slots" and isinstance(value, Tensor):
                # Those of all nodes may be in one tensor.
                rows = enumerate(torch.split(value, 1)) if index == "*" else [(int(index), value)]
                for node, row in rows:
                    slots[node][name] = row.to(self.device)
        return [
            Learned(model.to(self.device, copy=True), slot or None) for model, slot in zip(models, slots, strict=True)
        ]

    def check(self, payload: Payload, nodes: int) -> None:
        models, size = payload.get("models"), self.learner.layout.size
        if not isinstance(models, Tensor) or models.dtype not in _MODELS:
            raise RunError("'models' is missing, or not a tensor of floats")
        if models.shape != (nodes, size):
            shape = " x ".join(map(str, models.shape))
            raise RunError(f"'models' has the shape {shape}, not {nodes} x {size}")
        for name, value in payload.items():
            if name.startswith("slots/"):
                _, index, entry = [*name.split("/", 2), ""][:3]
                if not (entry and (index == "*" or (index.isdecimal() and int(index) < nodes))):
                    raise RunError(f"'{name}' does not belong to a node")
                if not isinstance(value, Tensor):
                    raise RunError(f"'{name}' is not a tensor")
                if index == "*" and value.shape[:1] != (nodes,):
                    raise RunError(f"'{name}' is not of {nodes} nodes")

    # ------------------------------------------------------------------ the end

    def kept(self, node: "RunningNode") -> Learned:
        assert isinstance(node, RunningLearningNode)
        return Learned(node.current, None)

    def layout(self) -> tuple[bytes, Mapping[str, np.ndarray]]:
        learner = self.learner
        found, constants = describe(learner.module(), learner.layout, learner.data, learner.task.model.title())
        return msgspec.json.encode(found), constants

    def result(self, learned: Sequence[Learned]) -> Tensor:
        return torch.stack([computed(one.model) for one in learned]).cpu()

    def common_shipment(self) -> Any:
        return common(self.learner, self._digests)

    def shipment(self, ids: Sequence[int]) -> Any:
        return own_samples(self.learner, [self.indices[id] for id in ids if id in self.indices])

    def spread(self, crew: Crew, *, here: int, always: bool = False) -> Gain:
        self.learner = spread = Spread(self.learner, crew, here=here, always=always)
        return spread.gain

    def answer(self, given: Any) -> Any:
        return answer(self.learner, given)

    def close(self) -> None:
        for learner in (self.learner, *self.further.values()):
            learner.close()
