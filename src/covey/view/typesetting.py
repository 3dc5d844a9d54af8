"""Tables of runs as text for papers and other programs: LaTeX, Markdown and CSV."""

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from covey.view.terminal import shown

if TYPE_CHECKING:
    from covey.view.comparison import Comparison

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "–": "--", "−": "$-$",
}  # fmt: skip
_RULES = r"\providecommand{\toprule}{\hline}\providecommand{\midrule}{\hline}\providecommand{\bottomrule}{\hline}"
"""The rules of booktabs, or plain ones in a document without that package."""


def latex(compared: "Comparison") -> str:
    """A `tabular` that any document can take as it is, with the rules of booktabs if that is loaded."""
    heads, rows = compared.table()
    lines = [_latex_line(row) for row in rows]
    return "\n".join(
        [
            f"% {shown(compared.title)}; written by covey compare",
            _RULES,
            rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
            r"\toprule",
            _latex_line(heads),
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _latex_line(cells: list[str]) -> str:
    return " & ".join([_latex(cells[0]), *(_latex_figure(cell) for cell in cells[1:])]) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in shown(text))


def _latex_figure(cell: str) -> str:
    """A cell that is not broken between a number and its unit."""
    return "--" if cell == "-" else _latex(cell).replace(" ", "~")


def markdown(compared: "Comparison") -> str:
    """A table with pipes, in which columns of figures are aligned to the right."""
    heads, rows = compared.table()
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(_markdown(cell) for cell in line)} |\n" for line in lines)


def _markdown(text: str) -> str:
    """A text without the characters that end a cell, begin a tag or emphasise."""
    return "".join(f"\\{letter}" if letter in "\\|<>*_`[]" else letter for letter in shown(text))


def comma_separated(compared: "Comparison") -> str:
    """Numbers without units: bytes, seconds, and of each figure the mean and the standard deviation."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [f"{name.replace(' ', '_')}_{part}" for name in compared.figures for part in ("mean", "std")]
    writer.writerow(["experiment", "runs", *columns])
    for group, spreads in zip(compared.groups, compared.spreads, strict=True):
        figures = [found[part] if found else "" for found in spreads.values() for part in ("mean", "std")]
        writer.writerow([group.name, len(group.runs), *figures])
    return buffer.getvalue()


FORMS: dict[str, Callable[["Comparison"], str]] = {"latex": latex, "markdown": markdown, "csv": comma_separated}
