"""Shows a recorded run to a callback, as if it were running."""

import numpy as np

from covey.parts.errors import RunError
from covey.runtime.callbacks.callback import Began, Callback, Evaluated, Plain
from covey.runtime.runs import Run

_COUNTED = ("round", "node", "time")


def replay(run: Run, callback: Callback) -> int:
    """Call a callback for every evaluated round of a run; returns how many there are.

    Raises:
        RunError: no round was evaluated.
    """
    metrics, network = run.metrics, run.network.set_index("round")
    names = [name for name in metrics.columns if name in run.figure_names]
    rounds = [int(round) for round in sorted(metrics["round"].unique())]
    if not rounds or not names:
        raise RunError(f"The run {run.folder} has no evaluated rounds.")
    state: dict[str, Plain] = {}
    callback.begin(Began(run.folder, run.experiment, state, 0))
    try:
        for round in rounds:
            rows = metrics[metrics["round"] == round].sort_values("node")
            nodes = {name: rows[name].dropna().to_numpy(dtype=np.float64) for name in names}
            found = network.loc[round].dropna().to_dict() if round in network.index else {}
            figures = {str(name): float(value) for name, value in found.items() if name not in _COUNTED}
            nodes = {name: values for name, values in nodes.items() if len(values)}
            callback.evaluated(Evaluated(round, float(rows["time"].max()), nodes, figures, state))
    finally:
        callback.end(run.status)
    return len(rounds)
