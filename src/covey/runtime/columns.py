"""The columns of the tables to which nodes add rows."""

import reprlib
from typing import Any

import numpy as np

from covey.parts.errors import ProgramError
from covey.runtime.runs.schema import RECORDED


class Columns:
    """The type of each column, which its first value decides."""

    def __init__(self) -> None:
        self._types: dict[tuple[str, str], type] = {}
        """By table and column."""

    def check(self, node: int, table: str, row: dict[str, Any]) -> None:
        """Check the row that a node adds to a table, and make its numbers plain ones of the columns' types.

        Raises:
            ProgramError: a value is not a plain one, or not of the type of its column.
        """
        for name, value in row.items():
            if isinstance(value, np.generic):
                row[name] = value = value.item()
            if type(value) not in RECORDED:
                raise ProgramError(
                    f"The column '{name}' of a row of node {node} in the table '{table}' must be a bool, int, "
                    f"float, str, bytes or None. Got {reprlib.repr(value)} instead."
                )
        for name, value in row.items():
            wanted = self._types.setdefault((table, name), type(value)) if value is not None else type(value)
            if wanted is float and type(value) is int:
                row[name] = float(value)
            elif type(value) is not wanted:
                raise ProgramError(
                    f"The column '{name}' of the table '{table}' must be of one type in all rows, "
                    f"{wanted.__name__}. Got {reprlib.repr(value)} at node {node} instead."
                )
