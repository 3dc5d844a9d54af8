"""Run folders of a small experiment: finished, interrupted, and as a killed process leaves them."""

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covey import api
from covey.learning.learner import Learner
from covey.runtime.runs import RunWriter, resuming

BLOBS = {"kind": "gaussian-blobs", "samples": 60, "test_samples": 20, "features": 4, "classes": 2}


def tiny(**changes: Any) -> dict[str, Any]:
    """The tables of an experiment that takes a tenth of a second: 3 nodes, 6 rounds, a checkpoint every second one."""
    return {
        "seed": 3,
        "rounds": 6,
        "program": {"kind": "gossip", "topology": "ring"},
        "task": {
            "dataset": BLOBS,
            "model": "logistic",
            "batch_size": 8,
            "optimizer": {"kind": "sgd", "lr": 0.3},
            "partition": {"kind": "dirichlet", "alpha": 0.5},
        },
        "network": {"nodes": 3, "latency": "5ms", "bandwidth": "20Mbit/s"},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2, "keep": 2},
        "engine": {"kind": "simulation", "workers": 1},
        **changes,
    }


def _when_training(call: int, action: Any) -> pytest.MonkeyPatch:
    """Do something before the training of a round begins; all nodes train together."""
    calls, train = 0, Learner.train

    def counted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            action()
        train(*arguments)

    patch = pytest.MonkeyPatch()
    patch.setattr(Learner, "train", counted)
    return patch


def finished(folder: Path, **changes: Any) -> Path:
    """A run that ended by itself."""
    return api.run(tiny(**changes), out=folder).folder


def interrupted(folder: Path, *, round: int = 5, **changes: Any) -> Path:
    """A run that Ctrl-C stopped after a round, with a checkpoint."""
    patch = _when_training(round, lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        run = api.run(tiny(**changes), out=folder)
    finally:
        patch.undo()
    assert run.status == "interrupted"
    return folder


def killed(folder: Path, *, round: int = 6, **changes: Any) -> Path:
    """The folder as it is when the process is killed in a round, its write-ahead log and all."""
    going_on = folder.with_name(folder.name + "-going-on")
    patch = _when_training(round, lambda: shutil.copytree(going_on, folder))
    try:
        api.run(tiny(**changes), out=going_on)
    finally:
        patch.undo()
    shutil.rmtree(going_on)
    return folder


def killed_again(folder: Path, into: Path, *, round: int) -> Path:
    """A copy of a killed run as it is when its resume is killed, too, before the training of a round."""
    going_on = Path(shutil.copytree(folder, folder.with_name(folder.name + "-again")))
    patch = _when_training(round, lambda: shutil.copytree(going_on, into))
    try:
        api.resume(going_on)
    finally:
        patch.undo()
    shutil.rmtree(going_on)
    return into


def as_if_killed(folder: Path) -> Path:
    """Let a run that ended, or was interrupted, be one whose process was killed."""
    facts = json.loads((folder / "facts.json").read_text())
    (folder / "facts.json").write_text(json.dumps({**facts, "status": "running"}))
    return folder


def reached(completed: Sequence[int], clocks: Sequence[float] | None = None) -> dict[str, Any]:
    """The least content of a checkpoint: the progress of each node."""
    times = [0.5 * round for round in completed] if clocks is None else clocks
    return {"completed": np.array(completed), "clocks": np.array(times, dtype=float)}


def reopened(folder: Path, facts: dict[str, Any] | None = None) -> RunWriter:
    """A writer that goes on with a run from its latest checkpoint."""
    with resuming(folder) as opened:
        return RunWriter.resume(opened, facts or {})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path in the folder; not the lock, and not the index that readers keep of a log."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (".lock", "metrics.sqlite-shm")
    }


def rows(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of all tables that a resume repeats."""
    # Where there is no log, opening the file as it is makes none.
    mode = "mode=ro" if (folder / "metrics.sqlite-wal").exists() else "immutable=1"
    database = sqlite3.connect(f"file:{folder / 'metrics.sqlite'}?{mode}", uri=True)
    try:
        return {
            table: sorted(database.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
            for table in ("commits", "metrics", "events")
        }
    finally:
        database.close()
