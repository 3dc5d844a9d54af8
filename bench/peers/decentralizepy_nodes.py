"""The processes of DecentralizePy, as the driver of its tutorial starts them: one for each node."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from decentralizepy.graphs.Graph import Graph
from decentralizepy.mappings.Linear import Linear
from decentralizepy.node.DPSGDNode import DPSGDNode
from localconfig import LocalConfig
from torch import multiprocessing
from torchvision.datasets import CIFAR10


def accept(files: Path) -> None:
    """Let torchvision take batches that were written from the binary release, whose digests are others."""

    def listed(names: Sequence[str]) -> list[list[str]]:
        return [[name, hashlib.md5((files / name).read_bytes()).hexdigest()] for name in names]

    CIFAR10.train_list = listed([f"data_batch_{number}" for number in range(1, 6)])
    CIFAR10.test_list = listed(["test_batch"])
    CIFAR10.meta = {**CIFAR10.meta, "md5": listed(["batches.meta"])[0][1]}


def main(folder: Path, rounds: int) -> None:
    """Start a process for each node of the graph, and wait for their ends."""
    accept(folder / CIFAR10.base_folder)
    config = LocalConfig(str(folder / "config.ini"))
    tables = {section: dict(config.items(section)) for section in config}
    graph = Graph()
    nodes = graph.read_graph_from_file(folder / "graph.edges", "edges")
    processes = [
        multiprocessing.Process(
            target=DPSGDNode,
            args=(rank, 0, Linear(1, nodes), graph, tables, rounds, folder, folder, logging.INFO, rounds + 1, 0, 0),
        )
        for rank in range(nodes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
