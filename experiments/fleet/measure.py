"""The accuracy of every rule for stale gradients, under three distributions of delays.

    python experiments/fleet/measure.py [--seeds 1,2,3] [--rounds 3000] [--only "D1 *"] [--out mnist.csv]

Lines that the table has already are not run again.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import Tensor

import covey
from covey.learning.metrics import Metric
from covey.runtime.experiment import Experiment

HERE = Path(__file__).parent
# A delay of d seconds is a staleness of about d - 0.5: one gradient arrives in a second.
DELAYS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "D1": {"mean": 6.5, "deviation": 2.0},
    "D2": {"mean": 12.5, "deviation": 4.0},
    "class-0": {"mean": 6.5, "deviation": 2.0, "label": 0, "factor": 24.5 / 6.5},
}
RULES: dict[str, dict[str, Any]] = {
    "AdaSGD": {},
    "exponential only": {"boost": False},
    "DynSGD": {"dampening": "inverse"},
    "FedAvg-async": {"dampening": "constant"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "AdaSGD s=85": {"s": 85.0},
    "AdaSGD s=85 clamped": {"s": 85.0, "clamp_at_threshold": True},
    "AdaSGD s=85 applied weight": {"s": 85.0, "histogram": "applied-weight"},
    "AdaSGD s=85 both": {"s": 85.0, "clamp_at_threshold": True, "histogram": "applied-weight"},
    "AdaSGD both": {"clamp_at_threshold": True, "histogram": "applied-weight"},
}
COLUMNS = ("delays", "rule", "seed", "accuracy", "first_class", "until_70", "staleness", "weight")
LAST = 10
"""The evaluations whose mean is the accuracy."""


class FirstClass(Metric):
    """The accuracy on samples of class 0."""

    of = "classes"

    def kept(self, outputs: Tensor, targets: Tensor) -> tuple[int, int]:
        first = targets == 0
        return int((outputs.argmax(-1) == 0)[first].sum()), int(first.sum())

    def figure(self, kept: Sequence[tuple[int, int]]) -> float:
        return sum(right for right, _ in kept) / max(sum(count for _, count in kept), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--only", default="*", help="a pattern of delays and rule, as in 'D1 *'")
    parser.add_argument("--out", type=Path, default=HERE / "mnist.csv")
    arguments = parser.parse_args()
    done = list(csv.DictReader(arguments.out.open())) if arguments.out.exists() else []
    known = {(row["delays"], row["rule"], int(row["seed"])) for row in done}
    for seed in map(int, arguments.seeds.split(",")):
        for delays, rule, weights in listed():
            if (delays, rule, seed) not in known and fnmatch(f"{delays} {rule}", arguments.only):
                done.append(measured(delays, rule, weights, seed, arguments.rounds))
                print(done[-1], flush=True)
                with arguments.out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows(done)
    for line in table(done):
        print(line)


def listed() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The delays, and the name and the parameters of the rule, of every run."""
    yield "none", "SSGD", {"dampening": "constant"}
    for delays in ("D1", "D2", "class-0"):
        for rule, weights in {**RULES, **(OPTIONS if delays == "class-0" else {})}.items():
            yield delays, rule, weights


def measured(delays: str, rule: str, weights: dict[str, Any], seed: int, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    tables = Experiment.from_file(HERE / "mnist.toml").to_table()
    tables["seed"], tables["rounds"] = seed, rounds
    tables["program"]["weights"] = weights
    tables["program"].pop("delays")
    if DELAYS[delays] is not None:
        tables["program"]["delays"] = DELAYS[delays]
    tables["task"]["metrics"] = [FirstClass()]
    with tempfile.TemporaryDirectory() as folder:
        run = covey.run(tables, out=Path(folder) / "run", quiet=True)
        of_server = run.metrics[run.metrics["node"] == 0].set_index("round")
        figures = run.figures[run.figures["node"] == 0][["staleness", "weight"]].mean()
    accuracy = of_server["accuracy"].dropna()
    reached = accuracy[accuracy >= 0.7]
    return {
        "delays": delays,
        "rule": rule,
        "seed": seed,
        "accuracy": float(accuracy.tail(LAST).mean()),
        "first_class": float(of_server["first_class"].dropna().tail(LAST).mean()),
        "until_70": int(reached.index[0]) if len(reached) else "",
        "staleness": float(figures["staleness"]),
        "weight": float(figures["weight"]),
    }


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The means and deviations over seeds, as Markdown."""
    yield "| delays | rule | accuracy | class 0 | updates until 70 % | mean staleness | mean weight |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    for delays, rule, _ in listed():
        of = [row for row in rows if (row["delays"], row["rule"]) == (delays, rule)]
        if of:
            until = [str(row["until_70"]) or "never" for row in of]
            cells = [_shown(of, "accuracy", 100), _shown(of, "first_class", 100), ", ".join(until)]
            yield f"| {delays} | {rule} | {' | '.join([*cells, _shown(of, 'staleness'), _shown(of, 'weight')])} |"


def _shown(rows: Sequence[dict[str, Any]], column: str, scale: float = 1.0) -> str:
    values = [scale * float(row[column]) for row in rows]
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.3g}{spread}"


if __name__ == "__main__":
    main()
