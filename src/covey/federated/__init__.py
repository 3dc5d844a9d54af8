"""Federated learning: programs in which clients learn with a server."""

NAMES = {
    "program": {
        "fedprox": "fedavg with work = { proximal_mu = 0.1 }",
        "fedavgm": "fedavg with server_optimizer = 'momentum'",
        "fedopt": "fedavg with server_optimizer = 'adam', 'yogi', 'adagrad' or 'momentum'",
        "fedadam": "fedavg with server_optimizer = 'adam'",
        "fedyogi": "fedavg with server_optimizer = 'yogi'",
        "fedadagrad": "fedavg with server_optimizer = 'adagrad'",
        "fedmedian": "fedavg with aggregation = 'median'",
        "fedbn": "fedavg with average_buffers = false and share = [patterns of the shared tensors]",
        "gel": "any program with the task's optimizer = { kind = 'guessed', ... }",
        "adasgd": "fleet, whose default weights are AdaSGD's",
    },
}
"""Names of the literature that are no kinds: family -> name -> the configuration."""

KINDS = {
    "program": {
        "fedavg": "covey.federated.fedavg:FedAvg",
        "fedasync": "covey.federated.fedasync:FedAsync",
        "fedbuff": "covey.federated.fedbuff:FedBuff",
        "dynsgd": "covey.federated.dynsgd:DynSGD",
        "fedavg-1": "covey.federated.one_shot:FedAvgOnce",
        "cpfl": "covey.federated.cpfl:CPFL",
        "fedkd": "covey.federated.distilled:FedKD",
        "feddf": "covey.federated.distilled:FedDF",
        "ensemble": "covey.federated.one_shot:Ensemble",
        "robust-inference": "covey.federated.robust_inference.program:RobustInference",
        "fens": "covey.federated.fens:Fens",
        "fleet": "covey.federated.fleet:Fleet",
        "fednova": "covey.federated.fednova:FedNova",
        "scaffold": "covey.federated.scaffold:Scaffold",
        "fedsgd": "covey.federated.fedsgd:FedSGD",
        "local": "covey.federated.local:Local",
        "centralised": "covey.federated.centralised:Centralised",
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
    "staleness": {
        "constant": "covey.federated.staleness:Constant",
        "polynomial": "covey.federated.staleness:Polynomial",
        "hinge": "covey.federated.staleness:Hinge",
        "inverse": "covey.federated.staleness:Inverse",
        "exponential": "covey.federated.staleness:Exponential",
    },
    "profiler": {
        "i-prof": "covey.federated.profilers:IProf",
        "maui": "covey.federated.profilers:MauiSizes",
        "constant": "covey.federated.profilers:ConstantSize",
    },
    "client-selection": {
        "uniform": "covey.federated.client_selection:Uniform",
        "over-selection": "covey.federated.client_selection:OverSelection",
    },
    "client-work": {
        "local": "covey.federated.client_work:LocalTraining",
        "budgets": "covey.federated.budgets:Budgets",
    },
    "server-optimizer": {
        "sgd": "covey.federated.server_optimizers:ServerSGD",
        "momentum": "covey.federated.server_optimizers:FedAvgM",
        "adagrad": "covey.federated.server_optimizers:FedAdagrad",
        "adam": "covey.federated.server_optimizers:FedAdam",
        "yogi": "covey.federated.server_optimizers:FedYogi",
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
