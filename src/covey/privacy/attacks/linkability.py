"""Linkability: which node sent a model? The one on whose training samples it has the lowest mean loss.

The threat model gives the adversary the samples of all candidates, without which nothing can be linked; so their
grouping by node comes from the truth, and the rest of the attack does not.

Shapes: V views, S candidate samples, C candidates.
"""

from typing import Any

import numpy as np

from covey.parts.errors import ConfigurationError
from covey.privacy.attacks.contract import Cell, Result, Tracked, Truth, strongest, untracked
from covey.privacy.attacks.knowledge import Knowledge
from covey.privacy.attacks.losses import Losses, losses_of, pool_of
from covey.privacy.attacks.membership import Evidence, OnSamples
from covey.privacy.attacks.rates import interval


class Linkability(OnSamples):
    """Takes the node on whose samples a seen model has the lowest mean loss for its sender."""

    kind = "linkability"

    def observe(self, known: Knowledge, tracked: Tracked[Any] = untracked) -> Evidence:
        pool = pool_of(known.learner, self.samples, known.prepared.setting.seed)
        return Evidence(pool, losses_of(known, self.chosen(known), pool, tracked))

    def score(self, known: Knowledge, evidence: Evidence, truth: Truth) -> Result:
        found = [row for one in evidence.scores if (row := _linked(one, evidence.pool.train, truth)) is not None]
        if not found:
            raise ConfigurationError(f"{self.named().capitalize()} needs messages of at least two candidates.")
        best = strongest(found, "gain")
        meaning = (
            f"Senders are {'' if best['low'] > best['chance'] else 'not '}recognised: the guess is right for "
            f"{best['rate']:.1%} of {best['messages']} messages (a {best['seen']} each), and guessing would "
            f"be for {best['chance']:.1%}."
        )
        rows: list[tuple[Cell, ...]] = [
            (
                *(one["seen"], one["completed"], one["messages"], one["rate"]),
                *(f"{one['low']:.3f}–{one['high']:.3f}", one["chance"], one["rank"]),
            )
            for one in found
        ]
        columns = ("seen", "completed by", "messages", "right", "95 %", "chance", "mean rank")
        headline = {name: best[name] for name in ("rate", "chance", "rank", "messages")}
        return Result(self.kind, columns, rows, meaning, headline)


def _linked(losses: Losses, pool: np.ndarray, truth: Truth) -> dict[str, Any] | None:
    """The rate of right guesses over views; ties count the share of a guess among them."""
    nodes = np.array(sorted(truth.samples))
    groups_CS = np.stack([np.isin(pool, truth.samples[int(node)]) for node in nodes])
    known_C = groups_CS.any(axis=1)
    sizes_C = np.maximum(groups_CS.sum(axis=1), 1)
    # The worst finite loss takes the place of those that are not: it links to no node.
    finite = np.nan_to_num(losses.train_VS, nan=1e8, posinf=1e8, neginf=1e8).clip(max=1e8)
    means_VC = finite @ groups_CS.T / sizes_C
    hits, chances, ranks = [], [], []
    for view, means_C in zip(losses.views, means_VC, strict=True):
        candidates = known_C & (nodes != view.receiver)
        right = candidates & np.isin(nodes, truth.owners(view))
        if not right.any() or candidates.sum() < 2:
            continue
        least = candidates & (means_C <= means_C[candidates].min())
        hits.append(float((least & right).sum() / least.sum()))
        chances.append(float(right.sum() / candidates.sum()))
        ranks.append(1.0 + float((candidates & (means_C < means_C[right].min())).sum()))
    if not hits:
        return None
    low, high = interval(sum(hits), len(hits))
    rate, chance = float(np.mean(hits)), float(np.mean(chances))
    return {
        "seen": losses.seen,
        "completed": losses.completed,
        "messages": len(hits),
        "rate": rate,
        "low": low,
        "high": high,
        "chance": chance,
        "gain": rate - chance,
        "rank": float(np.mean(ranks)),
    }
