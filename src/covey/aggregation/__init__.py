"""How models are merged: the aggregation part of gossip."""

KINDS = {
    "aggregation": {
        "mean": "covey.aggregation.linear:Mean",
        "metropolis-hastings": "covey.aggregation.linear:MetropolisHastings",
        "given": "covey.aggregation.linear:Given",
        "median": "covey.aggregation.median:Median",
    },
}
"""The kinds of parts that live here: where each is found."""
