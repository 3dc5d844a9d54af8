"""Federated learning: programs in which clients learn with a server."""

KINDS = {
    "program": {
        "fedavg": "covey.federated.fedavg:FedAvg",
        "fedavg-1": "covey.federated.one_shot:FedAvgOnce",
        "cpfl": "covey.federated.cpfl:CPFL",
        "fedkd": "covey.federated.distilled:FedKD",
        "feddf": "covey.federated.distilled:FedDF",
        "ensemble": "covey.federated.one_shot:Ensemble",
        "robust-inference": "covey.federated.robust_inference.program:RobustInference",
        "fens": "covey.federated.fens:Fens",
    },
    "aggregator": {
        "average": "covey.federated.aggregators:Average",
        "weighted": "covey.federated.aggregators:Weighted",
        "voting": "covey.federated.aggregators:Voting",
        "linear": "covey.federated.aggregators:LinearAggregator",
        "per-class": "covey.federated.aggregators:PerClass",
        "mlp": "covey.federated.aggregators:Network",
        "gating": "covey.federated.aggregators:Gating",
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
    "inference-rule": {
        "mean": "covey.federated.robust_inference.static_rules:Mean",
        "median": "covey.federated.robust_inference.static_rules:Median",
        "geometric-median": "covey.federated.robust_inference.static_rules:GeometricMedian",
        "trimmed-mean": "covey.federated.robust_inference.static_rules:TrimmedMean",
        "mlp": "covey.federated.robust_inference.learned_rules:MLPRule",
        "deepset": "covey.federated.robust_inference.learned_rules:DeepSetRule",
        "manifold": "covey.federated.robust_inference.purification:Manifold",
        "copur": "covey.federated.robust_inference.purification:CoPur",
    },
    "inference-attack": {
        "logit-flipping": "covey.federated.robust_inference.attacks:LogitFlipping",
        "sia": "covey.federated.robust_inference.attacks:SecondBest",
        "sia-colluding": "covey.federated.robust_inference.attacks:SecondBestTogether",
        "sia-white-box": "covey.federated.robust_inference.attacks:BestWrong",
        "lma": "covey.federated.robust_inference.attacks:LeastLikely",
        "cpa": "covey.federated.robust_inference.attacks:ClassPrior",
        "impersonation": "covey.federated.robust_inference.attacks:Impersonation",
        "pgd-cw": "covey.federated.robust_inference.attacks:GradientAscent",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
