"""Federated learning: programs in which clients learn with a server."""

KINDS = {
    "program": {
        "fedavg": "covey.federated.fedavg:FedAvg",
        "fedavg-1": "covey.federated.one_shot:FedAvgOnce",
        "ensemble": "covey.federated.one_shot:Ensemble",
    },
    "client-selection": {"uniform": "covey.federated.client_selection:Uniform"},
    "client-work": {"local": "covey.federated.client_work:LocalTraining"},
    "server-optimizer": {
        "sgd": "covey.federated.server_optimizers:ServerSGD",
        "momentum": "covey.federated.server_optimizers:ServerMomentum",
        "adagrad": "covey.federated.server_optimizers:ServerAdagrad",
        "adam": "covey.federated.server_optimizers:ServerAdam",
        "yogi": "covey.federated.server_optimizers:ServerYogi",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
