"""The style of figures: colours that colour-blind readers can distinguish, light axes, units by size of values."""

import io
from functools import cache
from typing import TYPE_CHECKING, Any

from covey.view.terminal import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#24292e", "#626a73", "#d5dae0", "#ffffff"
"""The colours of text, secondary text, lines and background."""

LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The colours of Okabe and Ito without yellow and black, which are invisible in light or dark mode."""

MARKERS = "os^Dv*"
"""The marks of lines, for prints without colour."""

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


def title(axes: Any, text: str, note: str = "") -> None:
    """Set a title at the left, with a line of smaller print below it."""
    axes.set_title(text, loc="left", fontsize=11, color=INK, pad=20 if note else 8)
    if note:
        axes.annotate(
            note, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize=8, color=SOFT
        )


def legend(figure: "Figure", handles: Any, labels: list[str], heading: str | None = None) -> None:
    """Add a legend below the axes."""
    letters = max(map(len, labels)) + 6
    room = int(figure.get_figwidth() * 14.5)
    found = figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=max(1, min(len(labels), room // letters)),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        title=heading,
        columnspacing=1.0,
        handlelength=1.6,
    )
    found.get_title().set(color=INK, fontsize=8.5)


def unit(kind: str, largest: float) -> tuple[float, str]:
    """The unit for times or bytes up to a value: its size and name."""
    units = _TIMES if kind == "time" else _BYTES
    return next(((size, name) for size, name in units if largest >= 2 * size), units[-1])
