"""The tensors of a model, as they lie in its flat vector: first what is trained, then what is frozen, then buffers."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["trained", "frozen", "buffer"]
ROLES: tuple[Role, ...] = ("trained", "frozen", "buffer")
"""In the order in which they lie in a flat model."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor and its position."""

    name: str
    role: Role
    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.stop - self.start
