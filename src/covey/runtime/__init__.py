"""The runtime: the contract between programs and nodes, the engines, and the folders of runs."""

KINDS = {
    "engine": {
        "simulation": "covey.runtime.simulation:Simulation",
        "emulation": "covey.runtime.emulation:Emulation",
        "cluster": "covey.runtime.cluster:Cluster",
    },
    "callback": {
        "early-stopping": "covey.runtime.callbacks.stopping:EarlyStopping",
        "best-model": "covey.runtime.callbacks.stopping:BestModel",
        "plateau": "covey.runtime.callbacks.plateau:Plateau",
        "tensorboard": "covey.runtime.callbacks.trackers:TensorBoard",
        "wandb": "covey.runtime.callbacks.trackers:WandB",
        "mlflow": "covey.runtime.callbacks.trackers:MLflow",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
