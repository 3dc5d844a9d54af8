"""Figures of attacks: curves of true over false alarms, and reconstructed pictures beside the originals.

Shapes: S pictures in a row, of H x W pixels.
"""

from typing import TYPE_CHECKING

import numpy as np

from covey.view.look import INK, LINES, RULE, SOFT, legend, new_axes, new_figure, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from covey.privacy.attacks.contract import Pictures, Result

_MOST_CURVES = 6
_LEAST = 1e-3
_RATES = (0.001, 0.01, 0.1, 1.0)
_SIDE, _CAPTION = 0.8, 1.7
"""Inches of a picture, and of the captions beside."""


def roc(result: "Result", *, titled: bool = True) -> "Figure":
    """The curves of an attack on logarithmic axes, where low rates of false alarms can be read."""
    figure = new_figure((5.2, 3.8))
    axes = new_axes(figure)
    for index, (name, (falsely, truly)) in enumerate([*result.curves.items()][:_MOST_CURVES]):
        axes.plot(falsely, truly, color=LINES[index % len(LINES)], label=name, linewidth=1.6)
    axes.plot([_LEAST, 1], [_LEAST, 1], color=SOFT, linewidth=1, linestyle=(0, (3, 2)), label="guessing")
    axes.set(xscale="log", yscale="log", xlim=(_LEAST, 1), ylim=(_LEAST, 1.05))
    axes.set(xlabel="non-members taken for members", ylabel="members recognised")
    # The labels that matplotlib makes for logarithmic axes are formulas, which figures here show as they are.
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(_RATES, labels=[f"{rate:.3g}" for rate in _RATES])
    if titled:
        title(axes, result.kind)
    legend(figure, *axes.get_legend_handles_labels())
    return figure


def grid(pictures: "Pictures") -> "Figure":
    """Rows of pictures, each with a caption at its left."""
    rows = [*pictures.rows.items()]
    columns = max(len(row) for _, row in rows)
    figure = new_figure((_CAPTION + _SIDE * columns, 0.5 + _SIDE * len(rows)))
    for at, (caption, row) in enumerate(rows):
        for column in range(columns):
            axes = figure.add_subplot(len(rows), columns, at * columns + column + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(RULE)
            if column < len(row):
                shown = np.clip(row[column], 0.0, 1.0)
                axes.imshow(shown.squeeze(-1) if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0.0, vmax=1.0)
            else:
                axes.axis("off")
            if column == 0:
                axes.set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=8, color=INK)
    figure.suptitle(pictures.title, fontsize=9.5, color=INK)
    return figure
