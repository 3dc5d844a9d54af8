"""The weights of merging: the usual rule of a topology, and checks of programs that work with certain weights only."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import eigsh

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Given, Mean, MetropolisHastings
from covey.decentralized.topology import Topology
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting
from covey.runtime.node import Program

AGGREGATION = (
    "The rule that merges models. By default, given if the topology has weights, metropolis-hastings on other static "
    "undirected graphs, else mean."
)
"""The description of the parameter `aggregation`."""
_ROUNDING = 1e-9
_DENSE = 600
"""The greatest number of nodes for which all eigenvalues are computed."""


def usual_rule(topology: Topology) -> Aggregation:
    """The rule that merges models over a topology by default."""
    symmetric = topology.static and not topology.one_way()
    return Given() if topology.weighted else MetropolisHastings() if symmetric else Mean()


def check_doubly_stochastic(program: Program, topology: Topology, rule: Aggregation) -> None:
    """Check the weights of round 0, as soon as its graph can be drawn.

    Raises:
        ConfigurationError: they do not keep the mean of all models.
    """
    if topology.can_be_drawn():
        matrix = _matrix(program, topology, rule)
        if np.abs(np.asarray(matrix.sum(axis=0)) - 1.0).max() > _ROUNDING or matrix.data.min() < -_ROUNDING:
            raise _wrong(program, "doubly stochastic, or the mean of all models would drift", topology, rule)


def check_symmetric(program: Program, topology: Topology, rule: Aggregation, *, above: float) -> float | None:
    """Check that the weights of all rounds are the same symmetric ones, as soon as the graph can be drawn.

    Args:
        program: the program.
        topology: its topology.
        rule: its rule of merging.
        above: the bound of the smallest eigenvalue of their matrix.

    Returns:
        That eigenvalue.

    Raises:
        ConfigurationError: they are not, or the eigenvalue is too small.
    """
    if not topology.static:
        raise ConfigurationError(f"The 'topology' of {program.named()} must be static. Got {topology.title()} instead.")
    check_doubly_stochastic(program, topology, rule)
    if not topology.can_be_drawn():
        return None
    matrix = _matrix(program, topology, rule)
    if abs(matrix - matrix.T).max() > _ROUNDING:
        raise _wrong(program, "symmetric", topology, rule)
    smallest = smallest_eigenvalue(matrix)
    if smallest <= above + _ROUNDING:
        wanted = f"such that the smallest eigenvalue of their matrix is above {above:.4f}"
        raise _wrong(program, wanted, topology, rule, f", with {smallest:.4f}; aggregation = 'lazy' raises it")
    return smallest


def _matrix(program: Program, topology: Topology, rule: Aggregation) -> sp.csr_array:
    """The mixing matrix of round 0, N x N."""
    graph = topology.at(0)
    weights_E = rule.of_edges(graph)
    if weights_E is None:
        raise _wrong(program, "fixed", topology, rule)
    return Graph(graph.n, graph.sources, graph.targets, weights_E).mixing("given")


def smallest_eigenvalue(matrix: sp.csr_array) -> float:
    """The smallest eigenvalue of a symmetric matrix."""
    if matrix.shape[0] <= _DENSE:
        return float(np.linalg.eigvalsh(matrix.toarray())[0])
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    return float(eigsh(matrix, k=1, which="SA", v0=start, return_eigenvectors=False)[0])


def _wrong(program: Program, expected: str, topology: Topology, rule: Aggregation, why: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"The weights of {program.named()} must be {expected}. Got those of {rule.title()} over {topology.title()} "
        f"instead{why}."
    )


def check_complete(program: Program, setting: Setting) -> None:
    """Raise ConfigurationError if messages can be lost."""
    if setting.losses:
        raise ConfigurationError(
            f"{program.named().capitalize()} needs every message, and the experiment has "
            f"{' and '.join(setting.losses)}. Use 'gossip' with a 'patience' instead."
        )


def check_gradients(program: Program, setting: Setting) -> None:
    """Raise ConfigurationError if training does not add gradients, as a correction of gradients needs."""
    if not setting.adds_gradients:
        raise ConfigurationError(
            f"{program.named().capitalize()} corrects gradients, so the 'optimizer' of the task must be 'sgd'."
        )
