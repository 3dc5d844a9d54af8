"""Checks of the requests of a program to its node, before anything is done.

All raise ProgramError for a request without meaning.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from covey.parts.errors import ProgramError
from covey.runtime.entries import count_in_words

if TYPE_CHECKING:
    from covey.runtime.running_node import RunningNode

_ROUNDS = 1 << 63
"""The bound of round numbers in messages."""


def check_tag(node: "RunningNode", tag: Any) -> None:
    """Refuse a tag that is not a str."""
    if type(tag) is not str:
        raise ProgramError(f"The 'tag' of a message of node {node.id} must be a str. Got {tag!r} instead.")


def checked_round(node: "RunningNode", round: Any) -> int:
    """The round of a message, as an int."""
    if (type(round) is int or isinstance(round, np.integer)) and 0 <= round < _ROUNDS:
        return int(round)
    raise ProgramError(
        f"The 'round' of a message of node {node.id} must be None or an int in [0, {count_in_words(_ROUNDS)}). "
        f"Got {round!r} instead."
    )


def checked_receivers(node: "RunningNode", to: Any) -> tuple[int, ...]:
    """The receivers of a message, as a tuple that the program cannot change."""
    receivers = (int(to),) if isinstance(to, (int, np.integer)) else tuple(to)
    if receivers and not (min(receivers) >= 0 and max(receivers) < node.nodes):
        wrong = next(receiver for receiver in receivers if not 0 <= receiver < node.nodes)
        raise ProgramError(f"Node {node.id} sends to node {wrong}; ids are in [0, {node.nodes}).")
    return receivers


def refuse_senders(node: "RunningNode", senders: Iterable[Any]) -> NoReturn:
    """Refuse senders of which one is not known."""
    wrong = next(sender for sender in senders if not node.stage.knows([sender]))
    raise ProgramError(f"Node {node.id} waits for node {wrong!r}; ids are in [0, {node.nodes}).")


def check_tags(node: "RunningNode", tags: tuple[str, ...], senders: Any) -> None:
    """Refuse several tags to wait for that are the same, or that come with senders."""
    if senders is not None or not tags or len({*tags}) < len(tags):
        raise ProgramError(
            f"A receive of node {node.id} for several tags must name different ones and no 'senders'. Got {tags!r}."
        )


def check_handler(node: "RunningNode", tag: str, handler: Any) -> None:
    """Refuse a handler that is not an async function, or the second one of a tag."""
    if not inspect.iscoroutinefunction(handler):
        raise ProgramError(
            f"The handler of {tag!r} at node {node.id} must be an async function. Got {handler!r} instead."
        )
    if tag in node.mail.handlers:
        raise ProgramError(f"Node {node.id} serves {tag!r} already.")


def check_metrics(node: "RunningNode", metrics: Mapping[str, Any]) -> None:
    """Refuse metrics that are not numbers."""
    for name, value in metrics.items():
        if isinstance(value, str | bytes | list) or value is None:
            raise ProgramError(f"The '{name}' that node {node.id} logs must be a number. Got {value!r} instead.")


def check_duration(node: "RunningNode", activity: str, seconds: Any) -> None:
    """Refuse a number of seconds that is negative or not a number.

    Args:
        node: the node.
        activity: the activity that takes so long, such as "sleeps for".
        seconds: the duration.
    """
    if isinstance(seconds, str):
        raise ProgramError(f"Node {node.id} {activity} a number of seconds. Got {seconds!r} instead.")
    if not seconds >= 0:
        raise ProgramError(f"Node {node.id} {activity} {seconds:g} seconds; that must be 0 or more.")
