"""`covey check`."""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from covey.cli.running import read
from covey.cli.tables import print_json, say
from covey.decentralized.topology import Edges, Graph, Topology
from covey.decentralized.topology.edges import save_edges
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import to_table
from covey.runtime.experiment import Experiment
from covey.runtime.prepared import notes_on_cycles, prepare, selection_of
from covey.runtime.runs import Run, examine
from covey.runtime.runs.schema import SUMS
from covey.view.words import amount


def check(arguments: argparse.Namespace) -> int:
    """Validate an experiment, and say what it means."""
    from covey.decentralized.topology.facts import facts

    if arguments.file.is_dir():
        return _check_run(arguments)
    experiment = Experiment.from_table(read(arguments))
    settings = {**experiment.engine.compute_settings(), "workers": 1}
    prepared = prepare(experiment, data=arguments.data, quiet=arguments.json, **settings)
    resolved = experiment.to_table()
    found: dict[str, Any] = {
        "experiment": resolved,
        "parameters": prepared.learner.layout.size,
        "kernel": prepared.learner.kernel_name,
        "samples": {
            "train": int(prepared.learner.parts.sizes.sum()),
            "test": len(prepared.learner.data.test),
            "smallest_node": int(prepared.learner.parts.sizes.min()),
            "largest_node": int(prepared.learner.parts.sizes.max()),
        },
        "model_bytes": prepared.model_bytes,
        "bytes_per_node_and_round": prepared.round_bytes,
    }
    selection = selection_of(prepared.program)
    if selection is not None and not selection.is_whole:
        found["shared"] = {
            "trained": selection.trained,
            "buffers": selection.buffered,
            "tensors": [piece.name for piece in selection.tensors],
            "bytes": selection.part_bytes(prepared.model_bytes) + selection.beside_bytes(),
        }
    topology = prepared.topology
    if arguments.save_graph is not None and topology is None:
        raise ConfigurationError(f"The program {experiment.program.title()} has no graph to save.")
    if topology is not None:
        aggregation = getattr(prepared.program, "aggregation", None)
        rule = aggregation.title() if aggregation is not None else "metropolis-hastings"
        graph = topology.at(0)
        rule = rule if rule in ("mean", "given") or graph.is_undirected else "mean"
        rule = rule if rule in ("mean", "given") else "metropolis-hastings"
        found["graph"] = asdict(facts(graph, rule, prepared.setting.label_counts))
        found["graph"]["changes"] = not topology.static
        if arguments.save_graph is not None:
            found["saved_graph"] = _save(graph, topology, arguments.save_graph)
        own = (rule == "given") == topology.weighted
        contraction = topology.contraction() if own else None
        if contraction is not None:
            found["graph"]["expected_contraction"] = contraction
    costs = prepared.setting.training_joules
    if costs is not None:
        found["joules_per_node_and_training"] = float(costs.mean())
    notes = notes_on_cycles(experiment)
    if notes:
        found["notes"] = notes
    if experiment.faults:
        found["faults"] = [fault.in_words() for fault in experiment.faults]
    if arguments.json:
        print_json(found)
        return 0
    print(_with_every_key(experiment))
    print()
    samples = found["samples"]
    say(f"model       {found['parameters']:,} parameters, computed by the kernel {found['kernel']}")
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
    if expected is not None:
        nodes = experiment.network.nodes
        say(
            f"bytes       {amount(expected)} a node and round, {amount(expected * nodes)} a round, "
            f"{amount(expected * nodes * experiment.rounds)} in all {experiment.rounds} rounds"
        )
    if "joules_per_node_and_training" in found:
        say(f"energy      {found['joules_per_node_and_training']:.4g} J a training of a node, on average")
    for words in found.get("faults", ()):
        say(f"fault       {words}")
    for words in found.get("notes", ()):
        say(f"note        {words}")
    print("ok")
    return 0


def _check_run(arguments: argparse.Namespace) -> int:
    """See whether the folder of a run is as it was written."""
    if arguments.overrides or arguments.seed is not None or arguments.engine or arguments.save_graph:
        raise ConfigurationError("A run is checked as it is: give no --set, --seed, --engine or --save-graph.")
    run = Run(arguments.file)
    files, round = examine(run.folder)
    if arguments.json:
        print_json({"run": str(run.folder), "status": run.status, "files": files, "resumes_after": round})
        return 0
    say(f"{run.folder}: {run.status}")
    say(f"files       {files}, as {SUMS} says")
    if round is not None:
        say(f"resume      after round {round}")
    print("ok")
    return 0


_NOTHING = "(none)"


def _with_every_key(experiment: Experiment) -> str:
    """The experiment as a file, in which keys without a value are comments: TOML has no word for nothing."""
    import tomli_w

    text = tomli_w.dumps(to_table(experiment, nothing=_NOTHING)).strip()
    return re.sub(rf'^(\w+) = "{re.escape(_NOTHING)}"$', rf"# \1 = {_NOTHING}", text, flags=re.M)


def _save(graph: Graph, topology: Topology, file: Path) -> dict[str, Any]:
    """Write a graph down for later runs: the topology that reads it."""
    if not topology.static:
        raise ConfigurationError(
            f"A graph that is saved must stay as it is, but {topology.title()} draws another one in every round."
        )
    return to_table(Edges(file=file, directed=save_edges(graph, file)))


def _labels_in_words(graph: dict[str, Any]) -> str:
    which = " in the first graph" if graph["changes"] else ""
    return (
        f"squared distance of a node's class shares from the mean ones: {graph['node_heterogeneity']:.4g} alone, "
        f"{graph['neighbourhood_heterogeneity']:.4g} mixed with those it hears{which}"
    )


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
