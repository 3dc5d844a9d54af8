"""Send to each neighbour a low-rank factor of the difference to its model (PowerGossip: Vogels et al., 2020).

The two ends of an edge want the difference D of their models, matrix by matrix, and neither can form it. Both know the
same directions, so each sends its own model times these, and subtracts: a step of the power iteration on D. What they
find are the directions of the next step, in turn from the right (D Q, which has the matrix's rows) and from the left
(P' D, which has its columns).

Shapes: D neighbours, S numbers of the factors of all matrices, R rank, M and K sides of a matrix, P parameters.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing
from covey.decentralized.topology import Topology
from covey.learning.node import LearningNode
from covey.learning.views import Adversary, Arrived, View
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting, param
from covey.runtime.content import Content
from covey.runtime.entries import Numbers
from covey.runtime.node import Inbox
from covey.runtime.state import State


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A tensor of the model, and the rank of the exchanged differences of it."""

    span: slice
    sides: tuple[int, int]
    rank: int

    def of(self, model: Tensor) -> Tensor:
        """Its numbers in a flat model, M x K."""
        return model[self.span].view(self.sides)


class Exchanged(State):
    """The factors of a node's exchanges."""

    factors: Tensor | None = None
    """The result of the last one along each edge, D x S."""
    next: int = 0
    """The number of the exchange that continues from it."""
    marks: Tensor
    """The numbers of the factors of each edge, in the exchange that is under way."""
    directions: Tensor
    """The directions in that exchange, D x S."""
    own: Tensor
    """The node's model times these, D x S."""


class Factor(Content):
    """One end's part of an exchange along an edge."""

    factor: Tensor
    """The sender's model times the directions, S numbers."""
    mark: Annotated[Tensor, Numbers(1, "int64")]
    """The number of the factors from which the directions come."""
    vectors: Tensor | None = None
    """In the last exchange of a round, the numbers of the model that are in no matrix."""


class PowerGossip(Sharing):
    """Low-rank differences along each edge, by one step of a power iteration for each message."""

    kind = "power-gossip"
    several: ClassVar[bool] = True
    rank: int = param(
        "The rank of the difference that a message describes; at most the smaller side of a matrix.", default=1, ge=1
    )
    iterations: int = param("The number of exchanges in a round.", default=1, ge=1, le=1000)

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._matrices: list[_Matrix] = []
        vectors = []
        for piece in setting.pieces:
            if len(piece.shape) < 2:
                vectors.append(torch.arange(piece.start, piece.stop))
            else:
                sides = piece.shape[0], piece.size // max(piece.shape[0], 1)
                self._matrices.append(_Matrix(slice(piece.start, piece.stop), sides, min(self.rank, *sides)))
        if setting.pieces and not self._matrices:
            raise ConfigurationError(
                "The sharing power-gossip needs a tensor of two or more dimensions, and the shared part of this "
                "model has none. Use sharing 'full'."
            )
        self._vectors = torch.cat(vectors) if vectors else torch.empty(0, dtype=torch.int64)
        self._lengths = [[matrix.rank * matrix.sides[side] for matrix in self._matrices] for side in (0, 1)]
        draw = setting.generator("power-gossip marks")
        self._odd = torch.from_numpy(draw.integers(-(2**62), 2**62, max(map(sum, self._lengths))) * 2 + 1)
        self._fresh: tuple[int, Tensor] = -1, torch.empty(0)

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        if not topology.can_be_drawn():
            return
        graph = topology.at(0)
        if not topology.static or not graph.is_undirected:
            what = "directed" if topology.static else "not static"
            raise ConfigurationError(
                "The sharing power-gossip needs a static undirected graph, because both ends of an edge continue "
                f"from their last exchange, and {topology.title()} is {what}. Use topology 'random-regular' or "
                "'torus'."
            )
        weights_E = aggregation.of_edges(graph)
        if weights_E is None:
            raise ConfigurationError(
                f"The sharing power-gossip needs a weight for each neighbour, and the aggregation "
                f"{aggregation.title()} has none. Use aggregation 'metropolis-hastings'."
            )
        # Edges lie in the order of their targets, then sources: sorted the other way, each is the reverse of itself.
        reverse_E = np.lexsort((graph.targets, graph.sources))
        if not np.allclose(weights_E, weights_E[reverse_E], rtol=1e-6, atol=0):
            raise ConfigurationError(
                f"The sharing power-gossip needs the same weight at both ends of an edge, and the aggregation "
                f"{aggregation.title()} gives others. Use aggregation 'metropolis-hastings'."
            )

    # ------------------------------------------------------------------ a round

    async def send(self, round: Round) -> None:
        for turn in range(self.iterations - 1):
            step, tag = round.t * self.iterations + turn, _tag(turn)
            for receivers, payload in self._said(round, step, last=False):
                round.send(receivers, payload, tag)
            round.node.model = self._merged(round, step, await round.receive(tag), last=False)
        await super().send(round)

    def outgoing(self, round: Round) -> Messages:
        return self._said(round, (round.t + 1) * self.iterations - 1, last=True)

    def merge(self, round: Round, inbox: Inbox) -> Tensor:
        return self._merged(round, (round.t + 1) * self.iterations - 1, inbox, last=True)

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        """The numbers that are in no matrix. Factors tell of matrices along directions that only both ends know."""
        for message in messages:
            if message.tag == "" and len(self._vectors):
                for factor in adversary.usable([message], Factor, vectors=Numbers(len(self._vectors))):
                    yield self.view(adversary, message, factor.vectors, self._vectors)

    # ------------------------------------------------------------------ one exchange

    def _said(self, round: Round, step: int, *, last: bool) -> Messages:
        """The messages of an exchange, and the state for its end."""
        node, senders, model = round.node, round.senders, round.node.model
        if not senders:
            return
        factors_DS = self._factors(node, len(senders), step).to(model.device)
        marks_D = self._marks(factors_DS.cpu())
        directions_DS = self._orthonormal(factors_DS, 1 - step % 2)
        own_DS = self._through(model, directions_DS, step % 2)
        exchanged = node.keep(Exchanged, self)
        exchanged.marks, exchanged.directions, exchanged.own = marks_D, directions_DS, own_DS
        vectors = model[self._vectors.to(model.device)] if last and len(self._vectors) else None
        row_of = {peer: row for row, peer in enumerate(senders)}
        for peer in round.receivers:
            row = row_of[peer]
            yield [peer], Factor(factor=own_DS[row], mark=marks_D[row : row + 1], vectors=vectors)

    def _merged(self, round: Round, step: int, inbox: Inbox, *, last: bool) -> Tensor:
        """The model after an exchange. Factors continue where both ends had the same; others start anew."""
        node, senders, model, side = round.node, round.senders, round.node.model, step % 2
        if not senders:
            return model
        exchanged = node.keep(Exchanged, self)
        directions_DS, own_DS, marks = exchanged.directions, exchanged.own, exchanged.marks.tolist()
        del exchanged.directions, exchanged.own, exchanged.marks
        wanted = {"factor": Numbers(sum(self._lengths[side]))}
        if last and len(self._vectors):
            wanted["vectors"] = Numbers(len(self._vectors))
        right = {factor.sender: factor for factor in node.usable(inbox, Factor, **wanted)}
        received = [(row, right[peer]) for row, peer in enumerate(senders) if peer in right]
        agreed = [(row, factor) for row, factor in received if int(factor.mark) == marks[row]]
        weights = list(round.weights(node.id).values())
        weights_D1 = torch.tensor(weights, dtype=torch.float32, device=model.device).unsqueeze(1)
        below_D1 = torch.tensor([node.id < peer for peer in senders], device=model.device).unsqueeze(1)
        merged = model.clone()
        if last and len(self._vectors) and received:
            indices = self._vectors.to(model.device)
            theirs = torch.stack([factor.vectors for _, factor in received if factor.vectors is not None]).to(
                model.device
            )
            of_received_D1 = weights_D1 if len(received) == len(senders) else weights_D1[[row for row, _ in received]]
            merged[indices] += ((theirs - model[indices]) * of_received_D1).sum(0)
        rows = [row for row, _ in agreed]
        if len(rows) < len(senders):
            factors_DS = self._start(step + 1).repeat(len(senders), 1).to(model.device)
            directions_DS, own_DS = directions_DS[rows], own_DS[rows]
            weights_D1, below_D1 = weights_D1[rows], below_D1[rows]
        if agreed:
            theirs = torch.stack([factor.factor for _, factor in agreed]).to(model.device)
            change = theirs - own_DS
            self._add(merged, change * weights_D1, directions_DS, side)
            # The same subtraction at both ends, so that both have the same bits, the sign of zero included.
            found = torch.where(below_D1, change, own_DS - theirs)
            if len(rows) < len(senders):
                factors_DS[rows] = found
            else:
                factors_DS = found
        exchanged.factors, exchanged.next = factors_DS, step + 1
        return merged

    def _factors(self, node: LearningNode, count: int, step: int) -> Tensor:
        """The factors along each edge from the exchange before; new ones if this node took no part in it."""
        exchanged = node.keep(Exchanged, self)
        if exchanged.factors is not None and exchanged.next == step:
            return exchanged.factors
        return self._start(step).repeat(count, 1)

    def _start(self, step: int) -> Tensor:
        """Directions that all nodes draw alike, for an exchange before which an edge has none."""
        if self._fresh[0] != step:
            draw = self._setting.generator("power-gossip", step)
            numbers = draw.standard_normal(sum(self._lengths[1 - step % 2]), dtype=np.float32)
            self._fresh = step, torch.from_numpy(numbers)
        return self._fresh[1]

    def _marks(self, factors_DS: Tensor) -> Tensor:
        """A number for the bits of each row; where rows differ, it is the same once in 2^33 cases at most."""
        return (factors_DS.view(torch.int32).to(torch.int64) * self._odd[: factors_DS.shape[1]]).sum(1)

    # ------------------------------------------------------------------ all matrices, for all neighbours at once

    def _parts(self, factors_DS: Tensor, side: int) -> Iterator[tuple[_Matrix, Tensor]]:
        """Each matrix and its factors in rows, those of one neighbour after those of another: DR x M or DR x K."""
        parts = torch.split(factors_DS, self._lengths[side], dim=1)
        for matrix, part in zip(self._matrices, parts, strict=True):
            yield matrix, part.reshape(-1, matrix.sides[side])

    def _orthonormal(self, factors_DS: Tensor, side: int) -> Tensor:
        """Orthonormal directions that span the factors.

        In float64, in which factors of the same bits give the same float32 directions whichever machine computes them,
        even where they almost depend on each other. Where they are zero, Householder's method gives a unit vector,
        with which a difference that vanished for a while is found again.
        """
        count, found = len(factors_DS), []
        for matrix, part in self._parts(factors_DS.double(), side):
            columns = part.view(count, matrix.rank, -1).mT
            found.append(torch.linalg.qr(columns).Q.mT.reshape(count, -1))
        return torch.cat(found, 1).float()

    def _through(self, model: Tensor, directions_DS: Tensor, side: int) -> Tensor:
        """The matrices of a model times directions, of which one side remains."""
        count, found = len(directions_DS), []
        for matrix, directions in self._parts(directions_DS, 1 - side):
            numbers = matrix.of(model)
            found.append((directions @ (numbers if side else numbers.T)).view(count, -1))
        return torch.cat(found, 1)

    def _add(self, model: Tensor, change_DS: Tensor, directions_DS: Tensor, side: int) -> None:
        """Add the low-rank matrices that factors and directions make together, over all neighbours."""
        both = zip(self._parts(change_DS, side), self._parts(directions_DS, 1 - side), strict=True)
        for (matrix, change), (_, directions) in both:
            left, right = (directions, change) if side else (change, directions)
            matrix.of(model).addmm_(left.T, right)


def _tag(turn: int) -> str:
    return f"power-gossip {turn}"
