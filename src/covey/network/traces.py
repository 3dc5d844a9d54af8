"""Traces: CSV and JSON files of measurements of real networks and devices. Errors name the file, the row and the value.

Shapes: N nodes, R rows of a trace.
"""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from covey.parts.errors import ConfigurationError, unknown
from covey.parts.parameters import Setting

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One row of a CSV file that is not blank."""

    line: int
    """The line number in the file, from 1."""
    cells: list[str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file, without blank rows and lines that begin with #.

    Raises:
        ConfigurationError: the file cannot be read, is not text or has no rows.
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


def read_json(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The entries of a JSON file, an object or a list of objects, each with its name or number.

    Raises:
        ConfigurationError: the file cannot be read, is not such JSON or has no entries.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"The trace '{path}' cannot be read: {why}.") from error
    named = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    entries = [(str(name), entry) for name, entry in named]
    if not entries or not all(isinstance(entry, dict) for _, entry in entries):
        raise ConfigurationError(f"The trace '{path}' must be an object, or a list, of one or more objects.")
    return entries


def _rows_of_json(path: Path) -> list[Row]:
    """A header and the rows of a JSON file whose entries have the same keys."""
    entries = read_json(path)
    header = list(entries[0][1])
    for name, entry in entries:
        if set(entry) != set(header):
            raise ConfigurationError(
                f"The entry '{name}' of '{path}' must have the keys of the first one, {', '.join(header)}. "
                f"Got {', '.join(entry) or 'none'} instead."
            )
    rows = [Row(number, [str(entry[key]) for key in header]) for number, (_, entry) in enumerate(entries, 1)]
    return [Row(0, header), *rows]


def parse_number(text: str) -> float | None:
    """The finite number in a cell, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class Trace:
    """A CSV file with a header line, or a JSON file of objects with the same keys, read at construction.

    Args:
        path: the file.

    Raises:
        ConfigurationError: the file cannot be read, repeats a column, has no rows after its header, or has a row whose
            length differs from the header's.
    """

    def __init__(self, path: Path) -> None:
        is_json = path.suffix == ".json"
        header, *self.rows = _rows_of_json(path) if is_json else read_rows(path)
        self.unit = "Entry" if is_json else "Line"
        """The name of a row in errors."""
        self.path = path
        self.columns = header.cells
        if len(set(self.columns)) < len(self.columns):
            raise ConfigurationError(f"The header of '{path}' must not repeat a column. Got {self.columns} instead.")
        if not self.rows:
            raise ConfigurationError(f"The trace '{path}' has no rows after its header.")
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ConfigurationError(
                    f"Line {row.line} of '{path}' must have {len(self.columns)} cells, like its header. "
                    f"Got {len(row.cells)} instead."
                )

    def parsed(self, column: str, expected: str, parse: Callable[[str], Value | None]) -> list[Value]:
        """The parsed cells of a column.

        Args:
            column: its name in the header.
            expected: the values that are allowed, for the error: "a number in (0, inf)".
            parse: returns the value of a cell, or None if the cell is not valid.

        Raises:
            ConfigurationError: the column does not exist, or a cell is not as expected.
        """
        if column not in self.columns:
            raise ConfigurationError(unknown(f"column '{column}' of '{self.path}'", column, self.columns))
        index = self.columns.index(column)
        values = []
        for row in self.rows:
            value = parse(row.cells[index])
            if value is None:
                raise ConfigurationError(
                    f"{self.unit} {row.line} of '{self.path}': the '{column}' must be {expected}. "
                    f"Got {row.cells[index]!r} instead."
                )
            values.append(value)
        return values

    def positive(self, column: str) -> NDArray[np.float64]:
        """A column of numbers above 0, R.

        Raises:
            ConfigurationError: the column does not exist, or a cell is not a number above 0.
        """

        def parse(text: str) -> float | None:
            value = parse_number(text)
            return value if value is not None and value > 0 else None

        return np.array(self.parsed(column, "a number in (0, inf)", parse), dtype=np.float64)


def deal(values: NDArray[np.float64], path: Path, setting: Setting) -> NDArray[np.float64]:
    """Give every node a row of a trace, drawn without replacement.

    The rows depend only on the seed and the number of rows. So two columns of one file, or of two files of equal
    length, give a node the speed and the bandwidth of the same device.

    Args:
        values: R values, one per row.
        path: their file, for the error.
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
