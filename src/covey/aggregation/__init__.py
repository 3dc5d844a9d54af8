"""How models are merged: the aggregation part of gossip."""

from covey.aggregation.aggregation import Aggregation, Contribution, Linear, mixture
from covey.aggregation.linear import Given, Mean, MetropolisHastings
from covey.aggregation.median import Median

__all__ = ["Aggregation", "Contribution", "Given", "Linear", "Mean", "Median", "MetropolisHastings", "mixture"]
