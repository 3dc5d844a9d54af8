"""The accuracy that a megabyte buys: seven ways to send less than the whole model.

    python examples/send_less.py

Sharings are parts, so that the rest of the experiment stays as it is. `send-less.png` shows accuracy against bytes.
"""

import covey

ROUNDS = 60
SEEDS = [1, 2]

experiment = {
    "rounds": ROUNDS,
    "program": {"kind": "gossip", "topology": {"kind": "random-regular", "degree": 4}},
    "task": {
        "dataset": "digits",
        "partition": {"kind": "shards", "per_node": 4},
        "model": "logistic",
        "batch_size": 16,
        "optimizer": {"kind": "sgd", "lr": 0.3},
    },
    "network": {"nodes": 16, "latency": "20ms", "bandwidth": "10Mbit/s"},
    "evaluation": {"every": 6},
}
ways = {
    "whole models": "full",
    "a tenth, at random": {"kind": "random", "budget": 0.1},
    "the tenth that changed most": {"kind": "top-k", "budget": 0.1},
    "JWINS": "jwins",
    "CHOCO, a tenth": {"kind": "choco", "gamma": 0.4, "compressor": {"kind": "top-k", "budget": 0.1}},
    "PowerGossip": "power-gossip",
    "8 bits a number": {"kind": "quantized", "compressor": "int8"},
}

swept = covey.sweep(experiment, {"program.sharing": [*ways.values()], "seed": SEEDS})
swept.plot("accuracy", against="bytes", out="send-less.png", labels=[*ways])
print(covey.compare(swept, labels=[*ways]).to("markdown"))
