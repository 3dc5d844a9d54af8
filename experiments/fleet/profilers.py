"""The deviation of tasks from their time, with I-Prof and with MAUI, on synthetic phones.

    python experiments/fleet/profilers.py [--seeds 1,2,3] [--tasks 4000]

Phones ask for tasks in random order. Their time is that of `[network.devices]`: linear in the features by model, with a
fixed cost, noise, and a drift of which the temperature shows a part. Nothing is trained.
"""

import argparse
from collections.abc import Iterator
from statistics import mean

import numpy as np

from covey.federated.iprof import Bounds, Maui, Objective, Profiler
from covey.network.devices import Phones
from covey.parts.parameters import Setting

PHONES, MODELS, LIMIT, FIXED = 120, 12, 3.0, 0.1
WARM_UP = 0.1
"""The share of the tasks that do not count."""
KINDS = ("I-Prof", "I-Prof, cold start", "MAUI", "MAUI, same bounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--tasks", type=int, default=4000)
    arguments = parser.parse_args()
    print("| profiler | 50 % within | 90 % within | 99 % within | energy, 90 % within |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind in KINDS:
        found = [measured(kind, seed, arguments.tasks) for seed in map(int, arguments.seeds.split(","))]
        cells = [f"{mean(column):.2f} s" for column in list(zip(*found, strict=True))[:3]]
        print(f"| {kind} | {' | '.join(cells)} | {mean(row[3] for row in found):.2f} J |")


def measured(kind: str, seed: int, tasks: int) -> list[float]:
    """The percentiles of |time - limit|, and of |energy - limit|, over the tasks of one seed."""
    phones = Phones(
        count=MODELS, samples_per_second=400.0, spread=0.7, fixed=FIXED, drift=0.1, period=600.0, noise=0.05
    ).ready(Setting(nodes=PHONES, seed=seed))
    late, over = (
        [abs(cost - limit) for cost, limit in costs(kind, phones, tasks, seed, of_energy=of_energy)]
        for of_energy in (False, True)
    )
    first = int(WARM_UP * tasks)
    return [*np.percentile(late[first:], (50, 90, 99)).tolist(), float(np.percentile(over[first:], 90))]


def costs(kind: str, phones: Phones, tasks: int, seed: int, *, of_energy: bool) -> Iterator[tuple[float, float]]:
    """The cost of each task, and its limit."""
    draw = np.random.default_rng(seed)
    profiler: Profiler | Maui = Maui() if kind == "MAUI" else Maui(Bounds(104, 10_000, 0.0))
    if kind.startswith("I-Prof"):
        profiler = Profiler()
    if kind == "I-Prof, cold start":
        warm_up(profiler, seed)
    limit = 8.0 if of_energy else LIMIT
    objective = Objective(joules=limit) if of_energy else Objective(seconds=limit)
    for task in range(tasks):
        node, now = int(draw.integers(PHONES)), float(task)
        features = phones.features(node, now)
        samples = profiler.predict(features, objective).samples
        seconds = phones.seconds(node, samples / phones.speeds()[node], now, (task, 0))
        joules = seconds * float(features["power_w"])
        profiler.observe(features, samples, None if of_energy else seconds, joules if of_energy else None)
        yield (joules if of_energy else seconds), limit


def warm_up(profiler: Profiler | Maui, seed: int) -> None:
    """Measurements from before the run, of other phones."""
    assert isinstance(profiler, Profiler)
    others = Phones(count=MODELS, samples_per_second=400.0, spread=0.7).ready(Setting(nodes=PHONES, seed=seed + 1000))
    rows = [others.features(node, 0.0) for node in range(PHONES)]
    slopes = 1000.0 / others.speeds()
    profiler.time.warm_up(rows, slopes.tolist())
    profiler.energy.warm_up(rows, (slopes * others.powers()).tolist())


if __name__ == "__main__":
    main()
