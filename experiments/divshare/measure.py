"""Measure the time and the bytes to an accuracy under slow links, by program and by the links: a table and a figure.

python experiments/divshare/measure.py experiments/divshare/digits.toml --target 0.6
"""

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from covey.runtime.runs import Run
from covey.view.figures import save
from covey.view.look import CLASSES, legend, new_figure

PROGRAMS = {
    "DivShare": "{fanout = FANOUT}",
    "DivShare, nothing withdrawn": "{fanout = FANOUT, withdraw = false}",
    "whole models, withdrawn": "{fanout = FANOUT, omega = 1.0}",
    "SWIFT by pushes": '{kind = "swift-push", fanout = FANOUT}',
    "SWIFT": '{kind = "swift", topology = {kind = "random-regular", degree = FANOUT}}',
    "AD-PSGD": '{kind = "ad-psgd", topology = "torus"}',
    "AD-PSGD, queued": '{kind = "ad-psgd-queued", fanout = HALF}',
    "Epidemic Learning, synchronous": '{kind = "gossip", topology = {kind = "epidemic-local", degree = FANOUT}}',
}
"""The programs. The queued AD-PSGD has half of the fanout, as in the comparison of its authors."""


@dataclass(frozen=True)
class Row:
    """A program over some links: the means of all seeds."""

    program: str
    fraction: float
    slowdown: float
    seeds: int
    accuracy: float
    """The mean accuracy of nodes at the end."""
    worst: float
    average_model: float
    megabytes: float
    """The bytes that all nodes sent."""
    seconds_to_target: float | None
    """None if a seed did not reach it."""
    megabytes_to_target: float | None
    accuracy_at_bytes: float
    """The mean accuracy when as much was sent as the most thrifty program of these links sends to the end."""


@dataclass(frozen=True)
class Case:
    """One run of the study."""

    program: str
    fraction: float
    slowdown: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        words = "".join(c if c.isalnum() else "-" for c in self.program.lower())
        return f"{words}_{self.fraction:g}_{self.slowdown:g}_{self.seed}"


def cases(
    programs: Sequence[str], seeds: Sequence[int], fractions: Sequence[float], slowdowns: Sequence[float]
) -> Iterator[Case]:
    """All runs. Without stragglers, the slowdown does not matter."""
    for seed, fraction in product(seeds, fractions):
        for slowdown in slowdowns if fraction else slowdowns[:1]:
            for program in programs:
                yield Case(program, fraction, slowdown if fraction else 1.0, seed)


def is_finished(folder: Path) -> bool:
    """True if a folder has a finished run."""
    return (folder / "facts.json").exists() and Run(folder).status == "finished"


def run(case: Case, file: Path, folder: Path, fanout: int, further: Sequence[str]) -> Run:
    """The run of a case, from an earlier time if it is there and finished."""
    out = folder / case.name
    if not is_finished(out):
        shutil.rmtree(out, ignore_errors=True)
        program = PROGRAMS[case.program].replace("FANOUT", str(fanout)).replace("HALF", str(max(1, fanout // 2)))
        replaced = "" if "kind" in program else 'kind = "divshare", '
        sets = [
            f"program={{{replaced}{program[1:]}",
            f"seed={case.seed}",
            f"network.uplink.fraction={case.fraction}",
            f"network.uplink.slowdown={case.slowdown}",
            *further,
        ]
        command = [sys.executable, "-m", "covey", "run", str(file), "--out", str(out)]
        subprocess.run([*command, *(part for one in sets for part in ("--set", one))], check=True, stdout=sys.stderr)
    return Run(out)


def sent_until(run: Run, time: float) -> float:
    """The megabytes that all nodes had sent at a time, by their commits."""
    times, sent = sent_by(run)
    index = int(np.searchsorted(times, time, side="right"))
    return float(sent[index - 1]) / 1e6 if index else 0.0


@cache
def sent_by(run: Run) -> tuple[Any, Any]:
    """The times of all commits, and the bytes that all nodes had sent then."""
    commits = run.commits.sort_values("time", kind="stable")
    gained = commits["bytes_out"] - commits.groupby("node")["bytes_out"].shift(fill_value=0)
    return commits["time"].to_numpy(), gained.cumsum().to_numpy()


def rows(found: dict[Case, Run], target: float) -> Iterator[Row]:
    """The rows of the table."""
    keys = dict.fromkeys((case.program, case.fraction, case.slowdown) for case in found)
    totals = {case: sent_until(run, float("inf")) for case, run in found.items()}
    for program, fraction, slowdown in keys:
        mine = [case for case in found if (case.program, case.fraction, case.slowdown) == (program, fraction, slowdown)]
        courses = {case: found[case].table("moments") for case in mine}
        reached: list[tuple[float, float]] = []
        for case, course in courses.items():
            times = course["time"][course["accuracy"] >= target]
            if len(times):
                reached.append((float(times.iloc[0]), sent_until(found[case], float(times.iloc[0]))))
        least = min(totals[c] for c in found if (c.fraction, c.slowdown) == (fraction, slowdown))
        at_bytes = []
        for case, course in courses.items():
            within = [row for row in course.itertuples() if sent_until(found[case], row.time) <= least]
            at_bytes.append(within[-1].accuracy if within else 0.0)
        last = [course.iloc[-1] for course in courses.values()]
        everywhere = len(reached) == len(mine)
        yield Row(
            program,
            fraction,
            slowdown,
            len(mine),
            accuracy=mean(float(row["accuracy"]) for row in last),
            worst=mean(float(row["worst_accuracy"]) for row in last),
            average_model=mean(float(row["average_model_accuracy"]) for row in last),
            megabytes=mean(totals[case] for case in mine),
            seconds_to_target=mean(time for time, _ in reached) if everywhere else None,
            megabytes_to_target=mean(sent for _, sent in reached) if everywhere else None,
            accuracy_at_bytes=mean(at_bytes),
        )


def draw(found: dict[Case, Run], file: Path) -> None:
    """The mean accuracy of nodes by virtual time, of the first seed: axes for each kind of links."""
    links = list(dict.fromkeys((case.fraction, case.slowdown) for case in found))
    columns = min(4, len(links))
    figure = new_figure((2.6 * columns, 2.4 * -(-len(links) // columns) + 0.8))
    every = figure.subplots(-(-len(links) // columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (fraction, slowdown) in zip(every, links, strict=False):
        axes.set_title(
            f"{fraction:.3g} of links {slowdown:g} times slower" if fraction else "no slow links", fontsize=9
        )
        axes.grid(linewidth=0.4)
        for colour, program in zip(CLASSES, PROGRAMS, strict=False):
            for case, run in found.items():
                if (case.program, case.fraction, case.slowdown) == (program, fraction, slowdown):
                    course = run.table("moments")
                    axes.plot(course["time"], course["accuracy"], color=colour, linewidth=1.2, label=program)
                    break
    for axes in every[len(links) :]:
        axes.set_visible(False)
    every[0].set_ylabel("mean accuracy of nodes", fontsize=9)
    every[0].tick_params(labelbottom=True)
    every[-columns].set_xlabel("seconds of virtual time", fontsize=9)
    handles, labels = every[0].get_legend_handles_labels()
    legend(figure, handles, labels)
    save(figure, file)


def shown(value: object) -> str:
    """A value of the table, for Markdown."""
    if value is None:
        return "never"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def numbers(text: str) -> list[float]:
    """A list of numbers with commas."""
    return [float(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--target", type=float, required=True, help="the accuracy that programs are to reach")
    parser.add_argument("--fanout", type=int, default=4)
    parser.add_argument("--seeds", type=numbers, default=[1.0])
    parser.add_argument("--fractions", type=numbers, default=[0.0, 0.125, 0.5])
    parser.add_argument("--slowdowns", type=numbers, default=[2.0, 5.0, 10.0])
    parser.add_argument("--runs", type=Path, default=Path("runs/divshare"), help="the folder of the runs")
    parser.add_argument("--set", action="append", default=[], help="a change of the experiment")
    parser.add_argument(
        "--out", type=Path, help="the table and, beside it, the figure; by default beside the experiment"
    )
    parser.add_argument("--finished", action="store_true", help="take finished runs, and make no others")
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=[*PROGRAMS], help="the programs")
    given = parser.parse_args()
    found = {}
    for case in cases(given.only, [int(seed) for seed in given.seeds], given.fractions, given.slowdowns):
        if given.finished and not is_finished(given.runs / given.experiment.stem / case.name):
            continue
        found[case] = run(case, given.experiment, given.runs / given.experiment.stem, given.fanout, given.set)
        print(case, file=sys.stderr, flush=True)
    table = list(rows(found, given.target))
    out = given.out or given.experiment.with_suffix(".csv")
    names = [field.name for field in fields(Row)]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(asdict(row) for row in table)
    draw(found, out.with_suffix(".png"))
    print("| " + " | ".join(names) + " |\n|" + " --- |" * len(names))
    for row in table:
        print("| " + " | ".join(map(shown, asdict(row).values())) + " |")


if __name__ == "__main__":
    main()
