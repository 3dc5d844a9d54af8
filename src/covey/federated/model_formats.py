"""The form in which whole models travel in one shot: float32, or INT8 with a scale for each tensor.

The INT8 form is a codec. Models are computed in float32 after it; torch's integer kernels are not used.

Shapes: K models, P numbers of a model, T of them trained, S trained tensors, R other numbers.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from covey.parts.parameters import Setting
from covey.runtime.entries import Numbers
from covey.runtime.node import Expected

_INT8 = 127
_CLIPS = [1.0 - 0.02 * step for step in range(16)]
"""The shares of a tensor's largest magnitude among which its scale is chosen."""
_ENTRIES = ("codes", "scales", "rest")


class Float32Models:
    """Models as they are."""

    def __init__(self, setting: Setting) -> None:
        self._size = setting.parameters

    def expected(self, models: int) -> Mapping[str, Expected]:
        """The entries of a message with so many models."""
        return {"models": Numbers(models * self._size)}

    def pack(self, models_KP: Tensor) -> dict[str, Tensor]:
        """The entries of a message with some models."""
        return {"models": models_KP.reshape(-1)}

    def unpack(self, entries: Mapping[str, Tensor | None], models: int) -> Tensor:
        """The models in the entries of a message, K x P."""
        found = entries["models"]
        assert found is not None
        return found.view(models, self._size)


class Int8Models:
    """A code of 8 bits for each trained number, and a scale for each trained tensor; all other numbers as they are.

    The scale of a tensor is the one of 16 with the least squared error, from its largest magnitude down to 0.7 of that.
    It is static: chosen once, after training.
    """

    def __init__(self, setting: Setting) -> None:
        trained = [piece for piece in setting.pieces if piece.role == "trained"]
        self._sizes = torch.tensor([piece.size for piece in trained])
        self._owner = torch.repeat_interleave(torch.arange(len(trained)), self._sizes)
        """The tensor of each trained number, T."""
        self._trained = len(self._owner)
        self._rest = setting.parameters - self._trained

    def expected(self, models: int) -> Mapping[str, Expected]:
        """The entries of a message with so many models."""
        counts = {"codes": models * self._trained, "scales": models * len(self._sizes)}
        found: dict[str, Expected] = {
            "codes": Numbers(counts["codes"], "int8"),
            "scales": Numbers(counts["scales"]),
        }
        return {**found, "rest": Numbers(models * self._rest)} if self._rest else found

    def pack(self, models_KP: Tensor) -> dict[str, Tensor]:
        """The entries of a message with some models."""
        trained_KT, rest_KR = models_KP[:, : self._trained], models_KP[:, self._trained :]
        largest_KS = self._of_tensors(trained_KT.abs(), "amax")
        scales_KS, least_KS = largest_KS, torch.full_like(largest_KS, torch.inf)
        for clip in _CLIPS:
            tried_KS = largest_KS * clip
            lost_KT = (self._decoded(self._codes(trained_KT, tried_KS), tried_KS) - trained_KT).square()
            error_KS = self._of_tensors(lost_KT, "sum")
            scales_KS = torch.where(error_KS < least_KS, tried_KS, scales_KS)
            least_KS = torch.minimum(error_KS, least_KS)
        packed = {"codes": self._codes(trained_KT, scales_KS).view(-1), "scales": scales_KS.reshape(-1)}
        return {**packed, "rest": rest_KR.reshape(-1)} if self._rest else packed

    def unpack(self, entries: Mapping[str, Tensor | None], models: int) -> Tensor:
        """The models in the entries of a message, K x P."""
        codes, scales, rest = (entries.get(name) for name in _ENTRIES)
        assert codes is not None
        assert scales is not None
        trained_KT = self._decoded(codes.view(models, -1), scales.view(models, -1))
        return trained_KT if rest is None else torch.cat([trained_KT, rest.view(models, -1)], dim=1)

    def _of_tensors(self, values_KT: Tensor, reduce: str) -> Tensor:
        """The largest value or the sum of each tensor, K x S."""
        found = values_KT.new_zeros(len(values_KT), len(self._sizes))
        index_KT = self._owner.to(values_KT.device).expand(len(values_KT), -1)
        return found.scatter_reduce_(1, index_KT, values_KT, reduce)

    def _of_numbers(self, scales_KS: Tensor) -> Tensor:
        return scales_KS[:, self._owner.to(scales_KS.device)]

    def _codes(self, trained_KT: Tensor, scales_KS: Tensor) -> Tensor:
        scales_KT = self._of_numbers(torch.where(scales_KS > 0, scales_KS, 1.0))
        return (trained_KT / scales_KT * _INT8).round_().clamp_(-_INT8, _INT8).to(torch.int8)

    def _decoded(self, codes_KT: Tensor, scales_KS: Tensor) -> Tensor:
        return codes_KT.float().div_(_INT8).mul_(self._of_numbers(scales_KS))


ModelFormat = Float32Models | Int8Models
"""The forms of models on the wire."""
FORMATS: dict[str, type[ModelFormat]] = {"float32": Float32Models, "int8": Int8Models}
"""The forms by their names in experiment files."""
