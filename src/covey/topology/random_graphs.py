"""Random graphs in time proportional to their edges.

Shapes: N nodes, E edges, S stubs (ends of edges).
"""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def random_regular(n: int, degree: int, generator: np.random.Generator) -> tuple[Ids, Ids]:
    """The edges of a simple graph in which every node has the same degree, near to uniform among all of them.

    Half-edges are paired at random; pairs that are loops or stand twice are then switched with random other edges,
    which keeps every degree. Dense graphs are drawn as what is missing to the complete one.
    """
    if degree == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if degree > (n - 1) // 2:
        left, right = random_regular(n, n - 1 - degree, generator)
        absent = np.zeros((n, n), dtype=bool)
        absent[left, right] = absent[right, left] = True
        return tuple(np.nonzero(np.triu(~absent, 1)))  # type: ignore[return-value]
    stubs_S = generator.permutation(np.repeat(np.arange(n, dtype=np.int64), degree))
    left_E, right_E = stubs_S[0::2].copy(), stubs_S[1::2].copy()
    while True:
        bad = _bad(left_E, right_E, n)
        if len(bad) == 0:
            return np.minimum(left_E, right_E), np.maximum(left_E, right_E)
        _switch(left_E, right_E, bad, n, generator)


def _codes(left: Ids, right: Ids, n: int) -> Ids:
    return np.minimum(left, right) * n + np.maximum(left, right)


def _bad(left: Ids, right: Ids, n: int) -> Ids:
    """The places of loops, and of all but the first of equal edges."""
    codes = _codes(left, right, n)
    order = np.argsort(codes, kind="stable")
    again = np.zeros(len(codes), dtype=bool)
    again[order[1:]] = codes[order[1:]] == codes[order[:-1]]
    return np.flatnonzero(again | (left == right))


def _switch(left: Ids, right: Ids, bad: Ids, n: int, generator: np.random.Generator) -> None:
    """Replace each bad edge (a, b) and a random edge (c, d) by (a, c) and (b, d) where that makes nothing worse."""
    present: dict[int, int] = {}
    for code in _codes(left, right, n).tolist():
        present[code] = present.get(code, 0) + 1
    partners = generator.integers(len(left), size=len(bad)).tolist()
    flips = generator.random(len(bad)).tolist()
    for place, other, flip in zip(bad.tolist(), partners, flips, strict=True):
        a, b, c, d = int(left[place]), int(right[place]), int(left[other]), int(right[other])
        if flip < 0.5:
            c, d = d, c
        first, second = (min(a, c) * n + max(a, c)), (min(b, d) * n + max(b, d))
        if place == other or a == c or b == d or first == second or present.get(first) or present.get(second):
            continue
        for x, y in ((a, b), (c, d)):
            present[min(x, y) * n + max(x, y)] -= 1
        present[first] = present[second] = 1
        left[place], right[place], left[other], right[other] = a, c, b, d


def erdos_renyi(n: int, probability: float, generator: np.random.Generator) -> tuple[Ids, Ids]:
    """The edges of a graph in which every pair is joined with the same probability."""
    pairs = n * (n - 1) // 2
    count = int(generator.binomial(pairs, probability))
    codes = distinct(pairs, count, generator)
    # Pair number k is (i, j) with i < j, counted column by column: k = j (j - 1) / 2 + i.
    j = ((1 + np.sqrt(8.0 * codes + 1)) / 2).astype(np.int64)
    j -= j * (j - 1) // 2 > codes
    j += (j + 1) * j // 2 <= codes
    return codes - j * (j - 1) // 2, j


def distinct(n: int, count: int, generator: np.random.Generator) -> Ids:
    """`count` distinct numbers of range(n), sorted."""
    if count * 3 > n:
        return np.sort(generator.permutation(n)[:count]).astype(np.int64)
    chosen = np.unique(generator.integers(n, size=count))
    while len(chosen) < count:
        chosen = np.unique(np.concatenate([chosen, generator.integers(n, size=count - len(chosen))]))
    return chosen


def recipients(n: int, degree: int, generator: np.random.Generator) -> Ids:
    """For every node, `degree` distinct others, uniformly: N x degree."""
    if degree * 4 > n:
        order = np.argsort(generator.random((n, n - 1)), axis=1)[:, :degree]
    else:
        order = generator.integers(n - 1, size=(n, degree))
        while True:
            ranked = np.sort(order, axis=1)
            rows = np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(axis=1))
            if len(rows) == 0:
                break
            # A whole row is drawn again, so that every set of recipients stays as likely as any other.
            order[rows] = generator.integers(n - 1, size=(len(rows), degree))
    return order + (order >= np.arange(n)[:, None])
