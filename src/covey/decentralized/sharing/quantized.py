"""Send the whole model in fewer bits."""

from torch import Tensor

from covey.aggregation.aggregation import Contribution
from covey.decentralized.sharing.compressed import Compressed
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.learning.mixture import Mixture
from covey.messages.compression import Compressor
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.node import Inbox
from covey.runtime.state import State

_LITTLE = 0.5
_CAREFUL = 0.2
"""The step where rounding is biased, and its error may be more than a little of the model."""


class Rounded(State):
    """The rounded model of a node."""

    sent: Tensor
    """The model as the round's message holds it, until it is merged."""
    residual: Tensor | None = None
    """The rounding error of the last message."""


class Quantized(Compressed):
    """The whole model, every value in fewer bits.

    With Q(x) for the model x after rounding, a node moves by the difference between the aggregate of all Q(x_j), its
    own included, and its own Q(x_i). So a node keeps the part of its model that rounding removes: equal models stay
    equal, and doubly stochastic weights keep the mean of all models.
    """

    kind = "quantized"
    compressor: Compressor = param("The compressor of the model, one that sends every value.")
    feedback: bool | None = param(
        "Whether the compression error of a message is added to the next model that is sent. By default, it is with "
        "'sign'.",
        default=None,
    )
    gamma: float | None = param(
        "The step towards the aggregate of the received models. By default 1 if rounding changes a model little, "
        "else less.",
        default=None,
        gt=0,
        le=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.compressor.sends_all:
            raise ConfigurationError(
                f"The 'compressor' of {self.named()} must send every value, as 'int8' does. Got "
                f"'{self.compressor.title()}' instead. Use the sharing 'top-k', 'random' or 'choco'."
            )
        if self.feedback is None:
            self.feedback = not self.compressor.sends_magnitudes

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        if self.feedback:
            self.compressor.need_contraction(self, setting.parameters)
        self._gamma = self.gamma if self.gamma is not None else self._safe_gamma(setting.parameters)

    def _safe_gamma(self, size: int) -> float:
        """A step with which rounding does not add up: its error grows with the model's norm, and with gamma."""
        unbiased, error = self.compressor.guarantee(size)
        if unbiased:
            return 1.0 / (1.0 + error)
        return 1.0 if error <= _LITTLE else _CAREFUL

    @property
    def codec(self) -> Compressor:
        return self.compressor

    def outgoing(self, round: Round) -> Messages:
        node = round.node
        rounded, whole = node.keep(Rounded, self), node.model
        if rounded.residual is not None:
            whole = whole + rounded.residual
        payload, quantized = self.compress(round, whole)
        if self.feedback:
            rounded.residual = whole - quantized.values
        rounded.sent = quantized.values
        return [(round.receivers, payload)]

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        node = round.node
        rounded = node.keep(Rounded, self)
        own = rounded.sent
        del rounded.sent
        received = [Contribution(sender, vector.values) for sender, vector in self.received(round, inbox).items()]
        merged = round.merge(own, received)
        if not isinstance(merged, Mixture) or merged.models is None:
            merged = Mixture([merged.tensor() if isinstance(merged, Mixture) else merged], [1.0])
        assert merged.models is not None
        weights = [self._gamma * weight for weight in merged.weights]
        return Mixture([node.model, own, *merged.models], [1.0, -self._gamma, *weights])
