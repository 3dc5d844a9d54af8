"""The part of fedavg that says which clients take part in a round."""

from collections.abc import Sequence
from typing import ClassVar

from covey.parts.nodes import NodeId
from covey.parts.parameters import Part, Setting, param


class ClientSelection(Part):
    """Chooses clients, the same ones at every node; one object serves all nodes."""

    family: ClassVar[str] = "client-selection"
    short = ("uniform", "count")

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._setting = setting

    def chosen(self, t: int) -> Sequence[NodeId]:
        """The clients of round t, of 1 .. N-1, in increasing order."""
        raise NotImplementedError

    def most(self) -> int:
        """The largest number of clients in a round."""
        return self._setting.nodes - 1


class Uniform(ClientSelection):
    """Clients drawn uniformly without replacement, by public randomness: nobody needs to be told."""

    kind = "uniform"
    count: int | None = param("How many clients take part in a round; all by default.", default=None, ge=1, lt="nodes")

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
