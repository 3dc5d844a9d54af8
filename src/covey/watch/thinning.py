"""Few points of a curve that look like all of them: largest triangle three buckets, by Steinarsson (2013).

Shapes: R points, B points of a bucket.
"""

import numpy as np


def largest_triangles(x_R: np.ndarray, y_R: np.ndarray, most: int) -> list[int]:
    """The indices of the points to draw: the first, the last, and of each bucket between them the one that spans the
    largest triangle with the point before it and the mean of the next bucket.

    Args:
        x_R: the horizontal positions, in ascending order.
        y_R: the vertical ones. A point that is not finite is drawn only if all are.
        most: the greatest number of points, at least 3.
    """
    (finite_R,) = np.nonzero(np.isfinite(x_R) & np.isfinite(y_R))
    if len(x_R) <= most or len(finite_R) <= most:
        return list(map(int, finite_R)) if len(x_R) > most else list(range(len(x_R)))
    x_R, y_R = x_R[finite_R], y_R[finite_R]
    # Without units, so that the areas of huge values do not overflow.
    y_R = (y_R - y_R.min()) / (np.ptp(y_R) or 1.0)
    edges = np.linspace(1, len(x_R) - 1, most - 1).astype(int)
    chosen = [0]
    for begin, end, after in zip(edges[:-1], edges[1:], [*edges[2:], len(x_R)], strict=True):
        next_x, next_y = x_R[end:after].mean(), y_R[end:after].mean()
        x, y = x_R[chosen[-1]], y_R[chosen[-1]]
        area_B = np.abs((x - next_x) * (y_R[begin:end] - y) - (x - x_R[begin:end]) * (next_y - y))
        chosen.append(begin + int(area_B.argmax()))
    return list(map(int, finite_R[[*chosen, len(x_R) - 1]]))
