"""The shared part of a model: its extraction, and its way back into a model.

A flat model holds trained tensors, then frozen ones, then buffers such as the statistics of BatchNorm. The shared part
has all or some of the trained tensors, and buffers. Frozen tensors are never sent or written. The rest stays local to
the node. A program uses it so:

    self.selection = Selection.of(setting)                          # in `prepare`
    part = self.selection.take(node.model)                          # S numbers: trained ones, then buffers
    node.send(peers, Push(model=part))                              # a `Content` with a Tensor
    received = node.usable(inbox, Push, model=self.selection.entry)
    node.model = self.selection.put(node.model, Mixture([part, *(push.model for push in received)], weights))

If the whole model is shared, `take` and `put` copy nothing, and the engine computes mixtures of many nodes together.

Buffers may only be combined with weights of zero or more that sum to 1: a variance must not become negative. Apply
other weights to the trained numbers only, `part[: selection.trained]`, and give `put` the buffers separately:
`selection.put(node.model, trained, buffers)`.

Shapes: P numbers of a model, S of its shared part, B of its shared buffers.
"""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from covey.learning.mixture import Mixture, computed
from covey.learning.node import MODEL, Update
from covey.messages import wire
from covey.parts.errors import ConfigurationError, ModelError
from covey.parts.parameters import Setting
from covey.parts.pieces import ROLES, Piece
from covey.runtime.entries import Numbers, narrowed
from covey.runtime.node import Wanted

Share: TypeAlias = Literal["trained"] | list[str]
Buffers: TypeAlias = Literal["average", "keep", "refuse"]

_NAMED = 4
"""The greatest number of tensors that an error message names."""


class Selection:
    """The shared part of the models of an experiment.

    Args:
        setting: the experiment and its model.
        trained: the trained tensors that are shared.
        buffers: the buffers that are shared.
        beside: send buffers as a separate vector, instead of the end of the shared part.

    Attributes:
        size: S, the numbers of the shared part.
        trained: the count of trained numbers, at the front of the part.
        buffered: B, the numbers of shared buffers, in the part or beside it.
        beside: True if there are buffers beside the part.
        pieces: the tensors of the shared part.
        tensors: the tensors of the shared part and the buffers beside it.
        is_whole: True if the shared part is the model.
    """

    def __init__(
        self, setting: Setting, trained: Sequence[Piece], buffers: Sequence[Piece] = (), *, beside: bool = False
    ) -> None:
        self.buffered = sum(piece.size for piece in buffers)
        self.beside = beside and self.buffered > 0
        self._trained, self._buffers = _slices(trained), _slices(buffers)
        self._part = self._trained if beside else _slices([*trained, *buffers])
        self.tensors = [*trained, *buffers]
        self.pieces = list(trained) if beside else self.tensors
        self.trained = sum(piece.size for piece in trained) if setting.pieces else setting.parameters
        self.size = self.trained if beside else self.trained + self.buffered
        self.is_whole = self.size == setting.parameters
        self._parameters = setting.parameters
        self.entry: Wanted = MODEL if self.is_whole else narrowed(Tensor, Numbers(self.size))
        """The type of a message's entry with a shared part."""
        of_role = {role: [p for p in setting.pieces if p.role == role] for role in ROLES}
        self._all_move = len(of_role["trained"]) == len(setting.pieces)
        self._moving = slice(sum(piece.size for piece in of_role["trained"]))
        self._averaged = slice(setting.parameters - sum(piece.size for piece in of_role["buffer"]), None)

    @classmethod
    def of(
        cls,
        setting: Setting,
        share: Share = "trained",
        buffers: Buffers = "average",
        *,
        owner: str = "the program",
        beside: bool = False,
    ) -> "Selection":
        """The shared part of the model of an experiment; all of it while the model is not known.

        Args:
            setting: the experiment.
            share: all trained tensors, or patterns of their names.
            buffers: "average" them, "keep" each node's own, or "refuse" models with buffers. With patterns, the
                buffers are averaged whose name a pattern matches, or whose layer has a shared tensor.
            owner: the part that shares, for messages.
            beside: send buffers as a separate vector.

        Raises:
            ConfigurationError: a pattern matches no trained tensor, or the model has buffers that are refused.
        """
        of_role = {role: [p for p in setting.pieces if p.role == role] for role in ROLES}
        found = of_role["buffer"]
        if found and buffers == "refuse":
            raise ConfigurationError(
                f"The 'buffers' of {owner} is 'refuse', and the model has {_listed(found)}. Use 'average' or 'keep', "
                f"or a model without buffers, such as one with GroupNorm instead of BatchNorm."
            )
        if setting.pieces and not of_role["trained"]:
            raise ConfigurationError(f"The model has no trained tensors, so {owner} has nothing to share.")
        chosen = of_role["trained"]
        if share != "trained" and setting.pieces:
            for pattern in share:
                _check_pattern(pattern, setting.pieces, owner)
            chosen = _matching(share, of_role["trained"])
            layers = {_layer_of(piece) for piece in chosen}
            matched = {piece.name for piece in _matching(share, found)}
            found = [piece for piece in found if piece.name in matched or _layer_of(piece) in layers]
        return cls(setting, chosen, found if buffers == "average" else (), beside=beside)

    def narrowed(self, setting: Setting) -> Setting:
        """The setting of a part for which the shared part is the whole model."""
        if self.is_whole:
            return setting
        at, pieces = 0, []
        for piece in self.pieces:
            pieces.append(replace(piece, start=at, stop=at + piece.size))
            at += piece.size
        return replace(setting, parameters=self.size, pieces=tuple(pieces))

    # ------------------------------------------------------------------ out of a model, and into it

    def take(self, model: Tensor) -> Tensor:
        """The shared part of a model; a view if it is contiguous."""
        return model if self.is_whole else _taken(model, self._part)

    def buffers(self, model: Tensor) -> Tensor:
        """The shared buffers of a model."""
        return _taken(model, self._buffers)

    def split(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """The trained numbers of a shared part, and its buffers."""
        return part[: self.trained], part[self.trained :]

    def put(self, model: Tensor, part: Tensor | Mixture, buffers: Tensor | Mixture | None = None) -> Tensor | Mixture:
        """A model with another shared part. The rest is that of `model`, to the bit.

        Args:
            model: a whole model, which is not changed.
            part: S numbers, without buffers if these are given separately.
            buffers: B numbers.
        """
        if buffers is None:
            return part if self.is_whole else _Assembled(model, [(self._part, part)])
        return _Assembled(model, [(self._trained, part), (self._buffers, buffers)])

    def applied(self, update: Update, model: Tensor | Mixture) -> Tensor | Mixture:
        """A model plus the change of training.

        Buffers are not added. Those that have changed since training started become the mean of their current and their
        trained values, and the others become their trained values.
        """
        if self._all_move:
            mixture = model if isinstance(model, Mixture) else Mixture([model], [1.0])
            return mixture.plus([update.model, update.start], [1.0, -1.0])
        moved = (model if isinstance(model, Tensor) else model.tensor()).clone()
        moved[self._moving] += update.model[self._moving] - update.start[self._moving]
        now, trained, start = (numbers[self._averaged] for numbers in (moved, update.model, update.start))
        moved[self._averaged] = torch.where(now == start, trained, torch.lerp(now, trained, 0.5))
        return moved

    def halfway(self, model: Tensor, theirs: Tensor, mine: Tensor) -> Tensor | Mixture:
        """A model moved by half the difference of the shared part of a peer and an earlier one of its own.

        Buffers become the mean of the current ones and the peer's: a model that trained meanwhile may have smaller
        variances than `mine`.
        """
        parts = [self.take(model), theirs, mine]
        if not self.buffered:
            return self.put(model, Mixture(parts, [1.0, 0.5, -0.5]))
        trained, buffers = zip(*map(self.split, parts), strict=True)
        return self.put(model, Mixture(trained, [1.0, 0.5, -0.5]), Mixture(buffers[:2], [0.5, 0.5]))

    # ------------------------------------------------------------------ description

    def in_words(self) -> str:
        """The size and the tensors of the shared part, in one line."""
        found = f"{self.trained:,} trained numbers"
        if self.buffered:
            found += f" and {self.buffered:,} of buffers"
        return f"{found}, of the {self._parameters:,} of a model: {_listed(self.tensors)}"

    def part_bytes(self, model_bytes: int) -> int:
        """The bytes of a message with a shared part, from those of a message with a whole model."""
        return model_bytes if self.is_whole else model_bytes - _bytes_of(self._parameters) + _bytes_of(self.size)

    def beside_bytes(self) -> int:
        """The bytes that the buffers beside the part, if there are any, add to a message."""
        return _bytes_of(self.buffered, BUFFERS) - wire.size({}) if self.beside else 0


BUFFERS = "buffers"
"""The name of a message's entry with the buffers beside the part."""


def _bytes_of(count: int, name: str = "model") -> int:
    """The bytes of a message with `count` float32 numbers."""
    return wire.size({name: torch.empty(count)})


class _Assembled(Mixture):
    """A model with some numbers replaced, usually by a mixture."""

    __slots__ = ("_parts",)

    def __init__(self, model: Tensor, parts: Sequence[tuple[Sequence[slice], Tensor | Mixture]]) -> None:
        super().__init__([computed(model)], [1.0])
        self._parts = parts
        for _, part in parts:
            if isinstance(part, Mixture):
                part.settle()

    def tensor(self) -> Tensor:
        if self.value is None:
            assert self.models is not None
            total = self.models[0].clone()
            for spans, part in self._parts:
                at, numbers = 0, part.tensor() if isinstance(part, Mixture) else part
                size = sum(span.stop - span.start for span in spans)
                if numbers.shape != (size,) or numbers.dtype != torch.float32:
                    raise ModelError(
                        f"The shared part of a model must be {size} float32 numbers. "
                        f"Got {tuple(numbers.shape)} of {numbers.dtype} instead."
                    )
                for span in spans:
                    total[span] = numbers[at : at + span.stop - span.start]
                    at += span.stop - span.start
            self._parts = ()
            self.fix(total)
            return total
        return self.value

    def plus(self, models: Sequence[Tensor], weights: Sequence[float]) -> Mixture:
        return Mixture([self.tensor(), *models], [1.0, *weights])

    def kept(self, keep: Callable[[Tensor], Tensor]) -> Mixture:
        assert self.models is not None

        def kept(part: Tensor | Mixture) -> Tensor | Mixture:
            if isinstance(part, Mixture):
                return part.kept(keep) if part.value is None else keep(part.value)
            return keep(part)

        return _Assembled(keep(self.models[0]), [(spans, kept(part)) for spans, part in self._parts])


def _slices(pieces: Iterable[Piece]) -> list[slice]:
    """The positions of tensors, as few slices as possible."""
    found: list[slice] = []
    for piece in pieces:
        if found and found[-1].stop == piece.start:
            found[-1] = slice(found[-1].start, piece.stop)
        else:
            found.append(slice(piece.start, piece.stop))
    return found


def _taken(model: Tensor, spans: Sequence[slice]) -> Tensor:
    if len(spans) == 1:
        return model[spans[0]]
    return torch.cat([model[span] for span in spans]) if spans else model[:0]


def _matching(patterns: Iterable[str], pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if any(fnmatchcase(piece.name, pattern) for pattern in patterns)]


def _layer_of(piece: Piece) -> str:
    return piece.name.rpartition(".")[0]


def _check_pattern(pattern: str, pieces: Sequence[Piece], owner: str) -> None:
    """Refuse a pattern that does not match a trained tensor.

    Raises:
        ConfigurationError: it matches none.
    """
    matched = _matching([pattern], pieces)
    if any(piece.role == "trained" for piece in matched):
        return
    trained = [piece.name for piece in pieces if piece.role == "trained"]
    near = difflib.get_close_matches(pattern.replace("*", ""), trained, n=_NAMED, cutoff=0.4) or trained[:_NAMED]
    alone = " and ".join(sorted({_PLURAL[piece.role] for piece in matched}))
    what = f"matches only {alone}: {_listed(matched)}" if matched else "matches none"
    layers = {_layer_of(piece) for piece in matched if piece.role == "buffer"}
    whole = sorted(
        f"'{layer}.*'" for layer in layers & {_layer_of(piece) for piece in pieces if piece.role == "trained"}
    )
    if whole:
        what += (
            f". Buffers are averaged only together with trained tensors of their layer: write "
            f"{' or '.join(whole[:_NAMED])}"
        )
    raise ConfigurationError(
        f"The 'share' of {owner} must be 'trained' or patterns of names, each of which matches a trained tensor of the "
        f"model. Got {pattern!r} instead, which {what}. Trained are {', '.join(near)}"
        f"{' ...' if len(near) < len(trained) else ''}."
    )


_PLURAL = {"frozen": "frozen tensors", "buffer": "buffers"}


def _listed(pieces: Sequence[Piece]) -> str:
    names = ", ".join(f"'{piece.name}'" for piece in pieces[:_NAMED])
    return names if len(pieces) <= _NAMED else f"{names} and {len(pieces) - _NAMED} more"
