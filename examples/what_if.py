"""The same algorithm in other worlds: on a fast network, with slow nodes, on a slow network, and with lost messages.

    python examples/what_if.py

Nothing but the table `network` changes. `what-if.png` shows the accuracy against the time that the nodes would take.
"""

import covey

ROUNDS = 40
SEEDS = [1, 2]

experiment = {
    "rounds": ROUNDS,
    "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}, "patience": "2s"},
    "task": {
        "dataset": "digits",
        "partition": {"kind": "dirichlet", "alpha": 0.5},
        "model": "logistic",
        "batch_size": 16,
        "optimizer": {"kind": "sgd", "lr": 0.3},
    },
    "network": {"nodes": 24},
    "evaluation": {"every": 4},
}
worlds = {
    "data centre": {"nodes": 24, "preset": "lan"},
    "data centre, a fifth ten times slower": {
        "nodes": 24,
        "preset": "lan",
        "compute": {"kind": "stragglers", "samples_per_second": 1000, "fraction": 0.2, "slowdown": 10},
    },
    "phones": {"nodes": 24, "preset": "mobile"},
    "phones, a tenth of messages lost": {"nodes": 24, "preset": "mobile", "loss": 0.1},
}

swept = covey.sweep(experiment, {"network": [*worlds.values()], "seed": SEEDS})
swept.plot("accuracy", against="time", out="what-if.png", labels=[*worlds])
print(covey.compare(swept, labels=[*worlds]).to("markdown"))
