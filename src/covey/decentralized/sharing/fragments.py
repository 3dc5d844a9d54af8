"""Fragments: a partition of the numbers of a shared part, and the messages that carry them.

    self._fragments = Fragments(setting, self.fragments, self.cutting, owner=self.named())      # in `prepare`
    node.send(peers, self._fragments.cut(part, 3), tag="fragment")
    for fragment in self._fragments.usable(node, inbox, Fragment):
        pulls.append(Pull(self._fragments.indices(fragment.number), fragment.values, weight))

All nodes compute the same layout from the seed of the experiment. Every message holds its digest, so that a receiver
can refuse the messages of a sender with another layout.

Shapes: P numbers of the shared part, K fragments.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covey.learning.mixture import Mixture, Pull
from covey.learning.node import LearningNode
from covey.parts.errors import ConfigurationError, unknown
from covey.parts.parameters import Setting, param
from covey.parts.pieces import Piece
from covey.runtime.content import Content
from covey.runtime.node import Message

Cutting: TypeAlias = Literal["per-tensor", "spread", "random", "contiguous", "strided", "per-layer"]
_Ids: TypeAlias = NDArray[np.int64]
_DIGEST_BYTES = 4
_ROUNDING = 1e-9


def cut_as() -> Any:
    """The parameter of the rule that cuts, of type `Cutting`."""
    return param(
        "The rule that cuts: a random permutation of each tensor, whose remainder falls into the last fragment "
        '("per-tensor") or is spread over all ("spread"); one permutation of all numbers ("random"); neighbours '
        'together ("contiguous") or apart ("strided"); or whole layers ("per-layer").',
        default="per-tensor",
    )


def count_of(fraction: float) -> int:
    """The number of fragments of which each holds a fraction of the numbers: int(1 / fraction)."""
    return int(1.0 / fraction + _ROUNDING)


class Fragment(Content):
    """One fragment of a shared part. Programs may derive classes with further entries."""

    number: int
    values: Tensor
    layout: str
    """The digest of the sender's layout."""


F = TypeVar("F", bound=Fragment)


class Fragments:
    """A partition of the P numbers of a shared part into fragments.

    Args:
        setting: the experiment and its shared part.
        count: K, the number of fragments.
        cutting: the rule that cuts.
        epoch: the number of the layout. Random layouts of different epochs are independent.
        redundancy: the number of fragments that hold a number. Fragment k then holds what fragments k, k + 1 ... would
            hold without redundancy.
        owner, key: the part that cuts and its parameter that gives the count, for messages.

    Raises:
        ConfigurationError: the count is not in [1, P], or the redundancy not in [1, count].
    """

    def __init__(
        self,
        setting: Setting,
        count: int,
        cutting: str = "per-tensor",
        *,
        epoch: int = 0,
        redundancy: int = 1,
        owner: str,
        key: str = "fragments",
    ) -> None:
        size = setting.parameters
        if not 1 <= count <= size:
            raise ConfigurationError(
                f"The '{key}' of {owner} must give 1 to {size} fragments, the number of shared values. "
                f"Got {count} instead."
            )
        if not 1 <= redundancy <= count:
            raise ConfigurationError(
                f"The redundancy of {owner} must be an int in [1, {count}], the number of fragments. "
                f"Got {redundancy} instead."
            )
        if cutting not in _RULES:
            raise ConfigurationError(unknown(f"cutting of {owner}: '{cutting}'", cutting, _RULES))
        self.count, self.cutting = count, cutting
        self._redundancy, self._size = redundancy, size
        self._pieces = setting.pieces or (Piece("model", "trained", 0, size, (size,)),)
        draw = setting.generator("fragments", epoch)
        holder_P = np.zeros(size, np.int64) if count == 1 else _RULES[cutting](self._pieces, count, draw)
        # Numpy sorts 16-bit integers in an eighth of the time of 64-bit ones.
        self._holder_P = holder_P.astype(np.min_scalar_type(count - 1))
        self._order = torch.from_numpy(np.argsort(self._holder_P, kind="stable"))
        self._held = torch.split(self._order, np.bincount(self._holder_P, minlength=count).tolist())
        if redundancy > 1:
            several = [[self._held[(k + more) % count] for more in range(redundancy)] for k in range(count)]
            self._held = tuple(torch.cat(held).sort().values for held in several)
            self._order = torch.cat(self._held)
        self.sizes: tuple[int, ...] = tuple(map(len, self._held))

    @cached_property
    def digest(self) -> str:
        """A short hash of the layout: equal for layouts with the same tensors, rule and indices."""
        named = [(piece.name, piece.shape) for piece in self._pieces]
        found = blake2b(digest_size=_DIGEST_BYTES)
        found.update(repr((self.cutting, self.count, self._redundancy, self._size, named)).encode())
        found.update(self._holder_P.astype(self._holder_P.dtype.newbyteorder("<")).tobytes())
        return found.hexdigest()

    def indices(self, fragment: int) -> Tensor:
        """The int64 indices of the numbers of a fragment, increasing."""
        return self._held[fragment]

    def take(self, vector: Tensor, fragment: int) -> Tensor:
        """The numbers of a fragment of a shared part, as a copy."""
        return torch.index_select(vector, 0, self._held[fragment].to(vector.device))

    def together(self, fragments: Sequence[int]) -> Tensor:
        """The indices of the numbers of several fragments, one fragment after the other."""
        return torch.cat([self._held[number] for number in fragments])

    def ordered(self, vector: Tensor) -> Tensor:
        """A shared part with its fragments one after the other, as a copy; with one fragment, the part itself."""
        return vector if self.count == 1 else torch.index_select(vector, 0, self._order.to(vector.device))

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """The places of the fragments in an ordered part."""
        ends = list(accumulate(self.sizes, initial=0))
        return tuple(map(slice, ends[:-1], ends[1:]))

    def restored(self, ordered: Tensor) -> Tensor:
        """The shared part that `ordered` has ordered, as a copy. There must be no redundancy."""
        return torch.index_select(ordered, 0, self._back.to(ordered.device))

    def split(self, ordered: Tensor, fragments: Sequence[int] | None = None) -> Sequence[Tensor]:
        """Views of single fragments that are one after the other; by default, all fragments are."""
        if fragments is None:
            return torch.split(ordered, list(self.sizes))
        return [ordered] if len(fragments) == 1 else torch.split(ordered, [self.sizes[number] for number in fragments])

    @cached_property
    def _back(self) -> Tensor:
        back = torch.empty_like(self._order)
        back[self._order] = torch.arange(len(self._order))
        return back

    # ------------------------------------------------------------------ messages

    def cut(self, vector: Tensor, fragment: int) -> Fragment:
        """The message with a fragment of a shared part."""
        return Fragment(number=fragment, values=self.take(vector, fragment), layout=self.digest)

    def usable(self, node: LearningNode, messages: Iterable[Message], content: type[F]) -> list[F]:
        """The contents of the messages that hold a fragment of this layout. The others are rejected."""
        found = []
        for one in node.usable(messages, content):
            reason = self.mistake([one.number], one.values, one.layout)
            if reason is None:
                found.append(one)
            else:
                node.reject(one, reason)
        return found

    def mean(self, own: Tensor, received: Collection[Fragment]) -> Mixture:
        """The mean, number by number, of own values and those of received fragments."""
        if self.count == 1:
            return Mixture([own, *(one.values for one in received)], [1.0 / (1 + len(received))] * (1 + len(received)))
        count = Counter(one.number for one in received)
        weights = [1.0 / (1 + count[one.number]) for one in received]
        pulls = [Pull(self.indices(one.number), one.values, w) for one, w in zip(received, weights, strict=True)]
        return Mixture([own], [1.0], pulls)

    def mistake(self, numbers: Sequence[int], values: Tensor, layout: str) -> str | None:
        """The reason for which received fragments, one after the other, cannot be used, or None."""
        if layout != self.digest:
            return f"its fragments have another layout, {layout[: 2 * _DIGEST_BYTES]!r} instead of '{self.digest}'"
        size = 0
        for number in numbers:
            if not 0 <= number < self.count:
                return f"its fragment is number {number}, and there are {self.count}"
            size += self.sizes[number]
        if values.shape != (size,) or values.dtype != torch.float32:
            named = f"fragment {numbers[0]} is" if len(numbers) == 1 else f"{len(numbers)} fragments are"
            return f"its {named} not {size} float32 numbers"
        return None

    def in_words(self) -> str:
        """The number and the sizes of the fragments, in one line."""
        if self.count == 1:
            return f"1 fragment of {self._size:,} values"
        least, most = min(self.sizes), max(self.sizes)
        sizes = f"{least:,} values each" if least == most else f"{least:,} to {most:,} values"
        empty = self.sizes.count(0)
        return f"{self.count:,} fragments of {sizes}" + (f"; {empty:,} of them are empty" if empty else "")


def _per_tensor(pieces: Iterable[Piece], count: int, draw: np.random.Generator) -> _Ids:
    found = []
    for piece in pieces:
        each = piece.size // count
        holder = np.minimum(np.arange(piece.size) // each, count - 1) if each else np.full(piece.size, count - 1)
        found.append(draw.permutation(holder))
    return np.concatenate(found).astype(np.int64)


def _spread(pieces: Iterable[Piece], count: int, draw: np.random.Generator) -> _Ids:
    at, found = 0, []
    for piece in pieces:
        found.append(draw.permutation(np.arange(at, at + piece.size) % count))
        at += piece.size
    return np.concatenate(found).astype(np.int64)


def _random(pieces: Iterable[Piece], count: int, draw: np.random.Generator) -> _Ids:
    return draw.permutation(np.arange(_numbers_of(pieces)) % count).astype(np.int64)


def _contiguous(pieces: Iterable[Piece], count: int, draw: np.random.Generator) -> _Ids:
    return (np.arange(size := _numbers_of(pieces)) * count // size).astype(np.int64)


def _strided(pieces: Iterable[Piece], count: int, draw: np.random.Generator) -> _Ids:
    return (np.arange(_numbers_of(pieces)) % count).astype(np.int64)


def _per_layer(pieces: Iterable[Piece], count: int, draw: np.random.Generator) -> _Ids:
    """Give each layer, the largest first, to the smallest fragment."""
    layers: dict[str, list[Piece]] = {}
    for piece in pieces:
        layers.setdefault(piece.name.rpartition(".")[0] or piece.name, []).append(piece)
    found, sizes = np.empty(_numbers_of(pieces), np.int64), [0] * count
    for layer in sorted(layers.values(), key=_numbers_of, reverse=True):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += _numbers_of(layer)
        for piece in layer:
            found[piece.start : piece.stop] = smallest
    return found


def _numbers_of(pieces: Iterable[Piece]) -> int:
    return sum(piece.size for piece in pieces)


_RULES: dict[str, Callable[[Iterable[Piece], int, np.random.Generator], _Ids]] = {
    "per-tensor": _per_tensor,
    "spread": _spread,
    "random": _random,
    "contiguous": _contiguous,
    "strided": _strided,
    "per-layer": _per_layer,
}
"""The fragment that holds each number, P, by the rule that cuts."""
