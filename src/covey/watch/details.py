"""The facts about one run that its pages show, as JSON.

Shapes: N nodes, E edges, C cells.
"""

import math
import sqlite3
from collections.abc import Mapping
from typing import Any

import numpy as np

from covey.pages.attacks import attacked
from covey.parts.errors import RunError
from covey.runtime.runs import Run
from covey.runtime.runs.database import Database
from covey.runtime.runs.schema import GRAPH, OBSERVED
from covey.view.epsilons import epsilon_in_words
from covey.view.summary import dropped_messages
from covey.watch.watched import Watched, in_words

MOST_DRAWN = 2_000
"""The greatest number of nodes whose graph is drawn."""
_MOST_EDGES = 40_000
_CELLS = 2_500
"""The greatest number of cells of a heat map of nodes."""
_MOST_EVENTS = 200
_MOST_ROWS = 200_000
"""With more rows of hosts than this, the latest are searched in the newest ones."""

_EVENTS = f"""
SELECT rowid, time, node, SUBSTR(kind, 1, 100), SUBSTR(detail, 1, 500) FROM events WHERE rowid > ?
    AND typeof(time) = 'real' AND typeof(node) = 'integer' AND typeof(kind) = 'text' AND typeof(detail) = 'text'
ORDER BY rowid DESC LIMIT {_MOST_EVENTS}
"""
_KINDS = "SELECT SUBSTR(kind, 1, 100), COUNT(*) FROM events WHERE typeof(kind) = 'text' GROUP BY 1 ORDER BY 2 DESC"
_HOSTS = f"""
SELECT host, SUBSTR(name, 1, 100), MAX(time), value FROM hosts
WHERE rowid > (SELECT MAX(rowid) FROM hosts) - {_MOST_ROWS}
    AND typeof(host) = 'integer' AND typeof(name) = 'text' AND typeof(value) = 'real' GROUP BY 1, 2
"""


def of_run(watched: Watched) -> dict[str, Any]:
    """The facts of a run beside its curves."""
    run, course, facts = _opened(watched), watched.course, watched.facts
    totals = None if course is None else course.totals
    drops, lost = {}, ""
    try:
        drops = run.drops
        if totals:
            lost = dropped_messages({"drops": drops, "totals": totals})
    except RunError as error:
        watched.problem = watched.problem or str(error)
    return {
        "row": watched.row(),
        "cursor": watched.cursor(),
        "figures": {} if course is None else _in_order(course.figures),
        "totals": totals or {},
        "is_sampled": run.recorded != "all",
        "drops": drops,
        "drops_in_words": lost,
        "privacy": [epsilon_in_words(stated) for stated in _list(facts.get("privacy"))],
        "starts": [_start(start) for start in _list(facts.get("starts"))],
        "is_changed": run.is_changed,
        "has_graph": (run.folder / GRAPH).exists(),
        "settings": watched.settings(),
        "can_resume": watched.can_resume(),
        "attacks": any((run.folder / "attacks").glob("*/result.json")) or (run.folder / OBSERVED).exists(),
    }


_FIRST = (
    "accuracy", "loss", "average_model_accuracy", "consensus_distance", "train_loss", "bytes_out", "energy",
)  # fmt: skip


def _in_order(figures: Mapping[str, str]) -> dict[str, str]:
    """The figures, those of every experiment first."""
    rank = {name: number for number, name in enumerate(_FIRST)}
    return dict(sorted(figures.items(), key=lambda entry: (rank.get(entry[0], len(rank)), entry[0])))


def _opened(watched: Watched) -> Run:
    if watched.run is None:
        raise RunError(watched.problem or f"The run {watched.folder} cannot be read.")
    return watched.run


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _start(start: Mapping[str, Any]) -> dict[str, str]:
    shown = {key: " ".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in start.items()}
    return {key: text[:500] for key, text in shown.items()}


def events(watched: Watched, after: int = 0) -> dict[str, Any]:
    """The newest events after a row, and the number of events of each kind.

    Raises:
        RunError: the run cannot be read.
    """
    _opened(watched)
    with Database(watched.folder).unchecked() as database:
        rows = database.execute(_EVENTS, (after,)).fetchall()
        kinds = database.execute(_KINDS).fetchmany(_MOST_EVENTS)
    return {
        "events": [dict(zip(("row", "time", "node", "kind", "detail"), row, strict=True)) for row in rows],
        "kinds": kinds,
        "clock": watched.facts.get("clock", "virtual"),
    }


def hosts(watched: Watched) -> dict[str, Any]:
    """The latest figures of each host of an emulation, without drops of messages.

    Raises:
        RunError: the run cannot be read.
    """
    _opened(watched)
    found: dict[int, dict[str, float]] = {}
    latest: dict[int, float] = {}
    with Database(watched.folder).unchecked() as database:
        for host, name, time, value in _rows_of_hosts(database):
            if not name.startswith("dropped/"):
                found.setdefault(host, {})[name] = value
                latest[host] = max(time, latest.get(host, time))
    newest = max(latest.values(), default=0.0)
    rows = [
        {"host": host, "time": latest[host], "behind": newest - latest[host], "figures": figures}
        for host, figures in sorted(found.items())
    ]
    return {"hosts": rows, "lost": _lost(watched)}


def _rows_of_hosts(database: sqlite3.Connection) -> list[tuple[int, str, float, float]]:
    return database.execute(_HOSTS).fetchmany(100_000)


def _lost(watched: Watched) -> list[dict[str, Any]]:
    """The events of hosts that were lost or returned."""
    return [event for event in events(watched)["events"] if event["kind"].startswith(("host ", "rolled"))]


# ---------------------------------------------------------------------- the graph


def graph(watched: Watched) -> dict[str, Any]:
    """The graph of the first round with the latest accuracy of each node, or a heat map of many nodes.

    Raises:
        RunError: the run has no graph, or it cannot be read.
    """
    run = _opened(watched)
    name, values_N = _latest(watched)
    found = run.graph
    nodes = found.n if found is not None else watched.nodes
    shown: dict[str, Any] = {
        "nodes": nodes,
        "figure": name,
        "round": 0 if watched.course is None else watched.course.completed,
    }
    if found is None or nodes > MOST_DRAWN:
        return {**shown, "kind": "cells", "has_graph": found is not None, **_cells(values_N)}
    from covey.view.positions import positions

    sources, targets = found.sources, found.targets
    if found.is_undirected:
        once = sources < targets
        sources, targets = sources[once], targets[once]
    edges = len(sources)
    kept = np.linspace(0, edges - 1, _MOST_EDGES).astype(int) if edges > _MOST_EDGES else np.arange(edges)
    return {
        **shown,
        "kind": "graph",
        "is_static": run.graph_is_static,
        "is_undirected": bool(found.is_undirected),
        "edges": edges,
        "drawn": np.stack([sources[kept], targets[kept]], axis=1).tolist(),
        "positions": positions(found).round(4).tolist(),
        "degrees": (found.in_degrees if not found.is_undirected else found.out_degrees).tolist(),
        "values": None if values_N is None else _plain(values_N),
        "groups": [group.tolist() for group in found.groups],
    }


def _latest(watched: Watched) -> tuple[str, np.ndarray | None]:
    """The figure that colours nodes, and its latest value at each."""
    course = watched.course
    for name in ("accuracy", "loss") if course is not None else ():
        values_N = course.latest(name) if course is not None else None
        if values_N is not None and not np.isnan(values_N).all():
            return name, values_N
    return "accuracy", None


def _cells(values_N: np.ndarray | None) -> dict[str, Any]:
    """The means of nodes with consecutive ids, so many of them that at most _CELLS cells are drawn."""
    if values_N is None:
        return {"columns": 0, "each": 0, "cells": []}
    each = max(1, math.ceil(len(values_N) / _CELLS))
    padded = np.full(math.ceil(len(values_N) / each) * each, np.nan)
    padded[: len(values_N)] = values_N
    rows = padded.reshape(-1, each)
    counts_C = (~np.isnan(rows)).sum(axis=1)
    means_C = np.where(counts_C > 0, np.nansum(rows, axis=1) / np.maximum(counts_C, 1), np.nan)
    return {"columns": max(1, math.ceil(math.sqrt(len(means_C) * 2))), "each": each, "cells": _plain(means_C)}


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values.round(5)]


# ---------------------------------------------------------------------- attacks and observers


def attacks(watched: Watched) -> dict[str, Any]:
    """The results of attacks on a run, and the number of messages that its observers have.

    Raises:
        RunError: a result cannot be read.
    """
    run = _opened(watched)
    found = [
        {
            "kind": one.kind,
            "meaning": one.meaning,
            "columns": list(one.columns),
            "rows": one.rows,
            "curves": {name: [x.tolist(), y.tolist()] for name, (x, y) in one.curves.items()},
            "picture": one.picture,
        }
        for one in attacked(run)
    ]
    observer = watched.experiment.get("observer")
    return {
        "attacks": found,
        "observer": {}
        if not isinstance(observer, Mapping)
        else {key: in_words(value) for key, value in observer.items()},
        "messages": _observed(watched, run),
    }


def _observed(watched: Watched, run: Run) -> int | None:
    """The number of observed messages; None without an observer, and while the run writes: a reader would delay it."""
    return None if run.observed is None or watched.status == "running" else run.observed.count()
