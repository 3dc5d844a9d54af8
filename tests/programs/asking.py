"""Programs that ask their nodes for samples, outputs and judgements."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from covey.learning.models import MLP
from covey.learning.node import Further, LearningNode, LearningProgram
from covey.learning.optimizers import Adam
from covey.parts.parameters import Setting, param


class Distils(LearningProgram):
    """Every node trains towards what the models of all nodes say together of public samples."""

    synchronous = True
    count: int = param("The number of public samples.", default=20)

    async def run(self, node: LearningNode) -> None:
        others = [id for id in range(node.nodes) if id != node.id]
        async for t in node.rounds():
            trained = await node.train()
            node.send(others, {"model": trained.model}, tag="model", round=t)
            heard = await node.receive(tag="model", round=t, senders=others)
            models = [trained.model, *(message["model"] for message in heard)]
            public = node.samples("public", self.count, t)
            taught = (await node.predict(models, on=public)).mean(0)
            on = (public.inputs, taught)
            learned = await node.train(
                trained.model, objective={"kind": "kl", "temperature": 2}, on=on, steps=2, batch_size=5, proximal=0.01
            )
            node.model = learned.model
            said = await node.predict(models, on=node.samples("test"))
            node.judge(said.mean(0))


class Once(LearningProgram):
    """Does what a test wants, once, at node 0, and remembers what came of it."""

    does: str = param("The action, a name of `DOES`.")

    async def run(self, node: LearningNode) -> None:
        if node.id == 0:
            DONE[self.does] = await DOES[self.does](node)


DOES: dict[str, Any] = {}
DONE: dict[str, Any] = {}


def does(function: Any) -> Any:
    """Register what `Once` can do."""
    DOES[function.__name__] = function
    return function


@does
async def outputs_of_one_and_of_many(node: LearningNode) -> Any:
    samples = node.samples("train")
    other = node.model + torch.linspace(-1, 1, len(node.model))
    both = await node.predict([node.model, other], on=samples)
    return samples, node.model, other, both, await node.predict(on=samples.inputs), node.now


@does
async def samples_by_key(node: LearningNode) -> Any:
    return [node.samples("train", 5, *key) for key in ((), (1,), (1,), (2,))] + [node.samples("train")]


@does
async def weighs(node: LearningNode) -> Any:
    return await node.train(steps=3, weights=torch.zeros(node.data.samples))


class Beside(Once):
    """The same, with a further network of the program."""

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        return {"aggregator": Further(MLP(hidden=[23]), inputs=(40,), outputs=10)}


class Taught(Once):
    """The same, with a student like the nodes' model, whose Adam keeps its state or not."""

    keeps: bool = param("Whether its state is kept.", default=True)

    def networks(self, setting: Setting) -> Mapping[str, Further]:
        return {"student": Further(optimizer=Adam(lr=0.01, state="keep" if self.keeps else "reset"))}


class Alone(LearningProgram):
    """Every node trains by itself, from where FENS's clients begin."""

    without_data = frozenset({"server"})
    epochs: int = param("Passes.", ge=1)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [0], "client": range(1, nodes)}

    async def run(self, node: LearningNode) -> None:
        async for _ in node.rounds():
            if node.role == "client":
                node.model = (await node.train(epochs=self.epochs)).model


class Shows(Once):
    """The same, and says that it shows samples to others."""

    sends_samples = True
