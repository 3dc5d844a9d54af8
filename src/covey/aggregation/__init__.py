"""How models are merged: the aggregation part of gossip."""

from covey.aggregation.aggregation import Aggregation, Contribution, Linear, mixture
from covey.aggregation.linear import Given, Mean, MetropolisHastings

__all__ = ["Aggregation", "Contribution", "Given", "Linear", "Mean", "MetropolisHastings", "mixture"]
