"""The reader of a run's folder, finished or still running."""

import io
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import msgspec
import numpy as np

from covey.messages.files import read_payload
from covey.network.graph import Graph
from covey.parts.errors import RunError, quoted
from covey.runtime.runs import lock
from covey.runtime.runs.course import Course
from covey.runtime.runs.database import Database, unreadable
from covey.runtime.runs.files import is_beginning, refuse_links
from covey.runtime.runs.observed import Observed
from covey.runtime.runs.schema import (
    BEST,
    CONFIG,
    CONSTANTS,
    FACTS,
    GRAPH,
    HOLDINGS,
    LAYOUT,
    METRICS,
    MODELS,
    NETWORK,
    OBSERVED,
    QUANTILES,
    STATES,
    by_start,
    config_digest,
)
from covey.runtime.runs.summary import DROPPED, summarised, totals_of_all

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

_LEADING = ["round", "node", "time", "accuracy", "loss"]


class _Tables(TypedDict, total=False):
    """The keys of an experiment that are read here."""

    name: str
    seed: int
    rounds: int
    program: dict[str, Any]
    task: dict[str, Any]
    network: dict[str, Any]
    engine: dict[str, Any]


class _Facts(TypedDict, total=False):
    format: int
    seed: int
    nodes: int
    program: str
    config_digest: str
    clock: Literal["virtual", "real"]
    status: Literal["running", "finished", "interrupted", "failed"]
    starts: Annotated[list["_Start"], msgspec.Meta(min_length=1)]


class _Start(TypedDict, total=False):
    started: str
    after_round: int
    wall_seconds: float


class Run:
    """The results of an experiment.

    Args:
        folder: the run's folder.

    Raises:
        RunError: it is not the folder of a run.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._database = Database(self.folder)
        refuse_links(self.folder)
        if not (self.folder / FACTS).exists() and (self.folder / CONFIG).exists() and is_beginning(self.folder):
            if lock.is_held(self.folder):
                raise lock.busy(self.folder)
            raise RunError(
                f"The run {self.folder} was killed before anything was recorded. Begin it again: "
                f"covey run {self.folder / CONFIG} --out {self.folder}"
            )
        if not (self.folder / METRICS).exists() or not (self.folder / CONFIG).exists():
            raise RunError(f"{self.folder} is not a run folder: it has no {METRICS} and {CONFIG}.")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.status})"

    def _repr_html_(self) -> str:
        from covey.view.cards import of_run

        return of_run(self).html()

    def __rich__(self) -> Any:
        from covey.view.cards import of_run

        return of_run(self).rich()

    @property
    def experiment(self) -> dict[str, Any]:
        """The resolved experiment, as tables."""
        try:
            tables = tomllib.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            msgspec.convert(tables, type=_Tables)
        except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise RunError(f"The run {self.folder} has no readable {CONFIG}: {error}.") from error
        return tables

    @property
    def facts(self) -> dict[str, Any]:
        """The seed, program, status and so on, and in `starts` the versions, platform and command of each start."""
        try:
            facts = by_start(dict(json.loads((self.folder / FACTS).read_text(encoding="utf-8"))))
            msgspec.convert(facts, type=_Facts)
        except (OSError, TypeError, ValueError, RecursionError, msgspec.ValidationError) as error:
            raise RunError(f"The run {self.folder} has no readable {FACTS}: {error}.") from error
        return facts

    @property
    def format(self) -> int:
        """The number of the folder's format."""
        return int(self.facts.get("format", 1))

    @property
    def status(self) -> str:
        """The status: "running", "finished", "interrupted" (also if it was killed) or "failed"."""
        status = str(self.facts.get("status", "running"))
        return "interrupted" if status == "running" and lock.is_held(self.folder) is False else status

    @property
    def wall_seconds(self) -> float | None:
        """The seconds of all starts, or None if unknown. A start that was killed counts up to its last checkpoint."""
        known = [start["wall_seconds"] for start in self.facts["starts"] if "wall_seconds" in start]
        return float(sum(known)) if known else None

    @property
    def is_changed(self) -> bool:
        """True if `run.toml` was changed after the run began."""
        began = self.facts.get("config_digest")
        return began is not None and began != config_digest((self.folder / CONFIG).read_bytes())

    @property
    def commits(self) -> "pd.DataFrame":
        """One row per node and completed round."""
        return self._database.frame("SELECT * FROM commits ORDER BY round, node")

    @property
    def metrics(self) -> "pd.DataFrame":
        """One row per node and evaluated round: round, node, time, accuracy, loss, ... and totals of the traffic.

        Figures that the program logged in such a round are columns, too. `figures` has those of all rounds.
        """
        table = self.figures
        judged = [name for name in ("accuracy", "loss") if name in table]
        # If nodes do not learn, every logged round counts.
        return table.dropna(subset=judged, how="all").reset_index(drop=True) if judged else table

    @property
    def figures(self) -> "pd.DataFrame":
        """The rows of `metrics`, and rows for rounds that have only figures of `node.log`."""
        long = self._database.frame(f"SELECT node, round, name, value FROM metrics WHERE node != {NETWORK}")
        wide = self._wide(long, ["round", "node"])
        table = wide.merge(self.commits, on=["round", "node"], how="left")
        for name in ("accuracy", "loss"):
            if name not in table and ("task" in self.experiment or "program" not in self.experiment):
                table[name] = np.nan
        leading = [name for name in _LEADING if name in table]
        rest = [name for name in table.columns if name not in _LEADING]
        table = table[leading + rest].sort_values(["round", "node"], ignore_index=True)
        table.attrs["commits"] = self.recorded
        return table

    @property
    def recorded(self) -> str:
        """The nodes whose `commits` are kept: "all", or their number, as in "1,000 of 1,000,000"."""
        return str(self.facts.get("commits", "all"))

    def _wide(self, long: "pd.DataFrame", index: list[str]) -> "pd.DataFrame":
        """The figures with a column for each name."""
        self._database.check_names(long["name"].nunique())
        wide = long.pivot_table(index=index, columns="name", values="value", aggfunc="last").reset_index()
        wide.columns.name = None
        return wide.reindex(columns=index) if wide.empty else wide

    @property
    def network(self) -> "pd.DataFrame":
        """The figures of the whole network, one row per evaluated round. `time` is that of the last node."""
        long = self._database.frame(f"SELECT round, name, value FROM metrics WHERE node = {NETWORK}")
        wide = self._wide(long, ["round"])
        times = self._database.frame("SELECT round, MAX(time) AS time FROM commits GROUP BY round")
        if self.recorded != "all" and QUANTILES in self.tables:
            quantiles = self.table(QUANTILES)
            quantiles = quantiles[quantiles["column"] == "time"]
            times = quantiles[["round", "greatest"]].rename(columns={"greatest": "time"})
        return wide.merge(times, on="round", how="left")

    @property
    def hosts(self) -> "pd.DataFrame":
        """The figures of an emulation's hosts, and the drops of messages: columns time, host, name, value."""
        return self._database.frame("SELECT * FROM hosts ORDER BY time, host")

    @property
    def has_host_figures(self) -> bool:
        """True if the hosts of an emulation have figures beside the drops of messages."""
        _, rows = self._database.rows("SELECT EXISTS (SELECT 1 FROM hosts WHERE name NOT GLOB 'dropped/*')")
        return bool(rows[0][0])

    @property
    def clock(self) -> str:
        """The kind of time of the nodes' clocks: "virtual" or, in an emulation, "real"."""
        return str(self.facts.get("clock", "virtual"))

    @property
    def events(self) -> "pd.DataFrame":
        """The events, such as nodes that left or returned, and messages that were rejected."""
        return self._database.frame("SELECT * FROM events ORDER BY time")

    @property
    def figure_names(self) -> list[str]:
        """The names of the nodes' figures."""
        return sorted(
            name for (name,) in self._database.rows(f"SELECT DISTINCT name FROM metrics WHERE node != {NETWORK}")[1]
        )

    @property
    def metric_names(self) -> list[str]:
        """The columns of the task's metrics, without the accuracy."""
        return [name for name in self.facts.get("metrics", []) if name != "accuracy"]

    @property
    def tables(self) -> list[str]:
        """The names of the tables to which nodes have added rows."""
        _, made = self._database.rows("SELECT name FROM sqlite_master WHERE name = 'records'")
        return sorted(name for (name,) in self._database.rows("SELECT DISTINCT name FROM records")[1]) if made else []

    def table(self, name: str) -> "pd.DataFrame":
        """The rows that nodes have added to a table, with their times and nodes.

        Raises:
            RunError: the table does not exist or is damaged.
        """
        import msgspec
        import pandas as pd

        if name not in self.tables:
            known = ", ".join(self.tables) or "none"
            raise RunError(f"The run {self.folder} has no table {quoted(name)}. Known: {known}.")
        rows = self._database.frame("SELECT time, node, name, columns FROM records ORDER BY time, rowid")
        rows = rows[rows["name"] == name]
        decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
        try:
            columns = [decode(packed) for packed in rows["columns"]]
        except msgspec.MsgspecError as error:
            raise unreadable(self.folder, f"the table {name} holds a malformed row") from error
        found = pd.DataFrame(columns, index=rows.index)
        found.insert(0, "time", rows["time"])
        found.insert(1, "node", rows["node"])
        return found.reset_index(drop=True)

    @property
    def states(self) -> list[dict[str, Any]] | None:
        """The final state of each node, or None if the run does not keep states."""
        file = self.folder / STATES
        if not file.exists():
            return None
        states: list[dict[str, Any]] = []
        for name, value in read_payload(file).items():
            node, _, entry = name.partition("/")
            if not node.isdecimal() or int(node) > len(states):
                raise RunError(f"The run {self.folder} has no readable {STATES}.")
            if int(node) == len(states):
                states.append({})
            if entry:
                states[int(node)][entry] = value
        return states

    @property
    def observed(self) -> Observed | None:
        """The messages that observed nodes received, or None without an observer."""
        return Observed(self.folder) if (self.folder / OBSERVED).exists() else None

    @property
    def drops(self) -> dict[str, int]:
        """The number of dropped messages, by reason."""
        _, rows = self._database.rows(
            "SELECT name, host, value FROM hosts WHERE name GLOB 'dropped/*' ORDER BY time, host"
        )
        latest = {(name, host): value for name, host, value in rows if value is not None}
        counts: Counter[str] = Counter()
        for (name, _), value in sorted(latest.items()):
            counts[name.removeprefix("dropped/")] += int(value)
        return {name: count for name, count in counts.most_common() if count}

    @property
    def dropped(self) -> "pd.DataFrame":
        """The dropped nodes: node, its last completed round, time."""
        return self._database.frame(DROPPED)

    def _load(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays of an archive, or the array of a file under the name ""; None if the file does not exist."""
        file = self.folder / name
        if not file.exists():
            return None
        try:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"": found}
            with found:
                return dict(found)
        except Exception as error:
            # numpy, zipfile and zlib raise various errors for damaged bytes.
            raise RunError(f"The run {self.folder} has no readable {name}: {error or 'it ends too early'}.") from error

    @property
    def graph(self) -> Graph | None:
        """The graph of the first round with the weights of merging, or None if the program has no topology."""
        found = self._load(GRAPH)
        if found is None:
            return None
        try:
            groups = np.split(found["members"], np.cumsum(found["sizes"])[:-1]) if "members" in found else ()
            return Graph(int(found["n"]), found["sources"], found["targets"], found.get("weights"), groups)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise RunError(f"The run {self.folder} has no readable {GRAPH}: {error}.") from error

    @property
    def graph_is_static(self) -> bool:
        """True if all rounds have the graph of the first."""
        found = self._load(GRAPH)
        return found is None or bool(found.get("static", True))

    @property
    def holdings(self) -> np.ndarray | None:
        """The samples of each class at each node or, without classes, of each node."""
        found = self._load(HOLDINGS)
        return None if found is None else found[""]

    @property
    def models(self) -> "Tensor | None":
        """The final models, N x P; None before the end, or if the run does not keep them.

        A row is not a parameter vector of torch: it holds the trained parameters, then the frozen ones, then the
        buffers that are averaged. `state_dict` and `module` give a model by names.
        """
        found = self._load(MODELS)
        if found is None:
            return None
        import torch

        return torch.from_numpy(found[""])

    @property
    def kept_model(self) -> np.ndarray:
        """The flat model that the callback best-model has kept, P.

        Raises:
            RunError: there is none.
        """
        found = self._load(BEST)
        if found is None:
            raise RunError(f"The run {self.folder} has no {BEST}: its experiment has no callback best-model.")
        return found[""]

    @property
    def layout(self) -> bytes | None:
        """The layout of models in their rows, as JSON; None if nodes did not learn."""
        file = self.folder / LAYOUT
        return file.read_bytes() if file.exists() else None

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The tensors of modules that are not part of `models`, by name. They are the same for all nodes."""
        return self._load(CONSTANTS) or {}

    def state_dict(self, which: "int | Literal['average', 'best', 'kept']" = "average") -> "dict[str, Tensor]":
        """The tensors of a final model by name, for `load_state_dict` of its module.

        Args:
            which: the id of a node, or the "average" or the "best" of the evaluated nodes. The best has the highest
                accuracy or, without accuracies, the lowest loss.

        Raises:
            RunError: the run has no models, or no such node.
        """
        from covey.learning import exported

        return exported.state_dict(self, which)

    def module(
        self, which: "int | Literal['average', 'best', 'kept']" = "average", *, into: "nn.Module | None" = None
    ) -> "nn.Module":
        """The module of the experiment with the tensors of a final model, ready to evaluate.

        Args:
            which: as in `state_dict`.
            into: a module of the same architecture; by default, a new one of the experiment's model.

        Raises:
            RunError: the run has no models, or they do not fit the module.
        """
        from covey.learning import exported

        return exported.module(self, which, into)

    def export_model(self, out: Path | str, which: "int | Literal['average', 'best', 'kept']" = "average") -> None:
        """Write the tensors of a final model to a safetensors file. `which` is as in `state_dict`.

        Raises:
            RunError: the run has no models, or the file cannot be written.
        """
        from covey.learning import exported

        exported.write_safetensors(self, which, Path(out))

    def summary(self) -> dict[str, Any]:
        """The totals, seconds by activity, dropped nodes, and the final mean, minimum, maximum and standard deviation
        of each metric over nodes.

        It can be written as JSON: a figure that is not finite is None.
        """
        return summarised(self, self._database)

    def course(self) -> Course:
        """The aggregates over nodes of all rounds, which `Course.advance` extends by rows that were added since."""
        return Course(self._database, int(self.facts.get("nodes", 0)) if self.recorded == "all" else 0)

    def reached(self, accuracy: float) -> dict[str, float] | None:
        """The moment at which the mean accuracy of nodes, by their last evaluations, first reached a value.

        A node that is not evaluated yet counts as 0, so that fast and slow nodes are compared at the same moment.

        Returns:
            `time` in seconds and `bytes_out` of nodes, or None if it was never reached.
        """
        table = self.metrics.dropna(subset=["accuracy"]).sort_values("time", kind="stable")
        gained = table["accuracy"] - table.groupby("node")["accuracy"].shift(fill_value=0.0)
        means = gained.groupby(table["time"]).sum().cumsum() / table["node"].nunique()
        moments = means.index[means >= accuracy - 1e-9]
        if moments.empty:
            return None
        time = float(moments[0])
        commits = self.commits
        sent = commits[commits["time"] <= time].groupby("node")["bytes_out"].max().sum()
        return {"time": time, "bytes_out": float(totals_of_all(self, until=time).get("bytes_out", sent))}

    def export(self, format: Literal["csv", "parquet"] = "csv", out: Path | None = None) -> str | None:
        """The rows of `metrics` for other programs.

        Args:
            format: "csv", or "parquet", which needs pyarrow and a file.
            out: the file. Without one, CSV is returned.

        Raises:
            RunError: the file cannot be written, or pyarrow is missing.
        """
        table = self.metrics
        try:
            if format == "parquet":
                if out is None:
                    raise RunError("Parquet is a binary format: name a file with --out FILE.")
                table.to_parquet(out, index=False)
                return None
            if out is not None:
                table.to_csv(out, index=False)
                return None
        except ImportError as error:
            raise RunError("Parquet needs pyarrow: pip install 'covey[parquet]'.") from error
        except OSError as error:
            raise RunError(f"The file {out} cannot be written: {error.strerror}.") from error
        buffer = io.StringIO()
        table.to_csv(buffer, index=False)
        return buffer.getvalue()

    def plot(
        self,
        metric: str = "accuracy",
        against: Literal["rounds", "time", "bytes", "energy"] = "rounds",
        out: Path | str | None = None,
    ) -> "Figure":
        """Draw a metric over the run: the mean over nodes, and their spread as a band.

        Args:
            metric: a column of `figures` or `network`.
            against: the horizontal axis.
            out: a file to save it to, as well.
        """
        from covey import view

        figure = view.curves([self], metric, against)
        if out is not None:
            view.save(figure, Path(out))
        return figure
