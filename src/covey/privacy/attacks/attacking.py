"""Attacks on a run: each observes first, and is scored after all have observed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from covey.parts import kinds
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import build
from covey.privacy.attacks.contract import Attack, Result, Tracked, Truth, untracked
from covey.privacy.attacks.knowledge import read_knowledge
from covey.runtime.runs import Run, read_truth


def attacks_of(given: Sequence[Attack | str | Mapping[str, Any]]) -> list[Attack]:
    """Attacks from their kinds or tables.

    Raises:
        ConfigurationError: a kind is unknown, or none is given.
    """
    if not given:
        raise ConfigurationError(f"No attack was chosen. Known: {', '.join(kinds.known('attack'))}.")
    return [one if isinstance(one, Attack) else build(Attack, one) for one in given]


def attack(
    run: Run | Path | str,
    attacks: Iterable[Attack | str | Mapping[str, Any]],
    *,
    data: Path | None = None,
    tracked: Tracked[Any] = untracked,
) -> list[Result]:
    """Attack a run with what its observed nodes received.

    Args:
        run: the run, or its folder.
        attacks: the attacks: kinds, tables or parts.
        data: the data folder; by default, that of the environment.
        tracked: shows the progress of an iteration.

    Raises:
        RunError: the run has no record of observed nodes or no truth, or one is damaged.
        ConfigurationError: an attack is unknown, or the only one is not possible on such a run.
    """
    chosen = attacks_of(list(attacks))
    known = read_knowledge(run, data=data)
    with closing(known.prepared.task), known.prepared.task.at_work():
        for one in chosen:
            one.ready(known.prepared.setting)
        evidence = [_tried(partial(one.observe, known, tracked), one, chosen) for one in chosen]
        truth = Truth(known, read_truth(known.run.folder))
        results = [
            found if isinstance(found, Result) else _tried(partial(one.score, known, found, truth), one, chosen)
            for one, found in zip(chosen, evidence, strict=True)
        ]
    rejected = [f"{count} observed messages were not used: {why}." for why, count in known.rejected.most_common(3)]
    for result in results:
        result.remarks += rejected
    return results


def _tried(step: Callable[[], Any], one: Attack, chosen: Sequence[Attack]) -> Any:
    """The outcome of a step of an attack. Among several, one that is not possible is a result that says why.

    Raises:
        ConfigurationError: the only attack is not possible.
    """
    try:
        return step()
    except ConfigurationError as error:
        if len(chosen) == 1:
            raise
        return Result(one.kind, ("seen",), [], f"Not possible here. {error}", {})
