"""Measure the accuracy of rules under all attacks, by the number of clients: a table of means over seeds.

python experiments/robust-inference/measure.py experiments/robust-inference/fashion.toml --clients 17
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import covey
from covey.api.inferring import Inference
from covey.runtime.experiment import Experiment, assign, read_table
from covey.runtime.runs import Run

_PLAIN = {"kind": "deepset", "adversarial": False}
RULES: dict[str, Any] = {
    "mean": "mean",
    "median": "median",
    "geometric median": "geometric-median",
    "trimmed mean": "trimmed-mean",
    "MLP (FENS)": "mlp",
    "manifold": "manifold",
    "CoPur": "copur",
    "DeepSet": {**_PLAIN, "trimmed": False},
    "DeepSet, trimmed": _PLAIN,
    "DeepSet, adversarial": {"kind": "deepset", "trimmed": False},
    "DeepSet, adversarial, trimmed": "deepset",
}


def trained(file: Path, clients: int, seed: int, out: Path, sets: Sequence[str], data: Path | None) -> Run:
    """The run of clients with models of their own, from the folder if it is there."""
    folder = out / f"clients-{clients}-s{seed}"
    if folder.exists() and Run(folder).status == "finished":
        return Run(folder)
    table = read_table(file, "experiment")
    for override in [f"network.nodes={clients + 1}", f"seed={seed}", *sets]:
        assign(table, override)
    return covey.run(Experiment.from_table(table), out=folder, data=data)


def measured(run: Run, arguments: argparse.Namespace, clients: int, seed: int) -> Inference:
    """All rules on a run, under all attacks."""
    faulty = clients // 4 if arguments.faulty is None else arguments.faulty
    rules = [_with(RULES[name], arguments.steps) for name in names_of(arguments)]
    return covey.infer(run, rules=rules, faulty=faulty, samples=arguments.samples, seed=seed, data=arguments.data)


def names_of(arguments: argparse.Namespace) -> list[str]:
    """The names of the chosen rules."""
    return [name.strip() for name in arguments.rules.split(";")]


def _with(rule: Any, steps: int) -> Mapping[str, Any]:
    table = {"kind": rule} if isinstance(rule, str) else dict(rule)
    learned = table["kind"] in ("deepset", "mlp", "manifold", "copur")
    return {**table, "steps": steps} if learned else table


def rows_of(found: Sequence[Inference], clients: int, names: Sequence[str]) -> list[list[Any]]:
    """The rows of some clients: means over seeds, in per cent."""
    rows = []
    for index, name in enumerate(names):
        figures = [each.rows[index][1:] for each in found]
        means = [None if None in column else mean(column) for column in zip(*figures, strict=True)]
        rows.append([clients, found[0].faulty, name, len(found), *means])
    return rows


def main() -> None:
    """Measure, and write `FILE.csv` beside the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="the experiment")
    parser.add_argument("--clients", default="17", help="the numbers of clients, separated by commas")
    parser.add_argument("--faulty", type=int, help="the number of clients that lie (default: a quarter)")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--samples", type=int, default=2000, help="the number of test queries")
    parser.add_argument("--steps", type=int, default=1500, help="the steps of learned rules")
    parser.add_argument("--rules", default=";".join(RULES), help="the rules, separated by a semicolon")
    parser.add_argument("--set", action="append", default=[], help="a key of the experiment, as in covey run")
    parser.add_argument("--runs", type=Path, default=Path("runs/robust-inference"), help="the folder of runs")
    parser.add_argument("--out", type=Path, help="the table (default: beside the experiment)")
    parser.add_argument("--data", type=Path, help="the data folder")
    arguments = parser.parse_args()
    written: list[list[Any]] = []
    columns: list[str] = []
    for clients in map(int, arguments.clients.split(",")):
        found = []
        for seed in map(int, arguments.seeds.split(",")):
            out = arguments.runs / arguments.file.stem
            run = trained(arguments.file, clients, seed, out, arguments.set, arguments.data)
            found.append(measured(run, arguments, clients, seed))
        columns = ["clients", "faulty", "rule", "seeds", *found[0].columns[1:]]
        written += rows_of(found, clients, names_of(arguments))
        write(arguments.out or arguments.file.with_suffix(".csv"), columns, written)


def write(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write the table, and print it."""
    shown = [
        ["" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else cell for cell in row] for row in rows
    ]
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows([columns, *shown])
    for row in [columns, *shown]:
        print(" | ".join(map(str, row)))


if __name__ == "__main__":
    main()
