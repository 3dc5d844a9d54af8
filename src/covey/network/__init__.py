"""The network: who is there, how well they are connected, how fast they train and when they are away."""

from covey.network.bandwidth import Bandwidth
from covey.network.churn import Churn
from covey.network.compute import Compute
from covey.network.energy import Energy
from covey.network.fair import FairShare
from covey.network.latency import Latency
from covey.network.network import Network

__all__ = ["Bandwidth", "Churn", "Compute", "Energy", "FairShare", "Latency", "Network"]
