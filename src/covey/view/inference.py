"""The figure of robust inference: the accuracy of each rule under each attack."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from covey.view.look import INK, LINES, legend, new_axes, new_figure, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from covey.federated.robust_inference.suite import Report

_ROW = 0.16
"""Inches for each bar."""
_LABEL = 28
"""The longest line of a rule's name."""


def accuracies(reports: "Sequence[Report]", titled: str = "") -> "Figure":
    """Bars for the accuracy of each rule, without lies and in the worst cases, and a mark for each attack."""
    figure = new_figure((6.4, 1.2 + 3 * _ROW * len(reports) + 0.25 * len(reports)))
    axes = new_axes(figure)
    bars = (
        ("no lies", [report.clean for report in reports]),
        ("worst attack", [report.worst for report in reports]),
        ("worst attack on each query", [report.worst_per_query for report in reports]),
    )
    for index, (name, figures) in enumerate(bars):
        places = [row + 0.26 * (index - 1) for row in range(len(reports))]
        axes.barh(places, [100.0 * figure for figure in figures], height=0.22, color=LINES[index], label=name)
    for row, report in enumerate(reports):
        found = [100.0 * share for share in report.attacks.values()]
        label = "each attack" if row == 0 else None
        axes.plot(found, [row] * len(found), linestyle="none", marker="|", markersize=9, color=INK, label=label)
    axes.set_yticks(range(len(reports)), labels=["\n".join(textwrap.wrap(report.rule, _LABEL)) for report in reports])
    axes.invert_yaxis()
    axes.set(xlabel="accuracy in %", xlim=(0, 100))
    if titled:
        title(axes, titled)
    legend(figure, *axes.get_legend_handles_labels())
    return figure
