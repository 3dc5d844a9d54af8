"""The summary of a run: its totals, and its last figures over nodes."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from covey.runtime.runs.database import Database
from covey.runtime.runs.schema import COMMIT_COLUMNS, COUNTED, NETWORK, QUANTILES, SPENT

if TYPE_CHECKING:
    from covey.runtime.runs.run import Run

DROPPED = (
    "SELECT e.node AS node, IFNULL(MAX(c.round), 0) AS round, e.time AS time FROM events e "
    "LEFT JOIN commits c ON c.node = e.node WHERE e.kind = 'dropped' GROUP BY e.node ORDER BY e.time, e.node"
)
"""The query for the dropped nodes, the last completed round of each, and the time."""
_LAST_COMMITS = "commits JOIN (SELECT node AS n, MAX(round) AS r FROM commits GROUP BY node) ON node = n AND round = r"
_LAST_OF_NODES = (
    "SELECT name, value FROM metrics JOIN (SELECT node AS n, name AS m, MAX(round) AS r FROM metrics "
    f"WHERE node != {NETWORK} GROUP BY node, name) ON node = n AND name = m AND round = r"
)
_LAST_OF_NETWORK = (
    "SELECT name, value FROM metrics JOIN (SELECT name AS m, MAX(round) AS r FROM metrics "
    f"WHERE node = {NETWORK} GROUP BY name) ON name = m AND round = r WHERE node = {NETWORK}"
)


def summarised(run: "Run", database: Database) -> dict[str, Any]:
    """The summary of a run. See `Run.summary`."""
    totals, counted, spent = _totals(database)
    totals |= totals_of_all(run)
    columns, dropped = database.rows(DROPPED)
    _, network = database.rows(_LAST_OF_NETWORK)
    facts = run.facts
    return {
        "run": str(run.folder),
        "status": run.status,
        "program": facts.get("program", ""),
        "nodes": facts.get("nodes", int(totals["nodes"])),
        "rounds": int(totals["rounds"] or 0),
        "time": float(totals["time"] or 0.0),
        "clock": run.clock,
        "wall_seconds": run.wall_seconds,
        "starts": len(facts["starts"]),
        "totals": {name: int(totals[name] or 0) for name in counted},
        "drops": run.drops,
        "seconds": {what: float(totals[what] or 0.0) for what in spent},
        "dropped_nodes": [dict(zip(columns, row, strict=True)) for row in dropped],
        "final": _final(database),
        "metrics": run.metric_names,
        "privacy": facts.get("privacy", []),
        "network": {name: _finite(value) for name, value in network},
    }


def totals_of_all(run: "Run", until: float = math.inf) -> dict[str, float]:
    """The sums of counters over all nodes, the means of their seconds by activity, and the time of the last.

    They come of a run's quantiles; empty if it keeps the commits of all nodes.

    Args:
        run: the run.
        until: the time until which all nodes had completed the round that counts.
    """
    if run.recorded == "all" or QUANTILES not in run.tables:
        return {}
    table = run.table(QUANTILES)
    table = table[table["time"] <= until]
    found: dict[str, float] = {}
    for row in table[table["round"] == table["round"].max()].itertuples():
        activity = str(row.column).removesuffix("_seconds")
        if activity in SPENT:
            found[activity] = row.mean
        elif row.column in COMMIT_COLUMNS[COUNTED]:
            found[str(row.column)] = round(row.mean * row.nodes)
        elif row.column == "time":
            found["time"] = row.greatest
    return found


def _totals(database: Database) -> tuple[dict[str, Any], list[str], list[str]]:
    """The totals of the last commits, and the names of those that are sums and means of seconds."""
    # The first format has fewer columns.
    known, _ = database.rows("SELECT * FROM commits LIMIT 0")
    counted = [name for name in COMMIT_COLUMNS[COUNTED] if name in known]
    spent = [what for what in SPENT if f"{what}_seconds" in known]
    sums = [*(f"SUM({name}) AS {name}" for name in counted), *(f"AVG({what}_seconds) AS {what}" for what in spent)]
    names, (row,) = database.rows(
        f"SELECT COUNT(*) AS nodes, MAX(time) AS time, MAX(round) AS rounds, {', '.join(sums)} FROM {_LAST_COMMITS}"
    )
    return dict(zip(names, row, strict=True)), counted, spent


def _final(database: Database) -> dict[str, dict[str, float | None]]:
    """The spread over nodes of the last value of each figure."""
    values: dict[str, list[float]] = {}
    for name, value in database.rows(_LAST_OF_NODES)[1]:
        values.setdefault(name, []).append(math.nan if value is None else value)
    database.check_names(len(values))
    return {name: _spread(np.array(values[name], dtype=float)) for name in sorted(values)}


def _spread(values_N: np.ndarray) -> dict[str, float | None]:
    """The mean, minimum, maximum and standard deviation over nodes of the values that are numbers."""
    known = values_N[~np.isnan(values_N)]
    if not len(known):
        return dict.fromkeys(("mean", "min", "max", "std"))
    with np.errstate(invalid="ignore"):
        spread = {"mean": known.mean(), "min": known.min(), "max": known.max(), "std": known.std()}
    return {part: _finite(value) for part, value in spread.items()}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
