"""The names of a run's files, and the tables of its metrics."""

import hashlib
from collections.abc import Mapping
from typing import Any

FORMAT = 4
"""The format of a run's folder. It grows if a resumption would misread an earlier one. Folders of the first format have
no number."""

CONFIG = "run.toml"
FACTS = "facts.json"
METRICS = "metrics.sqlite"
MODELS = "models.npy"
BEST = "best-model.npy"
STATES = "states.covey"
OBSERVED = "observed/messages.sqlite"
TRUTH = "observed/truth.npz"
HOLDINGS = "holdings.npy"
GRAPH = "graph.npz"
LAYOUT = "layout.json"
CONSTANTS = "constants.npz"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
LOCK = ".lock"
SUMS = "SHA256SUMS"


def config_digest(text: bytes) -> str:
    """The digest of CONFIG in a run's facts."""
    return hashlib.sha256(text).hexdigest()


OF_A_START = (
    "covey",
    "python",
    "torch",
    "numpy",
    "platform",
    "command",
    "started",
    "after_round",
    "kernel",
    "device",
    "wall_seconds",
)
"""The facts that differ among the starts of a run."""


def by_start(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with those of each start in the list `starts`. The first format has one start and no list."""
    if "starts" in facts:
        return dict(facts)
    start = {name: facts[name] for name in OF_A_START if name in facts}
    return {**{name: fact for name, fact in facts.items() if name not in start}, "starts": [start]}


NETWORK = -1
"""The node id of figures of the whole network."""

MOMENTS = "moments"
"""The table of evaluations of all nodes at moments of time."""

QUANTILES = "quantiles"
"""The table of the quantiles of commits over all nodes, in runs that keep the commits of some."""

STOPPED = "stopped early"
"""The kind of the event of a run that a callback ended."""

OUTAGES = ("host lost", "host returned", "rolled back")
"""The kinds of events that stay after a resumption or a roll-back, because they are not repeated."""

SPENT = ("training", "waiting", "encoding", "mixing")
"""The activities for which a node's time is measured."""

COMMIT_COLUMNS = (
    "node",
    "round",
    "time",
    "train_loss",
    "steps",
    "samples",
    "bytes_out",
    "bytes_in",
    "messages_out",
    "messages_in",
    "dropped",
    "value_bytes_out",
    "index_bytes_out",
    *(f"{what}_seconds" for what in SPENT),
)
"""The columns of a commit, one row per node and completed round. From `steps` on, totals since the start."""
COUNTED = slice(COMMIT_COLUMNS.index("steps"), COMMIT_COLUMNS.index("index_bytes_out") + 1)
"""The columns of a commit that are counters."""

RECORDED = frozenset({bool, int, float, str, bytes, type(None)})
"""The types of values in tables to which nodes add rows."""

COLUMNS = {
    "commits": COMMIT_COLUMNS,
    "metrics": ("node", "round", "name", "value"),
    "events": ("time", "node", "kind", "detail"),
    "records": ("time", "node", "name", "columns"),
}
"""The columns of the tables whose rows a resumption repeats."""

TABLES = """
CREATE TABLE IF NOT EXISTS commits (
    node INTEGER NOT NULL, round INTEGER NOT NULL, time REAL NOT NULL, train_loss REAL,
    steps INTEGER NOT NULL, samples INTEGER NOT NULL, bytes_out INTEGER NOT NULL, bytes_in INTEGER NOT NULL,
    messages_out INTEGER NOT NULL, messages_in INTEGER NOT NULL, dropped INTEGER NOT NULL,
    value_bytes_out INTEGER NOT NULL, index_bytes_out INTEGER NOT NULL,
    training_seconds REAL NOT NULL, waiting_seconds REAL NOT NULL, encoding_seconds REAL NOT NULL,
    mixing_seconds REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS metrics (
    node INTEGER NOT NULL, round INTEGER NOT NULL, name TEXT NOT NULL, value REAL
);
CREATE TABLE IF NOT EXISTS hosts (time REAL NOT NULL, host INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL);
CREATE TABLE IF NOT EXISTS events (time REAL NOT NULL, node INTEGER NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    time REAL NOT NULL, node INTEGER NOT NULL, name TEXT NOT NULL, columns BLOB NOT NULL
);
"""

_ADDED = TABLES[TABLES.index(",\n    value_bytes_out") : TABLES.index("\n);\nCREATE TABLE IF NOT EXISTS metrics")]
EARLIER_TABLES = TABLES.replace(_ADDED, "")
"""The tables of the first format, which is read but not resumed."""
