"""DivShare (Biswas et al., 2025): asynchronous; a model leaves in fragments while the next one is being trained.

Shapes: P parameters.
"""

import torch
from torch import Tensor

from covey.learning.node import LearningNode, LearningProgram
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.node import Inbox


class DivShare(LearningProgram):
    """Train without waiting for anybody; send each fragment of the result to a few peers; merge the fragments that came.

    What still queues of a model is withdrawn when the next one is ready, so a slow uplink carries a random part of
    every model instead of whole old ones. Of several copies of a fragment from one sender the newest counts.
    """

    synchronous = False
    fragments: int = param("The number of fragments of a model.", ge=1)
    degree: int = param("The number of receivers of each fragment.", ge=1, lt="nodes")

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        shuffled = torch.from_numpy(setting.generator("fragments").permutation(setting.parameters))
        self.indices = torch.tensor_split(shuffled, self.fragments)

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            trained = (await node.train()).model
            withdrawn = node.withdraw("fragment")
            self.push(node, trained, t)
            node.model = self.merged(trained, node.arrived(tag="fragment"))
            node.log(withdrawn=withdrawn)

    def push(self, node: LearningNode, model: Tensor, t: int) -> None:
        """Send every fragment to some peers of its own, all in random order."""
        draw = node.random("push", t)
        others = [NodeId(id) for id in range(node.nodes) if id != node.id]
        pairs = [
            (number, others[index])
            for number in range(self.fragments)
            for index in draw.choice(len(others), self.degree, replace=False).tolist()
        ]
        draw.shuffle(pairs)
        fragments = [model[indices] for indices in self.indices]
        for number, peer in pairs:
            node.send(peer, {"number": number, "values": fragments[number]}, tag="fragment")

    def merged(self, model_P: Tensor, inbox: Inbox) -> Tensor:
        """The mean, index by index, of the own value and those that came."""
        newest = {(message.sender, message["number"]): message["values"] for message in inbox}
        total_P, count_P = model_P.clone(), torch.ones_like(model_P)
        for (_, number), values in newest.items():
            total_P[self.indices[number]] += values
            count_P[self.indices[number]] += 1.0
        return total_P / count_P
