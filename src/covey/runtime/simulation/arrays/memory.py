"""The memory of the models of all nodes. An experiment that does not fit is refused before its first round."""

from covey.parts import machine
from covey.parts.errors import ConfigurationError
from covey.runtime.prepared import Prepared

_OF_A_NODE, _OF_AN_EDGE = 1500, 150
"""The bytes of a node's clock, counters and samples, and of an edge of a graph that is drawn and of its matrix."""
_SHARE = 0.9
"""The share of the memory that models may take with a second array for mixing."""


def check_memory(prepared: Prepared, *, as_arrays: bool) -> None:
    """Refuse models that exceed the memory of this machine.

    Raises:
        ConfigurationError: they do. It names the greatest number of nodes that fits.
    """
    nodes, each = prepared.network.nodes, _bytes_of_a_node(prepared, as_arrays=as_arrays)[0]
    if nodes * each > machine.total():
        parameters, most = prepared.setting.parameters, int(machine.total() / each)
        rounded = int(float(f"{0.995 * most:.2g}")) if most > 100 else most
        raise ConfigurationError(
            f"The models of {nodes:,} nodes, each of {parameters:,} numbers, would take {nodes * each / 1e9:,.1f} GB "
            f"of memory. This machine has {machine.total() / 1e9:,.1f} GB: at most {min(rounded, most):,} nodes fit."
        )


def has_room(prepared: Prepared) -> bool:
    """True if there is memory for a second array of models."""
    return prepared.network.nodes * _bytes_of_a_node(prepared, as_arrays=True)[1] <= _SHARE * machine.total()


def _bytes_of_a_node(prepared: Prepared, *, as_arrays: bool) -> tuple[float, float]:
    """The bytes of a node, at least and with a second array for mixing."""
    if not as_arrays:
        return prepared.task.node_bytes, prepared.task.node_bytes
    graph = prepared.program.graph(0)
    edges = 0.0 if graph is None else len(graph.sources) / graph.n
    least, most = prepared.task.bytes_of_arrays()
    further = _OF_A_NODE + _OF_AN_EDGE * edges
    return least + further, most + further
