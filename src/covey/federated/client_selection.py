"""The selection of the clients of a round of fedavg."""

import math
from collections.abc import Sequence
from typing import ClassVar

from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param

_REMEMBERED = 64
"""The number of rounds whose clients are remembered; those of others are drawn again."""


class ClientSelection(Part):
    """A rule that chooses the clients of a round, the same at every node. One object serves all nodes."""

    family: ClassVar[str] = "client-selection"
    short = ("uniform", "count")

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._setting = setting

    def chosen(self, t: int) -> Sequence[NodeId]:
        """The clients of round t in increasing order, among 1 .. N-1."""
        raise NotImplementedError

    def most(self) -> int:
        """The largest number of clients in a round."""
        return self._setting.nodes - 1

    def awaited(self, chosen: Sequence[NodeId]) -> int:
        """The number of answers with which the server ends a round."""
        return len(chosen)


class Uniform(ClientSelection):
    """Clients drawn uniformly without replacement. The draw is public, so no message announces it."""

    kind = "uniform"
    count: int | None = param("The clients of a round; by default, all.", default=None, ge=1, lt="nodes")
    fraction: float | None = param(
        "The part of all clients, instead of a count; one at least.", default=None, gt=0, le=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count is not None and self.fraction is not None:
            raise ConfigurationError(
                f"The 'fraction' of {self.named()} replaces 'count'. Got both, {self.fraction} and {self.count}."
            )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._chosen: dict[int, list[NodeId]] = {}

    def chosen(self, t: int) -> Sequence[NodeId]:
        if t not in self._chosen:
            clients = self._setting.nodes - 1
            draw = self._setting.generator("public clients", t).choice(clients, self.most(), replace=False) + 1
            self._chosen[t] = sorted(NodeId(int(client)) for client in draw)
            if len(self._chosen) > _REMEMBERED:
                del self._chosen[next(iter(self._chosen))]
        return self._chosen[t]

    def most(self) -> int:
        return self.wanted()

    def wanted(self) -> int:
        """The number of clients by `count` or `fraction`."""
        clients = super().most()
        return self.count or (clients if self.fraction is None else max(1, round(self.fraction * clients)))


class OverSelection(Uniform):
    """More clients than are needed: the server keeps the first answers (Bonawitz et al., 2019)."""

    kind = "over-selection"
    factor: float = param("The chosen clients for each that is needed.", default=1.3, ge=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.count is None and self.fraction is None:
            raise ConfigurationError(
                f"The 'count' or the 'fraction' of {self.named()} must be given: the clients that are needed. Without "
                "one, all are, and the server would wait for the slowest."
            )

    def most(self) -> int:
        return min(math.ceil(self.factor * self.wanted()), ClientSelection.most(self))

    def awaited(self, chosen: Sequence[NodeId]) -> int:
        return self.wanted()
