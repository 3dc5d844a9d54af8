"""Schedules: the rounds in which nodes train."""

from covey.decentralized.schedule.rounds import EveryRound, Periodic, Schedule
from covey.decentralized.schedule.skiptrain import Greedy, SkipTrain

__all__ = ["EveryRound", "Greedy", "Periodic", "Schedule", "SkipTrain"]
