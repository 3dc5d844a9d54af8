"""The epsilons of a run in words, as its `facts.json` has them."""

from collections.abc import Mapping, Sequence
from typing import Any


def epsilon_in_words(stated: Mapping[str, Any]) -> str:
    """One epsilon of `facts.json` as a sentence."""
    what = f"{stated['protects']}, against {stated['against']}"
    if stated["epsilon"] is None:
        return f"no epsilon for {what}: {stated['why_not']}"
    noise = f"by the noise of {stated['part']}"
    if stated["epsilon"] == "inf":
        return f"no protection of {what}, {noise}: {stated['why_not']}"
    assumed = "; ".join(stated["assumes"])
    one = f", {stated['epsilon_of_one']:.4g} for one" if stated["epsilon_of_one"] is not None else ""
    return (
        f"epsilon {stated['epsilon']:.4g} at delta {stated['delta']:g} for {what}, {noise} in {stated['releases']:,} "
        f"releases{one}" + (f"; assumes that {assumed}" if assumed else "")
    )


def first(stated: Sequence[Mapping[str, Any]]) -> str:
    """The first epsilon that is known, for a cell of a table; a dash without one."""
    known = [one["epsilon"] for one in stated if one["epsilon"] is not None]
    if not known:
        return "–"
    return known[0] if isinstance(known[0], str) else f"{known[0]:.4g}"
