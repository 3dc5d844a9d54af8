"""The weights of merging: the usual rule of a topology, and checks of parts that work with certain weights only."""

from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import eigsh

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Given, Mean, MetropolisHastings
from covey.decentralized.topology import Topology
from covey.network.graph import Graph
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting
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


def mixing_of(owner: Part, topology: Topology, rule: Aggregation, t: int = 0) -> sp.csr_array:
    """The mixing matrix of a round, N x N.

    Raises:
        ConfigurationError: the weights depend on the models.
    """
    graph = topology.at(t)
    weights_E = rule.of_edges(graph)
    if weights_E is None:
        raise _wrong(owner, "fixed", topology, rule)
    return Graph(graph.n, graph.sources, graph.targets, weights_E).mixing("given")


def check_doubly_stochastic(owner: Part, topology: Topology, rule: Aggregation) -> None:
    """Check the weights of round 0, as soon as its graph can be drawn.

    Raises:
        ConfigurationError: they do not keep the mean of all models.
    """
    if topology.can_be_drawn():
        matrix = mixing_of(owner, topology, rule)
        if np.abs(np.asarray(matrix.sum(axis=0)) - 1.0).max() > _ROUNDING or matrix.data.min() < -_ROUNDING:
            raise _wrong(owner, "doubly stochastic, or the mean of all models would drift", topology, rule)


def check_symmetric(owner: Part, topology: Topology, rule: Aggregation, t: int = 0) -> sp.csr_array:
    """The mixing matrix of a round, which must be symmetric and at least 0, and is then doubly stochastic.

    Raises:
        ConfigurationError: it is not.
    """
    matrix = mixing_of(owner, topology, rule, t)
    apart = sp.coo_array(abs(matrix - matrix.T))
    if apart.data.max(initial=0.0) > _ROUNDING:
        most = int(apart.data.argmax())
        to, sender = int(apart.row[most]), int(apart.col[most])
        there, back = (float(matrix[ends]) for ends in ((to, sender), (sender, to)))
        raise _wrong(
            owner, "symmetric", topology, rule, f", {there:.4g} from node {sender} to {to} and {back:.4g} back"
        )
    if matrix.data.min() < -_ROUNDING:
        raise _wrong(owner, "at least 0", topology, rule, f", of which the least is {matrix.data.min():.4g}")
    return matrix


def smallest_eigenvalue(matrix: sp.csr_array) -> float:
    """The smallest eigenvalue of a symmetric matrix."""
    return float(_eigenvalues(matrix, "SA", 1)[0])


def second_eigenvalue(matrix: sp.csr_array) -> float:
    """The second largest eigenvalue of a symmetric matrix of at least two rows."""
    return float(_eigenvalues(matrix, "LA", 2)[-2])


def _eigenvalues(matrix: sp.csr_array, which: Literal["SA", "LA"], count: int) -> NDArray[np.float64]:
    """The smallest or the largest eigenvalues of a symmetric matrix, increasing; of a small one, all."""
    if matrix.shape[0] <= _DENSE:
        return np.linalg.eigvalsh(matrix.toarray())
    # All processes of a run must find the same.
    start = np.random.default_rng(0).standard_normal(matrix.shape[0])
    return np.sort(eigsh(matrix, k=count, which=which, v0=start, return_eigenvectors=False))


def _wrong(owner: Part, expected: str, topology: Topology, rule: Aggregation, why: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"The weights of {owner.named()} must be {expected}. Got those of {rule.title()} over {topology.title()} "
        f"instead{why}."
    )


def check_spectrum(program: Program, topology: Topology, rule: Aggregation, *, above: float) -> float | None:
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
    if not topology.can_be_drawn():
        return None
    smallest = smallest_eigenvalue(check_symmetric(program, topology, rule))
    if smallest <= above + _ROUNDING:
        wanted = f"such that the smallest eigenvalue of their matrix is above {above:.4f}"
        raise _wrong(program, wanted, topology, rule, f", with {smallest:.4f}; aggregation = 'lazy' raises it")
    return smallest


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
