"""The cost of a run up to each evaluated round."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from covey.runtime.runs.run import Run


def mean_spent(run: "Run", evaluated: "pd.DataFrame", column: str) -> "pd.Series[float]":
    """The mean over all nodes of a sum such as `bytes_out`, by evaluated round.

    An evaluated node counts with its row of the round. One that is never evaluated, such as a client of `fedavg`,
    counts with what it had committed when the last node was evaluated in the round.

    Args:
        run: the run.
        evaluated: rows of `run.figures`.
        column: the sum's column.
    """
    rounds = evaluated.groupby("round")
    of_evaluated = rounds[column].mean()
    commits = run.commits
    others = commits[~commits["node"].isin(evaluated["node"].unique())].sort_values("time", kind="stable")
    if others.empty:
        return of_evaluated
    gained = others[column] - others.groupby("node")[column].shift(fill_value=0)
    passed = np.searchsorted(others["time"], rounds["time"].max(), side="right")
    of_others = np.concatenate([[0.0], gained.cumsum()])[passed]
    nodes = evaluated["node"].nunique()
    mean: pd.Series[float] = (of_evaluated * nodes + of_others) / (nodes + others["node"].nunique())
    return mean
