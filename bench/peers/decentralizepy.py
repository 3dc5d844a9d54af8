"""D-PSGD of DecentralizePy: a process for each node, GN-LeNet on CIFAR-10, Metropolis-Hastings weights on one graph."""

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import sleep, time
from typing import Any

import numpy as np
import tomli_w
import torch
from torch import Tensor

from bench.emulation import memory_of_all
from bench.peers.cases import quality
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import prepare
from covey.runtime.task import data_folder

NODES, DEGREE, ROUNDS, STEPS, BATCH, LR = 16, 4, 60, 3, 8, 0.01
ENGINES: dict[str, dict[str, Any]] = {
    "simulation": {"kind": "simulation"},
    "emulation, 2 hosts": {"kind": "emulation", "nodes_per_process": NODES // 2},
    f"emulation, {NODES} hosts": {"kind": "emulation", "nodes_per_process": 1},
}
RECORD = 3073
"""The bytes of a label and its picture in the binary release."""


@dataclass
class Measured:
    """One run.

    Attributes:
        rate: rounds of nodes in a second, from the end of the first round of all to the beginning of the last.
        first: seconds until the first round of all nodes was over.
        memory: the most memory of all processes together (PSS), in bytes.
        accuracy: the accuracy of one node's model after the last round.
    """

    rate: float
    first: float
    memory: int
    accuracy: float


def experiment(engine: dict[str, Any], graph: Path) -> dict[str, Any]:
    """The same work in covey. One node is evaluated once, after the last round."""
    return {
        "rounds": ROUNDS,
        "program": {"kind": "gossip", "topology": {"kind": "edges", "file": str(graph)}},
        "task": {
            "dataset": "cifar10",
            "model": "gn-lenet",
            "batch_size": BATCH,
            "local_steps": STEPS,
            "optimizer": {"kind": "sgd", "lr": LR},
        },
        "network": {"nodes": NODES, "compute": 1e9},
        "evaluation": {"every": ROUNDS, "nodes": 1, "average": False},
        "engine": engine,
    }


def write_graph(file: Path) -> None:
    """Write a graph that covey draws as lines of two nodes."""
    topology = {"kind": "random-regular", "degree": DEGREE}
    table = {**experiment({"kind": "simulation"}, file), "task": {"dataset": "digits", "model": "logistic"}}
    setup = prepare(Experiment.from_table({**table, "program": {"kind": "gossip", "topology": topology}}))
    graph = setup.experiment.program.topology.at(0)
    setup.task.learner.close()
    pairs = [(node, peer) for node in range(NODES) for peer in graph.receivers(node) if node < peer]
    file.write_text("".join(f"{node} {peer}\n" for node, peer in pairs))


# ---------------------------------------------------------------------- DecentralizePy


def write_batches(folder: Path) -> None:
    """Write the batches of CIFAR-10 as Python pickles, as torchvision reads them, from the binary release."""
    own = data_folder(None) / "cifar-10-batches-bin"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = np.frombuffer((own / f"{name}.bin").read_bytes(), dtype=np.uint8).reshape(-1, RECORD)
        batch = {"labels": records[:, 0].tolist(), "data": records[:, 1:].copy()}
        (folder / name).write_bytes(pickle.dumps(batch))
    names = (own / "batches.meta.txt").read_text().split()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))


def write_config(folder: Path) -> None:
    """Write the keys of DecentralizePy's tutorial, with the work that covey does."""
    tables = {
        "DATASET": {
            "dataset_package": "decentralizepy.datasets.CIFAR10", "dataset_class": "CIFAR10", "model_class": "LeNet",
            "train_dir": folder, "test_dir": folder, "sizes": "", "random_seed": 90, "partition_niid": False,
        },
        "OPTIMIZER_PARAMS": {"optimizer_package": "torch.optim", "optimizer_class": "SGD", "lr": LR},
        "TRAIN_PARAMS": {
            "training_package": "decentralizepy.training.Training", "training_class": "Training", "rounds": STEPS,
            "full_epochs": False, "batch_size": BATCH, "shuffle": True, "loss_package": "torch.nn",
            "loss_class": "CrossEntropyLoss",
        },
        "COMMUNICATION": {
            "comm_package": "decentralizepy.communication.TCP", "comm_class": "TCP",
            "addresses_filepath": folder / "addresses.json",
        },
        "SHARING": {"sharing_package": "decentralizepy.sharing.Sharing", "sharing_class": "Sharing"},
    }  # fmt: skip
    lines = [
        line for name, keys in tables.items() for line in (f"[{name}]", *(f"{key} = {keys[key]}" for key in keys), "")
    ]
    (folder / "config.ini").write_text("\n".join(lines))
    (folder / "addresses.json").write_text(json.dumps({"0": "127.0.0.1"}))


def by_decentralizepy(graph: Path) -> Measured:
    """One run of its nodes. Their logs say when rounds began."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_batches(folder / "cifar-10-batches-py")
        write_config(folder)
        (folder / "graph.edges").write_text(f"{NODES}\n{graph.read_text()}")
        command = [sys.executable, "-W", "ignore", "-m", "bench.peers.decentralizepy_nodes", name, str(ROUNDS)]
        began, memory = watched(command)
        second, last = (max(_starts(folder / f"{rank}.log", t) for rank in range(NODES)) for t in (1, ROUNDS - 1))
        accuracy = _accuracy(torch.load(folder / f"{ROUNDS - 1}_weight_0.pt"), graph)
    return Measured(NODES * (ROUNDS - 2) / (last - second), second - began, memory, accuracy)


def _accuracy(state: dict[str, Tensor], graph: Path) -> float:
    """The accuracy of a model on all test samples, by covey."""
    setup = prepare(Experiment.from_table(experiment({"kind": "simulation"}, graph)))
    accuracy, _ = quality(setup, torch.cat([values.flatten() for values in state.values()]).unsqueeze(0))
    setup.task.learner.close()
    return accuracy


def _starts(log: Path, t: int) -> float:
    """The time at which a node began a round, as in "[2026-01-31 12:00:00,123][DPSGDNode][INFO] ...: 7"."""
    (line,) = [line for line in log.read_text().splitlines() if line.endswith(f"Starting training iteration: {t}")]
    return datetime.strptime(line[1:24], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def watched(command: list[str]) -> tuple[float, int]:
    """The time at which a process was started, and the most memory that it and its children took."""
    began, memory = time(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        memory = max(memory, memory_of_all(process.pid))
        sleep(0.1)
    assert process.returncode == 0, f"exit code {process.returncode}"
    return began, memory


# ---------------------------------------------------------------------- covey

RUN = """
import json, sys, time, tomllib, covey
ends = {}
def note(progress):
    ends.setdefault(progress.commits, time.time())
run = covey.run(tomllib.load(open(sys.argv[1], 'rb')), out=sys.argv[2], progress=note)
last = run.metrics[run.metrics['round'] == run.metrics['round'].max()]
json.dump({'ends': ends, 'accuracy': float(last['accuracy'].mean())}, open(sys.argv[3], 'w'))
"""


def by_covey(engine: dict[str, Any], graph: Path) -> Measured:
    """One run of covey in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "e.toml").write_text(tomli_w.dumps(experiment(engine, graph)))
        began, memory = watched(
            [sys.executable, "-c", RUN, *(str(folder / each) for each in ("e.toml", "run", "result.json"))]
        )
        result = json.loads((folder / "result.json").read_text())
    ends = {int(commits): at for commits, at in result["ends"].items()}
    first = min(commits for commits in ends if commits >= NODES)
    last = max(commits for commits in ends if commits <= NODES * (ROUNDS - 1))
    rate = (last - first) / (ends[last] - ends[first])
    return Measured(rate, ends[first] - began, memory, result["accuracy"])


# ---------------------------------------------------------------------- rows


def rows() -> Iterator[list[str]]:
    """The rows of DecentralizePy: one run of each, three times in turn, and of each figure the median."""
    with tempfile.TemporaryDirectory() as name:
        graph = Path(name) / "graph.edges"
        write_graph(graph)
        makers: dict[str, Callable[[], Measured]] = {"": lambda: by_decentralizepy(graph)}
        for engine, table in ENGINES.items():
            makers[engine] = lambda table=table: by_covey(table, graph)
        runs = {maker: [] for maker in makers}
        for _ in range(3):
            for maker, make in makers.items():
                runs[maker].append(make())
    peer = median_of(runs.pop(""))
    for engine, found in runs.items():
        ours = median_of(found)
        title = f"decentralizepy {version('decentralizepy')}, GN-LeNet on CIFAR-10, {NODES} nodes; covey's {engine}"
        detail = (
            f"{ours.rate:.1f} against {peer.rate:.1f} node-rounds/s; the first round after {ours.first:.1f} against "
            f"{peer.first:.1f} s; {ours.memory / 1e6:,.0f} against {peer.memory / 1e6:,.0f} MB (PSS); accuracy "
            f"{ours.accuracy:.1%} against {peer.accuracy:.1%} after {ROUNDS} rounds"
        )
        yield [f"{title}: covey is faster by", f"{ours.rate / peer.rate:.2f}", "", detail]


def median_of(runs: list[Measured]) -> Measured:
    """The median of each figure."""
    figures = np.median([[run.rate, run.first, run.memory, run.accuracy] for run in runs], axis=0)
    return Measured(float(figures[0]), float(figures[1]), int(figures[2]), float(figures[3]))
