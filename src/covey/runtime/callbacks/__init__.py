"""Callbacks: functions that are called after every evaluated round of a run, where the run is recorded."""

from covey.runtime.callbacks.callback import Began, Callback, Evaluated
from covey.runtime.callbacks.calling import Callbacks

__all__ = ["Began", "Callback", "Callbacks", "Evaluated"]
