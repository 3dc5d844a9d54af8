"""Federated learning: the programs in which nodes learn with a server."""

KINDS = {
    "program": {"fedavg": "covey.federated.fedavg:FedAvg"},
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
"""The kinds of parts that live here: where each is found."""
