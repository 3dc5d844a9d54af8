"""The weights that all nodes start with, read from a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from covey.parts.errors import ConfigurationError, described, quoted
from covey.parts.parameters import Part, param


class Start(Part):
    """A safetensors file with the tensors of the model, by the names of its state dict."""

    kind = "start"
    path: Path = param("The file.")
    strict: bool = param(
        "Whether the file must hold every tensor of the model and no other. If not, tensors of the same name and shape "
        "are taken, and the others start as without the file.",
        default=True,
    )

    @classmethod
    def shorthand(cls, value: object) -> Self | None:
        return cls(path=value) if isinstance(value, str | Path) else None  # type: ignore[arg-type]

    def load_into(self, module: nn.Module, title: str) -> None:
        """Copy the tensors of the file to a module.

        Args:
            module: the module.
            title: the title of its model.

        Raises:
            ConfigurationError: the file cannot be read, or does not fit the module.
        """
        found, own = self._read(), module.state_dict()
        where = f"The 'start' {self.path} of the task"
        if self.strict:
            self._check(found, own, f"{where} does not fit the model {title}")
        fitting = {name: tensor for name, tensor in found.items() if name in own and tensor.shape == own[name].shape}
        if not fitting:
            raise ConfigurationError(f"{where} has no tensor with a name and shape of the model {title}.")
        module.load_state_dict(fitting, strict=False)

    def _read(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        try:
            return load_file(str(self.path))
        except FileNotFoundError:
            raise ConfigurationError(f"The 'start' of the task must be a file. There is no {self.path}.") from None
        except Exception as error:  # safetensors raises its own error, an OSError or a panic of Rust.
            raise ConfigurationError(
                f"The 'start' {self.path} of the task cannot be read as safetensors: {described(error)}."
            ) from error

    def _check(self, found: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> None:
        for names, problem in ((own.keys() - found.keys(), "it lacks"), (found.keys() - own.keys(), "it also has")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise ConfigurationError(
                    f"{what}: {problem} {quoted(min(names))}{more}. strict = false takes the tensors that fit."
                )
        for name, tensor in found.items():
            if tensor.shape != own[name].shape:
                raise ConfigurationError(
                    f"{what}: its {quoted(name)} has the shape {tuple(tensor.shape)}, and that of the model "
                    f"{tuple(own[name].shape)}."
                )
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ConfigurationError(f"{what}: its {quoted(name)} has numbers that are not finite.")
