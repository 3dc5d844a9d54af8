"""Attacks on a run, with their tables and figures in its folder: `covey attack`."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covey.messages.files import replacing
from covey.parts.errors import RunError
from covey.privacy.attacks import Attack, Result
from covey.privacy.attacks.contract import Tracked, untracked
from covey.runtime.runs import Run
from covey.view.attacks import grid, roc
from covey.view.figures import save

ATTACKS = "attacks"
"""The folder of attacks in that of their run."""


def attack(
    run: Run | Path | str,
    kinds: Sequence[Attack | str | Mapping[str, Any]],
    *,
    out: Path | None = None,
    data: Path | None = None,
    tracked: Tracked[Any] = untracked,
) -> tuple[list[Result], Path]:
    """Attack a run, and write a folder for each attack: `table.csv`, `result.json` and figures.

    Args:
        run: the run, or its folder.
        kinds: the attacks.
        out: the folder; by default, `attacks` in that of the run.
        data: the data folder; by default, that of the environment.
        tracked: shows the progress of an iteration.

    Returns:
        The results, and the folder.

    Raises:
        RunError: the run cannot be attacked, or the folder cannot be written.
        ConfigurationError: an attack is unknown, or not possible on such a run.
    """
    from covey.privacy.attacks import attack

    run = run if isinstance(run, Run) else Run(run)
    results = attack(run, kinds, data=data, tracked=tracked)
    folder = run.folder / ATTACKS if out is None else Path(out)
    for result in results:
        write(result, folder / result.kind)
    return results, folder


def write(result: Result, folder: Path) -> None:
    """Write the table and the figures of an attack.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([column.strip() for column in result.columns])
            writer.writerows(result.rows)
        with replacing(folder / "result.json") as out:
            out.write(json.dumps(result.table(), indent=1).encode())
    except OSError as error:
        raise RunError(f"The results of the attack cannot be written to {folder}: {error.strerror}.") from error
    if result.curves:
        save(roc(result), folder / "roc.png")
    if result.pictures is not None:
        save(grid(result.pictures), folder / "reconstructions.png")
