"""Sharings in which every node has a public copy, which its neighbours follow by its changes.

If no message may be missed, a node keeps its own copy and only the weighted sum of its neighbours' copies:
s_i = sum_j W_ij c_j, its own included. Where nodes have patience, which ends, a node keeps the copy of every neighbour:
who missed a change asks for the whole copy (`followed`). Weights must never change in both cases.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.sharing.compressed import Compressed
from covey.decentralized.sharing.followed import Change, Followed, WholeCopy
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages
from covey.decentralized.topology import Topology
from covey.learning.mixture import Mixture
from covey.learning.views import Adversary, Arrived, View
from covey.messages.compression import FIRST_MARK, Decompressed, next_mark
from covey.parts.errors import ConfigurationError, ProgramError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.content import Content
from covey.runtime.entries import Numbers
from covey.runtime.node import Inbox, Node
from covey.runtime.reading import understood
from covey.runtime.state import State

_ROUNDING = 1e-6
"""Weights that a file gives may be rounded."""


class Summed(State):
    """The copies that a node knows if no message is missed."""

    copy: Tensor
    """The node's own copy."""
    total: Tensor
    """The weighted sum of its own copy and its neighbours'."""
    complete: int = 0
    """The number of rounds in which it received all changes."""


class PublicCopies(Compressed):
    """Sends the compressed difference between a node's model and its public copy, and adds it to the copy."""

    gamma: float = param(
        "The step towards the neighbours' copies. Tune it together with the compression.",
        gt=0,
        le=1,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._patient, self._losses = setting.patient, setting.losses

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._latest_copies: dict[NodeId, tuple[bytes, Tensor]] = {}

    def check_with(self, topology: Topology, aggregation: Aggregation) -> None:
        if not topology.static:
            raise ConfigurationError(
                f"The sharing {self.title()} needs a static topology, because a node receives only the changes of its "
                f"neighbours. Got the topology {topology.title()} instead. Use a static one such as 'random-regular', "
                "or a sharing without copies, such as 'top-k', 'random' or 'quantized'."
            )
        if not topology.can_be_drawn():
            return
        needs = f"The sharing {self.title()} needs an aggregation with constant, doubly stochastic weights, "
        graph = topology.at(0)
        weights_E = aggregation.of_edges(graph)
        if weights_E is None:
            raise ConfigurationError(
                f"{needs}and {aggregation.title()} has no weights at all. Use 'metropolis-hastings' instead."
            )
        if self._patient and not graph.is_undirected:
            why = "'patience'" + "".join(f" and {what}" for what in self._losses)
            raise ConfigurationError(
                f"The sharing {self.title()} needs an undirected graph where messages may be missed (here by {why}): "
                f"a node that missed one asks its sender for the whole copy. Got {topology.title()} instead, which is "
                "directed."
            )
        rows, columns = (np.bincount(ends_E, weights_E, graph.n) for ends_E in (graph.targets, graph.sources))
        over = f"but over the topology {topology.title()} the weights of {aggregation.title()} give"
        for node in range(graph.n):
            if abs(rows[node] - columns[node]) > _ROUNDING:
                raise ConfigurationError(
                    f"{needs}{over} node {node} a total of {columns[node]:.4g} at its neighbours, and the neighbours "
                    f"{rows[node]:.4g} at it. Use 'metropolis-hastings' on an undirected graph."
                )
            if rows[node] > 1.0 + _ROUNDING:
                raise ConfigurationError(
                    f"{needs}{over} the neighbours of node {node} a total of {rows[node]:.4g}, which is more than 1."
                )

    def first_copy(self, start: Tensor) -> Tensor:
        """The public copy before the first message, the same at all neighbours.

        Args:
            start: the model that round 0 began with.
        """
        raise NotImplementedError

    @property
    def moves_first(self) -> bool:
        """Whether a node moves by the copies from before a round's messages, or by those after them."""
        return False

    def first_mark(self, start: Tensor) -> bytes:
        """The mark of the public copy before the first message, the same at all nodes with equal copies."""
        return FIRST_MARK

    def outgoing(self, round: Round) -> Messages:
        if self._patient:
            return self._to_each(round)
        node = round.node
        copy, total = self._known(round)
        if self.moves_first:
            node.model = torch.add(node.model, total - copy, alpha=self.gamma)
        payload, change = self.compress(round, node.model - copy)
        copy, total = copy.clone(), total.clone()
        change.add_to(copy)
        change.add_to(total, 1.0 - sum(round.weights(node.id).values()))
        known = node.keep(Summed, self)
        known.copy, known.total = copy, total
        return [(round.receivers, payload)]

    def _known(self, round: Round) -> tuple[Tensor, Tensor]:
        """A node's public copy, and the weighted sum of its own and its neighbours'.

        Raises:
            ProgramError: it was away, and missed changes.
        """
        node, t = round.node, round.t
        known = node.keep(Summed, self)
        if known.complete != t:
            silent = f"{known.complete}" if known.complete == t - 1 else f"{known.complete} to {t - 1}"
            raise ProgramError(self._broken(f"Node {node.id} was away in round {silent}", "its neighbours' copies"))
        if t == 0:
            first = self.first_copy(round.start)
            return first, first
        return known.copy, known.total

    def merge(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        if self._patient:
            return self._from_each(round, inbox)
        node, t = round.node, round.t
        known = node.keep(Summed, self)
        total = known.total.clone()
        changes = self.received(round, inbox)
        for sender, weight in round.weights(node.id).items():
            if sender not in changes:
                missing = f"Node {node.id} has no valid message of node {sender} in round {t}"
                raise ProgramError(self._broken(missing, "the copy of that node"))
            changes[sender].add_to(total, weight)
        known.total, known.complete = total, t + 1
        if self.moves_first:
            return node.model
        return Mixture([node.model, total, known.copy], [1.0, self.gamma, -self.gamma])

    def _broken(self, what: str, copies: str) -> str:
        return (
            f"{what}, and so can never again know {copies}, which the sharing {self.title()} needs. Give the program "
            f"some 'patience', with which missed copies are sent anew."
        )

    # ------------------------------------------------------------------ for attacks

    def views(
        self, adversary: Adversary, topology: Topology, aggregation: Aggregation, messages: Iterable[Arrived]
    ) -> Iterator[View]:
        """The copies after each change. Values that were never sent are those of the first copy, and unknown."""
        start = self.selection.take(adversary.first)
        copies: dict[NodeId, Tensor] = {}
        sent: dict[NodeId, Tensor] = {}
        for message in messages:
            if message.tag:
                continue
            inner, sender = self.without_buffers(message), message.sender
            whole = inner.shared.get("copy")
            if isinstance(whole, Tensor) and whole.shape == start.shape and whole.dtype == start.dtype:
                copies[sender], sent[sender] = whole, torch.ones_like(start, dtype=torch.bool)
            else:
                beside = ("before", "ask", "first")
                vector = self.observed_vector(
                    adversary, inner.renamed("", {n: e for n, e in inner.shared.items() if n not in beside})
                )
                if vector is None:
                    continue
                copies[sender] = copies.get(sender, self.first_copy(start)).clone()
                vector.add_to(copies[sender])
                sent[sender] = sent.get(sender, torch.zeros_like(start, dtype=torch.bool)).clone()
                sent[sender][... if vector.indices is None else vector.indices] = True
            indices = sent[sender].nonzero().flatten()
            yield self.view(adversary, message, copies[sender][indices], indices)

    # ------------------------------------------------------------------ where messages may be missed

    def _to_each(self, round: Round) -> Messages:
        """The messages of a round: the change of the copy or, for nodes that asked, the whole copy."""
        node, start = round.node, round.start
        known = node.keep(Followed, self)
        if known.at < 0:
            known.at, known.copy, known.mark = 0, self.first_copy(start), self.first_mark(start)
            known.copies = dict.fromkeys(round.senders, known.copy)
            known.marks = dict.fromkeys(round.senders, known.mark)
        if self.moves_first:
            node.model = self._pulled(round, known, round.t)
        payload, change = self.compress(round, node.model - known.copy)
        changed: dict[str, Any] = {**payload, "before": known.mark}
        copy, mark = known.copy.clone(), next_mark(known.mark, payload)
        change.add_to(copy)
        self._latest_copies[node.id] = mark, copy
        known.copy, known.mark = copy, mark
        groups: dict[tuple[bool, bool], list[NodeId]] = {}
        for peer in round.receivers:
            groups.setdefault((peer in known.asked, peer in known.behind), []).append(peer)
        return [
            (
                peers,
                WholeCopy(copy=copy, mark=mark, ask=asks) if asked else {**changed, "ask": True} if asks else changed,
            )
            for (asked, asks), peers in groups.items()
        ]

    def _from_each(self, round: Round, inbox: Inbox) -> Tensor | Mixture:
        """The model after a round in which messages may have been missed."""
        node, t = round.node, round.t
        known = node.keep(Followed, self)
        answered, asked, received = known.asked, list[NodeId](), list[NodeId]()
        for said, copy, mark in self._followed(node, known, inbox):
            if copy is not None:
                known.copies[said.sender], known.marks[said.sender] = copy, mark
                received.append(said.sender)
            # A node that was sent the whole copy in this round asked before it had it.
            if said.ask and said.sender not in answered:
                asked.append(said.sender)
        known.at, known.asked, known.received = t + 1, asked, received
        known.behind = sorted({*round.senders} - {*received})
        return node.model if self.moves_first else self._pulled(round, known, t + 1)

    def _followed(
        self, node: Node, known: Followed, inbox: Inbox
    ) -> Iterator[tuple[Change | WholeCopy, Tensor | None, bytes]]:
        """Each usable message, its sender's copy after it, and the mark of the copy; None for a change of an unknown
        copy."""
        for message in inbox:
            if "copy" in message.shared:
                for whole in node.usable([message], WholeCopy, copy=Numbers(self._setting.parameters)):
                    yield whole, whole.copy, whole.mark
            else:
                for change, vector in understood(node, node.usable([message], Change), self._vector):
                    is_known = change.before == known.marks[message.sender]
                    yield change, *(self._changed(known, change, vector) if is_known else (None, change.before))

    def _vector(self, change: Content) -> Decompressed:
        return self.decompress(change.message, change.others)

    def _changed(self, known: Followed, change: Change, vector: Decompressed) -> tuple[Tensor, bytes]:
        """A neighbour's copy after a change, and its mark."""
        sender, mark = change.sender, next_mark(change.before, change.others)
        # All nodes of this process that know the copy of a sender alike share one tensor.
        latest, copy = self._latest_copies.get(sender, (b"", None))
        if copy is None or latest != mark:
            copy = known.copies[sender].clone()
            vector.add_to(copy)
            self._latest_copies[sender] = mark, copy
        return copy, mark

    def _pulled(self, round: Round, known: Followed, t: int) -> Tensor | Mixture:
        """A node's model, moved towards the copies that it knew when round t began."""
        node = round.node
        if known.at != t or not known.received:
            return node.model
        weight_of = round.weights(node.id)
        pulls = [self.gamma * weight_of[peer] for peer in known.received]
        copies = [known.copies[peer] for peer in known.received]
        return Mixture([node.model, *copies, known.copy], [1.0, *pulls, -sum(pulls)])
