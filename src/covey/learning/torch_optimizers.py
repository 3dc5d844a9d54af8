"""Optimisers of torch by name. They step the parameters of one module, and so need the kernel `module`."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from covey.learning.optimizers import Optimizer, Slots
from covey.parts.errors import ConfigurationError, described
from covey.parts.parameters import default_of
from covey.parts.signatures import Wrapped, wrapped

_ASKED = ("foreach", "fused", "capturable", "differentiable")
"""Parameters of torch's optimisers that change no result, or that need a graph of the step; torch's defaults stay."""
_NUMBER = "#"
"""The end of the name of a state that is a number of Python."""


class TorchOptimizer(Wrapped, Optimizer):
    """An optimiser of torch, or a class with the same interface, such as `torch.optim:AdamW`.

    Its state is that of each parameter, by name: "layer.weight/exp_avg".
    """

    steps_modules = True

    def __post_init__(self) -> None:
        for name in self.takes:
            if isinstance(getattr(self, name), tuple):  # A file holds lists.
                object.__setattr__(self, name, list(getattr(self, name)))
        super().__post_init__()
        for name in ("lr", "weight_decay"):
            if name not in self.takes and getattr(self, name) != default_of(Optimizer, name):
                raise ConfigurationError(f"The optimizer {self.title()} has no '{name}'. Got {getattr(self, name)!r}.")

    def arguments(self) -> dict[str, Any]:
        return {name: tuple(one) if isinstance(one, list) else one for name, one in super().arguments().items()}

    def against_guesses(self, last: float) -> str | None:
        return "it is one of torch, and guesses do not know its moments; sgd and adam can be continued"

    def rule(self, parameters: Mapping[str, nn.Parameter], lr: float, state: Slots) -> "torch.optim.Optimizer":
        arguments = self.arguments()
        if "lr" in arguments:
            arguments["lr"] = lr
        rule: torch.optim.Optimizer = self.wraps(list(parameters.values()), **arguments)
        for name, value in state.items():
            owner, _, entry = name.rpartition("/")
            parameter = parameters[owner]
            if entry.endswith(_NUMBER):
                rule.state[parameter][entry.removesuffix(_NUMBER)] = value.item()
            else:  # In the layout of the parameter, as the optimiser made it.
                like = torch.empty_like(parameter if value.shape == parameter.shape else value, dtype=value.dtype)
                rule.state[parameter][entry] = like.copy_(value)
        return rule

    def state_of(self, rule: "torch.optim.Optimizer", parameters: Mapping[str, nn.Parameter]) -> Slots:
        found = {}
        for owner, parameter in parameters.items():
            for name, value in rule.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{owner}/{name}"] = value.detach().clone(memory_format=torch.contiguous_format)
                elif isinstance(value, int | float) and not isinstance(value, bool):
                    dtype = torch.int64 if isinstance(value, int) else torch.float64
                    found[f"{owner}/{name}{_NUMBER}"] = torch.tensor(value, dtype=dtype)
                elif value is not None:
                    raise ConfigurationError(
                        f"The optimizer {self.title()} has the state {name!r} of type {type(value).__name__}, which no "
                        f"checkpoint holds: set its 'state' to 'reset'."
                    )
        return found

    def try_out(self, module: nn.Module) -> None:
        trained = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
        parameters = {name: nn.Parameter(one.detach().clone()) for name, one in trained}
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        try:
            rule = self.rule(parameters, self.lr, {})
            rule.step()
            if self.state == "keep":
                self.rule(parameters, self.lr, self.state_of(rule, parameters))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"The optimizer {self.title()} fails: {described(error)}.") from error


def adopted(name: str, found: Any) -> "type[TorchOptimizer] | None":
    """An optimiser of torch, made a part of the name under which it was found.

    Raises:
        ConfigurationError: its steps need a closure.
    """
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        return None
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ConfigurationError(f"The optimizer {name} evaluates the loss several times a step, which no kernel does.")
    return wrapped(TorchOptimizer, name, found, positions=1, asks=_ASKED)
