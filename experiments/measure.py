"""Run the configurations of a study over seeds, and set accuracy against what it costs: a table and a figure.

python experiments/measure.py experiments/send-less/digits.study.toml
"""

import argparse
import csv
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from itertools import chain, cycle
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from covey.parts.errors import ConfigurationError, CoveyError
from covey.runtime.experiment import Experiment, assign, read_table
from covey.runtime.prepared import check
from covey.runtime.runs import Run
from covey.runtime.runs.spent import mean_spent
from covey.view.figures import save
from covey.view.look import CLASSES, INK, new_axes, new_figure


@dataclass(frozen=True)
class Cost:
    """A cost to which accuracy is compared."""

    column: str
    """Of `Run.metrics`, a total since the start."""
    size: float
    """The number of such units in one unit of the table and the figure."""
    unit: str
    spent: str
    """The heading of the sum over all nodes."""
    axis: str
    scale: str = "linear"


COSTS = {
    "bytes": Cost("bytes_out", 1e6, "MB", "MB sent", "MB sent by a node, on average", "log"),
    "energy": Cost("energy", 1, "J", "J spent", "J spent by a node, on average"),
    "rounds": Cost("round", 1, "rounds", "messages a round", "round", "log"),
}
"""Of rounds all make the same number; what is compared for them is their messages."""


@dataclass(frozen=True)
class Configuration:
    """A line of a study's list."""

    family: str
    label: str
    settings: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.family} {self.label}".strip()

    @property
    def folder(self) -> str:
        return self.title.replace(",", "").replace(" ", "_")


@dataclass(frozen=True)
class Study:
    """A study file: an experiment, and in which configurations it is run."""

    file: Path
    experiment: str
    """The experiment file, beside the study's own."""
    configurations: str
    """The list: lines of a family, a label in it, and a value for each key of `sets`, with bars between them."""
    sets: list[str]
    """The keys of the experiment that a configuration sets; those whose value is left out stay as they are."""
    seeds: list[int]
    until: float
    """The accuracy until which costs are counted."""
    against: str = "bytes"
    """A key of `COSTS`."""
    rounds: list[int] = field(default_factory=list)
    """After which rounds accuracies are shown; by default after the last."""

    @classmethod
    def read(cls, file: Path) -> "Study":
        table = read_table(file)
        try:
            study = cls(file=file, **table)
        except TypeError as error:
            known = ", ".join(each.name for each in fields(cls)[1:])
            raise ConfigurationError(f"The study {file} must have the keys {known}, and no others: {error}.") from error
        if study.against not in COSTS:
            raise ConfigurationError(
                f"The 'against' of {file} must be one of {', '.join(COSTS)}. Got {study.against!r} instead."
            )
        return study

    @property
    def name(self) -> str:
        return self.file.name.removesuffix(".study.toml")

    @property
    def experiment_file(self) -> Path:
        return self.file.parent / self.experiment

    @property
    def cost(self) -> Cost:
        return COSTS[self.against]

    def listed(self) -> list[Configuration]:
        """The configurations, in the order of the list."""
        lines = (self.file.parent / self.configurations).read_text(encoding="utf-8").splitlines()
        return [self._configuration(line) for line in lines if line.strip() and not line.startswith("#")]

    def _configuration(self, line: str) -> Configuration:
        family, *rest = map(str.strip, line.split("|"))
        label, *values = rest or [""]
        if not family or not any(values) or len(values) > len(self.sets):
            raise ConfigurationError(
                f"A line of {self.configurations} must be a family, a label and up to {len(self.sets)} values. "
                f"Got {line!r} instead."
            )
        given = zip(self.sets, values, strict=False)
        return Configuration(family, label, tuple(f"{key}={value}" for key, value in given if value))

    def settings(self, each: Configuration, seed: int, overrides: Sequence[str]) -> list[str]:
        """The settings of the experiment in a configuration."""
        return [*each.settings, f"seed={seed}", *overrides]

    def experiment_of(self, each: Configuration, seed: int, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment in a configuration."""
        table = read_table(self.experiment_file)
        for setting in self.settings(each, seed, overrides):
            assign(table, setting)
        return Experiment.from_table(table)


def run_once(study: Study, each: Configuration, seed: int, overrides: list[str], folder: Path) -> str:
    """Run one configuration, or go on with it, where that was not done before; what went wrong, or nothing."""
    arguments = [str(study.experiment_file), "--out", str(folder)]
    for setting in study.settings(each, seed, overrides):
        arguments += ["--set", setting]
    if (folder / "run.toml").exists():
        before = Run(folder)
        if Experiment.from_table(before.experiment) != study.experiment_of(each, seed, overrides):
            return f"{folder} holds another experiment: give another folder with --runs"
        if before.status in ("finished", "running"):
            return "" if before.status == "finished" else f"{folder} is being run by another process"
        if any((folder / "checkpoints").glob("*")):
            arguments = ["--resume", str(folder)]
        else:
            shutil.rmtree(folder)
    return in_own_process(arguments)


def in_own_process(arguments: list[str]) -> str:
    """`covey run` with some arguments; what went wrong, or nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "covey", "run", *arguments, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": "1", **os.environ},
    )
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def run_all(study: Study, chosen: list[Configuration], arguments: argparse.Namespace) -> dict[Configuration, list[Run]]:
    """The finished runs of each configuration, a seed each."""
    # A mistake should not wait for other runs.
    for each in chosen:
        check(study.experiment_of(each, 1, arguments.overrides))
    found: dict[Configuration, list[Run]] = {each: [] for each in chosen}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        begun = []
        for each in chosen:
            for seed in arguments.seeds:
                folder = arguments.runs / study.name / f"{each.folder}-s{seed}"
                begun.append((each, folder, pool.submit(run_once, study, each, seed, arguments.overrides, folder)))
        try:
            for number, (each, folder, outcome) in enumerate(begun, 1):
                problem = outcome.result()
                print(f"[{number}/{len(begun)}] {folder.name} {problem}".rstrip(), file=sys.stderr, flush=True)
                if not problem:
                    found[each].append(Run(folder))
        except KeyboardInterrupt:
            # Running experiments have received the signal, too, and stop with a checkpoint.
            pool.shutdown(cancel_futures=True)
            raise
    return found


@dataclass(frozen=True)
class Moment:
    """A configuration after an evaluated round, over its seeds."""

    accuracy: tuple[float, float]
    """Mean over nodes: mean and standard deviation over seeds."""
    worst: tuple[float, float]
    """Of the worst node, as above."""
    cost: float
    """The cost of a node up to then, in the study's unit; mean over nodes and seeds."""


def spread(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def course(runs: list[Run], cost: Cost) -> dict[int, Moment]:
    """A configuration after each round in which all its runs were evaluated."""
    rounds: dict[int, list[tuple[float, float, float]]] = {}
    for run in runs:
        table = run.metrics
        if cost.column not in table:
            raise ConfigurationError(f"The run {run.folder} does not record its {cost.column}.")
        of_round = table.groupby("round")
        spent = of_round["round"].first() if cost.column == "round" else mean_spent(run, table, cost.column)
        figures = of_round["accuracy"].agg(["mean", "min"]).assign(cost=spent / cost.size)
        for t, *of_nodes in figures.itertuples():
            rounds.setdefault(t, []).append(tuple(of_nodes))
    found = {t: list(zip(*rounds[t], strict=True)) for t in sorted(rounds) if len(rounds[t]) == len(runs)}
    return {t: Moment(spread(means), spread(worst), mean(costs)) for t, (means, worst, costs) in found.items()}


def row_of(study: Study, each: Configuration, runs: list[Run]) -> dict[str, Any]:
    """The results of a configuration, over its seeds."""
    row: dict[str, Any] = {"family": each.family, "label": each.label, "runs": len(runs)}
    row["settings"] = "; ".join(each.settings)
    if not runs:
        return row
    moments = course(runs, study.cost)
    for t in study.rounds or [max(moments)]:
        if t not in moments:
            raise ConfigurationError(f"No models of {runs[0].folder} were evaluated after round {t}.")
        for name, (average, deviation) in (("accuracy", moments[t].accuracy), ("worst", moments[t].worst)):
            at = f"{name}_{t}" if study.rounds else name
            row |= {at: average, f"{at}_std": deviation}
    summaries = [run.summary() for run in runs]
    averages = [summary["network"].get("average_model_accuracy") for summary in summaries]
    if None not in averages:
        row["average_model"] = mean(averages)
    spent = {
        "bytes": [summary["totals"]["bytes_out"] for summary in summaries],
        "energy": [summary["final"].get("energy", {"mean": 0.0})["mean"] * summary["nodes"] for summary in summaries],
        "rounds": [summary["totals"]["messages_out"] / summary["rounds"] for summary in summaries],
    }
    row["spent"] = mean(spent[study.against]) / study.cost.size
    reached = [_until(run, study) for run in runs]
    if None not in reached:
        row["until"] = mean(cost for cost in reached if cost is not None)
    return row


def _until(run: Run, study: Study) -> float | None:
    """The cost at the first evaluation that reaches the study's accuracy; None if none does."""
    for moment in course([run], study.cost).values():
        if moment.accuracy[0] >= study.until - 1e-9:
            return moment.cost if study.against == "rounds" else moment.cost * run.summary()["nodes"]
    return None


def columns(study: Study) -> list[str]:
    """Those of the CSV file."""
    shown = [f"_{t}" for t in study.rounds] or [""]
    accuracies = [f"{name}{at}{of}" for at in shown for name in ("accuracy", "worst") for of in ("", "_std")]
    return ["family", "label", "runs", *accuracies, "average_model", "spent", "share", "until", "settings"]


def markdown(study: Study, rows: list[dict[str, Any]]) -> str:
    """The table of a README."""

    def cell(row: dict[str, Any], name: str, form: str) -> str:
        return format(row[name], form) if name in row else "-"

    def both(row: dict[str, Any], name: str) -> str:
        if name not in row:
            return "-"
        return f"{row[name]:.3f}" + (f" ± {row[f'{name}_std']:.3f}" if row["runs"] > 1 else "")

    def amount(row: dict[str, Any], name: str) -> str:
        return cell(row, name, ",.1f" if study.against == "bytes" else ",.0f")

    cost, until = study.cost, f"until {study.until}"
    heads, names = ["accuracy", "worst node"], ["accuracy", "worst"]
    if study.rounds:
        heads = [text for t in study.rounds for text in (f"round {t}", "worst node")]
        names = [name for t in study.rounds for name in (f"accuracy_{t}", f"worst_{t}")]
    heads += ["average model", cost.spent, f"of {rows[0]['title']}", f"{cost.unit} {until}"]
    lines = [f"| configuration | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [row["title"], *(both(row, name) for name in names), cell(row, "average_model", ".3f")]
        cells += [amount(row, "spent"), cell(row, "share", ".1%"), amount(row, "until")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(study: Study, found: dict[Configuration, list[Run]], file: Path) -> None:
    """The way of each configuration, with a mark where the study looks first; a colour a family, a number each."""
    figure = new_figure((9.0, max(4.8, 0.4 + 0.142 * len(found))))
    axes = new_axes(figure)
    families = list(dict.fromkeys(each.family for each in found))
    colours = dict(zip(families, chain(CLASSES[:-1], cycle([INK])), strict=False))
    marked, handles = [], []
    for each, runs in found.items():
        if not runs:
            continue
        colour, moments = colours[each.family], course(runs, study.cost)
        axes.plot(
            [moment.cost for moment in moments.values()],
            [moment.accuracy[0] for moment in moments.values()],
            color=colour,
            linewidth=0.8 if len(found) > 15 else 1.4,
            alpha=0.5,
        )
        # After their last round, configurations that make the same rounds may all be in one place.
        moment = moments[study.rounds[0] if study.rounds else max(moments)]
        accuracy, deviation = moment.accuracy
        marked.append((moment.cost, accuracy))
        handles.append(axes.errorbar(*marked[-1], yerr=deviation, fmt="o", color=colour, markersize=4.5, linewidth=1))
    axes.set_xscale(study.cost.scale)
    if study.against == "rounds":
        axes.set_xticks(study.rounds, minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(study.cost.axis)
    axes.set_ylabel("test accuracy, mean over nodes")
    if handles:
        titles = [each.title for each, runs in found.items() if runs]
        key = figure.legend(
            handles,
            [f"{number}  {title}" for number, title in enumerate(titles, 1)],
            loc="outside right upper",
            frameon=False,
            fontsize=7,
            labelspacing=0.28,
            handletextpad=0.2,
        )
        for text, handle in zip(key.get_texts(), handles, strict=True):
            text.set_color(handle.lines[0].get_color())
        _number(figure, axes, marked, [handle.lines[0].get_color() for handle in handles])
    save(figure, file)


def _number(figure: Any, axes: Any, marked: list[tuple[float, float]], colours: list[str]) -> None:
    """Number what is marked, each beside its mark, or as near as others let it be."""
    figure.draw_without_rendering()
    point = figure.dpi / 72
    places = [(x / point, y / point) for x, y in axes.transData.transform(marked)]
    room = axes.get_window_extent()
    texts = [str(number) for number in range(1, len(marked) + 1)]
    sizes = [(4.2 * len(text) + 1.0, 7.0) for text in texts]
    corners = (room.x0 / point, room.y0 / point, room.x1 / point, room.y1 / point)
    for text, (x, y), end, colour, (left, low) in zip(
        texts, places, marked, colours, beside(places, sizes, corners), strict=True
    ):
        axes.annotate(
            text,
            end,
            (left - x, low - y),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=7,
            color=colour,
            in_layout=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 3, "shrinkB": 2},
        )


Box = tuple[float, float, float, float]
_MARK = 3.2
"""Half of a mark's width, in points."""


def beside(
    places: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], room: Box
) -> list[tuple[float, float]]:
    """Centres for labels near their places, such that none hides another or a place, inside a room if there is one."""
    taken: list[Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in places]
    centres = []
    for (x, y), (width, height) in zip(places, sizes, strict=True):
        for dx, dy in _outwards(math.hypot(room[2] - room[0], room[3] - room[1])):
            box = (x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2)
            inside = room[0] <= box[0] and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]
            if inside and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        centres.append((x + dx, y + dy))
    return centres


def _outwards(furthest: float) -> Iterator[tuple[float, float]]:
    """Steps away from a place, the nearest first, to the right before the left."""
    for ring in range(round(furthest / 3)):
        for turn in (0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8):
            angle = turn * math.pi / 8
            yield (8 + 3 * ring) * math.cos(angle), (8 + 3 * ring) * math.sin(angle)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, metavar="NAME.study.toml")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the study's own")
    parser.add_argument("--only", nargs="+", default=["*"], help='patterns of "FAMILY LABEL", as in "choco *"')
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as for `covey run`"
    )
    parser.add_argument("--runs", type=Path, help="where runs are, and are found again; otherwise runs/FOLDER")
    parser.add_argument("--out", type=Path, help="the folder of the table and the figure; otherwise the study's own")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    arguments = parser.parse_args()
    try:
        study = Study.read(arguments.study)
        arguments.seeds = arguments.seeds or study.seeds
        arguments.runs = arguments.runs or Path("runs") / study.file.resolve().parent.name
        chosen = [each for each in study.listed() if any(fnmatch(each.title, pattern) for pattern in arguments.only)]
        if not chosen:
            parser.error("No configuration fits --only.")
        found = run_all(study, chosen, arguments)
        rows = report(study, found, arguments.out or study.file.parent)
    except CoveyError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on.")
    print(markdown(study, rows))
    if not all(row["runs"] for row in rows):
        sys.exit("Some configurations have no finished run.")


def report(study: Study, found: dict[Configuration, list[Run]], folder: Path) -> list[dict[str, Any]]:
    """Write the table and the figure, and give the rows of the table."""
    rows = [{"title": each.title, **row_of(study, each, runs)} for each, runs in found.items()]
    whole = rows[0].get("spent")
    for row in rows:
        if whole and "spent" in row:
            row["share"] = row["spent"] / whole
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{study.name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns(study), restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{x:.5g}" if isinstance(x, float) else x for name, x in row.items()} for row in rows)
    draw(study, found, folder / f"{study.name}.png")
    return rows


if __name__ == "__main__":
    main()
