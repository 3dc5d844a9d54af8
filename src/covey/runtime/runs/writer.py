"""The writer of a run's folder: metrics and checkpoints during the run, and results at the end."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Self

import msgspec
import numpy as np
import tomli_w

from covey.messages.files import replacing, sync_folder, write_payload
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.errors import RunError, one_line
from covey.runtime.runs import lock
from covey.runtime.runs.counting import KEPT, LAST, Counting, Moment, keeping
from covey.runtime.runs.files import clear, is_beginning, refuse_links
from covey.runtime.runs.observed import ObservedWriter, read_truth
from covey.runtime.runs.quantiles import Quantiles
from covey.runtime.runs.resuming import WRITTEN, Resumable, Written
from covey.runtime.runs.schema import (
    CHECKPOINTS,
    COLUMNS,
    COMMIT_COLUMNS,
    CONFIG,
    CONSTANTS,
    FACTS,
    FORMAT,
    GRAPH,
    HOLDINGS,
    LAYOUT,
    LOGS,
    METRICS,
    MODELS,
    OUTAGES,
    STATES,
    SUMS,
    TABLES,
    TRUTH,
    by_start,
    config_digest,
)
from covey.runtime.runs.sums import UNCHANGING, files_of, write_sums

_ROWS_AT_ONCE = 4096
_SECONDS = 1.0
_MEGABYTE = 1 << 20


class RunWriter:
    """The only writer of a run's folder. Rows are written within a second, so that others can read them.

    Every method raises RunError if the disk is full or the folder cannot be written.
    """

    _quantiles: Quantiles | None = None
    """The choice of rows, if not all are kept."""

    def __init__(self, folder: Path, held: BinaryIO, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self._commits: list[tuple[Any, ...]] = []
        self._metrics: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []
        self._hosts: list[tuple[Any, ...]] = []
        self._records: list[tuple[Any, ...]] = []
        self._forgotten_records: dict[int, float] = {}
        self._forgotten: dict[str, list[tuple[int, int]]] = {"commits": [], "metrics": []}
        self._truncated: list[Moment] = []
        self._began = self._flushed = monotonic()
        self._observed: ObservedWriter | None = None
        self._most_observed = 0
        self._is_full = False
        self._lock = held
        self._facts = dict(facts)

    def _open(self) -> None:
        with self._guarded():
            # Only one thread writes at a time. In a notebook it is the launcher's, not the one that opened the file.
            self._database = sqlite3.connect(self.folder / METRICS, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            # Every transaction is on the disk when it ends, because checkpoints rely on its rows. That adds 1 to 4 ms
            # to the flush before a checkpoint, which takes 40 to 90 ms (10 to 1,000 nodes, digits).
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(f"{TABLES}; PRAGMA user_version={FORMAT}")
            self._counting = Counting(self._database)
            self._last = {table: self._last_row(table) for table in LAST}
            """The number of each table's last row. Numbers are never reused, even after a deletion, because checkpoints
            count the rows up to a number."""

    @classmethod
    def create(cls, folder: Path, experiment: Mapping[str, Any], facts: Mapping[str, Any]) -> Self:
        """Start a run in a new or empty folder, or in that of a run that ended before it recorded anything.

        Args:
            folder: the folder.
            experiment: the tables of the resolved experiment.
            facts: the provenance: versions, seed and so on.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            occupied = any(folder.iterdir()) and not is_beginning(folder)
        except OSError as error:
            raise RunError(f"The run folder {folder} cannot be made: {error.strerror}.") from error
        if occupied:
            raise RunError(f"The run folder {folder} is not empty. Give another one, or resume it with --resume.")
        text = tomli_w.dumps(dict(experiment)).encode()
        refuse_links(folder)
        with _guarded(folder):
            held = lock.acquire(folder)
            if (folder / FACTS).exists() and not is_beginning(folder):
                # Another process was faster.
                held.close()
                raise lock.busy(folder)
            clear(folder)
            with replacing(folder / CONFIG) as file:
                file.write(text)
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
            sync_folder(folder.parent)
        began = {"format": FORMAT, **facts, "config_digest": config_digest(text), "status": "running"}
        writer = cls(folder, held, by_start(began))
        writer._open()
        writer._observe(experiment)
        writer._write_facts(writer._facts)
        return writer

    @classmethod
    def resume(cls, opened: Resumable, facts: Mapping[str, Any]) -> Self:
        """Resume a run.

        Args:
            opened: the run.
            facts: as in `create`. Those of this start are added to the list of starts.
        """
        before = opened.run.facts
        now = by_start({**facts, "after_round": opened.round})
        starts = [*before["starts"], *now["starts"]]
        writer = cls(opened.run.folder, opened.held, {**before, **now, "status": "running", "starts": starts})
        # From now on, the checksums of other files need not fit.
        writer._write_facts(writer._facts)
        writer._list_unchanging()
        writer._open()
        writer._observe(opened.run.experiment)
        writer._last = {table: max(last, opened.last[table]) for table, last in writer._last.items()}
        writer.truncate(Moment.of(opened.checkpoint))
        return writer

    def keep_commits_of(self, nodes: Sequence[int], of: int) -> None:
        """Keep the rows of completed rounds of some nodes, and quantiles of all."""
        self._quantiles = Quantiles(nodes, of)

    def commits(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Record completed rounds, as rows with the columns COMMIT_COLUMNS."""
        if self._quantiles is not None:
            rows, records = self._quantiles.take(rows)
            self.records(records)
        self._add_commits(rows)

    def _add_commits(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._commits.extend(rows)
        self._maybe_flush()

    def commit_columns(self, round: int, columns: Sequence[np.ndarray]) -> None:
        """Record a completed round of all nodes, as the columns of COMMIT_COLUMNS from the time on."""
        nodes: Sequence[int] = range(len(columns[0]))
        if self._quantiles is not None:
            kept, columns, records = self._quantiles.take_columns(round, columns)
            nodes = kept.tolist()
            self.records(records)
        loss = COMMIT_COLUMNS.index("train_loss") - 2
        listed: list[list[Any]] = [column.tolist() for column in columns]
        if np.isnan(columns[loss]).any():
            listed[loss] = [None if value != value else value for value in listed[loss]]
        add = self.commits if self._quantiles is None else self._add_commits
        add([*zip(nodes, [round] * len(nodes), *listed, strict=True)])

    def metrics(self, rows: Sequence[tuple[int, int, str, float]]) -> None:
        """Record figures: (node, round, name, value). Those of the whole network have the node NETWORK."""
        self._metrics.extend(rows)
        self._maybe_flush()

    def event(self, time: float, node: int, kind: str, detail: str) -> None:
        """Record an event."""
        self._events.append((time, node, kind, detail))
        self._maybe_flush()

    def records(self, rows: Sequence[tuple[float, int, str, Mapping[str, Any]]]) -> None:
        """Add rows to tables: (time, node, table, columns)."""
        self._records.extend((*row[:3], msgspec.msgpack.encode(row[3])) for row in rows)
        self._maybe_flush()

    def forget_records(self, node: int, time: float) -> None:
        """Delete the rows that a node has added to tables after a time, together with the next write."""
        self.flush()
        self._forgotten_records[node] = time

    def _observe(self, experiment: Mapping[str, Any]) -> None:
        """Start to keep messages of observed nodes, if the experiment has an observer."""
        if "observer" in experiment:
            with self._guarded():
                self._observed = ObservedWriter(self.folder)
            self._most_observed = int(experiment["observer"]["megabytes"]) * _MEGABYTE

    def truth(self, found: Mapping[str, np.ndarray]) -> None:
        """Write the ground truth that an observer does not see, for the scoring of attacks."""
        with self._guarded(), replacing(self.folder / TRUTH) as file:
            entries: dict[str, Any] = dict(found)
            np.savez_compressed(file, **entries)

    def add_truth(self, found: Mapping[str, np.ndarray]) -> None:
        """Add to the ground truth of a run that observes nodes."""
        self.truth({**read_truth(self.folder), **found})

    def observed(self, rows: Sequence[tuple[float, int, bytes]]) -> None:
        """Record messages of observed nodes: (time, node, frame)."""
        if self._observed is None:
            return
        for row in rows:
            if self._observed.bytes + len(row[2]) <= self._most_observed:
                self._observed.add([row])
            elif not self._is_full:
                self._is_full = True
                self.event(row[0], row[1], "observer full", f"messages after {row[0]:g} s are not kept")
        self._maybe_flush()

    def forget_observed(self, node: int, time: float) -> None:
        """Delete the messages that an observed node has received after a time."""
        if self._observed is not None:
            with self._guarded():
                self._observed.forget(node, time)

    def host_figures(self, rows: Sequence[tuple[float, int, str, float]]) -> None:
        """Record figures of hosts: (time, host, name, value)."""
        self._hosts.extend(rows)
        self._maybe_flush()

    def forget(self, table: str, rounds: Sequence[tuple[int, int]]) -> None:
        """Delete rounds of nodes together with the next write. Until then the old rows stay.

        Args:
            table: "commits" or "metrics".
            rounds: pairs of a node and a round.
        """
        if rounds:
            self.flush()
            self._forgotten[table] += rounds

    def logs(self) -> Path:
        """The folder of the hosts' logs."""
        with self._guarded():
            (self.folder / LOGS).mkdir(exist_ok=True)
        return self.folder / LOGS

    def _maybe_flush(self) -> None:
        rows = sum(map(len, (self._commits, self._metrics, self._events, self._hosts, self._records)))
        if rows >= _ROWS_AT_ONCE or monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write all records to the database."""
        self._flushed = monotonic()
        if self._observed is not None:
            with self._guarded():
                self._observed.flush()
        if self._commits or self._metrics or self._events or self._hosts or self._records:
            self._write_rows()

    def _write_rows(self) -> None:
        """Delete old rows and add new ones in one transaction."""
        with self._transaction() as database:
            for moment in self._truncated:
                self._truncate(moment)
            for table, rounds in self._forgotten.items():
                if rounds:
                    # One pass over the table instead of one per round.
                    pairs = "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
                    database.execute(f"DELETE FROM {table} WHERE (node, round) IN ({pairs})", (json.dumps(rounds),))
            for node, time in self._forgotten_records.items():
                database.execute("DELETE FROM records WHERE node = ? AND time > ?", (node, time))
            recorded = (self._commits, self._metrics, self._events, self._records)
            for table, rows in zip(COLUMNS, recorded, strict=True):
                columns = ", ".join(COLUMNS[table])
                marks = ",".join("?" * (1 + len(COLUMNS[table])))
                numbered = ((number, *row) for number, row in enumerate(rows, self._last[table] + 1))
                database.executemany(f"INSERT INTO {table} (rowid, {columns}) VALUES ({marks})", numbered)
            database.executemany("INSERT INTO hosts VALUES (?,?,?,?)", self._hosts)
        if self._truncated or self._forgotten_records or any(self._forgotten.values()):
            self._counting.begin_again()
        self._last = {table: self._last_row(table) for table in LAST}
        self._commits, self._metrics, self._events, self._hosts, self._records = [], [], [], [], []
        self._forgotten_records = {}
        self._forgotten, self._truncated = {"commits": [], "metrics": []}, []

    def _last_row(self, table: str) -> int:
        (last,) = self._database.execute(f"SELECT IFNULL(MAX(rowid), 0) FROM {table}").fetchone()
        return int(last)

    def truncate(self, moment: Moment) -> None:
        """Delete the rows of each node after its last completed round or time, which it will repeat.

        Events of hosts (OUTAGES) stay. The old rows stay until the next write.
        """
        self.flush()
        if self._quantiles is not None:
            self._quantiles.begin_again()
        if self._observed is not None:
            with self._guarded():
                self._observed.truncate(moment.clocks)
        completed, clocks, ended, judged = moment
        self._truncated.append(Moment(list(completed), list(clocks), list(ended), list(judged)))

    def _truncate(self, moment: Moment) -> None:
        # One pass over each table: a DELETE per node would read all rows for each node.
        with keeping(self._database, moment):
            for table, column in LAST.items():
                last = f"(SELECT kept.{KEPT[table]} FROM kept WHERE kept.node = {table}.node)"
                outages = f" AND kind NOT IN {OUTAGES}" if table == "events" else ""
                self._database.execute(f"DELETE FROM {table} WHERE {column} > {last}{outages}")

    def graph(self, graph: Graph, static: bool) -> None:
        """Write the graph of the first round, with its weights and groups if it has any."""
        entries: dict[str, Any] = {"n": graph.n, "sources": graph.sources, "targets": graph.targets, "static": static}
        if graph.weights is not None:
            entries["weights"] = graph.weights
        if len(graph.groups):
            entries["members"] = np.concatenate(graph.groups)
            entries["sizes"] = np.array([len(group) for group in graph.groups])
        with self._guarded(), replacing(self.folder / GRAPH) as file:
            np.savez_compressed(file, **entries)

    def holdings(self, counts: np.ndarray) -> None:
        """Write the samples of each class at each node, or of each node."""
        with self._guarded(), replacing(self.folder / HOLDINGS) as file:
            np.save(file, counts, allow_pickle=False)

    def layout(self, description: bytes, constants: Mapping[str, np.ndarray]) -> None:
        """Write the layout of models in their rows, and the tensors that are not part of them."""
        with self._guarded():
            with replacing(self.folder / LAYOUT) as file:
                file.write(description)
            if constants:
                with replacing(self.folder / CONSTANTS) as file:
                    np.savez_compressed(file, **constants)  # type: ignore[arg-type]

    def models(self, models: Any) -> None:
        """Write the final models, N x P."""
        with self._guarded(), replacing(self.folder / MODELS) as file:
            np.save(file, np.asarray(models), allow_pickle=False)

    def states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Write the final states of nodes."""
        entries: dict[str, Any] = {}
        for node, state in enumerate(states):
            entries[f"{node}/"] = None
            entries |= {f"{node}/{name}": value for name, value in state.items()}
        with self._guarded():
            write_payload(self.folder / STATES, entries)

    def checkpoint(self, round: int, payload: Payload, keep: int = 2) -> None:
        """Write a checkpoint, and keep the `keep - 1` before it.

        Args:
            round: the round in its name.
            payload: its content. `completed`, `clocks` and `ended` are the progress of each node.
            keep: the number of checkpoints to keep.
        """
        self.flush()
        folder = self.folder / CHECKPOINTS
        path = folder / f"round-{round:09d}.covey"
        with self._guarded():
            if not (self.folder / SUMS).exists():
                self._list_unchanging()
            counted = self._counting.count(Moment.of(payload))
            written = Written(FORMAT, self._facts["config_digest"], counted)
            write_payload(path, {**payload, WRITTEN: msgspec.msgpack.encode(written)})
            known = sorted(folder.glob("round-*.covey"))
            # Later checkpoints were damaged when the run was resumed, and do not belong to its present course.
            kept = [found for found in known if found <= path][-keep:]
            for stale in [*(found for found in known if found not in kept), *folder.glob("*.part")]:
                stale.unlink()
        # The run would resume here after a kill, so its time until now is recorded.
        self._write_facts(self._timed({}))

    def finish(self, status: str, facts: Mapping[str, Any]) -> None:
        """End the run as "finished", "interrupted" or "failed". If its last rows cannot be written, it is "failed"."""
        ended = "failed"
        try:
            if status == "finished" and self._truncated:
                self._write_rows()
            if status == "finished" and self._quantiles is not None:
                self.records(self._quantiles.rest())
            self.flush()
            with self._guarded():
                self._close_log()
            ended = status
        finally:
            self._database.close()
            if self._observed is not None:
                self._observed.close()
            try:
                ending = self._timed({**facts, "status": ended})
                with self._guarded():
                    # Otherwise a deleted checkpoint might reappear after a power cut, without being listed.
                    sync_folder(self.folder / CHECKPOINTS)
                    # Before the facts, so that every ended run has its list.
                    write_sums(self.folder, files_of(self.folder), {FACTS: _encoded(ending)})
                self._write_facts(ending)
            finally:
                self._lock.close()

    def _close_log(self) -> None:
        """Merge the log into the database file, even if a reader keeps the database open.

        The database stays in WAL mode: to change it would need a rollback journal, which readers cannot handle.
        """
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _timed(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The old and new facts, with the time that this start has taken."""
        *before, start = self._facts["starts"]
        start = {**start, "wall_seconds": round(monotonic() - self._began, 3)}
        return {**self._facts, **facts, "starts": [*before, start]}

    def _list_unchanging(self) -> None:
        with self._guarded():
            write_sums(self.folder, [name for name in UNCHANGING if (self.folder / name).exists()])

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        self._facts = dict(facts)
        with self._guarded(), replacing(self.folder / FACTS) as file:
            file.write(_encoded(facts))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guarded():
            self._database.execute("BEGIN")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                # SQLite ends a transaction after some errors, and leaves it open after others.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def _guarded(self) -> Any:
        return _guarded(self.folder)


def _encoded(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(f"The run folder {folder} cannot be written: {one_line(error)}.") from error
    except OSError as error:
        raise RunError(f"The run folder {folder} cannot be written: {error.strerror or error}.") from error
