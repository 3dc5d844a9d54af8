"""Writes a run's folder: metrics while it goes on, checkpoints, and what is left at the end."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Self

import numpy as np
import tomli_w
from torch import Tensor

from covey import wire
from covey.errors import RunError
from covey.node import Payload
from covey.runs.schema import (
    CHECKPOINTS,
    COMMIT_COLUMNS,
    CONFIG,
    FACTS,
    GRAPH,
    HOLDINGS,
    METRICS,
    MODELS,
    NETWORK,
    TABLES,
)

_ROWS_AT_ONCE = 4096
_SECONDS = 1.0


class RunWriter:
    """The one writer of a run's folder. Rows are kept for a second at most, so others can read along.

    Every method raises RunError, in one line, where the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commits: list[tuple[Any, ...]] = []
        self._metrics: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []
        self._flushed = monotonic()
        with self._guarded():
            self._database = sqlite3.connect(folder / METRICS, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(TABLES)

    @classmethod
    def create(cls, folder: Path, experiment: Mapping[str, Any], facts: Mapping[str, Any]) -> Self:
        """Begin a run in a new or empty folder.

        Args:
            folder: where.
            experiment: the resolved experiment, as tables.
            facts: versions, seed, and whatever else says where it came from.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            occupied = any(folder.iterdir())
        except OSError as error:
            raise RunError(f"The run folder {folder} cannot be made: {error.strerror}.") from error
        if occupied:
            raise RunError(f"The run folder {folder} is not empty. Give another one, or go on with it by --resume.")
        with _guarded(folder):
            (folder / CONFIG).write_text(tomli_w.dumps(dict(experiment)))
            (folder / CHECKPOINTS).mkdir()
        writer = cls(folder)
        writer._write_facts({**facts, "status": "running"})
        return writer

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Go on with a run."""
        if not (folder / METRICS).exists():
            raise RunError(f"{folder} is no run folder: it has no {METRICS}.")
        writer = cls(folder)
        writer._write_facts({**_read_facts(folder), "status": "running"})
        return writer

    def commits(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Record completed rounds; a row has the columns COMMIT_COLUMNS."""
        self._commits.extend(rows)
        self._maybe_flush()

    def metrics(self, rows: Sequence[tuple[int, int, str, float]]) -> None:
        """Record figures: (node, round, name, value), under the node NETWORK for the network as a whole."""
        self._metrics.extend(rows)
        self._maybe_flush()

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Record something that happened."""
        self._events.append((time, node, kind, detail))
        self._maybe_flush()

    def _maybe_flush(self) -> None:
        rows = len(self._commits) + len(self._metrics) + len(self._events)
        if rows >= _ROWS_AT_ONCE or monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put everything recorded so far into the database."""
        self._flushed = monotonic()
        if not (self._commits or self._metrics or self._events):
            return
        with self._guarded():
            database = self._database
            database.execute("BEGIN")
            marks = ",".join("?" * len(COMMIT_COLUMNS))
            database.executemany(f"INSERT INTO commits VALUES ({marks})", self._commits)
            database.executemany("INSERT INTO metrics VALUES (?,?,?,?)", self._metrics)
            database.executemany("INSERT INTO events VALUES (?,?,?,?)", self._events)
            database.execute("COMMIT")
        self._commits, self._metrics, self._events = [], [], []

    def truncate(self, completed: Sequence[int]) -> None:
        """Forget what each node did after so many completed rounds, before it does it again."""
        with self._guarded():
            database = self._database
            database.execute("BEGIN")
            after = list(enumerate(completed))
            database.executemany("DELETE FROM commits WHERE node = ? AND round > ?", after)
            database.executemany(
                "DELETE FROM metrics WHERE node = ? AND round > ?", [*after, (NETWORK, min(completed))]
            )
            database.execute("COMMIT")

    def graph(self, n: int, sources: np.ndarray, targets: np.ndarray, static: bool) -> None:
        """Keep the graph of the first round."""
        with self._guarded():
            np.savez_compressed(self.folder / GRAPH, n=n, sources=sources, targets=targets, static=static)

    def holdings(self, counts: np.ndarray) -> None:
        """Keep who holds what: samples of each class of each node, or samples of each node."""
        with self._guarded():
            np.save(self.folder / HOLDINGS, counts, allow_pickle=False)

    def models(self, models: Tensor) -> None:
        """Keep the final models, N x P."""
        with self._guarded():
            np.save(self.folder / MODELS, models.numpy(), allow_pickle=False)

    def checkpoint(self, round: int, payload: Payload, keep: int = 2) -> None:
        """Keep a moment to go on from, and the `keep - 1` before it."""
        self.flush()
        folder = self.folder / CHECKPOINTS
        with self._guarded():
            wire.write_file(folder / f"round-{round:09d}.covey", payload)
            for old in sorted(folder.glob("round-*.covey"))[:-keep]:
                old.unlink()

    def finish(self, status: str, facts: Mapping[str, Any]) -> None:
        """End the run as "finished", "interrupted" or "failed"."""
        try:
            self.flush()
        finally:
            self._database.close()
        self._write_facts({**_read_facts(self.folder), **facts, "status": status})

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        with self._guarded():
            part = self.folder / (FACTS + ".part")
            part.write_text(json.dumps(dict(facts), indent=2) + "\n")
            part.replace(self.folder / FACTS)

    def _guarded(self) -> Any:
        return _guarded(self.folder)


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(f"The run folder {folder} cannot be written: {error}.") from error
    except OSError as error:
        raise RunError(f"The run folder {folder} cannot be written: {error.strerror or error}.") from error


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return {}
    return facts


def latest_checkpoint(folder: Path) -> tuple[int, Payload] | None:
    """(round, checkpoint) of the latest that is not damaged, or None."""
    for path in sorted((folder / CHECKPOINTS).glob("round-*.covey"), reverse=True):
        try:
            return int(path.stem.removeprefix("round-")), wire.read_file(path)
        except RunError:
            continue
    return None
