"""Accuracy and the success of a membership attack, for Zip-DL and Muffliato at several noises.

    python experiments/zip-dl/measure.py [--seeds 1,2] [--out experiments/zip-dl/fashion.csv]

Every node has 120 random images of Fashion-MNIST. The attack sees the first messages of the last round at two nodes:
10 models. Lines that the table has already are not run again.
"""

import argparse
import csv
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import covey
from covey.learning.views import View
from covey.privacy.attacks.attacking import attack
from covey.privacy.attacks.knowledge import Knowledge
from covey.privacy.attacks.membership import MembershipLoss
from covey.runtime.experiment import Experiment

HERE = Path(__file__).parent
NODES, OF_A_NODE, IMAGES = 24, 120, 60_000
SIGMAS = (0.0, 0.03, 0.1, 0.3)
METHODS = {
    "zip-dl": {"kind": "zip-dl"},
    "muffliato-1": {"kind": "muffliato"},
    "muffliato-10": {"kind": "muffliato", "steps": 10},
}
COLUMNS = (
    "method",
    "sigma",
    "seed",
    "accuracy",
    "average_accuracy",
    "auc",
    "matched_auc",
    "epsilon_of_a_round",
    "megabytes",
)


class LastRound(MembershipLoss):
    """The attack by losses on the models of the last round."""

    def chosen(self, known: Knowledge) -> list[View]:
        views = super().chosen(known)
        return [view for view in views if view.round == max(one.round or 0 for one in views)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--out", type=Path, default=HERE / "fashion.csv")
    arguments = parser.parse_args()
    done = list(csv.DictReader(arguments.out.open())) if arguments.out.exists() else []
    known = {(row["method"], float(row["sigma"]), int(row["seed"])) for row in done}
    for seed in map(int, arguments.seeds.split(",")):
        for sigma in SIGMAS:
            for method in METHODS:
                if (method, sigma, seed) not in known:
                    done.append(measured(method, sigma, seed))
                    print(done[-1], flush=True)
                    write(arguments.out, done)
    for line in table(done):
        print(line)


def measured(method: str, sigma: float, seed: int) -> dict[str, object]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        partition = Path(folder) / "partition.csv"
        chosen = np.random.default_rng(seed).permutation(IMAGES)[: NODES * OF_A_NODE]
        partition.write_text("sample,node\n" + "".join(f"{one},{at % NODES}\n" for at, one in enumerate(chosen)))
        tables = Experiment.from_file(HERE / "fashion.toml").to_table()
        tables["seed"] = seed
        tables["program"]["sharing"] = {**METHODS[method], "sigma": sigma}
        tables["task"]["partition"] = {"kind": "file", "file": str(partition)}
        run = covey.run(tables, out=Path(folder) / "run", quiet=True)
        (result,) = attack(run, [LastRound(samples=IMAGES, messages=10_000)])
        summary = run.summary()
        found = {
            "method": method,
            "sigma": sigma,
            "seed": seed,
            "accuracy": round(summary["final"]["accuracy"]["mean"], 4),
            "average_accuracy": round(summary["network"]["average_model_accuracy"], 4),
            "auc": round(result.headline["auc"], 4),
            "matched_auc": round(result.headline["matched"], 4),
            "epsilon_of_a_round": run.facts.get("privacy", [{}])[0].get("epsilon_of_one"),
            "megabytes": round(summary["totals"]["bytes_out"] / 1e6, 1),
        }
        shutil.rmtree(run.folder)
    return found


def write(file: Path, rows: list[dict[str, object]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def table(rows: list[dict[str, object]]) -> Iterator[str]:
    """The means over seeds as Markdown: accuracy / AUC in per cent."""
    yield "| sigma | " + " | ".join(METHODS) + " |"
    yield "| ---: |" + " ---: |" * len(METHODS)
    for sigma in SIGMAS:
        cells = []
        for method in METHODS:
            some = [row for row in rows if row["method"] == method and float(str(row["sigma"])) == sigma]
            figures = [np.mean([float(str(row[name])) for row in some]) for name in ("accuracy", "auc")]
            cells.append(" / ".join(f"{100 * figure:.1f}" for figure in figures))
        yield f"| {sigma:g} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
