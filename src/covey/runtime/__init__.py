"""The runtime: the contract between programs and nodes, the engines, and the folders of runs."""

KINDS = {
    "engine": {
        "simulation": "covey.runtime.simulation:Simulation",
        "emulation": "covey.runtime.emulation:Emulation",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
