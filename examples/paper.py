"""An experiment for a paper: your own algorithm, module, data set, loss and metric; three seeds, a table and a figure.

    python examples/paper.py

The algorithm is event-triggered gossip: a node sends its model only after it has moved far enough. After some seconds
`runs/paper` has the runs, and the current folder has `table.tex` (`\\input{table.tex}`) and `figure.pdf`.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import covey
from covey import Content, LearningNode, LearningProgram, NodeId, State, param
from covey.decentralized.topology import Topology
from covey.learning.node import MODEL

ROUNDS = 40
SEEDS = [1, 2, 3]


class Memory(State):
    sent: Tensor | None = None
    given: dict[NodeId, Tensor] = {}


class Moved(Content):
    model: Annotated[Tensor, MODEL] | None = None  # absent while the sender is silent


class Lazy(LearningProgram):
    """Gossip in which a node is silent while its model is near the one that it sent last, nearer in later rounds."""

    topology: Topology = param("The graph of a round, the same in all rounds.")
    far: float = param("The distance at which a node sends in round 0, as a share of the model's norm.", ge=0)

    async def run(self, node: LearningNode) -> None:
        memory = node.keep(Memory)  # checkpoints hold it
        async for t in node.rounds():
            graph = self.topology.at(t)
            model = (await node.train()).model
            is_far = memory.sent is None or (model - memory.sent).norm() > self.far / (t + 1) * model.norm()
            if is_far:
                memory.sent = model
            node.send(graph.receivers(node.id), Moved(model=model if is_far else None), round=t)
            inbox = await node.receive(round=t, senders=graph.senders(node.id))
            for moved in node.usable(inbox, Moved):
                if moved.model is not None:
                    memory.given[moved.sender] = moved.model
            known = [model, *memory.given.values()]
            node.model = sum(known) / len(known)


class Net(nn.Sequential):
    def __init__(self, hidden: int = 24) -> None:
        super().__init__(nn.Linear(8, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def clouds(samples: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """Points around three centres in eight dimensions; the third centre has few."""
    draw = np.random.default_rng(1)
    label = np.where(np.arange(samples) % 10 == 9, 2, np.arange(samples) % 2)
    centres = draw.normal(size=(3, 8))
    return 0.7 * centres[label] + draw.normal(size=(samples, 8)), label


def focal(outputs: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """The focal loss: samples that are classified well weigh less."""
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return (1 - (-losses).exp()) ** gamma * losses


def rare_recall(outputs: Tensor, targets: Tensor) -> float:
    """The share of the rare class that is found."""
    rare = targets == 2
    return float((outputs[rare].argmax(1) == 2).float().mean())


def main() -> None:
    graph = {"kind": "random-regular", "degree": 4}
    experiment = {
        "rounds": ROUNDS,
        "program": {"kind": "gossip", "topology": graph},
        "task": {
            "dataset": clouds(),
            "partition": {"kind": "dirichlet", "alpha": 0.5},
            "model": {"kind": Net, "hidden": 24},
            "loss": {"kind": focal, "gamma": 2.0},
            "metrics": ["macro-f1", {"kind": rare_recall}],
            "batch_size": 32,
            "optimizer": {"kind": "sgd", "lr": 0.2},
        },
        "network": {"nodes": 16, "latency": "20ms", "bandwidth": "10Mbit/s"},
        "evaluation": {"every": 5},
    }
    lazy = [{"kind": Lazy, "topology": graph, "far": far} for far in (0.2, 0.5)]
    over = {"program": [experiment["program"], *lazy], "seed": SEEDS}
    swept = covey.sweep(experiment, over, out="runs/paper", extend=True)
    names = ["D-PSGD", "lazy, 0.2", "lazy, 0.5"]
    table = covey.compare(swept, metrics=["accuracy", "macro_f1", "rare_recall"], labels=names)
    Path("table.tex").write_text(table.to("latex"))
    swept.plot("accuracy", "bytes", "figure.pdf", labels=names, titled=False, size=(4.2, 3.0))
    print(table.to("markdown"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
