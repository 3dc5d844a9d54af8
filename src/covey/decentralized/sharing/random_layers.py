"""The sharing of whole tensors, drawn at random. The receiver draws the same ones, so a message holds only values."""

import torch
from torch import Tensor

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.decentralized.sharing.values import Values, check_written_as, written_as
from covey.parts.errors import WireError
from covey.parts.parameters import Setting, param
from covey.parts.pieces import Piece
from covey.runtime.node import Message


class RandomLayers(Sharing):
    """A random subset of the model's tensors in every round; it follows from the experiment's seed."""

    kind = "random-layers"
    budget: float = param("The fraction of the tensors that is sent; at least one of them.", gt=0, le=1)
    common: bool = param("Whether all nodes draw the same tensors.", default=False)
    values: str = written_as()

    def check(self, setting: Setting) -> None:
        super().check(setting)
        check_written_as(self.named(), self.values)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        whole = Piece("model", "trained", 0, setting.parameters, (setting.parameters,))
        self._pieces = setting.pieces or (whole,)
        self._count = max(1, round(self.budget * len(self._pieces)))
        self._values = Values(self.values, setting.parameters, setting)
        self._last: dict[int, tuple[int, Tensor]] = {}

    def _drawn(self, sender: int, t: int) -> Tensor:
        """The indices that a node sends in round t."""
        sender = 0 if self.common else sender
        known = self._last.get(sender)
        if known is None or known[0] != t:
            generator = self._setting.generator("random layers", sender, t)
            drawn = sorted(generator.choice(len(self._pieces), self._count, replace=False).tolist())
            indices = [torch.arange(self._pieces[index].start, self._pieces[index].stop) for index in drawn]
            known = self._last[sender] = t, torch.cat(indices)
        return known[1]

    def outgoing(self, round: Round) -> Messages:
        model = round.node.model
        if self._count < len(self._pieces):
            model = model[self._drawn(round.node.id, round.t).to(model.device)]
        return [(round.receivers, self._values.describe(model))]

    def contribution(self, message: Message) -> Contribution:
        values = self._values.read(message.shared)
        if message.round is None:
            raise WireError("bad-field", "it belongs to no round")
        whole = self._count == len(self._pieces)
        indices = None if whole else self._drawn(message.sender, message.round)
        wanted = self._setting.parameters if indices is None else len(indices)
        if len(values) != wanted:
            raise WireError("bad-field", f"it holds {len(values)} values instead of {wanted}")
        return Contribution(message.sender, values, indices)
