"""Rules that merge models: the aggregation of gossip and fedavg."""

KINDS = {
    "aggregation": {
        "mean": "covey.aggregation.linear:Mean",
        "metropolis-hastings": "covey.aggregation.linear:MetropolisHastings",
        "given": "covey.aggregation.linear:Given",
        "lazy": "covey.aggregation.linear:Lazy",
        "median": "covey.aggregation.median:Median",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
