"""Random peers of a node, for programs in which every node may reach all others."""

from covey.decentralized.topology.random_graphs import beside, distinct_in_rows
from covey.parts.nodes import NodeId
from covey.runtime.node import Node


def random_peers(node: Node, count: int, *key: int) -> list[NodeId]:
    """`count` distinct other nodes, drawn uniformly."""
    return random_sets_of_peers(node, 1, count, *key)[0]


def random_sets_of_peers(node: Node, sets: int, count: int, *key: int) -> list[list[NodeId]]:
    """Independent sets of `count` distinct other nodes each, drawn uniformly."""
    drawn = distinct_in_rows(sets, node.nodes - 1, count, node.random("peers", *key))
    return [[NodeId(peer) for peer in peers] for peers in beside(node.id, drawn).tolist()]
