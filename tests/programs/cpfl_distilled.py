"""CPFL as in the paper: in the end, the server distils the models of all cohorts into one, on public samples."""

import numpy as np
import torch

from covey.learning.node import LearningNode
from covey.parts.parameters import Setting, param
from tests.programs.cpfl import CPFL


class DistilledCPFL(CPFL):
    """The server has no data. What a cohort says of a class counts as much as its clients have of that class."""

    without_data = frozenset({"server", "leader"})
    lr: float = param("The learning rate of the distillation.", default=0.3, gt=0)
    passes: int = param("The number of passes over the public samples in a round.", default=5, ge=1)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if setting.label_counts is not None:
            counts = np.stack([setting.label_counts[members].sum(0) for members in self.members.values()])
            self.shares = torch.from_numpy(counts / counts.sum(0).clip(1)).float()

    async def fuse(self, node: LearningNode) -> None:
        """The server: wait for all cohorts, ask their models, and train its own towards what they say together."""
        done = await node.receive(tag="cohort", senders=list(self.members))
        public = node.samples("public")
        said = await node.predict([message["model"] for message in done], on=public)
        taught = (said * self.shares.unsqueeze(1)).sum(0)
        async for _ in node.rounds():
            update = await node.train(objective="l1", on=(public.inputs, taught), epochs=self.passes, lr=self.lr)
            node.model = update.model
