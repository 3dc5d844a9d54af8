"""The style of figures: colours that colour-blind readers can distinguish, light axes, units by size of values."""

import io
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from covey.view.terminal import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#24292e", "#626a73", "#d5dae0", "#ffffff"
"""The colours of text, secondary text, lines and background."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The colours of Okabe and Ito without yellow and black, which are invisible in light or dark mode."""

MARKERS = "os^DvP*"
"""The marks of lines, for prints without colour. Pairs of a colour and a mark repeat after 42 lines."""

CLASSES = (
    "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#b8b8b8",
)  # fmt: skip
"""The muted colours of Tol. More than ten cannot be distinguished."""

_TIMES = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))


@cache
def _kind_of_figure() -> type["Figure"]:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    class Shown(Figure):
        """A figure that notebooks show without a window, and whose texts are never parsed as formulas."""

        def draw(self, renderer: Any) -> None:
            # Names come from files. A dollar sign in one must not begin a formula.
            for text in self.findobj(Text):
                text.set_parse_math(False)
                text.set_text("\n".join(map(shown, text.get_text().split("\n"))))
            super().draw(renderer)

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return Shown


def new_figure(size: tuple[float, float]) -> "Figure":
    """A new figure of a size in inches."""
    return _kind_of_figure()(figsize=size, dpi=150, layout="constrained", facecolor=PAPER)


def new_axes(figure: "Figure", *, grid: bool = True) -> Any:
    """New axes of a figure."""
    axes = figure.subplots()
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=INK, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9.5)
    if grid:
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    return axes


def whole_numbers(axis: Any) -> None:
    """Place ticks at integers only."""
    axis.get_major_locator().set_params(integer=True)


_BESIDE = 0.8
"""The approximate width, in inches, of the text beside the axes."""
_TITLE, _NOTE, _KEY = 11, 8, 8.5
"""The font sizes, in points, of a title, of the note below it, and of a legend."""


def title(axes: Any, text: str, note: str = "") -> None:
    """Set a title at the left, with a note of smaller print below it. Both are wrapped to the width of the figure."""
    inches = axes.figure.get_figwidth() - _BESIDE
    lines = wrapped(note, _NOTE, inches) if note else []
    axes.set_title(
        "\n".join(wrapped(text, _TITLE, inches)), loc="left", fontsize=_TITLE, color=INK, pad=8 + 11 * len(lines)
    )
    if lines:
        axes.annotate(
            "\n".join(lines), (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=_NOTE,
            color=SOFT, va="bottom",
        )  # fmt: skip


def wrapped(text: str, points: float, inches: float) -> list[str]:
    """Wrap a text to a width in inches, at a font size in points. Words that are too long are broken."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if _width(longer, points) <= inches:
            lines[-1] = longer
            continue
        lines += [word] if lines[-1] else []
        lines[-1] = word
        while len(lines[-1]) > 1 and _width(lines[-1], points) > inches:
            fits = next(
                (end for end in range(len(lines[-1]) - 1, 1, -1) if _width(lines[-1][:end], points) <= inches), 1
            )
            lines[-1:] = [lines[-1][:fits], lines[-1][fits:]]
    return lines


def _width(text: str, points: float) -> float:
    """The width of a line of text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(shown(text), FontProperties(size=points), False)[0]) / 72


_KEY_ROWS = 3
"""With more lines than this in the legend, the figure grows in height."""


def legend(figure: "Figure", handles: Any, labels: list[str], heading: str | None = None, handle: float = 1.2) -> None:
    """Add a legend below the axes, with wrapped labels.

    Args:
        figure: the figure. It grows in height if the legend has many lines.
        handles: the marks.
        labels: the labels of the marks.
        heading: a line above the marks.
        handle: the length of a mark, as a multiple of the font size.
    """
    inches, em = figure.get_figwidth() - 0.3, _KEY / 72
    widest = inches - (handle + 0.8) * em
    parts = [wrapped(label, _KEY, widest) for label in labels]
    width = max(_width(line, _KEY) for lines in parts for line in lines) + (handle + 0.8) * em
    rows = math.ceil(len(labels) / max(1, int((inches + em) / (width + em))))
    columns = math.ceil(len(labels) / rows)
    found = figure.legend(
        handles,
        ["\n".join(lines) for lines in parts],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=_KEY,
        labelcolor=INK,
        title=heading,
        columnspacing=1.0,
        handlelength=handle,
    )
    found.get_title().set(color=INK, fontsize=_KEY)
    lines = max(sum(map(len, parts[first : first + rows])) for first in range(0, len(parts), rows))
    figure.set_figheight(figure.get_figheight() + max(0, lines - _KEY_ROWS) * 1.7 * em)


def unit(kind: str, largest: float) -> tuple[float, str]:
    """The unit for times or bytes up to a value: its size and name."""
    units = _TIMES if kind == "time" else _BYTES
    return next(((size, name) for size, name in units if largest >= 2 * size), units[-1])
