"""Traces: CSV files that say what real networks and devices did. Every error names the file, the line and the value.

Shapes: N nodes, R rows of a trace.
"""

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from covey.parts.errors import ConfigurationError, unknown
from covey.parts.parameters import Setting

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One row of a CSV file that is not blank."""

    line: int
    """Its number in the file, from 1."""
    cells: list[str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file, blank ones and lines that begin with # left out.

    Raises:
        ConfigurationError: the file cannot be read, is no text or has no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            rows = [
                Row(reader.line_num, [cell.strip() for cell in cells])
                for cells in reader
                if any(cell.strip() for cell in cells) and not cells[0].startswith("#")
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"The trace '{path}' cannot be read: {why}.") from error
    if not rows:
        raise ConfigurationError(f"The trace '{path}' has no rows.")
    return rows


def parse_number(text: str) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class Trace:
    """A CSV file with a header line, read whole.

    Args:
        path: the file.

    Raises:
        ConfigurationError: the file cannot be read, repeats a column, has no rows under its header, or has a row of
            another length than its header.
    """

    def __init__(self, path: Path) -> None:
        header, *self.rows = read_rows(path)
        self.path = path
        self.columns = header.cells
        if len(set(self.columns)) < len(self.columns):
            raise ConfigurationError(f"The header of '{path}' must not repeat a column. Got {self.columns} instead.")
        if not self.rows:
            raise ConfigurationError(f"The trace '{path}' has no rows under its header.")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ConfigurationError(
                    f"Line {row.line} of '{path}' must have {len(self.columns)} cells, as its header has. "
                    f"Got {len(row.cells)} instead."
                )

    def parsed(self, column: str, expected: str, parse: Callable[[str], Value | None]) -> list[Value]:
        """A column, every cell as `parse` reads it.

        Args:
            column: its name in the header.
            expected: what a cell must be, for the error: "a number in (0, inf)".
            parse: gives the value of a cell, or None where it is none.

        Raises:
            ConfigurationError: no such column, or a cell that is not as expected.
        """
        if column not in self.columns:
            raise ConfigurationError(unknown(f"column '{column}' of '{self.path}'", column, self.columns))
        index = self.columns.index(column)
        values = []
        for row in self.rows:
            value = parse(row.cells[index])
            if value is None:
                raise ConfigurationError(
                    f"Line {row.line} of '{self.path}': the '{column}' must be {expected}. "
                    f"Got {row.cells[index]!r} instead."
                )
            values.append(value)
        return values

    def positive(self, column: str) -> NDArray[np.float64]:
        """A column of numbers above 0, R.

        Raises:
            ConfigurationError: no such column, or a cell that is no such number.
        """

        def parse(text: str) -> float | None:
            value = parse_number(text)
            return value if value is not None and value > 0 else None

        return np.array(self.parsed(column, "a number in (0, inf)", parse), dtype=np.float64)


def deal(values: NDArray[np.float64], path: Path, setting: Setting) -> NDArray[np.float64]:
    """Give every node a row of a trace, drawn without replacement.

    Which rows are drawn depends on the seed and the number of rows alone, so that two columns of one file, or of two
    files with as many rows, give a node the speed and the bandwidth of the same device.

    Args:
        values: R values, a row each.
        path: where they come from, for the error.
        setting: the experiment.

    Returns:
        N values.

    Raises:
        ConfigurationError: there are fewer rows than nodes.
    """
    if len(values) < setting.nodes:
        raise ConfigurationError(
            f"The trace '{path}' must have a row for each of the {setting.nodes} nodes. Got {len(values)} rows instead."
        )
    return values[setting.generator("trace").permutation(len(values))[: setting.nodes]]
