"""The network: who is there, how well connected and how fast they are, when they are away, and what goes wrong."""

from covey.network.bandwidth import Bandwidth
from covey.network.churn import Churn
from covey.network.compute import Compute
from covey.network.energy import Energy
from covey.network.fair import FairShare
from covey.network.faults import Fault
from covey.network.latency import Latency
from covey.network.network import Network

__all__ = ["Bandwidth", "Churn", "Compute", "Energy", "FairShare", "Fault", "Latency", "Network"]
