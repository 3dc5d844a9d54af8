"""`covey run` and `covey sweep`."""

import argparse
import itertools
import json
import sys
import tomllib
from copy import deepcopy
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from covey import api
from covey.cli.tables import print_json, print_table, say
from covey.parts.errors import ConfigurationError, CoveyError, RunError
from covey.runtime.experiment import Experiment, assign, parse_value, put, read_table
from covey.runtime.prepared import check
from covey.runtime.runs import Run
from covey.runtime.runs.schema import CHECKPOINTS
from covey.view.progress import ProgressDisplay
from covey.view.summary import dropped_messages, dropped_nodes, not_finite, summary_table
from covey.view.words import amount, figure, seconds, time_of


def read(arguments: argparse.Namespace) -> dict[str, Any]:
    """The tables of the experiment of some arguments, with their --set, --seed and --engine."""
    table = read_table(arguments.file)
    for override in arguments.overrides:
        assign(table, override)
    if arguments.seed is not None:
        table["seed"] = arguments.seed
    if arguments.engine is not None:
        assign(table, f"engine.kind={arguments.engine}")
    return table


def run(arguments: argparse.Namespace) -> int:
    """Run or resume an experiment."""
    if arguments.resume is not None:
        if arguments.file is not None or arguments.overrides or arguments.seed is not None or arguments.engine:
            raise ConfigurationError(
                "--resume takes the experiment of the run: give no FILE, --set, --seed or --engine."
            )
        before = Run(arguments.resume)
        rounds, nodes = before.experiment.get("rounds", 1), before.facts.get("nodes", 1)
        with ProgressDisplay(before.folder.name, rounds, nodes, silent=arguments.json) as display:
            done = api.resume(arguments.resume, data=arguments.data, progress=display, quiet=arguments.json)
    elif arguments.file is None:
        raise ConfigurationError(
            "Give an experiment, as in `covey run FILE.toml`, or a run to resume, as in `covey run --resume RUN`."
        )
    else:
        experiment = Experiment.from_table(read(arguments))
        out = arguments.out or api.new_folder(f"{experiment.name}-s{experiment.seed}")
        with _display(out.name, experiment, arguments.json) as display:
            done = api.run(experiment, out=out, data=arguments.data, progress=display, quiet=arguments.json)
    return report(done, as_json=arguments.json)


def _display(title: str, experiment: Experiment, silent: bool) -> ProgressDisplay:
    return ProgressDisplay(title, experiment.rounds, experiment.network.nodes, silent=silent)


def report(done: Run, *, as_json: bool) -> int:
    """Print the results of a run, and return the exit code."""
    summary = done.summary()
    if as_json:
        print_json(summary)
    else:
        columns, (row,) = summary_table([done], [summary])
        print_table(
            f"{done.folder} ({summary['status']})",
            ("run", *columns),
            [[done.folder.name, *row]],
            not_finite([summary]),
            dropped_nodes(summary),
            dropped_messages(summary),
        )
    if done.status == "interrupted":
        kept = any((done.folder / CHECKPOINTS).glob("*"))
        how = f"Resume with: covey run --resume {done.folder}" if kept else "It has no checkpoint to resume from."
        say(f"Interrupted. {how}", file=sys.stderr)
        return 130
    return 0


def sweep(arguments: argparse.Namespace) -> int:
    """Run every combination of some values, and show each configuration over its seeds."""
    axes: list[tuple[str, list[Any]]] = []
    for setting in arguments.overrides:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f'A setting must be written "key=a,b,c". Got {setting!r} instead.')
        axes.append((key.strip(), _values(text)))
    arguments.overrides = []
    base = read(arguments)
    combinations = [
        dict(zip([key for key, _ in axes], values, strict=True)) for values in itertools.product(*[v for _, v in axes])
    ]
    experiments = []
    for combination in combinations:
        table = deepcopy(base)
        for key, value in combination.items():
            put(table, key, deepcopy(value))
        experiments.append(Experiment.from_table(table))
        check(experiments[-1])
    folder = arguments.out or api.new_folder("sweep")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError(f"{folder} is not an empty folder: give another one with --out.")
    # Keys with one value would make names longer without telling runs apart.
    varied = [key for key, values in axes if len(values) > 1]
    names = [
        "-".join(f"{_last(key)}={_short(combination[key])}" for key in varied) or "run" for combination in combinations
    ]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"The values of a sweep must give each run another folder. Got '{name}' for {names.count(name)} runs."
            )
    finished: list[tuple[dict[str, Any], Run]] = []
    failed = False
    for number, (name, combination, experiment) in enumerate(zip(names, combinations, experiments, strict=True), 1):
        try:
            with _display(f"[{number}/{len(combinations)}] {name}", experiment, arguments.json) as display:
                done = api.run(
                    experiment, out=folder / name, data=arguments.data, progress=display, quiet=arguments.json
                )
        except RunError:
            raise
        except CoveyError as error:
            # The other combinations still run.
            say(f"covey: {name}: {error}".replace("\n", " "), file=sys.stderr)
            failed = True
            continue
        finished.append((combination, done))
        if done.status == "interrupted":
            break
    code = _show_sweep(folder, finished, varied, as_json=arguments.json) if finished else 0
    return code or (2 if failed else 0)


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _values(text: str) -> list[Any]:
    """The values between commas. A comma inside a TOML string, array or inline table does not separate."""
    values, pieces = [], text.split(",")
    while pieces:
        pieces[0] = pieces[0].lstrip()
        count = 1
        if pieces[0].startswith(('"', "'", "[", "{")):
            count = next((n for n in range(1, len(pieces) + 1) if _is_toml(",".join(pieces[:n]))), 0)
            if not count:
                raise ConfigurationError(
                    f"A value that begins with a quote or a bracket must be TOML. Got {','.join(pieces)!r} instead."
                )
        values.append(parse_value(",".join(pieces[:count])))
        del pieces[:count]
    return values


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return False
    return True


def _inline(value: Any) -> str:
    """A value as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def _short(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, dict):
        return "-".join(_short(inner) if key == "kind" else f"{key}={_short(inner)}" for key, inner in value.items())
    return "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in str(value))


def _show_sweep(folder: Path, finished: list[tuple[dict[str, Any], Run]], varied: list[str], *, as_json: bool) -> int:
    groups: dict[str, list[tuple[dict[str, Any], Run]]] = {}
    for combination, done in finished:
        label = ", ".join(f"{key} = {_inline(value)}" for key, value in combination.items() if key != "seed")
        groups.setdefault(label or "all seeds", []).append((combination, done))
    apart = [key for key in varied if key != "seed"]
    rows, records = [], []
    everything: list[dict[str, Any]] = []
    for label, members in groups.items():
        summaries = [done.summary() for _, done in members]
        everything += summaries
        record: dict[str, Any] = {"configuration": label, "runs": [summary["run"] for summary in summaries]}
        shown = ", ".join(f"{_last(key)} = {_inline(members[0][0][key])}" for key in apart)
        cells = [shown or "all seeds", str(len(summaries))]
        for name, pick in _FIGURES.items():
            values = [value for value in map(pick, summaries) if value is not None]
            record[name] = {"mean": mean(values), "std": stdev(values) if len(values) > 1 else 0.0} if values else None
            cells.append(_spread(name, record[name]))
        records.append(record)
        rows.append(cells)
    if as_json:
        print_json(records)
    else:
        same = [f"{key} = {_inline(value)}" for key, value in finished[0][0].items() if key not in varied]
        title = ", ".join([f"{folder}: mean ± standard deviation over seeds", *same])
        heads = list(_FIGURES)
        heads[-1] = time_of({done.clock for _, done in finished})
        print_table(title, ("configuration", "runs", *heads), rows, not_finite(everything))
    return 130 if any(done.status == "interrupted" for _, done in finished) else 0


def _of(metric: str, part: str) -> Any:
    return lambda summary: summary["final"].get(metric, {}).get(part)


_FIGURES: dict[str, Any] = {
    "accuracy": _of("accuracy", "mean"),
    "worst node": _of("accuracy", "min"),
    "best node": _of("accuracy", "max"),
    "loss": _of("loss", "mean"),
    "bytes sent": lambda summary: summary["totals"]["bytes_out"],
    "time": lambda summary: summary["time"],
}


def _spread(name: str, found: dict[str, float] | None) -> str:
    if found is None:
        return "-"
    form = {"bytes sent": amount, "time": seconds}.get(name, figure)
    average, spread = form(found["mean"]), form(found["std"])
    return average if float(spread.split()[0]) == 0 else f"{average} ± {spread}"
