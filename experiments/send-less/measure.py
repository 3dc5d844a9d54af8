"""Run every sharing of a study, and set accuracy against bytes: a table and a figure.

python experiments/send-less/measure.py digits
"""

import argparse
import csv
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from covey.engines.prepared import check
from covey.errors import CoveyError
from covey.experiment import Experiment, assign, read_table
from covey.runs import Run
from covey.view.figures import save
from covey.view.look import CLASSES, INK, legend, new_axes, new_figure

HERE = Path(__file__).parent
SEEDS = {"digits": [1, 2, 3, 4, 5], "cifar10": [1]}
REACHED = {"digits": 0.85, "cifar10": 0.35}
"""The accuracy until which bytes are counted."""
COLUMNS = (
    *("family", "label", "runs", "accuracy", "accuracy_std", "worst", "worst_std", "average_model"),
    *("megabytes", "share_of_full", "megabytes_until", "sharing"),
)


@dataclass(frozen=True)
class Configuration:
    """One sharing of a study."""

    family: str
    label: str
    sharing: str

    @property
    def title(self) -> str:
        return f"{self.family} {self.label}".strip()

    @property
    def folder(self) -> str:
        return self.title.replace(",", "").replace(" ", "_")


def configurations(study: str) -> list[Configuration]:
    """Those of a study's list, in its order."""
    lines = (HERE / f"{study}.txt").read_text(encoding="utf-8").splitlines()
    return [Configuration(*map(str.strip, line.split("|"))) for line in lines if not line.startswith("#")]


def settings(each: Configuration, seed: int, overrides: list[str]) -> list[str]:
    """What is set in the study's experiment."""
    return [f"program.sharing={each.sharing}", f"seed={seed}", *overrides]


def experiment_of(study: str, each: Configuration, seed: int, overrides: list[str]) -> Experiment:
    """The study's experiment with a sharing."""
    table = read_table(HERE / f"{study}.toml")
    for setting in settings(each, seed, overrides):
        assign(table, setting)
    return Experiment.from_table(table)


def run_once(study: str, each: Configuration, seed: int, overrides: list[str], folder: Path) -> str:
    """Run one configuration, or go on with it, where that was not done before; what went wrong, or nothing."""
    arguments = [str(HERE / f"{study}.toml"), "--out", str(folder)]
    for setting in settings(each, seed, overrides):
        arguments += ["--set", setting]
    if (folder / "run.toml").exists():
        before = Run(folder)
        if before.experiment != experiment_of(study, each, seed, overrides).to_table():
            return f"{folder} holds another experiment: give another folder with --runs"
        if before.status == "finished":
            return ""
        if any((folder / "checkpoints").glob("*")):
            arguments = ["--resume", str(folder)]
        else:
            shutil.rmtree(folder)
    done = subprocess.run(
        [sys.executable, "-m", "covey", "run", *arguments, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def run_all(study: str, chosen: list[Configuration], arguments: argparse.Namespace) -> dict[Configuration, list[Run]]:
    """The finished runs of each configuration, a seed each."""
    # A mistake should not wait for other runs.
    for each in chosen:
        check(experiment_of(study, each, 1, arguments.overrides))
    found: dict[Configuration, list[Run]] = {each: [] for each in chosen}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        begun = []
        for each in chosen:
            for seed in arguments.seeds:
                folder = arguments.runs / study / f"{each.folder}-s{seed}"
                begun.append((each, folder, pool.submit(run_once, study, each, seed, arguments.overrides, folder)))
        try:
            for number, (each, folder, outcome) in enumerate(begun, 1):
                problem = outcome.result()
                print(f"[{number}/{len(begun)}] {folder.name} {problem}".rstrip(), file=sys.stderr, flush=True)
                if not problem:
                    found[each].append(Run(folder))
        except KeyboardInterrupt:
            # What runs has heard it too, and stops where it can be gone on with.
            pool.shutdown(cancel_futures=True)
            raise
    return found


def spread(values: list[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def row_of(each: Configuration, runs: list[Run], full: float | None, until: float) -> dict[str, Any]:
    """What came of a configuration, over its seeds."""
    row: dict[str, Any] = {"family": each.family, "label": each.label, "runs": len(runs)}
    row["sharing"] = each.sharing
    if not runs:
        return row
    summaries = [run.summary() for run in runs]
    for name, part in (("accuracy", "mean"), ("worst", "min")):
        average, deviation = spread([summary["final"]["accuracy"][part] for summary in summaries])
        row |= {name: round(average, 4), f"{name}_std": round(deviation, 4)}
    averages = [summary["network"].get("average_model_accuracy") for summary in summaries]
    if None not in averages:
        row["average_model"] = round(mean(averages), 4)
    sent = mean(summary["totals"]["bytes_out"] for summary in summaries)
    reached = [run.reached(until) for run in runs]
    row["megabytes"] = round(sent / 1e6, 2)
    if full is not None:
        row["share_of_full"] = round(sent / full, 4)
    if all(reached):
        row["megabytes_until"] = round(mean(moment["bytes_out"] for moment in reached if moment) / 1e6, 2)
    return row


def markdown(rows: list[dict[str, Any]], until: float) -> str:
    """The table of a README."""

    def cell(row: dict[str, Any], name: str, form: str) -> str:
        return format(row[name], form) if name in row else "-"

    def both(row: dict[str, Any], name: str) -> str:
        if name not in row:
            return "-"
        return f"{row[name]:.3f}" + (f" ± {row[f'{name}_std']:.3f}" if row["runs"] > 1 else "")

    lines = [f"| sharing | accuracy | worst node | average model | MB sent | of full | MB until {until} |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [f"{row['family']} {row['label']}".strip(), both(row, "accuracy"), both(row, "worst")]
        cells += [cell(row, "average_model", ".3f"), cell(row, "megabytes", ",.1f")]
        cells += [cell(row, "share_of_full", ".1%"), cell(row, "megabytes_until", ",.1f")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def course(runs: list[Run]) -> tuple[list[float], list[float]]:
    """(MB that a node had sent, accuracy) at each evaluated round, means over nodes and seeds."""
    rounds: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        table = run.metrics.groupby("round")[["bytes_out", "accuracy"]].mean()
        for t, sent, accuracy in table.itertuples():
            rounds.setdefault(t, []).append((sent / 1e6, accuracy))
    points = [tuple(map(mean, zip(*rounds[t], strict=True))) for t in sorted(rounds)]
    return [x for x, _ in points], [y for _, y in points]


def draw(found: dict[Configuration, list[Run]], rows: list[dict[str, Any]], file: Path) -> None:
    """Where each configuration ends, with the way that it took; a colour for each family."""
    figure = new_figure((8.0, 5.4))
    axes = new_axes(figure)
    families = list(dict.fromkeys(each.family for each in found))
    colours = dict(zip(families, chain(CLASSES[:-1], [INK] * len(families)), strict=False))
    handles = {}
    for (each, runs), row in zip(found.items(), rows, strict=True):
        if not runs:
            continue
        colour, (sent, accuracies) = colours[each.family], course(runs)
        axes.plot(sent, accuracies, color=colour, linewidth=0.7, alpha=0.45)
        end = sent[-1], row["accuracy"]
        bars = axes.errorbar(*end, yerr=row["accuracy_std"], fmt="o", color=colour, markersize=5, linewidth=1)
        handles.setdefault(each.family, bars)
        axes.annotate(each.label, end, (4, 2), textcoords="offset points", fontsize=5.5, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("MB sent by a node")
    axes.set_ylabel("test accuracy, mean over nodes")
    if handles:
        legend(figure, list(handles.values()), list(handles))
    save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=SEEDS)
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--only", nargs="+", default=["*"], help='patterns of "FAMILY LABEL", as in "choco *"')
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as for `covey run`"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/send-less"), help="where runs are, and are found again")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of the table and the figure")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    arguments = parser.parse_args()
    study = arguments.study
    arguments.seeds = arguments.seeds or SEEDS[study]
    chosen = [each for each in configurations(study) if any(fnmatch(each.title, pattern) for pattern in arguments.only)]
    if not chosen:
        parser.error("No configuration fits --only.")
    try:
        found = run_all(study, chosen, arguments)
    except CoveyError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on.")
    whole = next((runs for each, runs in found.items() if each.family == "full" and runs), None)
    full = mean(run.summary()["totals"]["bytes_out"] for run in whole) if whole else None
    rows = [row_of(each, runs, full, REACHED[study]) for each, runs in found.items()]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / f"{study}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(found, rows, arguments.out / f"{study}.png")
    print(markdown(rows, REACHED[study]))
    if any(not math.isfinite(row.get("accuracy", math.nan)) for row in rows):
        sys.exit("Some configurations have no finished run.")


if __name__ == "__main__":
    main()
