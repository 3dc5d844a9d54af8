"""Augmentation: random changes of the inputs of training batches, keyed as all randomness.

The key of a batch is that of its node, round, training and step, so that results depend on no engine, thread or resume.

Shapes: B samples of a batch, C channels, H x W pixels.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from covey.learning.dataset import Data
from covey.parts.errors import ConfigurationError, described, quoted
from covey.parts.parameters import Part, build, param
from covey.parts.signatures import Wrapped, wrapped


class Augmentation(Part):
    """A random change of the inputs of a training batch."""

    family: ClassVar[str] = "augmentation"

    @classmethod
    def shorthand(cls, value: object) -> "Augmentation | None":
        return build(cls, {"kind": value}) if callable(value) else None

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Augmentation] | None":
        """A user's own function, made an augmentation of the name under which it was found."""
        if isinstance(found, type) or not callable(found):
            return None
        return wrapped(FunctionAugmentation, name, found, positions=2)

    def check_with(self, data: Data) -> None:
        """Check that it fits the inputs of a data set.

        Raises:
            ConfigurationError: it does not.
        """
        if data.fields:
            names = ", ".join(field.name for field in data.fields)
            raise ConfigurationError(f"{self._subject()} takes one input, and the samples have several: {names}.")

    @abstractmethod
    def augmented(self, inputs: Tensor, generator: Generator) -> Tensor:
        """The changed inputs of a batch.

        Args:
            inputs: B x ..., converted for a model. They may be changed.
            generator: the source of all random numbers, on the device of the inputs.
        """

    def checked(self, inputs: Tensor, generator: Generator) -> Tensor:
        """The result of `augmented`, of the same shape and type as the inputs.

        Raises:
            ConfigurationError: it has another shape or type, or the user's own function fails.
        """
        shape, dtype = inputs.shape, inputs.dtype
        try:
            found = self.augmented(inputs, generator)
        except Exception as error:
            raise ConfigurationError(f"{self._subject()} fails: {described(error)}.") from error
        if isinstance(found, Tensor) and found.shape == shape and found.dtype == dtype:
            return found
        got = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else quoted(found)
        raise ConfigurationError(
            f"{self._subject()} must return inputs of {tuple(shape)} and {dtype}. Got {got} instead."
        )

    def _subject(self) -> str:
        return f"The augmentation {self.title()}"


class _OfImages(Augmentation):
    """A change of images, whose last two dimensions are their height and width."""

    def check_with(self, data: Data) -> None:
        super().check_with(data)
        if len(data.sample_shape) < 2:
            raise ConfigurationError(
                f"{self._subject()} takes images, C x H x W. Got samples of shape {data.sample_shape}."
            )
        if data.objective == "sequence":
            raise ConfigurationError(
                f"{self._subject()} moves pixels, and the targets of positions would stay: it takes one class a sample."
            )


class HorizontalFlip(_OfImages):
    """Left and right of an image exchanged."""

    kind = "horizontal-flip"
    probability: float = param("The share of the samples that are flipped.", default=0.5, ge=0, le=1)

    def augmented(self, inputs: Tensor, generator: Generator) -> Tensor:
        drawn = torch.rand(len(inputs), generator=generator, device=inputs.device)
        return torch.where(_of_samples(drawn < self.probability, inputs), inputs.flip(-1), inputs)


class RandomCrop(_OfImages):
    """A part of the padded image, of the size of the image, at a random position."""

    kind = "random-crop"
    padding: int = param("The pixels that are added at each side.", default=4, ge=1)
    fill: float = param("The value of added pixels, as models take it.", default=0.0)

    def augmented(self, inputs: Tensor, generator: Generator) -> Tensor:
        height, width = inputs.shape[-2:]
        padded = F.pad(inputs, [self.padding] * 4, value=self.fill)
        padded = padded.view(len(inputs), -1, *padded.shape[-2:])
        device = inputs.device
        above, left = torch.randint(2 * self.padding + 1, (2, len(inputs), 1), generator=generator, device=device)
        rows = above + torch.arange(height, device=device)
        columns = left + torch.arange(width, device=device)
        samples = torch.arange(len(inputs), device=device).view(-1, 1, 1, 1)
        channels = torch.arange(padded.shape[1], device=device).view(1, -1, 1, 1)
        return padded[samples, channels, rows[:, None, :, None], columns[:, None, None, :]].view(inputs.shape)


class Noise(Augmentation):
    """Gaussian noise, added to inputs that are numbers."""

    kind = "noise"
    deviation: float = param("The standard deviation of the noise, in the units of the inputs of models.", ge=0)

    def check_with(self, data: Data) -> None:
        super().check_with(data)
        if not data.scaled(data.train.inputs[:0]).is_floating_point():
            raise ConfigurationError(f"{self._subject()} takes inputs that are numbers. Got ids.")

    def augmented(self, inputs: Tensor, generator: Generator) -> Tensor:
        drawn = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        return inputs + self.deviation * drawn


class FunctionAugmentation(Wrapped, Augmentation):
    """A function of the user's own: `(inputs, generator, **parameters) -> inputs`."""

    def augmented(self, inputs: Tensor, generator: Generator) -> Tensor:
        found: Tensor = self.wraps(inputs, generator, **self.arguments())
        return found


def _of_samples(flags: Tensor, inputs: Tensor) -> Tensor:
    """A flag of each sample, in a shape that broadcasts with the inputs."""
    return flags.view(-1, *[1] * (inputs.dim() - 1))


@torch.no_grad()
def augmented(parts: Sequence[Augmentation], inputs: Tensor, key: int) -> Tensor:
    """The inputs of one batch after all changes, with the randomness of a key.

    Raises:
        ConfigurationError: a user's own function fails, or returns another shape.
    """
    generator = torch.Generator(device=inputs.device)
    generator.manual_seed(key >> 1)
    for part in parts:
        inputs = part.checked(inputs, generator)
    return inputs


def check_keyed(parts: Sequence[Augmentation], inputs: Tensor) -> None:
    """Check augmentations on one batch.

    Raises:
        ConfigurationError: one fails, or draws from another generator than the given one.
    """
    for part in parts:
        before = torch.get_rng_state()
        first, again = (augmented([part], inputs.clone(), key=2) for _ in range(2))
        if not (torch.equal(before, torch.get_rng_state()) and torch.equal(first, again)):
            raise ConfigurationError(
                f"The augmentation {part.title()} must draw from the 'generator' that it is given, so that runs can be "
                f"repeated. It draws from another one."
            )
