"""The tensors of a model and their positions in its flat vector: first trained, then frozen, then buffers."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["trained", "frozen", "buffer"]
ROLES: tuple[Role, ...] = ("trained", "frozen", "buffer")
"""The roles in their order in a flat model."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a model and its position in the flat vector."""

    name: str
    role: Role
    start: int
    stop: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.stop - self.start
