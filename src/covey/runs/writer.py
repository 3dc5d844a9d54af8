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
from covey.runs import lock
from covey.runs.database import check_values, reading
from covey.runs.files import refuse_links
from covey.runs.schema import (
    CHECKPOINTS,
    COMMIT_COLUMNS,
    CONFIG,
    FACTS,
    GRAPH,
    HOLDINGS,
    LOGS,
    METRICS,
    MODELS,
    NETWORK,
    OUTAGES,
    TABLES,
    by_start,
    config_digest,
)
from covey.topology import Graph

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
        self._hosts: list[tuple[Any, ...]] = []
        self._forgotten: dict[str, list[tuple[int, int]]] = {"commits": [], "metrics": []}
        self._facts: dict[str, Any] = {}
        self._began = self._flushed = monotonic()
        refuse_links(folder, writing=True)
        with self._guarded():
            self._lock = lock.acquire(folder)
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
        text = tomli_w.dumps(dict(experiment))
        with _guarded(folder):
            (folder / CONFIG).write_text(text, encoding="utf-8")
            (folder / CHECKPOINTS).mkdir()
        writer = cls(folder)
        writer._write_facts(by_start({**facts, "config_digest": config_digest(text), "status": "running"}))
        return writer

    @classmethod
    def reopen(cls, folder: Path, facts: Mapping[str, Any]) -> Self:
        """Go on with a run.

        Args:
            folder: where.
            facts: as `create` takes them; those of a start are kept beside those of the starts before.
        """
        if not (folder / METRICS).exists():
            raise RunError(f"{folder} is no run folder: it has no {METRICS}.")
        with reading(folder) as database:
            check_values(database, folder)
        writer = cls(folder)
        before = by_start(_read_facts(folder))
        starts = [*before["starts"], *by_start(facts)["starts"]]
        writer._write_facts({**before, "status": "running", "starts": starts})
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

    def host_figures(self, rows: Sequence[tuple[float, int, str, float]]) -> None:
        """Record how hosts fare: (time, host, name, value)."""
        self._hosts.extend(rows)
        self._maybe_flush()

    def forget(self, table: str, rounds: Sequence[tuple[int, int]]) -> None:
        """Forget rounds of nodes when what is recorded next is written: until then the old ones are there.

        Args:
            table: "commits" or "metrics".
            rounds: pairs of a node and a round.
        """
        if rounds:
            self.flush()
            self._forgotten[table] += rounds

    def logs(self) -> Path:
        """The folder for what hosts have to say."""
        with self._guarded():
            (self.folder / LOGS).mkdir(exist_ok=True)
        return self.folder / LOGS

    def _maybe_flush(self) -> None:
        rows = len(self._commits) + len(self._metrics) + len(self._events) + len(self._hosts)
        if rows >= _ROWS_AT_ONCE or monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put everything recorded so far into the database."""
        self._flushed = monotonic()
        if not (self._commits or self._metrics or self._events or self._hosts):
            return
        with self._transaction() as database:
            for table, rounds in self._forgotten.items():
                if rounds:
                    # One pass over the table, and not one for every round.
                    pairs = "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
                    database.execute(f"DELETE FROM {table} WHERE (node, round) IN ({pairs})", (json.dumps(rounds),))
            marks = ",".join("?" * len(COMMIT_COLUMNS))
            database.executemany(f"INSERT INTO commits VALUES ({marks})", self._commits)
            database.executemany("INSERT INTO metrics VALUES (?,?,?,?)", self._metrics)
            database.executemany("INSERT INTO events VALUES (?,?,?,?)", self._events)
            database.executemany("INSERT INTO hosts VALUES (?,?,?,?)", self._hosts)
        self._commits, self._metrics, self._events, self._hosts = [], [], [], []
        self._forgotten = {"commits": [], "metrics": []}

    def truncate(self, completed: Sequence[int], clocks: Sequence[float]) -> None:
        """Forget what each node did after so many completed rounds and at a later time, before it does it again.

        What happened to hosts (OUTAGES) stays.
        """
        self.flush()
        # Who goes on from the very beginning repeats that, too.
        times = [clock if clock > 0 else -1.0 for clock in clocks]
        kept = [*zip(range(len(times)), completed, times, strict=True), (NETWORK, min(completed), min(times))]
        with self._transaction() as database:
            # One pass over each table: a DELETE for every node would read all rows as often as there are nodes.
            database.execute(
                "CREATE TEMP TABLE kept (node INTEGER PRIMARY KEY, round INTEGER NOT NULL, time REAL NOT NULL)"
            )
            database.executemany("INSERT INTO kept VALUES (?,?,?)", kept)
            for table, column in (("commits", "round"), ("metrics", "round"), ("events", "time")):
                last = f"(SELECT kept.{column} FROM kept WHERE kept.node = {table}.node)"
                outages = f" AND kind NOT IN {OUTAGES}" if table == "events" else ""
                database.execute(f"DELETE FROM {table} WHERE {column} > {last}{outages}")
            database.execute("DROP TABLE kept")

    def graph(self, graph: Graph, static: bool) -> None:
        """Keep the graph of the first round, with its weights and groups where it has some."""
        entries: dict[str, Any] = {"n": graph.n, "sources": graph.sources, "targets": graph.targets, "static": static}
        if graph.weights is not None:
            entries["weights"] = graph.weights
        if len(graph.groups):
            entries["members"] = np.concatenate(graph.groups)
            entries["sizes"] = np.array([len(group) for group in graph.groups])
        with self._guarded(), wire.replacing(self.folder / GRAPH) as file:
            np.savez_compressed(file, **entries)

    def holdings(self, counts: np.ndarray) -> None:
        """Keep who holds what: samples of each class of each node, or samples of each node."""
        with self._guarded(), wire.replacing(self.folder / HOLDINGS) as file:
            np.save(file, counts, allow_pickle=False)

    def models(self, models: Tensor) -> None:
        """Keep the final models, N x P."""
        with self._guarded(), wire.replacing(self.folder / MODELS) as file:
            np.save(file, models.detach().cpu().numpy(), allow_pickle=False)

    def checkpoint(self, round: int, payload: Payload, keep: int = 2) -> None:
        """Keep a moment to go on from, and the `keep - 1` before it."""
        self.flush()
        folder = self.folder / CHECKPOINTS
        path = folder / f"round-{round:09d}.covey"
        with self._guarded():
            # Rows that a checkpoint counts on must be on the disk before it is.
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            wire.write_file(path, payload)
            known = sorted(folder.glob("round-*.covey"))
            # Later ones are of a course that was given up, for they were damaged when the run was resumed.
            kept = [found for found in known if found <= path][-keep:]
            for stale in [*(found for found in known if found not in kept), *folder.glob("*.part")]:
                stale.unlink()
        # Were the process killed now, the run would go on from here: what it took until now is known.
        self._write_timed({})

    def finish(self, status: str, facts: Mapping[str, Any]) -> None:
        """End the run as "finished", "interrupted" or "failed"; as "failed" where its last rows cannot be written."""
        ended = "failed"
        try:
            self.flush()
            ended = status
        finally:
            self._database.close()
            try:
                self._write_timed({**facts, "status": ended})
            finally:
                self._lock.close()

    def _write_timed(self, facts: Mapping[str, Any]) -> None:
        """Write new facts beside those before, and how long this start has taken."""
        *before, start = self._facts["starts"]
        start = {**start, "wall_seconds": round(monotonic() - self._began, 3)}
        self._write_facts({**self._facts, **facts, "starts": [*before, start]})

    def _write_facts(self, facts: dict[str, Any]) -> None:
        self._facts = facts
        with self._guarded(), wire.replacing(self.folder / FACTS) as file:
            file.write((json.dumps(facts, indent=2) + "\n").encode())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guarded():
            self._database.execute("BEGIN")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                # SQLite ends a transaction itself after some errors, and leaves it open after others.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

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
    """(round, checkpoint) of the latest that is not damaged; None where there is none at all.

    Raises:
        RunError: all are damaged.
    """
    found = sorted((folder / CHECKPOINTS).glob("round-*.covey"), reverse=True)
    for path in found:
        try:
            return int(path.stem.removeprefix("round-")), wire.read_file(path)
        except RunError:
            continue
    if found:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise RunError(f"The run {folder} cannot be gone on with: all of its checkpoints are damaged ({names}).")
    return None
