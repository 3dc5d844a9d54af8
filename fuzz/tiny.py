"""Experiments that take milliseconds: real programs on nodes that learn next to nothing."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from covey import Node, Program
from covey.learning.loaded import LoadedLearning
from covey.learning.mixture import Mixture, computed
from covey.learning.node import LearningNode, LearningProgram, Update
from covey.parts.nodes import NodeId
from covey.runtime.experiment import Experiment
from covey.runtime.node import Message
from covey.runtime.prepared import Prepared, prepare

NODES, HOSTS, ROUNDS = 4, 3, 7
TOKEN = b"a secret that only this process holds"


class Learner:
    """Learns next to nothing, very fast.

    Args:
        real: whose models and data it pretends to work with.
    """

    at_once, soon = 64, 8

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def cost(self, training: Any) -> int:
        return 8

    def do(self, trainings: Sequence[Any]) -> None:
        for training in trainings:
            training.start = computed(training.start)
            change = ((training.holder * 13 + training.round * 7 + training.call) % 11) / 11
            model = training.start.mul(0.75).add_(change)
            training.update = Update(model, training.start, change, 8, 1)

    def split(self, name: str, holder: int | None = None, samples: int | None = None) -> Any:
        return (0,) * 8

    def evaluate(self, models: Sequence[torch.Tensor], split: Any) -> list[dict[str, float]]:
        return [{"accuracy": float(model.sum()), "loss": float(model[0])} for model in models]

    def close(self) -> None:
        pass


class Counts(Program):
    """Every node sends a numbered message to another in each round, and keeps the numbers of all that come."""

    async def run(self, node: Node) -> None:
        node.state.setdefault("had", [])
        async for t in node.rounds():
            node.send(NodeId((node.id + 1 + t % (node.nodes - 1)) % node.nodes), {"number": t}, tag="count")
            await node.sleep(0.02 * (1 + (node.id + t) % 3))
            self._keep(node, node.arrived(tag="count"))
        left = ROUNDS - len(node.state["had"])  # type: ignore[arg-type]
        if left:
            self._keep(node, await node.receive(tag="count", count=left))

    @staticmethod
    def _keep(node: Node, messages: Sequence[Message]) -> None:
        had: Any = node.state["had"]
        node.state["had"] = [*had, *(message["number"] for message in messages)]


class Serves(Counts):
    """The first node ends at once and answers the others, which ask it in each round."""

    async def run(self, node: Node) -> None:
        node.state.setdefault("had", [])

        async def answer(message: Message) -> None:
            await node.sleep(0.01)
            if message.sender == 1:
                self._keep(node, [message])
            node.send(message.sender, {"number": message["number"]}, tag="answer")

        if not node.id:
            node.serve("question", answer)
            return
        async for t in node.rounds():
            node.send(NodeId(0), {"number": t}, tag="question")
            self._keep(node, await node.receive(tag="answer", count=1))
            await node.sleep(0.01 * node.id)


class Waits(LearningProgram):
    """Nodes average around a ring; the first one only collects what they report, and ends with the average of that."""

    evaluated_roles = frozenset({"peer"})

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [0], "peer": range(1, nodes)}

    async def run(self, node: LearningNode) -> None:
        others = [NodeId(id) for id in range(1, node.nodes)]
        if not node.id:
            for _ in range(ROUNDS):
                reports = sorted(await node.receive(tag="report", senders=others), key=lambda report: report.sender)
                models = [node.model, *(report["model"] for report in reports)]
                node.model = Mixture(models, [1 / len(models)] * len(models))
            return
        after, before = others[node.id % len(others)], others[node.id - 2]
        async for t in node.rounds():
            model = (await node.train()).model
            node.send(after, {"model": model}, round=t)
            (message,) = await node.receive(round=t, senders=[before])
            node.model = Mixture([model, message["model"]], [0.5, 0.5])
            node.send(NodeId(0), {"model": node.model}, tag="report")


GOSSIP = {"kind": "gossip", "topology": "ring"}
PATIENT = {**GOSSIP, "patience": "300ms"}
SERVED = {"kind": "fedavg", "clients": 3}
COUNTS = {"kind": "fuzz.tiny:Counts"}
SERVES = {"kind": "fuzz.tiny:Serves"}
WAITS = {"kind": "fuzz.tiny:Waits"}


@dataclass(frozen=True, eq=False)
class Variant:
    """One experiment."""

    name: str
    program: dict[str, Any]
    checkpoint: dict[str, Any]
    remote: bool = False
    """Whether its hosts were started by somebody else."""
    engine: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether nodes count messages, and learn nothing."""
        return self.program in (COUNTS, SERVES)

    @property
    def idles(self) -> bool:
        """Whether the first node completes no round."""
        return self.program in (SERVES, WAITS)

    @property
    def waits(self) -> bool:
        """Whether a node waits in its first round, and the others go on without it."""
        return self.program is WAITS

    @property
    def tables(self) -> dict[str, Any]:
        engine: dict[str, Any] = {"kind": "emulation", "nodes_per_process": 2}
        if self.remote:
            engine = {"kind": "emulation", "hosts": [f"127.0.0.1:{9000 + number}" for number in range(HOSTS)]}
            engine |= {"token_file": str(_token_file()), "wait": "60s"}
        tables = {
            "name": self.name,
            "rounds": ROUNDS,
            "program": self.program,
            "network": {"nodes": NODES, "latency": "2ms", "bandwidth": "10Mbit/s", "compute": 100.0, **self.network},
            "evaluation": {"every": 4},
            "checkpoint": self.checkpoint,
            "engine": {**engine, **self.engine},
        }
        return tables if self.counts else {**tables, "task": _TASK}


_TASK = {
    "dataset": {"kind": "linear-regression", "samples": 60, "test_samples": 8, "features": 2},
    "model": "linear",
    "batch_size": 8,
}

VARIANTS = (
    Variant("gossip", GOSSIP, {"every": 3}),
    Variant("gossip-one", GOSSIP, {"every": 2, "keep": 1}),
    Variant("gossip-none", GOSSIP, {"every": 0}),
    Variant("gossip-by-time", GOSSIP, {}),
    Variant("gossip-remote", GOSSIP, {"every": 3}, remote=True),
    Variant("served", SERVED, {"every": 3}),
    Variant("patient", PATIENT, {"every": 3}),
    Variant("patient-remote", PATIENT, {}, remote=True),
    Variant("apart", GOSSIP, {"every": 1}, engine={"nodes_per_process": 1}),
    Variant("asynchronous", {"kind": "gossip-learning", "topology": "complete", "period": "50ms"}, {"every": 2}),
    Variant("counts", COUNTS, {"every": 1}),
    Variant("counts-slowly", COUNTS, {"every": 2, "keep": 1}, network={"latency": "90ms", "uplink": "4kbit/s"}),
    Variant("counts-by-time", COUNTS, {}, network={"latency": 0.0}, remote=True),
    Variant("counts-apart", COUNTS, {"every": 1}, engine={"nodes_per_process": 1}, network={"latency": "30ms"}),
    Variant("serves", SERVES, {"every": 1}),
    Variant("serves-by-time", SERVES, {}, network={"latency": "30ms"}, remote=True),
    Variant("waits", WAITS, {"every": 1}),
    Variant("waits-by-time", WAITS, {}, network={"latency": "30ms"}),
    Variant("asynchronous-by-time", {"kind": "ad-psgd", "topology": "ring", "patience": "100ms"}, {}),
)


@cache
def _token_file() -> Path:
    path = Path(tempfile.mkdtemp(prefix="covey-fuzz-")) / "token"
    path.touch(mode=0o600)
    path.write_bytes(TOKEN)
    return path


@cache
def prepared(variant: Variant) -> Prepared:
    """The experiment, ready to run."""
    made = prepare(Experiment.from_table(variant.tables), workers=1)
    if isinstance(made.task, LoadedLearning):
        made.task.learner = Learner(made.task.learner)  # type: ignore[assignment]
    return made
