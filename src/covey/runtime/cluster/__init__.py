"""The cluster: hosts as Ray actors. Ray places, starts and watches them; covey's own sockets carry their messages."""

from covey.runtime.cluster.cluster import Cluster

__all__ = ["Cluster"]
