"""Shatter (Biswas et al., 2025): nodes gossip through virtual nodes that each carry one chunk of a model.

Shapes: P parameters.
"""

from collections.abc import Mapping, Sequence

import torch

from covey.decentralized.topology.random_graphs import random_regular
from covey.learning.node import LearningNode, LearningProgram
from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param

SAMPLER = NodeId(0)


class Shatter(LearningProgram):
    """Real nodes train; virtual nodes, under names that change with every round, exchange chunks for them.

    The owner of a virtual node is drawn by the sampler in private, and sent only to the two. Virtual nodes send to
    virtual nodes, over a random regular graph that all can compute, and hand what came to their real node.
    """

    without_data = frozenset({"sampler", "virtual"})
    evaluated_roles = frozenset({"real"})
    chunks: int = param("The number of chunks of a model, and of virtual nodes of a real one.", ge=1)
    degree: int = param("The number of receivers of a virtual node's chunk.", ge=1)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        real, rest = divmod(nodes - 1, 1 + self.chunks)
        if rest or not 0 < self.degree < real * self.chunks:
            raise ConfigurationError(f"The chunks of shatter must make {nodes} nodes a sampler, real and virtual ones.")
        return {"sampler": [SAMPLER], "real": range(1, 1 + real), "virtual": range(1 + real, nodes)}

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._roles = self.roles(setting.nodes)
        shuffled = torch.from_numpy(setting.generator("chunks").permutation(setting.parameters))
        self.indices = torch.tensor_split(shuffled, self.chunks)

    async def run(self, node: LearningNode) -> None:
        act = {"sampler": self.sample, "real": self.learn, "virtual": self.carry}[node.role]
        async for t in node.rounds():
            await act(node, t)

    async def sample(self, node: LearningNode, t: int) -> None:
        """The sampler: deal the virtual nodes to the real ones."""
        names = node.random("names", t).permutation(self._roles["virtual"]).reshape(-1, self.chunks)
        for real, row in zip(self._roles["real"], names.tolist(), strict=True):
            node.send(NodeId(real), {"names": row}, tag="names", round=t)
            node.send([NodeId(name) for name in row], {"owner": real}, tag="owner", round=t)

    async def learn(self, node: LearningNode, t: int) -> None:
        """A real node: give its chunks away, and average each index over what its virtual nodes bring back."""
        total_P = (await node.train()).model.clone()
        count_P = torch.ones_like(total_P)
        (order,) = await node.receive(tag="names", round=t, senders=[SAMPLER])
        names = [NodeId(name) for name in order["names"]]
        for number, name in enumerate(names):
            node.send(name, {"number": number, "values": total_P[self.indices[number]]}, tag="chunk", round=t)
        for back in await node.receive(tag="back", round=t, senders=names):
            for index, number in enumerate(back["numbers"]):
                total_P[self.indices[number]] += back[str(index)]
                count_P[self.indices[number]] += 1.0
        node.model = total_P / count_P

    async def carry(self, node: LearningNode, t: int) -> None:
        """A virtual node: pass the chunk of its real node to its neighbours, and theirs to its real node."""
        (order,) = await node.receive(tag="owner", round=t, senders=[SAMPLER])
        owner, first = NodeId(order["owner"]), self._roles["virtual"][0]
        (chunk,) = await node.receive(tag="chunk", round=t, senders=[owner])
        ends = random_regular(len(self._roles["virtual"]), self.degree, node.public_random("overlay", t))
        pairs = [(a + first, b + first) for a, b in zip(*(end.tolist() for end in ends), strict=True)]
        peers = [NodeId(a + b - node.id) for a, b in pairs if node.id in (a, b)]
        node.send(peers, chunk.payload, tag="virtual", round=t)
        inbox = await node.receive(tag="virtual", round=t, senders=peers)
        back: Payload = {str(index): message["values"] for index, message in enumerate(inbox)}
        node.send(owner, {"numbers": [message["number"] for message in inbox], **back}, tag="back", round=t)
