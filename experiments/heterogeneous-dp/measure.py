"""Recall of a search among the most similar users, for each group of users, under several kinds of noise.

    COVEY_DATA=... python experiments/heterogeneous-dp/measure.py [--seeds 1,2,3]

943 users of MovieLens-100k like the films that they rated 4 or 5. A tenth of each profile is held out, and looked for
in the union of the profiles of the ten users with the greatest noisy similarity. Of the users, 25 % are unconcerned
(v = 1), 50 % pragmatic (v = 0.5) and 25 % fundamentalists (v = 0.1). All pairs are compared, each once, with the noise
of both users. The table is movielens.csv, the figure movielens.png.
"""

import argparse
import csv
import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from covey.parts.parameters import Setting
from covey.privacy.clustering.levels import Groups
from covey.privacy.clustering.profiles import MovieLens
from covey.privacy.clustering.similarity import neighbours, recalls, shrunk, similarities

HERE = Path(__file__).parent
EPSILONS = (0.3, 1.0, 3.0, 10.0)
LEVELS = (1.0, 0.5, 0.1)
NAMES = ("unconcerned", "pragmatic", "fundamentalist")
NEIGHBOURS, HIDDEN, DRAWS = 10, 0.1, 2
COLUMNS = ("method", "epsilon", "seed", "recall", *NAMES)

Floats = NDArray[np.float64]


def sampled(shown: Floats, levels: Floats, epsilon: float, seed: int) -> Floats:
    """Noisy similarities by the sample mechanism: both users take each item into a comparison at random.

    An item that both have is in the sum with the product of their chances, so the sum is binomial.
    """
    draw = np.random.default_rng(seed)
    chances = np.expm1(epsilon * levels) / math.expm1(epsilon)
    common = np.triu((shown @ shown.T).astype(np.int64), k=1)
    kept = draw.binomial(common, np.outer(chances, chances))
    noise = similarities(np.zeros((len(shown), 1), dtype=np.int64), epsilon, draws=DRAWS, random=seed)
    return (kept + kept.T) + noise


def measured(seed: int) -> Iterator[dict[str, object]]:
    """The rows of one seed."""
    profiles = MovieLens(hidden=HIDDEN)
    users = profiles.most() or 0
    setting = Setting(users + 1, seed)
    profiles.ready(setting)
    groups = Groups(levels=list(LEVELS)).ready(setting)
    shown = np.stack([profiles.of(user) for user in range(users)])
    held_out = [profiles.held_out(user).tolist() for user in range(users)]
    group = np.array([groups.group(user) for user in range(users)])
    levels = np.array(LEVELS)[group]
    whole, mixed = shrunk_by(shown, np.ones(users)), shrunk_by(shown, levels)

    def row(method: str, epsilon: float, values: Floats) -> dict[str, object]:
        recall = recalls(neighbours(values, NEIGHBOURS).tolist(), shown, held_out)
        means = [float(np.nanmean(recall[group == one])) for one in range(len(NAMES))]
        found = (method, epsilon, seed, float(np.nanmean(recall)), *means)
        return dict(zip(COLUMNS, found, strict=True))

    yield row("none", math.inf, similarities(whole, math.inf))
    yield row("random", 0.0, np.random.default_rng(seed).random((users, users)))
    for epsilon in EPSILONS:
        yield row("heterogeneous", epsilon, similarities(mixed, epsilon, draws=DRAWS, random=seed))
        yield row("all at v = 1", epsilon, similarities(whole, epsilon, draws=DRAWS, random=seed))
        strict = min(LEVELS) * epsilon
        yield row("all at the strictest", epsilon, similarities(whole, strict, draws=DRAWS, random=seed))
        yield row("sample mechanism", epsilon, sampled(shown, levels, epsilon, seed))


def shrunk_by(shown: Floats, levels: Floats) -> NDArray[np.int64]:
    """The shrunk profiles of users with a level each."""
    return np.stack([shrunk(profile, level) for profile, level in zip(shown, levels, strict=True)])


def draw(rows: list[dict[str, object]], out: Path) -> None:
    """Recall by epsilon, of all users for each method and of each group under heterogeneous noise."""

    def series(method: str, column: str) -> list[float]:
        return [
            float(np.mean([row[column] for row in rows if (row["method"], row["epsilon"]) == (method, epsilon)]))
            for epsilon in EPSILONS
        ]

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for method in ("all at v = 1", "heterogeneous", "sample mechanism", "all at the strictest"):
        left.plot(EPSILONS, series(method, "recall"), marker="o", label=method)
    for method, style in (("none", "--"), ("random", ":")):
        level = float(np.mean([row["recall"] for row in rows if row["method"] == method]))
        left.axhline(level, color="grey", linestyle=style, label={"none": "no noise"}.get(method, method))
    for name in NAMES:
        (line,) = right.plot(EPSILONS, series("heterogeneous", name), marker="o", label=f"{name}, heterogeneous")
        right.plot(EPSILONS, series("all at v = 1", name), linestyle="--", color=line.get_color(), alpha=0.6)
    right.plot([], [], "--", color="grey", label="the same users, all at v = 1")
    for axes, title in ((left, "All users"), (right, "By group")):
        axes.set(xscale="log", xlabel="epsilon of a comparison at v = 1", title=title)
        axes.set_xticks(EPSILONS, [f"{epsilon:g}" for epsilon in EPSILONS])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    left.set_ylabel("recall")
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--out", type=Path, default=HERE / "movielens.csv")
    arguments = parser.parse_args()
    rows = [row for seed in arguments.seeds.split(",") for row in measured(int(seed))]
    with arguments.out.open("w", newline="") as opened:
        table = csv.DictWriter(opened, COLUMNS)
        table.writeheader()
        table.writerows(
            {name: f"{value:.4f}" if name in COLUMNS[3:] else value for name, value in row.items()} for row in rows
        )
    draw(rows, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
