"""Centralised training: the baseline in which one node has the data of all clients."""

from covey.federated.local import Local


class Centralised(Local):
    """The server has all data and trains alone. The clients have none and rest."""

    kind = "centralised"
    without_data = frozenset({"client"})
    evaluated_roles = frozenset({"server"})
