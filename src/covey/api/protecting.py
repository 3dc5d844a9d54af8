"""The epsilons of a prepared experiment, for `covey check` and the facts of runs."""

from typing import Any

from covey.runtime.prepared import Prepared


def epsilons(prepared: Prepared) -> list[dict[str, Any]]:
    """The epsilons that the noise of an experiment's parts guarantees, as `facts.json` has them."""
    stated = prepared.mechanisms()
    if not stated:
        return []
    from covey.privacy.accounting import account  # Only here, because it needs scipy.

    return [one.table for one in account(stated)]
