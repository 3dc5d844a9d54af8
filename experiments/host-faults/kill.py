"""Kill a host of real runs at chosen moments, and see what became of the run: a row of a table for each kill.

python experiments/host-faults/kill.py --repetitions 5 --out experiments/host-faults
python experiments/host-faults/kill.py --repetitions 2 --waiting
"""

import argparse
import csv
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MOMENTS = ("start", "mid-round", "checkpoint", "end")
NODES, HOSTS, ROUNDS = 12, 3, 120
COLUMNS = (
    *("moment", "seed", "host", "killed_at", "back_at", "status", "integrity", "rows_before", "rows_lost"),
    *("nodes_at_the_end", "others_mean", "others_least", "others_most", "returned_mean", "returned_least"),
)
WAITING = 'program={kind="gossip", topology={kind="epidemic-oracle", degree=3}}'
"""Without patience: nodes wait for ever for those that were killed."""
PATIENCE = 60.0
"""Seconds without a completed round after which a run counts as one that waits for ever."""
ROLLED_BACK = (
    *("moment", "seed", "host", "killed_at", "rolled_back_at", "status", "integrity", "rows_before", "rows_lost"),
    *("rows_at_the_end", "seconds", "models_differ_by"),
)


def rows(folder: Path, query: str) -> list[tuple]:
    """The result of a query on a run that may be growing; empty before it has a database."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'metrics.sqlite'}?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()
    except sqlite3.Error:
        return []


def process_of(run: subprocess.Popen, host: int) -> int:
    """The process id of a host: they are started one after the other, or forked off a process that is."""
    started = children_of(run.pid)
    return sorted(children_of(started[0]) or started)[host]


def children_of(parent: int) -> list[int]:
    """The processes of hosts that another one has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            its_parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if its_parent == parent and b"\0host\0" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found


def until(run: subprocess.Popen, condition: Callable[[], bool], pause: float) -> None:
    while not condition():
        if run.poll() is not None:
            raise SystemExit(f"The run ended with status {run.returncode} before its host was killed.")
        time.sleep(pause)


def wait_for(moment: str, run: subprocess.Popen, folder: Path, host: int) -> None:
    """Return when it is time to kill."""

    def latest() -> int:
        return (rows(folder, "SELECT max(round) FROM commits") or [(0,)])[0][0] or 0

    def begun() -> bool:
        log = folder / "logs" / f"host-{host}.log"
        return log.exists() and "nodes begin" in log.read_text()

    if moment == "start":
        until(run, begun, 0.002)
    elif moment == "end":
        until(run, lambda: latest() >= ROUNDS - 8, 0.01)
    else:
        until(run, lambda: latest() >= 20, 0.01)
        time.sleep(random.random() * 0.2)
    if moment == "checkpoint":
        before = set((folder / "checkpoints").iterdir())
        until(run, lambda: bool(set((folder / "checkpoints").iterdir()) - before), 0.0005)


def kill_once(moment: str, seed: int, folder: Path) -> dict[str, object]:
    host = seed % HOSTS
    command = [sys.executable, "-m", "covey", "run", str(HERE / "digits.toml"), "--out", str(folder)]
    with open(folder.with_suffix(".log"), "wb") as log:
        run = subprocess.Popen([*command, "--set", f"seed={seed}"], stdout=log, stderr=log)
    wait_for(moment, run, folder, host)
    before = rows(folder, "SELECT node, round FROM commits")
    os.kill(process_of(run, host), signal.SIGKILL)
    code = run.wait(timeout=180)

    struck = {node for node in range(NODES) if node * HOSTS // NODES == host}
    after = set(rows(folder, "SELECT node, round FROM commits"))
    final = dict(rows(folder, f"SELECT node, value FROM metrics WHERE name = 'accuracy' AND round = {ROUNDS}"))
    others = [value for node, value in final.items() if node >= 0 and node not in struck]
    returned = [value for node, value in final.items() if node in struck]
    events = dict(rows(folder, "SELECT kind, min(time) FROM events GROUP BY kind"))
    return {
        "moment": moment,
        "seed": seed,
        "host": host,
        "killed_at": round(events["left"], 2) if "left" in events else "",
        "back_at": round(events["returned"], 2) if "returned" in events else "",
        "status": "finished" if code == 0 else code,
        "integrity": rows(folder, "PRAGMA integrity_check")[0][0],
        "rows_before": len(before),
        "rows_lost": len(set(before) - after),
        "nodes_at_the_end": sum((node, ROUNDS) in after for node in range(NODES)),
        "others_mean": round(sum(others) / len(others), 4),
        "others_least": round(min(others), 4),
        "others_most": round(max(others), 4),
        "returned_mean": round(sum(returned) / len(returned), 4),
        "returned_least": round(min(returned), 4),
    }


def models(seed: int, folder: Path) -> np.ndarray:
    """The final models of the run to which nothing happens, from the simulation."""
    command = [sys.executable, "-m", "covey", "run", str(HERE / "digits.toml"), "--out", str(folder)]
    subprocess.run([*command, "--set", f"seed={seed}", "--set", WAITING, "--set", "engine=simulation"], check=True)
    return np.load(folder / "models.npy")


def roll_back_once(moment: str, seed: int, folder: Path, undisturbed: np.ndarray) -> dict[str, object]:
    """Kill a host of a run that waits for it."""
    host = seed % HOSTS
    command = [sys.executable, "-m", "covey", "run", str(HERE / "digits.toml"), "--out", str(folder)]
    began = time.monotonic()
    with open(folder.with_suffix(".log"), "wb") as log:
        run = subprocess.Popen([*command, "--set", f"seed={seed}", "--set", WAITING], stdout=log, stderr=log)
    wait_for(moment, run, folder, host)
    before = rows(folder, "SELECT node, round FROM commits")
    os.kill(process_of(run, host), signal.SIGKILL)
    count, since = 0, time.monotonic()
    while run.poll() is None and time.monotonic() - since < PATIENCE:
        time.sleep(0.2)
        latest = len(rows(folder, "SELECT round FROM commits"))
        if latest != count:
            count, since = latest, time.monotonic()
    waits = run.poll() is None
    if waits:
        run.kill()
        run.wait()
    seconds = time.monotonic() - began
    after = rows(folder, "SELECT node, round FROM commits")
    events = dict(rows(folder, "SELECT kind, min(time) FROM events GROUP BY kind"))
    file = folder / "models.npy"
    return {
        "moment": moment,
        "seed": seed,
        "host": host,
        "killed_at": round(events.get("host lost", events.get("left", float("nan"))), 2),
        "rolled_back_at": round(events["rolled back"], 2) if "rolled back" in events else "",
        "status": "waits for ever" if waits else "finished" if run.returncode == 0 else run.returncode,
        "integrity": rows(folder, "PRAGMA integrity_check")[0][0],
        "rows_before": len(before),
        "rows_lost": len(set(before) - set(after)),
        "rows_at_the_end": len(after) if len(set(after)) == len(after) else "doubled",
        "seconds": round(seconds, 1),
        "models_differ_by": f"{abs(np.load(file) - undisturbed).max():.1e}" if file.exists() else "",
    }


def roll_back(repetitions: int, table: Path) -> None:
    """A row for each kill of a host that the others wait for."""
    with open(table, "w", newline="") as file, tempfile.TemporaryDirectory() as scratch:
        writer = csv.DictWriter(file, ROLLED_BACK)
        writer.writeheader()
        for seed in range(1, repetitions + 1):
            undisturbed = models(seed, Path(scratch) / f"undisturbed-{seed}")
            for moment in MOMENTS:
                row = roll_back_once(moment, seed, Path(scratch) / f"{moment}-{seed}", undisturbed)
                writer.writerow(row)
                file.flush()
                print(row, flush=True)


def draw(table: Path, figure: Path) -> None:
    """Each run's accuracies: the range of the nodes that stayed, and the mean of those that were killed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with open(table, newline="") as file:
        runs = list(csv.DictReader(file))
    _, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for index, run in enumerate(runs):
        low, high = float(run["others_least"]), float(run["others_most"])
        first = index == 0
        axes.plot([index] * 2, [low, high], color="#8aa4c8", lw=6, label="nodes that stayed" if first else None)
        mean = float(run["returned_mean"])
        axes.plot(index, mean, "o", color="#c0392b", ms=5, label="killed nodes, mean" if first else None)
    for moment in MOMENTS:
        indices = [index for index, run in enumerate(runs) if run["moment"] == moment]
        if indices:
            axes.text(sum(indices) / len(indices), 1.02, moment, transform=axes.get_xaxis_transform(), ha="center")
            axes.axvline(max(indices) + 0.5, color="#dddddd", lw=1)
    axes.set_xticks([])
    axes.set_ylabel("final test accuracy")
    axes.legend(loc="lower left", frameon=False)
    plt.savefig(figure, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5, help="of each moment, with seeds 1, 2, ...")
    parser.add_argument("--out", type=Path, default=HERE, help="the folder of kills.csv and accuracy.png")
    parser.add_argument("--waiting", action="store_true", help="of runs without patience, into waiting.csv")
    arguments = parser.parse_args()
    if arguments.waiting:
        roll_back(arguments.repetitions, arguments.out / "waiting.csv")
        return
    table = arguments.out / "kills.csv"
    with open(table, "w", newline="") as file, tempfile.TemporaryDirectory() as scratch:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for moment in MOMENTS:
            for seed in range(1, arguments.repetitions + 1):
                folder = Path(scratch) / f"{moment}-{seed}"
                row = kill_once(moment, seed, folder)
                writer.writerow(row)
                file.flush()
                print(row, flush=True)
                shutil.rmtree(folder)
    draw(table, arguments.out / "accuracy.png")


if __name__ == "__main__":
    main()
