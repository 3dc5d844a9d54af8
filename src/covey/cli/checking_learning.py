"""What `covey check` says of what nodes learn, and of whom they learn it from."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from covey.cli.tables import say
from covey.decentralized.graphs import merging_graph, selection_of, topology_of
from covey.decentralized.topology import Edges, Topology
from covey.decentralized.topology.edges import save_edges
from covey.decentralized.topology.facts import facts
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import to_table
from covey.runtime.prepared import Prepared
from covey.view.words import amount


def described(prepared: Prepared, save_graph: Path | None) -> dict[str, Any]:
    """What is shared, and the graph of the first round; that is saved, where somebody asks for it."""
    found: dict[str, Any] = {"sends_samples": prepared.sends_samples}
    selection = selection_of(prepared.program)
    if selection is not None and not selection.is_whole:
        found["shared"] = {
            "trained": selection.trained,
            "buffers": selection.buffered,
            "tensors": [piece.name for piece in selection.tensors],
            "bytes": selection.part_bytes(prepared.task.model_bytes) + selection.beside_bytes(),
        }
    topology = topology_of(prepared.program)
    if save_graph is not None and topology is None:
        raise ConfigurationError(f"The program {prepared.program.title()} has no graph to save.")
    if topology is not None:
        graph, rule = topology.at(0), _rule(prepared)
        merging = merging_graph(prepared.program, 0) if rule == "given" else graph
        found["graph"] = asdict(facts(merging, rule, prepared.setting.label_counts))
        found["graph"]["changes"] = not topology.static
        if save_graph is not None:
            found["saved_graph"] = _save(graph, topology, save_graph)
        contraction = topology.contraction() if _mixes_as_drawn(rule, merging, graph) else None
        if contraction is not None:
            found["graph"]["expected_contraction"] = contraction
    return found


def _rule(prepared: Prepared) -> str | None:
    """How the program mixes over its graph, as `facts` takes it; None where no weights are known beforehand."""
    return None if merging_graph(prepared.program, 0).weights is None else "given"


def _mixes_as_drawn(rule: str | None, merging: Graph, graph: Graph) -> bool:
    """Whether models are merged with the weights that the topology has, where it has some."""
    if graph.weights is None:
        return rule is not None
    return rule == "given" and merging.weights is not None and np.array_equal(merging.weights, graph.weights)


def say_what_is_learned(prepared: Prepared, found: dict[str, Any]) -> None:
    """The same in words, with what the data and the model are."""
    experiment, selection = prepared.experiment, selection_of(prepared.program)
    samples = found["samples"]
    objective = "the task's own loss" if found["objective"] == "own" else f"the objective {found['objective']}"
    say(f"model       {found['parameters']:,} parameters; the kernel {found['kernel']} minimises {objective}")
    if found["sends_samples"]:
        say("privacy     THE NODES OF THIS PROGRAM SEND SAMPLES OF THEIR DATA")
    say(
        f"data        {samples['train']:,} training samples, {samples['smallest_node']} to "
        f"{samples['largest_node']} a node; {samples['test']:,} test samples"
    )
    if "graph" in found:
        say("graph       " + _in_words(found["graph"]))
        if found["graph"]["node_heterogeneity"] is not None:
            say("labels      " + _labels_in_words(found["graph"]))
    expected = found["bytes_per_node_and_round"]
    if "saved_graph" in found:
        inside = ", ".join(f"{key} = {json.dumps(value)}" for key, value in found["saved_graph"].items())
        say(f"saved       topology = {{ {inside} }}")
    say(f"messages    {amount(found['model_bytes'])} with a whole model")
    if selection is not None and "shared" in found:
        say(f"shared      {amount(found['shared']['bytes'])} with {selection.in_words()}")
    if expected is None:
        say(f"bytes       not counted: {prepared.played.why_not}")
    else:
        nodes = experiment.network.nodes
        say(
            f"bytes       {amount(expected)} a node and round, {amount(expected * nodes)} a round, "
            f"{amount(expected * nodes * experiment.rounds)} in all {experiment.rounds} rounds, "
            f"counted in the first {prepared.played.rounds} without training"
        )


def _save(graph: Graph, topology: Topology, file: Path) -> dict[str, Any]:
    """Write a graph down for later runs: the topology that reads it."""
    if not topology.static:
        raise ConfigurationError(
            f"A graph that is saved must stay as it is, but {topology.title()} draws another one in every round."
        )
    return to_table(Edges(file=file, directed=save_edges(graph, file)))


def _labels_in_words(graph: dict[str, Any]) -> str:
    alone = f"squared distance of a node's class shares from the mean ones: {graph['node_heterogeneity']:.4g} alone"
    if graph["neighbourhood_heterogeneity"] is None:
        return alone
    which = " in the first graph" if graph["changes"] else ""
    return f"{alone}, {graph['neighbourhood_heterogeneity']:.4g} mixed with those it hears{which}"


_ELSEWHERE = (
    *("nodes", "edges", "directed", "components", "changes"),
    *("node_heterogeneity", "neighbourhood_heterogeneity"),
)
"""Facts of a graph that are not said by their names."""


def _in_words(graph: dict[str, Any]) -> str:
    parts = [
        ("the first of many: " if graph["changes"] else "")
        + f"{graph['nodes']:,} nodes, {graph['edges']:,} {'directed ' if graph['directed'] else ''}edges"
    ]
    parts.append("connected" if graph["components"] == 1 else f"{graph['components']} components")
    for name, value in graph.items():
        if name not in _ELSEWHERE and value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value).lower()
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)
