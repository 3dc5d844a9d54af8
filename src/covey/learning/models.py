"""The built-in models. Any other `torch.nn.Module` can take their place.

ReLU comes after max-pooling, although papers write it before: outputs and gradients are the same for a quarter of the
work.

Shapes: B samples of a batch, C classes, T positions of a sequence.
"""

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from covey.learning.dataset import Data
from covey.learning.layout import tensors_of
from covey.parts.errors import ConfigurationError, CoveyError, quoted
from covey.parts.parameters import Part, build, param
from covey.parts.signatures import Wrapped, wrapped


class Model(Part):
    """A maker of modules that fit a data set."""

    family: ClassVar[str] = "model"

    def build(self, data: Data) -> nn.Module:
        """Make a module with new weights, drawn from torch's global generator.

        Raises:
            ConfigurationError: the model does not fit the data.
        """
        raise NotImplementedError

    def numbers(self, data: Data) -> int | None:
        """The count of a module's numbers, if known. A model that is too large is refused before it is made."""
        return None

    @classmethod
    def shorthand(cls, value: object) -> "Model | None":
        if isinstance(value, nn.Module):
            return Module(factory=lambda: copy.deepcopy(value))
        if not callable(value):
            return None
        # Only a name finds its function again in another process.
        has_name = getattr(value, "__qualname__", "<lambda>").isidentifier()
        return build(cls, {"kind": value}) if has_name else Module(factory=value)

    @classmethod
    def adopt(cls, name: str, found: Any) -> "type[Model] | None":
        """A model of a user's own module class or function, with the name under which it was found."""
        if isinstance(found, type) and not issubclass(found, nn.Module):
            return None
        return wrapped(OwnModule, name, found, asks=("data",)) if callable(found) else None


class Lean(Model):
    """A model whose module can be built on torch's meta device."""

    def numbers(self, data: Data) -> int | None:
        try:
            with torch.device("meta"):
                return sum(tensor.numel() for tensor in tensors_of(self.build(data)).values())
        except CoveyError:
            raise
        except Exception:
            return None  # A subclass may build a module that needs memory.


class Module(Model):
    """A user's own module: an object, which each run copies, or a function that makes one."""

    kind = "module"
    factory: Callable[[], nn.Module] = param("The function that makes the module.")

    @classmethod
    def title(cls) -> str:
        return cls.kind

    def build(self, data: Data) -> nn.Module:
        return self.factory()


class OwnModule(Wrapped, Model):
    """A user's own module class, or function that makes a module; it gets the data set if it has a parameter `data`."""

    def build(self, data: Data) -> nn.Module:
        given = {"data": data} if "data" in self.asks else {}
        made = self.wraps(**self.arguments(), **given)
        if not isinstance(made, nn.Module):
            raise ConfigurationError(
                f"The model {self.title()} must make a torch.nn.Module. Got {quoted(made)} instead."
            )
        return made


class Dense(nn.Module):
    """Linear layers with ReLU between them, on flattened inputs. The stacked kernel computes this family."""

    def __init__(self, widths: list[int], *, scalar: bool = False) -> None:
        super().__init__()
        self.widths = widths
        self.scalar = scalar
        """True if the output is one number per sample, without a last dimension."""
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        x = self.layers[-1](x)
        return x.squeeze(1) if self.scalar else x


_MOST_LAYERS = 256


def _features(model: Part, data: Data) -> int:
    if data.fields or data.scaled(data.train.inputs[:0]).dtype == torch.int64:
        what = f"the inputs {', '.join(field.name for field in data.fields)}" if data.fields else "ids, whole numbers"
        raise ConfigurationError(
            f"The model {model.title()} takes one input of numbers, and the data set has {what}: bring a module, "
            f"or give numbers, as x.astype('float32')."
        )
    if data.objective == "sequence" or not data.sample_shape or data.sizes:
        raise ConfigurationError(
            f"The model {model.title()} takes images or feature vectors, which the data set does not have."
        )
    features = 1
    for side in data.sample_shape:
        features *= side
    return features


def _numbers(model: Part, data: Data) -> int:
    """The number of values to predict for a sample."""
    shape = tuple(data.train.targets.shape[1:])
    if len(shape) > 1:
        raise ConfigurationError(
            f"The model {model.title()} predicts a row of numbers. The targets of a sample have the shape {shape}: "
            f"bring a module."
        )
    return shape[0] if shape else 1


def _image(model: Part, data: Data, sides: tuple[int, ...] = ()) -> tuple[int, int]:
    """The channels and the side of the square images of a data set, if the model takes them."""
    shape = data.sample_shape
    if len(shape) != 3 or shape[1] != shape[2] or data.objective != "classes" or (sides and shape[1] not in sides):
        wanted = " or ".join(f"{side}x{side}" for side in sides) or "square"
        raise ConfigurationError(
            f"The model {model.title()} takes {wanted} images with channels first. "
            f"Got samples of shape {'x'.join(map(str, shape))} instead."
        )
    return shape[0], shape[1]


class Logistic(Lean):
    """Multinomial logistic regression."""

    kind = "logistic"

    def build(self, data: Data) -> nn.Module:
        if data.objective != "classes":
            raise ConfigurationError("The model logistic predicts classes, which the data set does not have.")
        return Dense([_features(self, data), data.classes])


class LinearModel(Lean):
    """Linear regression of one number, or of several."""

    kind = "linear"

    def build(self, data: Data) -> nn.Module:
        if data.objective != "values":
            raise ConfigurationError(
                "The model linear predicts numbers for each sample, which the data set does not have."
            )
        return Dense([_features(self, data), _numbers(self, data)], scalar=data.train.targets.dim() < 2)


class MLP(Lean):
    """A multi-layer perceptron with ReLU."""

    kind = "mlp"
    hidden: list[int] = param("The widths of the hidden layers, at most 256.", factory=lambda: [128], ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hidden) > _MOST_LAYERS:
            raise ConfigurationError(
                f"The 'hidden' of {self.named()} must be at most {_MOST_LAYERS} widths. Got {len(self.hidden)} instead."
            )

    def build(self, data: Data) -> nn.Module:
        features, values = _features(self, data), data.objective == "values"
        scalar = values and data.train.targets.dim() < 2
        return Dense([features, *self.hidden, _numbers(self, data) if values else data.classes], scalar=scalar)


class LeNet(Lean):
    """LeNet-5 with ReLU and max-pooling, for 28x28 or 32x32 images."""

    kind = "lenet"

    def build(self, data: Data) -> nn.Module:
        channels, side = _image(self, data, (28, 32))
        return nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2 if side == 28 else 0), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, data.classes),
        )  # fmt: skip


class GNLeNet(Lean):
    """Three 5x5 convolutions with GroupNorm, then a linear layer; 89,834 parameters on CIFAR-10."""

    kind = "gn-lenet"

    def build(self, data: Data) -> nn.Module:
        channels, side = _image(self, data)
        layers: list[nn.Module] = []
        for into, out in ((channels, 32), (32, 32), (32, 64)):
            layers += [nn.Conv2d(into, out, 5, padding=2), nn.GroupNorm(2, out), nn.MaxPool2d(2), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (side // 8) ** 2, data.classes))


class FemnistCNN(Lean):
    """Two 5x5 convolutions and two linear layers, as in LEAF; 1,690,046 parameters on FEMNIST."""

    kind = "femnist-cnn"

    def build(self, data: Data) -> nn.Module:
        channels, side = _image(self, data)
        return nn.Sequential(
            nn.Conv2d(channels, 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (side // 4) ** 2, 512), nn.ReLU(), nn.Linear(512, data.classes),
        )  # fmt: skip


class _Residual(nn.Module):
    """Two 3x3 convolutions with GroupNorm and a shortcut that pads the new channels with zeros."""

    def __init__(self, into: int, out: int, stride: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(groups, out), nn.GroupNorm(groups, out)])
        self.stride, self.added = stride, out - into

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.first(x)))
        y = self.norms[1](self.second(y))
        if self.added:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return torch.relu(x + y)


class ResNet20GN(Lean):
    """ResNet-20 for small images, with GroupNorm instead of BatchNorm."""

    kind = "resnet20-gn"
    groups: int = param("The number of groups of every GroupNorm. It must divide 16.", default=2, ge=1, le=16)

    def build(self, data: Data) -> nn.Module:
        channels, _ = _image(self, data)
        if 16 % self.groups:
            raise ConfigurationError(f"The 'groups' of {self.named()} must divide 16. Got {self.groups} instead.")
        layers: list[nn.Module] = [
            nn.Conv2d(channels, 16, 3, padding=1, bias=False),
            nn.GroupNorm(self.groups, 16),
            nn.ReLU(),
        ]
        into = 16
        for width in (16, 32, 64):
            for block in range(3):
                stride = 2 if width > 16 and block == 0 else 1
                layers.append(_Residual(into, width, stride, self.groups))
                into = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, data.classes))


class _CharLSTM(nn.Module):
    def __init__(self, classes: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        predicted: Tensor = self.output(states)
        return predicted


class CharLSTM(Lean):
    """Embedding, LSTM and a linear layer that predicts the next token at every position."""

    kind = "char-lstm"
    embedding: int = param("The width of the embedding.", default=8, ge=1)
    hidden: int = param("The width of the LSTM.", default=256, ge=1)
    layers: int = param("The number of LSTM layers.", default=2, ge=1, le=_MOST_LAYERS)

    def build(self, data: Data) -> nn.Module:
        if data.objective != "sequence":
            raise ConfigurationError("The model char-lstm takes sequences, which the data set does not have.")
        return _CharLSTM(data.classes, self.embedding, self.hidden, self.layers)


class _Factors(nn.Module):
    def __init__(self, users: int, items: int, factors: int, mean: float) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, factors), nn.Embedding(items, factors)
        self.user_bias, self.item_bias = nn.Embedding(users, 1), nn.Embedding(items, 1)
        self.mean = nn.Parameter(torch.tensor(mean))
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = pairs[:, 0], pairs[:, 1]
        interaction = (self.users(user) * self.items(item)).sum(1)
        bias = self.user_bias(user).squeeze(1) + self.item_bias(item).squeeze(1)
        predicted: Tensor = self.mean + bias + interaction
        return predicted


class MatrixFactorization(Lean):
    """Ratings from factors and biases of users and items."""

    kind = "matrix-factorization"
    factors: int = param("The number of factors.", default=20, ge=1)
    start: float = param("The predicted rating before training.", default=3.5)

    def build(self, data: Data) -> nn.Module:
        if not {"users", "items"} <= data.sizes.keys():
            raise ConfigurationError("The model matrix-factorization takes ratings, which the data set does not have.")
        return _Factors(data.sizes["users"], data.sizes["items"], self.factors, self.start)
