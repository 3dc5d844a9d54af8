"""A small language model: a transformer learns Shakespeare, and eight parties adapt it to their roles by LoRA.

    pip install 'covey[peft]'
    python examples/language_model.py

Messages of the second run hold the adapters alone. The text is downloaded, or read from `COVEY_DATA`.
"""

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import covey
from covey.learning.datasets.leaf import Shakespeare

ROUNDS = 40
CHARACTERS = Shakespeare.alphabet
LENGTH, WIDTH, HEADS, BLOCKS = 64, 64, 4, 2


class Block(nn.Module):
    """Causal self-attention and a layer of its own for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attend, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.think = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attend(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.join(read.transpose(1, 2).flatten(2))
        return x + self.think(self.norms[1](x))


class Transformer(nn.Module):
    """Scores of the next character at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(len(CHARACTERS), WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.output = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CHARACTERS)))

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.output(self.blocks(self.characters(tokens) + self.places(places)))


def adapted(base: str, rank: int = 4) -> nn.Module:
    """The base model of a file, frozen, with trained adapters of low rank beside two layers of each block."""
    module = Transformer()
    module.load_state_dict(load_file(base))
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["attend", "join"])
    return peft.get_peft_model(module, config)


task = {
    "dataset": {"kind": "shakespeare", "length": LENGTH},
    "partition": "natural",  # a role is at one node
    "model": {"kind": Transformer},
    "optimizer": {"kind": "torch.optim:AdamW", "lr": 0.003, "state": "keep"},
    "clip": 1.0,
    "local_steps": 5,
    "metrics": ["perplexity"],
}
experiment = {
    "rounds": ROUNDS,
    "program": {"kind": "gossip", "topology": "ring"},
    "task": task,
    "network": {"nodes": 8},
    "evaluation": {"every": 10, "samples": 200},
}

first = covey.run({**experiment, "network": {"nodes": 3}})
first.export_model("base.safetensors")

task["model"] = {"kind": adapted, "base": "base.safetensors"}
second = covey.run(experiment)

for name, run in (("all weights", first), ("adapters", second)):
    perplexity = run.network["average_model_perplexity"].iloc[-1]
    sent = run.summary()["totals"]["bytes_out"] / ROUNDS / run.experiment["network"]["nodes"]
    print(f"{name}: perplexity {perplexity:.2f}, {sent / 1000:.0f} kB per node and round")

model = second.module("average", into=adapted("base.safetensors"))
written = [CHARACTERS.index("\n")]
for _ in range(200):
    scores = model(torch.tensor([written[-LENGTH:]]))[0, -1]
    written.append(int(torch.multinomial(scores.softmax(0), 1)))
print("".join(CHARACTERS[one] for one in written))
