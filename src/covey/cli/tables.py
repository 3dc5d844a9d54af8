"""Lines, tables and JSON on the terminal."""

import json
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, TextIO, TypeAlias

from covey.view.terminal import shown

_GAP = "  "
_LEAST = 12
"""The least width of the first column."""
Cells: TypeAlias = Sequence[Sequence[Sequence[str]]]
"""The lines of each cell, by row and column."""


def say(line: str, file: TextIO | None = None) -> None:
    """Print a line, with control characters escaped."""
    print(shown(line), file=file)


def print_json(value: Any) -> None:
    """Print JSON. NaN and infinity become null."""
    print(json.dumps(_plain(value), indent=2, allow_nan=False, default=str))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *remarks: str) -> None:
    """Print a table and remarks on it. The first column is text, the others are figures, which are never cut."""
    # Without a terminal, lines are not folded: logs are searched.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    print(textwrap.fill(shown(title), width, break_on_hyphens=False) if title else "")
    for line in table_lines([*map(shown, columns)], [[*map(shown, row)] for row in rows], width):
        print(line)
    for remark in filter(None, remarks):
        print(textwrap.fill(shown(remark), width, break_on_hyphens=False))


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The lines of a table that fits a screen of `width` columns: if need be, in parts, each with the first column."""
    cells = [[[text] for text in row] for row in (columns, *rows)]
    if _width(cells) > width:
        cells = [
            [row[0], *([*map(str.strip, text.replace("±", "\n±").split("\n"))] for (text,) in row[1:])] for row in cells
        ]
        cells[0] = [cells[0][0], *(re.findall(r"[^\s-]+-?|-", text) for text in columns[1:])]
    lines: list[str] = []
    for part in _parts(cells, width):
        lines += ([""] if lines else []) + _lines(part, width)
    return lines


def _parts(cells: Cells, width: int) -> list[Cells]:
    """The columns in parts that fit beside a first column of the least width; of a wide one, a part alone."""
    parts, last = [], [1][: len(cells[0]) - 1]
    for column in range(2, len(cells[0])):
        wider = [*last, column]
        if _width([[row[index] for index in wider] for row in cells]) > width - len(_GAP) - _LEAST:
            parts.append(last)
            wider = [column]
        last = wider
    return [[[row[0], *(row[index] for index in part)] for row in cells] for part in [*parts, last]]


def _lines(cells: Cells, width: int) -> list[str]:
    room = max(width - _width([row[1:] for row in cells]) - len(_GAP), _LEAST)
    cells = [[textwrap.wrap(row[0][0], room) or [""], *row[1:]] for row in cells]
    sizes = [max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    lines = []
    for index, row in enumerate(cells):
        # Headings are aligned at the bottom, other cells at the top.
        height = max(map(len, row))
        filled = [[""] * (height - len(cell)) + list(cell) for cell in row] if index == 0 else row
        for parts in zip_longest(*filled, fillvalue=""):
            aligned = [
                f"{parts[0]:<{sizes[0]}}",
                *(f"{part:>{size}}" for part, size in zip(parts[1:], sizes[1:], strict=True)),
            ]
            lines.append(_GAP.join(aligned).rstrip())
        if index == 0:
            lines.append("─" * (sum(sizes) + len(_GAP) * (len(sizes) - 1)))
    return lines


def _width(cells: Cells) -> int:
    sizes = [max(len(line) for cell in column for line in cell) for column in zip(*cells, strict=True)]
    return sum(sizes) + len(_GAP) * (len(sizes) - 1)
