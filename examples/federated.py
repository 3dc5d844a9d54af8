"""A server and clients: users with data of their own, two server optimisers, and the best model for plain torch.

    python examples/federated.py

`model.safetensors` holds the average model of the best evaluated round.
"""

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

import covey

ROUNDS = 40


def keystrokes(users: int = 40, each: int = 50) -> "covey.data.Dataset":
    """Four kinds of keystrokes, by six numbers; users have habits, and make some kinds more often."""
    draw = np.random.default_rng(1)
    user = np.repeat(np.arange(users), each)
    shares = draw.dirichlet([0.5] * 4, size=users)
    label = np.array([draw.choice(4, p=shares[one]) for one in user])
    kinds, habits = draw.normal(size=(4, 6)), 0.5 * draw.normal(size=(users, 6))
    x = kinds[label] + habits[user] + 0.7 * draw.normal(size=(len(user), 6))
    return covey.data.from_arrays(x, label, columns={"user": user})


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))


experiment = {
    "rounds": ROUNDS,
    "program": {"kind": "fedavg", "clients": 10, "work": {"epochs": 2}},
    "task": {
        "dataset": keystrokes(),
        "partition": {"kind": "natural", "by": "user"},
        "model": {"kind": net},
        "batch_size": 10,
        "optimizer": {"kind": "sgd", "lr": 0.05},
    },
    "network": {"nodes": 41, "preset": "mobile"},  # node 0 is the server
    "evaluation": {"every": 2},
    "callback": [{"kind": "best-model"}],
}

swept = covey.sweep(experiment, {"program.server_optimizer": [{"kind": "sgd"}, {"kind": "adam", "eta": 0.03}]})
print(covey.compare(swept, metrics=["accuracy", "loss"]).to("markdown"))

best = max(swept, key=lambda run: run.network["average_model_accuracy"].max())
best.export_model("model.safetensors", "kept")
print(f"The best model is one of {best.experiment['program']['server_optimizer']['kind']}.")

model = net()
model.load_state_dict(load_file("model.safetensors"))
print("Its outputs in plain torch:", model(torch.zeros(1, 6)).detach().numpy().round(2))
