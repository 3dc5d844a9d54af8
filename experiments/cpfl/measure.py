"""Accuracy, time and client time of CPFL by the number of cohorts.

    python experiments/cpfl/measure.py mnist [--alphas 0.1,0.3] [--cohorts 1,2,4,8,40] [--seeds 1,2,3] [--set KEY=VALUE]

One cohort is federated averaging until its loss stands still. Lines that the table has already are not run again.
"""

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import covey
from covey.learning.dataset import Location
from covey.learning.partition import Dirichlet
from covey.runtime.experiment import Experiment
from covey.runtime.task import data_folder

HERE = Path(__file__).parent
COHORTS = {"mnist": "1,2,4,8,40", "cifar10": "1,2,4,8,16,32,64,200"}
COLUMNS = (
    *("alpha", "cohorts", "weights", "seed", "accuracy", "last_student", "rounds", "slowest_rounds"),
    *("hours", "hours_of_cohorts", "client_hours", "megabytes"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=COHORTS)
    parser.add_argument("--alphas", default="0.1,0.3")
    parser.add_argument("--cohorts")
    parser.add_argument("--weights", default="label,uniform")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--set", action="append", default=[], help="a changed key of the experiment, as rounds=30")
    arguments = parser.parse_args()
    out = arguments.out or HERE / f"{arguments.study}.csv"
    done = list(csv.DictReader(out.open())) if out.exists() else []
    known = {(float(row["alpha"]), int(row["cohorts"]), row["weights"], int(row["seed"])) for row in done}
    for seed in map(int, arguments.seeds.split(",")):
        for alpha in map(float, arguments.alphas.split(",")):
            for count in map(int, (arguments.cohorts or COHORTS[arguments.study]).split(",")):
                for weights in arguments.weights.split(",") if count > 1 else ("none",):
                    if (alpha, count, weights, seed) in known:
                        continue
                    done.append(measured(arguments.study, alpha, count, weights, seed, arguments.set))
                    print(done[-1], flush=True)
                    write(out, done)
    for line in table(done):
        print(line)


def measured(study: str, alpha: float, count: int, weights: str, seed: int, changes: list[str]) -> dict[str, object]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        tables = Experiment.from_file(HERE / f"{study}.toml").to_table()
        tables["seed"] = seed
        tables["program"]["cohorts"] = count
        tables["task"]["partition"] = {"kind": "dirichlet", "alpha": alpha}
        if count == 1:
            tables["program"]["distillation"] = None
        else:
            tables["program"]["distillation"]["weights"] = weights
        if study == "cifar10":
            tables["task"]["partition"] = {"kind": "file", "file": str(private_part(tables, alpha, seed, Path(folder)))}
        for change in changes:
            key, _, value = change.partition("=")
            *path, last = key.split(".")
            inner = tables
            for name in path:
                inner = inner[name]
            inner[last] = json.loads(value)
        run = covey.run(tables, out=Path(folder) / "run", quiet=True)
        found = {"alpha": alpha, "cohorts": count, "weights": weights, "seed": seed, **figures(run)}
        shutil.rmtree(run.folder)
    return found


def private_part(tables: dict, alpha: float, seed: int, folder: Path) -> Path:
    """The file that deals to clients the training images that are not public."""
    task = Experiment.from_table(tables).task
    data = task.dataset.load_at(Location(data_folder(None), [], [], None, True))
    public = tables["task"]["public"]["samples"]
    parts = Dirichlet(alpha=alpha).assign(data, tables["network"]["nodes"] - 1, seed)
    file = folder / "parts.json"
    file.write_text(json.dumps([part[part >= public].tolist() for part in parts]))
    return file


def figures(run: covey.Run) -> dict[str, object]:
    """The figures of a run: hours are of virtual time, those of clients the sum of their computing."""
    commits, cohorts = run.commits, run.table("cohorts")
    server = commits[commits.node == 0]
    accuracies = run.metrics[run.metrics.node == 0].set_index("round").accuracy
    last = commits.groupby("node").last()
    students = run.table("distillation") if "distillation" in run.tables else None
    shown = (
        accuracies[accuracies.index[server.time.searchsorted(students.time.max())]] if students is not None else None
    )
    return {
        "accuracy": round(float(accuracies.iloc[-1]), 4),
        "last_student": None if shown is None else round(float(shown), 4),
        "rounds": round(float(cohorts.rounds.mean()), 1),
        "slowest_rounds": int(cohorts.rounds.max()),
        "hours": round(float(server.time.max()) / 3600, 4),
        "hours_of_cohorts": round(float(cohorts.time.max()) / 3600, 4),
        "client_hours": round(float(last.training_seconds[1:].sum()) / 3600, 4),
        "megabytes": round(float(last.bytes_out.sum()) / 1e6, 1),
    }


def write(file: Path, rows: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    """The means over seeds as Markdown."""
    shown = (
        "accuracy",
        "last_student",
        "rounds",
        "slowest_rounds",
        "hours_of_cohorts",
        "hours",
        "client_hours",
        "megabytes",
    )
    yield "| alpha | cohorts | weights | " + " | ".join(name.replace("_", " ") for name in shown) + " |"
    yield "| ---: " * 2 + "| --- |" + " ---: |" * len(shown)
    for key in dict.fromkeys((str(row["alpha"]), str(row["cohorts"]), str(row["weights"])) for row in rows):
        some = [row for row in rows if (str(row["alpha"]), str(row["cohorts"]), str(row["weights"])) == key]
        each = [[float(str(row[name])) for row in some if row[name] not in (None, "")] for name in shown]
        yield f"| {' | '.join(key)} | " + " | ".join(f"{np.mean(found):.4g}" if found else "" for found in each) + " |"


if __name__ == "__main__":
    main()
