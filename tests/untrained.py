"""A model with more than trained tensors: frozen ones, and the statistics of BatchNorm."""

import torch
from torch import nn

from covey.decentralized.schedule import Schedule
from covey.learning.models import Module
from tests.examples import BLOBS, NODES

FEATURES, CLASSES = 10, 4


class Mixed(nn.Module):
    """A frozen layer, a normalisation whose statistics begin anywhere, a body and a head.

    What the normalisation sees follows from a node's data and the frozen layer alone.
    """

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(FEATURES, 8).requires_grad_(False)
        self.norm = nn.BatchNorm1d(8)
        self.body = nn.Linear(8, 6)
        self.head = nn.Linear(6, CLASSES)
        nn.init.uniform_(self.norm.running_mean, -1.0, 1.0)
        nn.init.uniform_(self.norm.running_var, 0.01, 2.0)

    def forward(self, x):
        return self.head(torch.relu(self.body(self.norm(self.frozen(x)))))


SIZES = {"frozen": 88, "norm": 16, "body": 54, "head": 28, "buffers": 16}
MIXED = {**BLOBS, "model": Module(factory=Mixed), "batch_size": 8, "same_start": False}


class Never(Schedule):
    """Nobody trains."""

    def trains(self, node, t):
        return False


def tensors(world, name, models=None):
    """N x ..., a tensor of all nodes' models; those of whose name this is the beginning, one after the other."""
    models = torch.stack([node.model for node in world.nodes]) if models is None else models
    pieces = [piece for piece in world.task.learner.layout.pieces if piece.name.startswith(name)]
    assert pieces
    return torch.cat([models[:, piece.start : piece.stop] for piece in pieces], 1)


def starts(world):
    """N x P, the models before any round."""
    return torch.stack([world.task.learner.initial(node) for node in range(len(world.nodes))])


def metropolis(graph_neighbours):
    """The matrix of Metropolis-Hastings weights, in float64, from who talks to whom."""
    n = len(graph_neighbours)
    weights = torch.zeros(n, n, dtype=torch.float64)
    for i, peers in enumerate(graph_neighbours):
        for j in peers:
            weights[i, j] = 1.0 / (1 + max(len(peers), len(graph_neighbours[j])))
        weights[i, i] = 1.0 - weights[i].sum()
    return weights


RING = [[(i - 1) % NODES, (i + 1) % NODES] for i in range(NODES)]
