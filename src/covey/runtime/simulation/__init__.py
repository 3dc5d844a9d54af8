"""The simulation: thousands of nodes in one process, in virtual time."""

from covey.runtime.simulation.simulation import Simulation

__all__ = ["Simulation"]
