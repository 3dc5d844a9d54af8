"""Whose a tensor is: what a program is handed is its own, and what it hands over is taken as it is then."""

from abc import abstractmethod

import torch
from torch import Tensor

from covey.messages.ownership import KEPT, can_be_shared, is_shared, is_written, own
from covey.parts.errors import ModelError, ProgramError
from covey.runtime.node import Field, Mixture, Node, Payload, State
from covey.runtime.snapshots import computed


class Possession(Node):
    """A node's model, and the tensors that pass between its program and the engine.

    Args:
        model: what the node begins with.
        careful: whether the program may write to tensors that it is handed or has handed over. If not, they are not
            copied: covey's own programs write to none.
    """

    __slots__ = ("_lent", "_model", "careful", "shape")

    def __init__(self, model: Tensor, *, careful: bool) -> None:
        self.careful = careful
        self.shape = model.shape
        self._model: Tensor | Mixture = model
        """The engine's: nobody writes to it."""
        self._lent: Tensor | None = None
        """What a program that may write has for it, where it has any."""

    # ------------------------------------------------------------------ what an engine adds

    @property
    @abstractmethod
    def round(self) -> int:
        """The open round, which is also how many rounds the node has completed."""

    def _mix(self, mixture: Mixture) -> None:
        """A mixture will be needed; it may be computed together with others."""

    def _settle(self) -> None:
        """Compute all mixtures that wait for it."""

    # ------------------------------------------------------------------ the model

    @property
    def model(self) -> Tensor:
        if self._lent is not None:
            return self._lent
        model = self._computed()
        if not self.careful:
            return model
        self._model = model = can_be_shared(model)
        self._lent = own(model)
        return self._lent

    @model.setter
    def model(self, value: Tensor | Mixture) -> None:
        if isinstance(value, Mixture):
            self._model, self._lent = self._taken(value), None
            return
        if value.shape != self.shape or value.dtype != torch.float32:
            raise ModelError(
                f"The model of node {self.id} must be {self.shape[0]} float32 numbers. "
                f"Got {tuple(value.shape)} of {value.dtype} instead."
            )
        if self.careful:
            self._model, self._lent = self._kept(value), value
        else:
            self._model = value

    @property
    def current(self) -> Tensor | Mixture:
        """The current model, computed or not; nobody may write to it."""
        return self._model

    def _computed(self) -> Tensor:
        model = self._model
        if not isinstance(model, Tensor):
            if model.value is None:
                self._settle()
            self._model = model = model.tensor()
        return model

    def check_model(self) -> None:
        """See whether the program has changed its model without saying so.

        Raises:
            ProgramError: it has.
        """
        lent = self._lent
        if lent is not None and not is_shared(lent) and is_written(lent, self._computed()):
            raise ProgramError(
                f"Node {self.id} wrote to its model in place in round {self.round}, which changes nothing: "
                f"assign what it becomes, as in `node.model = node.model + 1`."
            )

    # ------------------------------------------------------------------ what the program hands over

    def _kept(self, value: Tensor) -> Tensor:
        """A tensor of the program as it is now, whatever the program does to it."""
        if value is self._lent:
            model = self._computed()
            if is_shared(value) or not is_written(value, model):
                return model
        elif hasattr(value, KEPT):
            return value
        kept = own(value)
        found = getattr(value, "known_finite", None)
        if found is not None and found == value._version:
            kept.known_finite = kept._version  # type: ignore[attr-defined]
        return kept

    def _taken(self, model: Tensor | Mixture) -> Tensor | Mixture:
        """A model of the program as it is now; a mixture will be needed."""
        if isinstance(model, Mixture):
            if model.value is None:
                mixture = model.kept(self._kept) if self.careful else model
                self._mix(mixture)
                return mixture
            model = model.value
        return self._kept(model) if self.careful else model

    def _used(self, model: Tensor | Mixture | None) -> Tensor | Mixture:
        """The model that the program names, or its own."""
        if model is not None:
            return self._taken(model)
        self.check_model()
        return self._model

    def evaluated_model(self, model: Tensor | Mixture | None) -> Tensor:
        """The model that the program names to be evaluated, or its own."""
        used = self._used(model)
        return self._computed() if model is None else computed(used)

    def _taken_payload(self, payload: Payload) -> Payload:
        """What is sent, as it is now."""
        taken: dict[str, Tensor | Field] = {}
        for name, value in payload.items():
            if isinstance(value, Tensor):
                value = self._kept(value)
                setattr(value, KEPT, True)
            taken[name] = value.copy() if type(value) is list else value
        return taken

    def _copied(self, state: State) -> State:
        """A state of its own for a snapshot, or from one."""
        if not self.careful:
            return dict(state)
        return {
            name: own(value) if isinstance(value, Tensor) else value.copy() if type(value) is list else value
            for name, value in state.items()
        }
