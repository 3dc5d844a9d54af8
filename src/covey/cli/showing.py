"""`covey show`, `compare`, `plot`, `report` and `export`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

from covey.cli.tables import print_json, print_table, say
from covey.parts.errors import ConfigurationError
from covey.runtime.runs import Run, find_runs
from covey.view.comparison import compared, in_words, spread_of
from covey.view.epsilons import epsilon_in_words
from covey.view.groups import Group
from covey.view.summary import dropped_messages, dropped_nodes, not_finite
from covey.view.terminal import shown
from covey.view.words import amount, counted, figure, rate, seconds


def show(arguments: argparse.Namespace) -> int:
    """Print the results of a run."""
    run = Run(arguments.run)
    summary = run.summary()
    if arguments.json:
        print_json(summary)
        return 0
    say(f"{run.folder}: {summary['status']}")
    say(
        f"  {summary['program']}, {counted(summary['nodes'], 'node')}, {counted(summary['rounds'], 'round')}, "
        f"{seconds(summary['time'])} {summary['clock']}"
    )
    totals = summary["totals"]
    messages = counted(totals["messages_out"], "message")
    say(
        f"  sent {amount(totals['bytes_out'])}{_parts(totals)} in {messages}, received "
        f"{amount(totals['bytes_in'])}, dropped {_drops(summary)}; {counted(totals['steps'], 'training step')}"
    )
    if summary["seconds"]:
        say(f"  a node spent, on average, {_spent(summary['seconds'], summary['clock'])}")
    for stated in summary["privacy"]:
        say(f"  privacy: {epsilon_in_words(stated)}")
    first, *later = run.facts["starts"]
    if summary["wall_seconds"] is not None:
        say(
            f"  took {seconds(summary['wall_seconds'])} of real time"
            + (f" in {1 + len(later)} starts" if later else "")
        )
    for before, start in pairwise([first, *later]):
        say(f"  resumed after round {start.get('after_round')}, {start.get('started')}{_changed(before, start)}")
    rows = [
        [_LABELS.get(metric, metric), *(figure(values[part], 4) for part in ("mean", "min", "max", "std"))]
        for metric, values in summary["final"].items()
    ]
    rows += [[f"network: {name}", figure(value, 4), "", "", ""] for name, value in summary["network"].items()]
    shown = {*summary["final"], *summary["network"]}
    remarks = not_finite([summary], shown), dropped_nodes(summary), dropped_messages(summary)
    if rows:
        print_table("at the end", ("metric", "mean", "min", "max", "std"), rows, *remarks)
    else:
        for remark in filter(None, remarks):
            say(remark)
    if run.tables:
        say(f"tables: {', '.join(run.tables)}")
    _print_hosts(run)
    return 0


def _drops(summary: Mapping[str, Any]) -> str:
    """The number of dropped messages, by reason."""
    drops: dict[str, int] = summary["drops"]
    if not drops:
        return f"{summary['totals']['dropped']:,}"
    return f"{sum(drops.values()):,}: " + ", ".join(f"{count:,} {reason}" for reason, count in drops.items())


_LABELS = {"energy": "energy (J)"}


def _parts(totals: Mapping[str, int]) -> str:
    """The bytes of values and of indices, if these were counted."""
    if "value_bytes_out" not in totals:
        return ""
    indices = f", {amount(totals['index_bytes_out'])} of indices" if totals["index_bytes_out"] else ""
    return f" ({amount(totals['value_bytes_out'])} of values{indices})"


def _spent(spent: Mapping[str, float], clock: str) -> str:
    """The seconds of a node by activity, in words."""
    if clock == "virtual":
        found = f"{seconds(spent['training'])} training and {seconds(spent['waiting'])} waiting"
        return f"{found}; encoding and mixing take no virtual time"
    return ", ".join(f"{seconds(value)} {what}" for what, value in spent.items())


def _print_hosts(run: Run) -> None:
    """Print the last figures of each host of an emulation."""
    if not run.has_host_figures:
        return
    latest = run.hosts.groupby(["host", "name"])["value"].last().unstack("host")
    rows = [
        [name, *("-" if isnan(value) else _host_figure(str(name), value) for value in values)]
        for name, values in zip(latest.index, latest.to_numpy(), strict=True)
    ]
    print_table("last figures of hosts", ("figure", *(f"host {host}" for host in latest.columns)), rows)


def _host_figure(name: str, value: float) -> str:
    if "_late" in name or name.endswith("_seconds"):
        return seconds(value)
    if name in _RATES:
        return rate(value)
    return amount(value) if name in _BYTES else f"{value:,.0f}"


_BYTES = ("memory", "send_queue", "uplink_queue", "inboxes", "payload_bytes_out", "socket_bytes_out")
_RATES = ("uplink_asked", "uplink_achieved")


def _changed(before: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    """The versions, platform and device that changed at a resumption, in words."""
    things = ("covey", "python", "torch", "numpy", "platform", "kernel", "device")
    changed = [f"{thing} {start[thing]}" for thing in things if thing in start and start[thing] != before.get(thing)]
    return f", with {', '.join(changed)}" if changed else ""


def compare(arguments: argparse.Namespace) -> int:
    """Print a table of several runs."""
    runs, goals = find_runs(arguments.runs), arguments.reach
    if arguments.table and (goals or arguments.json):
        raise ConfigurationError("--table prints a table for a paper: give neither --reach nor --json.")
    if arguments.json:
        reached = [{"reached": {f"{goal:g}": run.reached(goal) for goal in goals}} if goals else {} for run in runs]
        print_json([{**run.summary(), **found} for run, found in zip(runs, reached, strict=True)])
        return 0
    found = compared(runs, each=arguments.each, labels=arguments.labels, metrics=arguments.metric)
    if arguments.table:
        sys.stdout.write(found.to(arguments.table))
    elif goals:
        _print_reached(found.groups, goals)
    else:
        print_table(found.title, *found.table(), *found.remarks)
    return 0


def _print_reached(groups: Sequence[Group], goals: Sequence[float]) -> None:
    rows = [[group.name, *(cell for goal in goals for cell in _reached(group, goal))] for group in groups]
    columns = [text for goal in goals for text in (f"accuracy {goal:g} at", "bytes sent")]
    print_table("first time at which the mean over nodes reached an accuracy", ("experiment", *columns), rows)


def _reached(group: Group, goal: float) -> tuple[str, str]:
    """The time and the bytes at which runs of an experiment reached an accuracy, as means over those that did."""
    every = [run.reached(goal) for run in group.runs]
    found = [moment for moment in every if moment]
    if not found:
        return "never", ""
    cells = [
        in_words(name, spread_of(moment[key] for moment in found))
        for name, key in (("time", "time"), ("bytes sent", "bytes_out"))
    ]
    some = f" ({len(found)} of {counted(len(every), 'run')})" if len(found) < len(every) else ""
    return cells[0] + some, cells[1]


def plot(arguments: argparse.Namespace) -> int:
    """Draw a figure."""
    from covey import view

    paths: list[Path] = arguments.runs
    of_one = arguments.histogram or arguments.holdings or arguments.graph
    if of_one and len(paths) != 1:
        raise ConfigurationError(f"--histogram, --holdings and --graph draw one run. Got {len(paths)} instead.")
    if arguments.round is not None and not arguments.graph:
        raise ConfigurationError("--round chooses the graph to draw: give --graph as well.")
    experiments = [path for path in paths if path.suffix == ".toml" and not path.is_dir()]
    if experiments and not arguments.graph:
        raise ConfigurationError(f"{experiments[0]} is an experiment: only --graph draws experiments.")
    if arguments.graph:
        from covey.runtime.experiment import Experiment

        source = Experiment.from_file(paths[0]) if experiments else Run(paths[0])
        figure = view.graph(source, arguments.round or 0, data=arguments.data)
    elif arguments.histogram:
        figure = view.histogram(Run(paths[0]), arguments.metric)
    elif arguments.holdings:
        figure = view.holdings(Run(paths[0]))
    else:
        runs = find_runs(paths)
        figure = view.curves(runs, arguments.metric, arguments.against, arguments.labels, each=arguments.each)
    view.save(figure, arguments.out)
    say(str(arguments.out))
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write an HTML page."""
    from covey.api.reporting import report

    say(str(report(arguments.runs, out=arguments.out, labels=arguments.labels)))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the metrics or a model for other programs."""
    if arguments.models is not None:
        node = arguments.node
        Run(arguments.run).export_model(arguments.models, int(node) if node.isdecimal() else node)
        say(str(arguments.models))
        return 0
    if arguments.tensorboard is not None:
        from covey.runtime.callbacks.replay import replay
        from covey.runtime.callbacks.trackers import TensorBoard

        rounds = replay(Run(arguments.run), TensorBoard(folder=arguments.tensorboard))
        say(f"{arguments.tensorboard}: {counted(rounds, 'round')}")
        return 0
    text = Run(arguments.run).export(arguments.format, arguments.out)
    if text is not None:
        sys.stdout.write("\n".join(map(shown, text.split("\n"))) if sys.stdout.isatty() else text)
    else:
        say(str(arguments.out))
    return 0
