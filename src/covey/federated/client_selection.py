"""The selection of the clients of a round of fedavg."""

from collections.abc import Sequence
from typing import ClassVar

from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param


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


class Uniform(ClientSelection):
    """Clients drawn uniformly without replacement. The draw is public, so no message announces it."""

    kind = "uniform"
    count: int | None = param("The clients of a round; by default, all.", default=None, ge=1, lt="nodes")

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._chosen: dict[int, list[NodeId]] = {}

    def chosen(self, t: int) -> Sequence[NodeId]:
        if t not in self._chosen:
            clients = self._setting.nodes - 1
            draw = self._setting.generator("public clients", t).choice(clients, self.most(), replace=False) + 1
            self._chosen[t] = sorted(NodeId(int(client)) for client in draw)
        return self._chosen[t]

    def most(self) -> int:
        return self.count or super().most()
