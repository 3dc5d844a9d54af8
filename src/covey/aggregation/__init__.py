"""How models are merged: the aggregation part of gossip."""

from covey.aggregation.aggregation import Aggregation
from covey.aggregation.linear import Given, Mean, MetropolisHastings

__all__ = ["Aggregation", "Given", "Mean", "MetropolisHastings"]
