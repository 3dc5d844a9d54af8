"""Guessed updates (GeL): after its gradient steps, a training moves on along the moments of its optimiser.

    repeat u times:  g <- gradient at x;  m <- beta m + g;  x <- x - lr m
    repeat G times:  m <- beta m + c g;  x <- x - lr m

A guess takes no samples, no time and no bytes. The rule is covey's own reading of GeL (Boukhari et al., 2025), where
guesses use the momentum and the last gradient; we have not seen its formula. With Adam, a guess is its step with c g.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from covey.learning.optimizers import LearningRate, Optimizer, Slots
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import param


class Guessed(Optimizer):
    """Another optimiser with guesses: moves along its moments, without gradients, after the last step of a training."""

    kind = "guessed"
    of: Optimizer = param("The optimiser of the gradient steps.")
    guesses: int | Literal["fill-up"] = param(
        "The number of guesses of a training; or fill-up: as many as the steps that it makes fewer than the server "
        "expects.",
        ge=0,
    )
    last: float | None = param(
        "The weight c of the last gradient in a guess, as if it recurred: by default 0 with sgd, and 1 with adam.",
        default=None,
        ge=0,
    )

    # Those of the other optimiser, and not parameters of this one.
    lr: ClassVar[float] = property(lambda self: self.of.lr)  # type: ignore[misc, assignment]
    weight_decay: ClassVar[float] = property(lambda self: self.of.weight_decay)  # type: ignore[misc, assignment]
    schedule: ClassVar[LearningRate] = property(lambda self: self.of.schedule)  # type: ignore[misc, assignment]
    state: ClassVar[Literal["reset", "keep"]] = property(lambda self: self.of.state)  # type: ignore[misc, assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        reason = self.of.against_guesses(self.c) if self.guesses or self.of.steps_modules else None
        if reason is not None:
            raise ConfigurationError(f"{self.named().capitalize()} cannot follow {self.of.title()}: {reason}.")

    # ------------------------------------------------------------------ the rule

    @property
    def c(self) -> float:
        """The weight of the last gradient in a guess."""
        return self.of.usual_last if self.last is None else self.last

    def guesses_after(self, steps: int, expected: int | None, most: int | None) -> int:
        if isinstance(self.guesses, int):
            wanted = self.guesses
        else:
            if expected is None:
                raise ConfigurationError(
                    "The 'guesses' of the optimizer guessed must be an int where a training does not say how many "
                    "steps the server expects. Got 'fill-up' instead: use a client-work such as 'budgets', or "
                    "train(expected=...)."
                )
            wanted = max(expected - steps, 0)
        return min(wanted, wanted if most is None else most) if steps else 0

    def step(self, models: Tensor, gradients: Tensor, slots: Slots, lr: Tensor) -> None:
        if "last" in slots:
            slots["last"].copy_(gradients)
        self.of.step(models, gradients, {name: slots[name] for name in self.of.slots()}, lr)

    def finish(self, models: Tensor, slots: Slots, lr: Tensor, steps: Sequence[int], guesses: Sequence[int]) -> None:
        self.of.finish(models, slots, lr, steps, guesses)
        count = torch.tensor(guesses, device=models.device).unsqueeze(1)
        rows = count[:, 0].nonzero()[:, 0]
        if not len(rows):
            return
        some, taken = (models, slots) if all(guesses) else (models[rows], {name: slots[name][rows] for name in slots})
        last = taken["last"].mul_(self.c) if self.c else None  # The next training writes another one.
        without_decay = replace(self.of, weight_decay=0.0) if self.of.weight_decay else self.of
        without_decay.repeat(some, last, {name: taken[name] for name in self.of.slots()}, lr[rows], count[rows])
        if not all(guesses):
            models[rows] = some
            for name, slot in taken.items():
                slots[name][rows] = slot

    # ------------------------------------------------------------------ all else

    @property
    def is_plain(self) -> bool:
        return self.of.is_plain and not self.guesses

    @property
    def adds_gradients(self) -> bool:
        return self.of.adds_gradients

    def slots(self) -> tuple[str, ...]:
        return (*self.of.slots(), "last") if self.guesses and self.c else self.of.slots()

    def fresh(self, models: Tensor) -> Slots:
        known = self.of.fresh(models)
        return {name: known.get(name, torch.zeros_like(models)) for name in self.slots()}

    def reach(self, steps: int) -> float | None:
        if not isinstance(self.guesses, int):
            return None
        reach = self.of.reach(steps + self.guesses)
        return None if reach is None else max(self.c, 1.0) * reach

    def normaliser(
        self, steps: int, lr: float, proximal: float = 0.0, guesses: int = 0, last: float = 0.0
    ) -> float | None:
        return self.of.normaliser(steps, lr, proximal, guesses, self.c)

    def against_guesses(self, last: float) -> str | None:
        return "it makes guesses itself"

    def for_further(self) -> Optimizer:
        return self.of.for_further()
