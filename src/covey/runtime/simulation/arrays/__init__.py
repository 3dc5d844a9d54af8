"""Rounds of all nodes as arrays, where they are known beforehand: no coroutines, no messages, the same results."""

from covey.runtime.simulation.arrays.choice import against, too_few
from covey.runtime.simulation.arrays.rounds import ArrayRounds, can_restore

__all__ = ["ArrayRounds", "against", "can_restore", "too_few"]
