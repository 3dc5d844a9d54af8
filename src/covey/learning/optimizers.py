"""Optimisers and learning rates on flat models.

Shapes: K models at once, P parameters. The same step serves a stack of nodes and, with K = 1, a single one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from covey.parts.parameters import Part, param

Slots = dict[str, Tensor]
"""The state of an optimiser: K x P tensors, and "step" with K x 1 counts."""


class LearningRate(Part):
    """A schedule of the learning rate over rounds."""

    family: ClassVar[str] = "learning-rate"

    def factor(self, t: int) -> float:
        """The factor of the learning rate in round t."""
        raise NotImplementedError


class ConstantRate(LearningRate):
    """The same learning rate in every round."""

    kind = "constant"

    def factor(self, t: int) -> float:
        return 1.0


class StepRate(LearningRate):
    """A learning rate that is multiplied by a factor after every `every` rounds."""

    kind = "step"
    every: int = param("The number of rounds between two steps.", ge=1)
    gamma: float = param("The factor of each step.", default=0.1, gt=0)

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.every)


class CosineRate(LearningRate):
    """A factor that falls from 1 to a last value along half a cosine."""

    kind = "cosine"
    rounds: int = param("The round in which the last value is reached.", ge=1)
    last: float = param("The last factor.", default=0.0, ge=0, le=1)

    def factor(self, t: int) -> float:
        progress = min(t / self.rounds, 1.0)
        return self.last + (1.0 - self.last) * 0.5 * (1.0 + math.cos(math.pi * progress))


class InverseSqrtRate(LearningRate):
    """The factor 1 / sqrt(1 + t / scale) in round t."""

    kind = "inverse-sqrt"
    scale: float = param("The rounds after which the squared factor is 1/2.", default=1.0, gt=0)

    def factor(self, t: int) -> float:
        return 1.0 / math.sqrt(1.0 + t / self.scale)


class Optimizer(Part):
    """A rule for local steps."""

    family: ClassVar[str] = "optimizer"
    lr: float = param("The learning rate.", default=0.1, ge=0)
    weight_decay: float = param("The weight of the L2 penalty's gradient.", default=0.0, ge=0)
    schedule: LearningRate = param("The schedule of the learning rate over rounds.", factory=ConstantRate)
    state: Literal["reset", "keep"] = param(
        "The state of the optimizer, such as momentum, at every training: reset it, or keep it.", default="reset"
    )

    steps_modules: ClassVar[bool] = False
    """True if it steps the parameters of one module, as `torch_optimizers` do; others step K flat models."""

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Optimizer] | None":
        """An optimiser of torch, made a part of the name under which it was found."""
        from covey.learning.torch_optimizers import adopted

        return adopted(name, found)

    @property
    def is_plain(self) -> bool:
        """True if a step is x <- x - lr * gradient, and nothing follows the last one."""
        return False

    @property
    def adds_gradients(self) -> bool:
        """True if the change of a training is a sum of its gradients with fixed weights."""
        return False

    def try_out(self, module: nn.Module) -> None:
        """Check that the optimiser can step a module, which does not change.

        Raises:
            ConfigurationError: it refuses its arguments or the parameters.
        """

    def rule(self, parameters: Mapping[str, nn.Parameter], lr: float, state: Slots) -> "torch.optim.Optimizer | None":
        """The optimiser of torch that makes the steps of a training; None if `step` makes them.

        Args:
            parameters: the trained parameters by name.
            lr: the learning rate.
            state: that of an earlier training; empty for a new one.
        """
        return None

    def state_of(self, rule: "torch.optim.Optimizer", parameters: Mapping[str, nn.Parameter]) -> Slots:
        """The state of such an optimiser, in memory of its own.

        Raises:
            ConfigurationError: it has something else than tensors and numbers.
        """
        return {}

    def slots(self) -> tuple[str, ...]:
        """The names of the tensors of its state."""
        return ()

    def fresh(self, models: Tensor) -> Slots:
        """The initial state for K x P models."""
        slots = {name: torch.zeros_like(models) for name in self.slots() if name != "step"}
        if "step" in self.slots():
            slots["step"] = torch.zeros(len(models), 1, device=models.device)
        return slots

    def step(self, models: Tensor, gradients: Tensor, slots: Slots, lr: Tensor) -> None:
        """Make one step, in place.

        Args:
            models: K x P, changed.
            gradients: K x P, may be changed.
            slots: the state of the same K models, changed.
            lr: the learning rate of each model, K x 1.
        """
        raise NotImplementedError

    def repeat(self, models: Tensor, gradients: Tensor | None, slots: Slots, lr: Tensor, count: Tensor) -> None:
        """Make further steps, in place, each with the same gradients.

        Args:
            models, slots, lr: as in `step`.
            gradients: K x P; None for zeros.
            count: the number of steps of each model, K x 1.
        """
        for done in range(int(count.max())):
            going = (count > done).nonzero()[:, 0]
            if len(going) == len(models):  # Without copies. With them, Adam took a third longer.
                self.step(models, torch.zeros_like(models) if gradients is None else gradients.clone(), slots, lr)
                continue
            some, taken = models[going], {name: slot[going] for name, slot in slots.items()}
            self.step(some, torch.zeros_like(some) if gradients is None else gradients[going], taken, lr[going])
            models[going] = some
            for name, slot in taken.items():
                slots[name][going] = slot

    def guesses_after(self, steps: int, expected: int | None, most: int | None) -> int:
        """The number of guesses that follow a training's steps: moves without a gradient, which `finish` makes.

        Args:
            steps: the number of its steps.
            expected: the number that the program expects, if it says so.
            most: the largest number of guesses that the program allows, if it says so.
        """
        return 0

    def against_guesses(self, last: float) -> str | None:
        """The reason why guesses cannot follow its steps; None if they can.

        Args:
            last: the weight of the last gradient in a guess.
        """
        if last or self.slots():
            return None
        return "it has no momentum: give it one, or set 'last' above 0 to repeat its last gradient"

    @property
    def usual_last(self) -> float:
        """The usual weight of the last gradient in a guess."""
        return 0.0

    def for_further(self) -> "Optimizer":
        """The rule by which a further network of a program is trained if it names none."""
        return replace(self, state="reset")

    def finish(self, models: Tensor, slots: Slots, lr: Tensor, steps: Sequence[int], guesses: Sequence[int]) -> None:
        """Change models in place after the last step of a training. By default, do nothing.

        Args:
            models: K x P, changed.
            slots: the state of the same K models, changed.
            lr: the learning rate of each model, K x 1.
            steps: the number of steps of each.
            guesses: the number of guesses of each.
        """

    def reach(self, steps: int) -> float | None:
        """The largest distance, in learning rates, that steps move a model whose gradients have norms of at most 1.

        None if there is no bound that depends on nothing else.
        """
        return None

    def normaliser(
        self, steps: int, lr: float, proximal: float = 0.0, guesses: int = 0, last: float = 0.0
    ) -> float | None:
        """The total weight of the gradients of a training, in learning rates: FedNova's |a|.

        None if its change is no sum of gradients with fixed weights, as with Adam.

        Args:
            steps: the number of its steps.
            lr: its learning rate.
            proximal: the weight of its proximal term.
            guesses: the number of guesses after them.
            last: the weight of the last gradient in a guess.
        """
        return None


class SGD(Optimizer):
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum as in torch."""

    kind = "sgd"
    momentum: float = param("The factor of the momentum.", default=0.0, ge=0, lt=1)
    nesterov: bool = param("Whether the momentum is Nesterov's.", default=False)

    @property
    def is_plain(self) -> bool:
        return self.momentum == 0 and self.weight_decay == 0 and type(self).step is SGD.step

    @property
    def adds_gradients(self) -> bool:
        return True

    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def step(self, models: Tensor, gradients: Tensor, slots: Slots, lr: Tensor) -> None:
        if self.weight_decay:
            gradients.add_(models, alpha=self.weight_decay)
        if self.momentum:
            buffer = slots["momentum"].mul_(self.momentum).add_(gradients)
            gradients = gradients.add_(buffer, alpha=self.momentum) if self.nesterov else buffer
        models.addcmul_(gradients, lr, value=-1.0)

    def repeat(self, models: Tensor, gradients: Tensor | None, slots: Slots, lr: Tensor, count: Tensor) -> None:
        if self.nesterov or self.weight_decay or type(self).step is not SGD.step:
            super().repeat(models, gradients, slots, lr, count)
            return
        # After j of n steps the velocity is beta^j m + (1 + beta + ... + beta^(j-1)) g: here is the sum over j <= n.
        kept = self.momentum ** count.double()
        grown = (1.0 - kept) / (1.0 - self.momentum)
        if gradients is not None:
            moved = (count - self.momentum * grown) / (1.0 - self.momentum)
            models.addcmul_(gradients, lr * moved.float(), value=-1.0)
        if self.momentum:
            velocity = slots["momentum"]
            models.addcmul_(velocity, lr * (self.momentum * grown).float(), value=-1.0)
            velocity.mul_(kept.float())
            if gradients is not None:
                velocity.addcmul_(gradients, grown.float())

    def against_guesses(self, last: float) -> str | None:
        return "its 'nesterov' must be false" if self.nesterov else super().against_guesses(last)

    def reach(self, steps: int) -> float | None:
        if self.weight_decay or type(self).step is not SGD.step:
            return None
        return steps / (1.0 - self.momentum)  # The velocity may be that of earlier trainings.

    def normaliser(
        self, steps: int, lr: float, proximal: float = 0.0, guesses: int = 0, last: float = 0.0
    ) -> float | None:
        if not (self.momentum or self.weight_decay or proximal or guesses):
            return float(steps)
        pulls = lr * proximal, lr * self.weight_decay
        return _moved(steps, self.momentum, self.nesterov, *pulls, guesses, last)


@lru_cache(maxsize=1024)
def _moved(
    steps: int, momentum: float, nesterov: bool, proximal: float, decay: float, guesses: int, last: float
) -> float:
    """The distance, in learning rates, that gradients of 1 move a model which is pulled back to its start."""
    moved = speed = given = 0.0
    for _ in range(steps):
        given = 1.0 - proximal * moved
        gradient = given - decay * moved
        speed = momentum * speed + gradient
        moved += gradient + momentum * speed if nesterov else speed
    for _ in range(guesses):
        speed = momentum * speed + last * given
        moved += speed
    return moved


class Differentiation(Optimizer):
    """A rule that replaces the model by the gradient: a training of one step then returns the gradient at its start."""

    kind = "differentiation"

    def step(self, models: Tensor, gradients: Tensor, slots: Slots, lr: Tensor) -> None:
        models.copy_(gradients)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), with bias correction. Weight decay is added to the gradient, as in torch."""

    kind = "adam"
    lr: float = param("The learning rate.", default=0.001, ge=0)
    beta1: float = param("The decay of the mean of gradients.", default=0.9, ge=0, lt=1)
    beta2: float = param("The decay of the mean of squared gradients.", default=0.999, ge=0, lt=1)
    eps: float = param("The number that is added to the divisor.", default=1e-8, gt=0)

    @property
    def usual_last(self) -> float:
        return 1.0

    def slots(self) -> tuple[str, ...]:
        return ("first", "second", "step")

    def step(self, models: Tensor, gradients: Tensor, slots: Slots, lr: Tensor) -> None:
        if self.weight_decay:
            gradients.add_(models, alpha=self.weight_decay)
        count = slots["step"].add_(1.0)
        first = slots["first"].mul_(self.beta1).add_(gradients, alpha=1.0 - self.beta1)
        second = slots["second"].mul_(self.beta2).addcmul_(gradients, gradients, value=1.0 - self.beta2)
        scale = lr / (1.0 - self.beta1**count)
        spread = second.div(1.0 - self.beta2**count).sqrt_().add_(self.eps)
        models.addcdiv_(first * scale, spread, value=-1.0)
