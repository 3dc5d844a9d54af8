"""Graphs in files with one edge per line."""

import math
from pathlib import Path

import numpy as np

from covey.decentralized.topology.topology import Topology
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError, RunError
from covey.parts.parameters import Setting, param


class Edges(Topology):
    """A graph from a file with one edge per line: two node ids and, optionally, the weight of the edge."""

    kind = "edges"
    file: Path = param("The file. Text after # is a comment. A single node on a line is a node without edges.")
    directed: bool = param("Whether edges are one-way, from the first node to the second.", default=False)

    @property
    def weighted(self) -> bool:  # type: ignore[override]
        """True if the first edge has a weight. False for an unreadable file, which `check` refuses."""
        try:
            with open(self.file, encoding="utf-8") as lines:
                return next((len(words) == 3 for line in lines if len(words := _words(line)) > 1), False)
        except (OSError, UnicodeDecodeError):
            return False

    def one_way(self) -> bool:
        return self.directed

    def check(self, setting: Setting) -> None:
        super().check(setting)
        nodes = setting.nodes
        try:
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            where = f"The 'file' of {self.named()}, '{self.file}',"
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigurationError(f"{where} cannot be read: {why}.") from error
        edges: dict[tuple[int, int], float | None] = {}
        known = np.zeros(nodes, dtype=bool)
        for number, line in enumerate(lines, 1):
            words = _words(line)
            if words:
                ends, weight = self._parse(words, number, line, nodes)
                known[ends] = True
                if len(ends) == 2:
                    left, right = ends
                    if edges.setdefault((left, right), weight) != weight:
                        raise ConfigurationError(
                            f"Line {number} of '{self.file}' must give the edge {left} {right} the weight of an "
                            f"earlier line, {edges[left, right]}. Got {line!r} instead."
                            + ("" if self.directed else " With directed = true, each direction has its own weight.")
                        )
                    if not self.directed:
                        edges[right, left] = weight
        weighted = {weight is not None for weight in edges.values()}
        if len(weighted) > 1:
            raise ConfigurationError(f"The file '{self.file}' gives weights to some edges and not to others.")
        if not known.all() and nodes > 1:
            raise ConfigurationError(f"The file '{self.file}' has no edge of node {known.argmin()} (nodes is {nodes}).")
        pairs = np.array(list(edges), dtype=np.int64).reshape(-1, 2)
        weights = np.array(list(edges.values()), dtype=np.float64) if weighted == {True} else None
        self._graph = Graph(nodes, pairs[:, 0], pairs[:, 1], weights)

    def _parse(self, words: list[str], number: int, line: str, nodes: int) -> tuple[list[int], float | None]:
        try:
            ends = [int(word) for word in words[:2]]
            weight = float(words[2]) if len(words) > 2 else None
            valid = len(words) <= 3 and len(set(ends)) == len(ends) and all(0 <= end < nodes for end in ends)
            valid = valid and (weight is None or math.isfinite(weight))
        except ValueError:
            valid = False
        if not valid:
            raise ConfigurationError(
                f"Line {number} of '{self.file}' must be two different node ids in [0, {nodes}) and perhaps a weight, "
                f"or one without edges. Got {line!r} instead."
            )
        return ends, weight

    def draw(self, setting: Setting, t: int) -> Graph:
        return self._graph


def _words(line: str) -> list[str]:
    return line.partition("#")[0].split()


def save_edges(graph: Graph, file: Path) -> bool:
    """Write a graph, with exact weights, to a file for the topology `edges`.

    Returns:
        The parameter `directed` of `edges`. A pair with different weights is two directed edges.

    Raises:
        RunError: the file cannot be written.
    """
    weight_of = dict.fromkeys(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True), "")
    if graph.weights is not None:
        weight_of = dict(zip(weight_of, (f" {weight!r}" for weight in graph.weights.tolist()), strict=True))
    directed = any(weight_of.get((right, left)) != weight for (left, right), weight in weight_of.items())
    listed = [
        f"{left} {right}{weight}" for (left, right), weight in sorted(weight_of.items()) if directed or left < right
    ]
    alone = np.flatnonzero(graph.in_degrees + graph.out_degrees == 0).tolist()
    columns = "from to" if directed else "two nodes"
    if graph.weights is not None:
        columns += (
            ", and the weight of the second in the first" if directed else ", and the weight of each in the other"
        )
    try:
        file.write_text("\n".join([f"# {columns}", *listed, *map(str, alone), ""]), encoding="utf-8")
    except OSError as error:
        raise RunError(f"The file {file} cannot be written: {error.strerror}.") from error
    return directed
