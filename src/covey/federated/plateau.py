"""The rule by which training ends once a loss falls no more."""

from math import fsum

from covey.parts.parameters import Part, param
from covey.runtime.state import State


class Falling(State):
    """The history of a loss, of constant size."""

    recent: list[float] = []
    """The last losses, at most as many as the window."""
    lowest: float | None = None
    """The lowest moving average."""
    since: int = 0
    """The number of losses since the lowest average."""


class Plateau(Part):
    """Ends a training whose loss, averaged over the last rounds, has not reached a new minimum for some rounds."""

    kind = "plateau"
    window: int = param("The number of rounds over which the loss is averaged; fewer at the start.", default=20, ge=1)
    patience: int = param("The number of rounds in a row without a new lowest average that end it.", default=50, ge=1)

    def add(self, falling: Falling, loss: float) -> bool:
        """Add the loss of a round. True if the average is strictly below all earlier ones.

        The time does not depend on the number of earlier rounds. The sum is exact, so that the average of equal losses
        never falls; a running sum would.
        """
        falling.recent = [*falling.recent, loss][-self.window :]
        average = fsum(falling.recent) / len(falling.recent)
        falls = falling.lowest is None or average < falling.lowest
        falling.lowest = average if falls else falling.lowest
        falling.since = 0 if falls else falling.since + 1
        return falls

    def ends(self, falling: Falling) -> bool:
        """True if the training ends now."""
        return falling.since >= self.patience
