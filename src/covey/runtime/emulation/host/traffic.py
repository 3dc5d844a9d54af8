"""The messages that leave or reach the nodes of a host: over links, and through sockets to other hosts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from covey.messages import wire
from covey.network.faults import CORRUPT
from covey.parts import rng
from covey.runtime.emulation.host.links import Copy, Departure, Downlink, Lateness, SharedUplink, Throughput, Uplink
from covey.runtime.emulation.transport.connection import Corrupted, Parts, readdressed
from covey.runtime.node import Message
from covey.runtime.running_node import RunningNode

if TYPE_CHECKING:
    from covey.runtime.emulation.host.stage import HostStage


class Traffic:
    """Carries the messages of a host's nodes.

    Args:
        stage: the nodes.
    """

    def __init__(self, stage: "HostStage") -> None:
        self._stage, network = stage, stage.network
        self._key = rng.purpose_key(stage.seed, "message loss")
        self.sending_late, self.receiving_late = Lateness(), Lateness()
        self.carried = Throughput()
        """The throughput of the uplinks of all nodes."""
        ups, downs = network.uplink_rates(), network.downlink_rates()
        self._latency_to_names: dict[int, float] = {}
        self._up = [float("inf")] * stage.size if ups is None else ups.tolist()
        self.uplinks = {id: self._uplink(node) for id, node in stage.nodes.items()}
        self._downlinks = {
            id: Downlink(
                float("inf") if downs is None else float(downs[id]),
                stage.guarded(stage.delivery(node)),
                self.receiving_late,
                stage.most,
                stage.refuse,
            )
            for id, node in stage.nodes.items()
        }

    def _uplink(self, node: RunningNode) -> Uplink:
        def withdrawn(copy: Copy) -> None:
            node.count_sent(wire.lengths(copy.message.shared, copy.message.tag), -1)
            self._forget(copy)

        stage, rate = self._stage, self._up[node.id]
        kind = SharedUplink if stage.network.queue == "fair" else Uplink
        emit = stage.guarded(self._emit)
        return kind(rate, emit, withdrawn, self.sending_late, self.carried, stage.most, stage.refuse)

    def carry(self, node: RunningNode, fates: Iterable[tuple[int, float | str]], message: Message) -> Departure:
        """Send a message to some nodes.

        Args:
            node: its sender.
            fates: each receiver with the factor by which sending takes longer, or with the reason why its copy is lost.
            message: the message.
        """
        stage, departure = self._stage, Departure(self.uplinks[node.id])
        for receiver, fate in fates:
            # Within a host there are no bytes to corrupt.
            garbled = fate == CORRUPT and stage.owners[receiver] != stage.me
            if isinstance(fate, str) and not garbled:
                stage.refuse(fate)
                continue
            latency = stage.network.latency.between(node.id, receiver)
            slower = 1.0 if isinstance(fate, str) else fate
            self._depart(node, Copy(message, receiver, latency, departure, slower, garbled))
        return departure

    def carry_to_names(self, node: RunningNode, copies: Iterable[Message]) -> Departure:
        """Send messages of a virtual node of a node, each to its name."""
        departure = Departure(self.uplinks[node.id])
        for message in copies:
            assert message.name is not None
            latency = self._mean_latency(node.id) * message.legs
            self._depart(node, Copy(message, message.name, latency, departure, message.load))
        return departure

    def _mean_latency(self, sender: int) -> float:
        """The mean latency from a node to all others: this host does not know which of them acts under a name."""
        if sender not in self._latency_to_names:
            latency, others = self._stage.network.latency, self._stage.ids - {sender}
            uniform = latency.uniform_value()
            if uniform is None:
                uniform = sum(latency.between(sender, other) for other in others) / max(len(others), 1)
            self._latency_to_names[sender] = uniform
        return self._latency_to_names[sender]

    def _depart(self, node: RunningNode, copy: Copy) -> None:
        mail, message = self._stage.mail, copy.message
        if mail is not None:
            if message.round is None and not mail.has_loose:
                self._stage.say("loose", {})
            mail.post([copy.receiver], message)
        if not self.uplinks[node.id].add(copy):
            self._forget(copy)

    def _forget(self, copy: Copy) -> None:
        """Note that a copy is no longer in transit on this host."""
        if self._stage.mail is not None:
            self._stage.mail.withdraw([copy.receiver], copy.message)

    def withdraw(self, node: RunningNode, tag: str | None) -> int:
        """Withdraw the messages of one tag, or all, that have not left a node. Return the number of copies."""
        return self.uplinks[node.id].withdraw(lambda copy: tag in (None, copy.message.tag))

    def _emit(self, copy: Copy) -> None:
        """Write a copy to a socket, or deliver it to a node of this host, when its time in transit is over."""
        stage, message = self._stage, copy.message
        if message.name is not None:
            assert stage.names is not None
            stage.names.emit(message)
            return
        owner = stage.owners[copy.receiver]
        if owner == stage.me:
            self.arrive(copy.receiver, message)
            return
        self._forget(copy)
        assert stage.peers is not None
        stage.peers.send(owner, message.size, stage.guarded(lambda: self._frame(copy)))

    def _frame(self, copy: Copy) -> Parts:
        """The frame of a copy. All copies of a message share one encoding."""
        message, departure = copy.message, copy.sending
        if departure.frame is None:
            with self._stage.measured(self._stage.nodes[message.sender], "encoding"):
                departure.frame = wire.encode_parts(
                    message.shared, tag=message.tag, sender=message.sender, round=message.round, number=message.number
                )
        addressed = readdressed(departure.frame, copy.receiver)
        if copy.garbled:
            return Corrupted(addressed, rng.mix(self._key, message.sender, copy.receiver, message.number))
        return addressed

    def arrive(self, receiver: int, message: Message) -> None:
        """Give a message whose last bit arrives now to the downlink of its receiver."""
        mail = self._stage.mail
        # The rate of a name is not known: it counts as that of the receiver.
        rate = self._up[receiver if message.name is not None else message.sender]
        if not self._downlinks[receiver].add(message, rate) and mail is not None:
            mail.withdraw([receiver], message)
