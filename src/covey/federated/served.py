"""Programs with a server."""

from collections.abc import Mapping, Sequence

from covey.federated.ends import SERVER
from covey.learning.node import LearningProgram


class Served(LearningProgram):
    """The base of programs in which node 0 is a server without data, and the others are its clients."""

    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"server"})

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}
