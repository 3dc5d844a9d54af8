"""Writes a run's folder: metrics while it goes on, checkpoints, and what is left at the end."""

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

from covey.messages import wire
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.errors import RunError
from covey.runtime.runs import lock
from covey.runtime.runs.counting import KEPT, LAST, Counting, Moment, keeping
from covey.runtime.runs.files import clear, is_beginning, refuse_links
from covey.runtime.runs.observed import ObservedWriter
from covey.runtime.runs.resuming import WRITTEN, Resumable, Written
from covey.runtime.runs.schema import (
    CHECKPOINTS,
    COLUMNS,
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
    """The one writer of a run's folder. Rows are kept for a second at most, so others can read along.

    Every method raises RunError, in one line, where the disk is full or the folder cannot be written.
    """

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
            # One thread at a time writes: where a notebook's cell waits for an emulation, that of its launcher.
            self._database = sqlite3.connect(self.folder / METRICS, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            # Every transaction is on the disk when it ends, whoever reads meanwhile: checkpoints count on its rows.
            # That adds 1 to 4 ms to the flush before one, which takes 40 to 90 as a whole (10 to 1,000 nodes, digits).
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(f"{TABLES}; PRAGMA user_version={FORMAT}")
            self._counting = Counting(self._database)
            self._last = {table: self._last_row(table) for table in LAST}
            """The number of each table's last row. None is given to a second row, also where the first was forgotten:
            checkpoints count the rows up to a number."""

    @classmethod
    def create(cls, folder: Path, experiment: Mapping[str, Any], facts: Mapping[str, Any]) -> Self:
        """Begin a run in a new or empty folder, or in one where another run ended before it recorded anything.

        Args:
            folder: where.
            experiment: the resolved experiment, as tables.
            facts: versions, seed, and whatever else says where it came from.
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
            with wire.replacing(folder / CONFIG) as file:
                file.write(text)
            (folder / CHECKPOINTS).mkdir(exist_ok=True)
            wire.sync_folder(folder.parent)
        began = {"format": FORMAT, **facts, "config_digest": config_digest(text), "status": "running"}
        writer = cls(folder, held, by_start(began))
        writer._open()
        writer._observe(experiment)
        writer._write_facts(writer._facts)
        return writer

    @classmethod
    def resume(cls, opened: Resumable, facts: Mapping[str, Any]) -> Self:
        """Go on with a run.

        Args:
            opened: the run.
            facts: as `create` takes them; those of a start are kept beside those of the starts before.
        """
        before = opened.run.facts
        now = by_start({**facts, "after_round": opened.round})
        starts = [*before["starts"], *now["starts"]]
        writer = cls(opened.run.folder, opened.held, {**before, **now, "status": "running", "starts": starts})
        # Once it runs, nobody expects the other files to be as they were when it ended.
        writer._write_facts(writer._facts)
        writer._list_unchanging()
        writer._open()
        writer._observe(opened.run.experiment)
        writer._last = {table: max(last, opened.last[table]) for table, last in writer._last.items()}
        writer.truncate(Moment.of(opened.checkpoint))
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

    def records(self, rows: Sequence[tuple[float, int, str, Mapping[str, Any]]]) -> None:
        """Add rows to tables: (time, node, table, its columns)."""
        self._records.extend((*row[:3], msgspec.msgpack.encode(row[3])) for row in rows)
        self._maybe_flush()

    def forget_records(self, node: int, time: float) -> None:
        """Forget the rows of tables that a node has added after a time, when what is recorded next is written."""
        self.flush()
        self._forgotten_records[node] = time

    def _observe(self, experiment: Mapping[str, Any]) -> None:
        """Keep messages of observed nodes from now on, where the experiment has any."""
        if "observer" in experiment:
            with self._guarded():
                self._observed = ObservedWriter(self.folder)
            self._most_observed = int(experiment["observer"]["megabytes"]) * _MEGABYTE

    def truth(self, found: Mapping[str, np.ndarray]) -> None:
        """Keep what an observer does not see, for who scores an attack."""
        with self._guarded(), wire.replacing(self.folder / TRUTH) as file:
            entries: dict[str, Any] = dict(found)
            np.savez_compressed(file, **entries)

    def observed(self, rows: Sequence[tuple[float, int, bytes]]) -> None:
        """Keep messages of observed nodes: (time, node, frame)."""
        if self._observed is None:
            return
        for row in rows:
            if self._observed.bytes + len(row[2]) <= self._most_observed:
                self._observed.add([row])
            elif not self._is_full:
                self._is_full = True
                self.event(row[0], row[1], "observer full", f"what came later than {row[0]:g} s is not kept")
        self._maybe_flush()

    def forget_observed(self, node: int, time: float) -> None:
        """Forget what an observed node has received after a time."""
        if self._observed is not None:
            with self._guarded():
                self._observed.forget(node, time)

    def host_figures(self, rows: Sequence[tuple[float, int, str, float]]) -> None:
        """Record how hosts are: (time, host, name, value)."""
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
        rows = sum(map(len, (self._commits, self._metrics, self._events, self._hosts, self._records)))
        if rows >= _ROWS_AT_ONCE or monotonic() - self._flushed > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Put everything recorded so far into the database."""
        self._flushed = monotonic()
        if self._observed is not None:
            with self._guarded():
                self._observed.flush()
        if self._commits or self._metrics or self._events or self._hosts or self._records:
            self._write_rows()

    def _write_rows(self) -> None:
        """Replace the rows that are to be forgotten by those that were recorded since: a kill leaves all or none."""
        with self._transaction() as database:
            for moment in self._truncated:
                self._truncate(moment)
            for table, rounds in self._forgotten.items():
                if rounds:
                    # One pass over the table, and not one for every round.
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
        """Forget what each node did after its last completed round and at a later time, before it does it again.

        What happened to hosts (OUTAGES) stays. The old rows are there until what is recorded next is written.
        """
        self.flush()
        if self._observed is not None:
            with self._guarded():
                self._observed.truncate(moment.clocks)
        self._truncated.append(Moment(list(moment.completed), list(moment.clocks), list(moment.ended)))

    def _truncate(self, moment: Moment) -> None:
        # One pass over each table: a DELETE for every node would read all rows as often as there are nodes.
        with keeping(self._database, moment):
            for table, column in LAST.items():
                last = f"(SELECT kept.{KEPT[table]} FROM kept WHERE kept.node = {table}.node)"
                outages = f" AND kind NOT IN {OUTAGES}" if table == "events" else ""
                self._database.execute(f"DELETE FROM {table} WHERE {column} > {last}{outages}")

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

    def layout(self, description: bytes, constants: Mapping[str, np.ndarray]) -> None:
        """Keep how models lie in their rows, and what of their modules is in none."""
        with self._guarded():
            with wire.replacing(self.folder / LAYOUT) as file:
                file.write(description)
            if constants:
                with wire.replacing(self.folder / CONSTANTS) as file:
                    np.savez_compressed(file, **constants)  # type: ignore[arg-type]

    def models(self, models: Any) -> None:
        """Keep the final models, N x P."""
        with self._guarded(), wire.replacing(self.folder / MODELS) as file:
            np.save(file, np.asarray(models), allow_pickle=False)

    def states(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Keep what is in the states of nodes at the end."""
        entries: dict[str, Any] = {}
        for node, state in enumerate(states):
            entries[f"{node}/"] = None
            entries |= {f"{node}/{name}": value for name, value in state.items()}
        with self._guarded():
            wire.write_file(self.folder / STATES, entries)

    def checkpoint(self, round: int, payload: Payload, keep: int = 2) -> None:
        """Keep a moment to go on from, and the `keep - 1` before it.

        Args:
            round: by which it is named.
            payload: what it holds; `completed`, `clocks` and `ended` say how far each node is.
            keep: how many are kept.
        """
        self.flush()
        folder = self.folder / CHECKPOINTS
        path = folder / f"round-{round:09d}.covey"
        with self._guarded():
            if not (self.folder / SUMS).exists():
                self._list_unchanging()
            counted = self._counting.count(Moment.of(payload))
            written = Written(FORMAT, self._facts["config_digest"], counted)
            wire.write_file(path, {**payload, WRITTEN: msgspec.msgpack.encode(written)})
            known = sorted(folder.glob("round-*.covey"))
            # Later ones are of a course that was given up, for they were damaged when the run was resumed.
            kept = [found for found in known if found <= path][-keep:]
            for stale in [*(found for found in known if found not in kept), *folder.glob("*.part")]:
                stale.unlink()
        # Were the process killed now, the run would go on from here: what it took until now is known.
        self._write_facts(self._timed({}))

    def finish(self, status: str, facts: Mapping[str, Any]) -> None:
        """End the run as "finished", "interrupted" or "failed"; as "failed" where its last rows cannot be written."""
        ended = "failed"
        try:
            if status == "finished" and self._truncated:
                self._write_rows()
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
                    # Else a checkpoint that was deleted might be there again after a power cut, and not be listed.
                    wire.sync_folder(self.folder / CHECKPOINTS)
                    # Before the facts, so that a run that says it has ended has its list.
                    write_sums(self.folder, files_of(self.folder), {FACTS: _encoded(ending)})
                self._write_facts(ending)
            finally:
                self._lock.close()

    def _close_log(self) -> None:
        """Put all rows into the one file of the database, and leave its log empty, also where a reader keeps it open.

        The mode of the database stays: to change it takes a rollback journal, which nobody but a writer could read.
        """
        self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _timed(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """New facts beside those before, and how long this start has taken."""
        *before, start = self._facts["starts"]
        start = {**start, "wall_seconds": round(monotonic() - self._began, 3)}
        return {**self._facts, **facts, "starts": [*before, start]}

    def _list_unchanging(self) -> None:
        with self._guarded():
            write_sums(self.folder, [name for name in UNCHANGING if (self.folder / name).exists()])

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        self._facts = dict(facts)
        with self._guarded(), wire.replacing(self.folder / FACTS) as file:
            file.write(_encoded(facts))

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


def _encoded(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise RunError(f"The run folder {folder} cannot be written: {error}.") from error
    except OSError as error:
        raise RunError(f"The run folder {folder} cannot be written: {error.strerror or error}.") from error
