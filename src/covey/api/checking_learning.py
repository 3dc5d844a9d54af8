"""The part of `covey check` about learning: model, data, graph, bytes."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from covey.decentralized.graphs import merging_graph, selection_of, topology_of
from covey.decentralized.topology import Edges, Topology
from covey.decentralized.topology.edges import save_edges
from covey.decentralized.topology.facts import facts
from covey.network.graph import Graph
from covey.parts import machine
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import to_table
from covey.runtime.prepared import Prepared
from covey.view.words import amount, counted


def described(prepared: Prepared, save_graph: Path | None) -> dict[str, Any]:
    """The facts of the shared part of the model and of the first graph. Save that graph if a file is given."""
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
        graph, rule = topology.of_fragments(0)[0], _rule(prepared)
        merging = merging_graph(prepared.program, 0, fragment=0) if rule == "given" else graph
        found["graph"] = asdict(facts(merging, rule, prepared.setting.label_counts))
        found["graph"]["changes"] = not topology.static
        found["graph"]["of_one_fragment"] = topology.fragments_of_models() > 1
        if save_graph is not None:
            found["saved_graph"] = _save(graph, topology, save_graph)
        contraction = topology.contraction() if _mixes_as_drawn(rule, merging, graph) else None
        if contraction is not None:
            found["graph"]["expected_contraction"] = contraction
    return found


def _rule(prepared: Prepared) -> str | None:
    """The rule of merging, for `facts`; None if weights depend on the values."""
    return None if merging_graph(prepared.program, 0, fragment=0).weights is None else "given"


def _mixes_as_drawn(rule: str | None, merging: Graph, graph: Graph) -> bool:
    """True if models are merged with the topology's own weights, if it has any."""
    if graph.weights is None:
        return rule is not None
    return rule == "given" and merging.weights is not None and np.array_equal(merging.weights, graph.weights)


def in_words(prepared: Prepared, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """These facts, and those of data and model, in words: pairs of a subject and a sentence."""
    experiment, selection = prepared.experiment, selection_of(prepared.program)
    samples = found["samples"]
    loss = "the task's own loss" if found["loss"] == "own" else f"the loss {found['loss']}"
    yield ("model", f"{found['parameters']:,} parameters; the kernel {found['kernel']} minimises {loss}")
    if found["why_not"]:
        reasons = dict.fromkeys(found["why_not"].values())
        kernels = {reason: [name for name, one in found["why_not"].items() if one == reason] for reason in reasons}
        yield ("kernel", "; ".join(f"not {' or '.join(names)}: {reason}" for reason, names in kernels.items()))
    if found["precision"] != "float32":
        slow = prepared.task.device.type == "cpu" and machine.multiplies_bf16() is False
        pays = "; it saves no time here: this processor has no instructions for bfloat16, such as AMX" if slow else ""
        yield ("precision", f"training computes in {found['precision']}; models and evaluations are float32{pays}")
    if found["augmentation"]:
        yield ("batches", f"augmented for training by {', '.join(found['augmentation'])}")
    if found["metrics"]:
        yield ("metrics", ", ".join(found["metrics"]))
    if found["sends_samples"]:
        yield ("privacy", "THE NODES OF THIS PROGRAM SEND SAMPLES OF THEIR DATA")
    train = "training samples on their hosts only"
    if "train" in samples:
        train = (
            f"{samples['train']:,} training samples, {samples['smallest_node']} to {samples['largest_node']} per node"
        )
    yield ("data", f"{train}; {samples['test']:,} test samples")
    if "graph" in found:
        yield ("graph", _graph_in_words(found["graph"]))
        if found["graph"]["node_heterogeneity"] is not None:
            yield ("labels", _labels_in_words(found["graph"]))
    expected = found["bytes_per_node_and_round"]
    if "saved_graph" in found:
        inside = ", ".join(f"{key} = {json.dumps(value)}" for key, value in found["saved_graph"].items())
        yield ("saved", f"topology = {{ {inside} }}")
    yield ("messages", f"{amount(found['model_bytes'])} with a whole model")
    if selection is not None and "shared" in found:
        yield ("shared", f"{amount(found['shared']['bytes'])} with {selection.in_words()}")
    if expected is None:
        yield ("bytes", f"not counted: {prepared.played.why_not}")
    else:
        nodes = experiment.network.nodes
        yield (
            "bytes",
            f"{amount(expected)} per node and round, {amount(expected * nodes)} per round, "
            f"{amount(expected * nodes * experiment.rounds)} in a run of {counted(experiment.rounds, 'round')}, "
            f"counted in the first {prepared.played.rounds} without training",
        )


def _save(graph: Graph, topology: Topology, file: Path) -> dict[str, Any]:
    """Write a graph to a file, and return the table of the topology that reads it."""
    if not topology.static:
        raise ConfigurationError(
            f"A saved graph must be the same in every round, but {topology.title()} draws a new one."
        )
    return to_table(Edges(file=file, directed=save_edges(graph, file)))


def _labels_in_words(graph: dict[str, Any]) -> str:
    alone = f"squared distance of a node's class shares from the mean ones: {graph['node_heterogeneity']:.4g} alone"
    if graph["neighbourhood_heterogeneity"] is None:
        return alone
    which = " in the first graph" if graph["changes"] else ""
    return f"{alone}, {graph['neighbourhood_heterogeneity']:.4g} averaged with its senders{which}"


_ELSEWHERE = (
    *("nodes", "edges", "directed", "components", "changes", "of_one_fragment"),
    *("node_heterogeneity", "neighbourhood_heterogeneity"),
)
"""Facts of a graph that have their own words, instead of their names."""


def _graph_in_words(graph: dict[str, Any]) -> str:
    parts = [
        ("the first of many: " if graph["changes"] else "")
        + ("one fragment's: " if graph["of_one_fragment"] else "")
        + f"{counted(graph['nodes'], 'node')}, "
        + counted(graph["edges"], "directed edge" if graph["directed"] else "edge")
    ]
    parts.append("connected" if graph["components"] == 1 else f"{graph['components']} components")
    for name, value in graph.items():
        if name not in _ELSEWHERE and value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value).lower()
            parts.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(parts)
