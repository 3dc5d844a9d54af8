"""The results of attacks in a run's folder, which `covey attack` wrote."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from covey.parts.errors import RunError
from covey.runtime.runs import Run

if TYPE_CHECKING:
    from covey.privacy.attacks.contract import Result

_FOLDER = "attacks"
_MOST_BYTES = 2_000_000
"""A larger picture is not on the page."""


class _Found(msgspec.Struct):
    """The entries of `result.json` that the page shows."""

    kind: str
    meaning: str
    rows: list[dict[str, str | float | int | None]]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    remarks: list[str] = []


@dataclass
class Attacked:
    """The result of one attack."""

    kind: str
    meaning: str
    columns: Sequence[str]
    rows: list[list[str]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    picture: str | None
    """The reconstructed pictures, as an address that holds them."""

    def result(self) -> "Result":
        """The part of it that figures need."""
        from covey.privacy.attacks.contract import Result

        return Result(self.kind, (), [], self.meaning, {}, curves=self.curves)


def attacked(run: Run) -> list[Attacked]:
    """The results of all attacks on a run, in order of their names.

    Raises:
        RunError: one cannot be read.
    """
    return [_read(file) for file in sorted((run.folder / _FOLDER).glob("*/result.json"))]


def _read(file: Path) -> Attacked:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_Found)
        picture = file.with_name("reconstructions.png")
        shown = picture.read_bytes() if picture.exists() and picture.stat().st_size <= _MOST_BYTES else None
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise RunError(f"The result of an attack {file} cannot be read: {error}.") from error
    columns = [*dict.fromkeys(name for row in found.rows for name in row)]
    rows = [[_cell(row.get(name)) for name in columns] for row in found.rows]
    curves = {name: (np.array(x), np.array(y)) for name, (x, y) in found.curves.items() if len(x) == len(y)}
    data = None if shown is None else f"data:image/png;base64,{base64.b64encode(shown).decode()}"
    return Attacked(found.kind, " ".join([found.meaning, *found.remarks]), columns, rows, curves, data)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
