"""The runtime: what a program may ask of a node, the engines that run it, and the run that comes of it."""

KINDS = {
    "engine": {
        "simulation": "covey.runtime.simulation:Simulation",
        "emulation": "covey.runtime.emulation:Emulation",
    },
}
"""The kinds of parts that live here: where each is found."""
