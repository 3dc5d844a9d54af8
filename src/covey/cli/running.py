"""`covey run` and `covey sweep`."""

import argparse
import sys
import tomllib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from covey import api
from covey.api.planning import plan
from covey.api.sweeps import Sweep, run_planned
from covey.cli.tables import print_json, print_table, say
from covey.parts.errors import ConfigurationError
from covey.runtime.experiment import Experiment, assign, parse_value, read_table
from covey.runtime.runs import Run
from covey.runtime.runs.schema import CHECKPOINTS
from covey.view.progress import ProgressDisplay
from covey.view.summary import dropped_messages, dropped_nodes, not_finite, summary_table


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
        with (
            _watched(arguments, before.folder),
            ProgressDisplay(before.folder.name, rounds, nodes, silent=arguments.json) as display,
        ):
            done = api.resume(arguments.resume, data=arguments.data, progress=display, quiet=arguments.json)
    elif arguments.file is None:
        raise ConfigurationError(
            "Give an experiment, as in `covey run FILE.toml`, or a run to resume, as in `covey run --resume RUN`."
        )
    else:
        experiment = Experiment.from_table(read(arguments))
        out = arguments.out or api.new_folder(f"{experiment.name}-s{experiment.seed}")
        with _watched(arguments, out), _display(out.name, experiment, arguments.json) as display:
            done = api.run(experiment, out=out, data=arguments.data, progress=display, quiet=arguments.json)
    return report(done, as_json=arguments.json)


def _watched(arguments: argparse.Namespace, folder: Path) -> AbstractContextManager[None]:
    """The live page of a run within the context, if it is asked for."""
    if not arguments.watch:
        return nullcontext()
    from covey.cli.watching import beside

    return beside(folder)


def _display(title: str, experiment: Experiment, silent: bool) -> ProgressDisplay:
    return ProgressDisplay(
        title, experiment.rounds, experiment.network.nodes, silent=silent, duration=experiment.duration
    )


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
    axes: dict[str, list[Any]] = {}
    for setting in arguments.overrides:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(f'A setting must be written "key=a,b,c". Got {setting!r} instead.')
        if key.strip() in axes:
            raise ConfigurationError(f"A sweep must set a key once, to all of its values. Got '{key.strip()}' twice.")
        axes[key.strip()] = _values(text)
    arguments.overrides = []
    swept = run_planned(
        plan(read(arguments), axes),
        arguments.out,
        arguments.data,
        # An error ends one run, and the next begins.
        lambda name, error: say(f"covey: {name}: {error}".replace("\n", " "), file=sys.stderr),
        quiet=arguments.json,
        lines=True,
        extend=arguments.extend,
        jobs=arguments.jobs,
    )
    if len(swept):
        _show_sweep(swept, as_json=arguments.json)
    if swept.is_interrupted:
        say(f"Interrupted. Continue with the same settings and: --out {swept.folder} --extend", file=sys.stderr)
        return 130
    return 2 if swept.failures else 0


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


def _show_sweep(swept: Sweep, *, as_json: bool) -> None:
    if as_json:
        print_json([{key: value for key, value in record.items() if key != "short"} for record in swept.records])
    else:
        heads, rows = swept.table()
        print_table(swept.title, heads, rows, not_finite(swept.summaries))
