"""When nodes train: the schedule part of gossip."""

from covey.schedule.rounds import EveryRound, Periodic, Schedule

__all__ = ["EveryRound", "Periodic", "Schedule"]
