"""The messages before masked ones, by which the neighbours of a receiver agree on its sum.

Two messages go over each edge before the masked numbers of a round. The first describes the indices that its sender has
chosen (tag "indices"). The second lists the neighbours on which its sender counts, and describes the indices of the
others among them (tag "others"). Both hold the public keys that are new to their receiver.

Where indices and graph are known before their round begins, the first message is not sent. Its other entries are in the
masked message of the round before. A node that is no neighbour in the round before gets them in a message of its own
(tag "next").
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from covey.decentralized.sharing.agreement import Agreement, IndexSet, Member
from covey.decentralized.sharing.deposits import Deposit, Depositor, Plan, fingerprint
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Sharing
from covey.learning.node import LearningNode
from covey.messages.crypto import KEY_BYTES, KeyPair, Keys, PretendedKeys
from covey.messages.crypto.fixed_point import Integers
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.errors import WireError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param
from covey.runtime.content import Content, entries_of
from covey.runtime.entries import Among
from covey.runtime.node import Inbox, Message
from covey.runtime.reading import understood
from covey.runtime.state import State

if TYPE_CHECKING:
    from covey.decentralized.sharing.recovery import Opened

_KEY, _BOX = "key", "box"
"""The entries with a member's key, and with its box for the receiver, in the message that passes the members on."""


class Introduction(Content):
    """The entries for a neighbour in a round. Other entries of its message describe indices."""

    key: bytes | None = None
    """The public key of the sender, if the receiver may lack it."""
    wants: bool = False
    """True if the sender lacks a key."""
    deposit: bytes | None = None
    """The sender's deposit for the sum of the receiver, if that may be opened."""


class Members(Content):
    """The members of its sender's sum. Other entries of its message describe their indices and hold new keys."""

    members: list[int]
    opens: bool = False
    """True if the sum can be opened if some members are missing."""
    key: bytes | None = None
    """The public key of the sender, if the receiver may lack it."""


class Kept(State):
    """The values that a node's next round needs of its earlier ones."""

    key: bytes = b""
    """The public key of the node."""
    has_key: list[NodeId] = []
    """The neighbours that have the public key."""
    peers: list[NodeId] = []
    """The nodes whose public keys it has."""
    keys: bytes = b""
    """The keys of `peers`, one after the other."""
    ahead: list[int] = []
    """The number of the next round, then four numbers for each neighbour that has introduced itself for it: its id,
    whether it wants a key, whether it sent one, and how many bytes it deposited."""
    deposits: bytes = b""
    """The deposited bytes, one after the other."""
    doubtful: list[NodeId] = []
    """The neighbours that the node leaves out until they show that they receive."""


@dataclass(slots=True)
class Agreed:
    """The state of a node in a round, from its agreement to its merging."""

    t: int
    keys: Keys
    known: dict[NodeId, bytes]
    """The public keys of others."""
    own: Member
    """The node's public key and the indices that it has chosen."""
    described: Payload
    """The entries that describe these indices; none where they are foreseen."""
    has_key: set[NodeId] = field(default_factory=set)
    """The nodes that have the public key of the node."""
    sum: Agreement | None = None
    """The agreement on the node's own sum."""
    towards: dict[NodeId, Agreement] = field(default_factory=dict)
    """The agreements on the sums of its receivers, by receiver."""
    received: set[NodeId] = field(default_factory=set)
    """The receivers whose list of members has arrived."""
    deposits: dict[NodeId, Deposit] = field(default_factory=dict)
    """The deposits for the node's own sum, by the member that made them."""
    boxes: dict[NodeId, dict[NodeId, object]] = field(default_factory=dict)
    """The boxes with the shares for this node, as they arrived, by receiver and by member."""
    arrived: dict[NodeId, Integers] = field(default_factory=dict)
    """The masked numbers for the node's own sum."""
    opened: "Opened | None" = None
    """The secrets that remove from the sum the masks that do not cancel."""
    ahead: dict[NodeId, Introduction] = field(default_factory=dict)
    """The introductions of neighbours for the next round, by sender."""


class Agreeing(Sharing):
    """A sharing in which the neighbours of a receiver agree on their indices and keys before they send numbers."""

    several: ClassVar[bool] = True
    masks: int = param(
        "The number of masks under which each value is sent, each shared with another neighbour of its receiver.",
        default=1,
        ge=1,
    )
    keys: Literal["seeded", "fresh"] | None = param(
        "The source of private keys: the experiment's seed, so that messages can be repeated and nothing is secret, "
        "or the operating system. By default, seeded in simulation and fresh in emulation.",
        default=None,
    )
    masking: bool = param(
        "Whether values are masked. Without masks, a simulation has the same sums, models and bytes, and is faster.",
        default=True,
    )

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        self._keys: dict[NodeId, tuple[int, Keys]] = {}
        """The latest round and the keys of each node here. Keys are no part of its state, which is written to disk."""
        self._rounds: dict[NodeId, Agreed] = {}
        self._sets: dict[int, tuple[weakref.ref[Tensor], IndexSet]] = {}
        self._agreements: weakref.WeakValueDictionary[bytes, Agreement] = weakref.WeakValueDictionary()

    # ------------------------------------------------------------------ for subclasses

    @property
    def foreseen(self) -> bool:
        """Whether the indices of a round follow from public randomness alone."""
        raise NotImplementedError

    def choose(self, round: Round) -> tuple[Tensor, Payload]:
        """The indices that a node wants to send, and the entries that describe them; none where they are foreseen."""
        raise NotImplementedError

    def chosen(self, message: Message) -> Tensor:
        """The indices that a message describes.

        Raises:
            WireError: it does not describe them.
        """
        raise NotImplementedError

    def plan(self, graph: Graph, receiver: NodeId) -> Plan | None:
        """The plan with which neighbours of a receiver open its sum when some are missing; None where they do not."""
        return None

    def recovers(self, graph: Graph) -> bool:
        """Whether there is such a plan for any receiver."""
        return False

    # ------------------------------------------------------------------ a round

    async def send(self, round: Round) -> None:
        await self.agree(round)
        await super().send(round)

    async def agree(self, round: Round) -> None:
        """Agree with the neighbours on members, indices and keys."""
        node, t = round.node, round.t
        keys = self._own_keys(node, t)
        indices, described = self.choose(round)
        own = Member(keys.public, self._set_of(indices))
        now = self._rounds[node.id] = Agreed(t, keys, self._known(round), own, described)
        introductions = None
        kept = node.keep(Kept, self)
        if kept.key == keys.public:
            # A node that is not near any more forgets the key.
            now.has_key = {peer for peer in round.receivers if peer in kept.has_key}
            introductions = self._introductions_before(node, now)
        if introductions is None:
            self._send_indices(round, now)
            introductions = self._understood(node, now, await round.receive("indices"))
        self._pass_on(round, now, introductions)
        self._take(round, now, await round.receive("others"))

    async def collect(self, round: Round) -> Inbox:
        """The messages of a round, which may hold introductions for the next one."""
        inbox, node = await round.receive(), round.node
        following = self._following(round)
        if following is not None:
            senders, now = following.senders(node.id), self._rounds[node.id]
            new = [peer for peer in senders if peer not in round.senders]
            messages = [*inbox, *(await round.receive("next", new) if new else ())]
            now.ahead = self._understood(node, now, [message for message in messages if message.sender in senders])
        return inbox

    def _following(self, round: Round) -> Graph | None:
        """The graph of the next round, where its edges and indices are known in this one; else None."""
        if self.foreseen and round.topology.foreseen and round.t + 1 < self._setting.rounds:
            return round.topology.at(round.t + 1)
        return None

    def _send_indices(self, round: Round, now: Agreed) -> None:
        """Send the neighbours the node's own indices."""
        for peer in round.receivers:
            introduction = self._introduction(round.node, round.graph, now, peer, now.t)
            round.send([peer], {**now.described, **entries_of(introduction, round.node)}, "indices")

    def _introduce(self, round: Round, now: Agreed) -> dict[NodeId, Introduction]:
        """The introductions to neighbours of the next round, for masked messages; new neighbours get them at once."""
        following, node = self._following(round), round.node
        if following is None:
            return {}
        receivers = following.receivers(node.id)
        introductions = {peer: self._introduction(node, following, now, peer, now.t + 1) for peer in receivers}
        for peer, introduction in introductions.items():
            if peer not in round.receivers:
                round.send([peer], introduction, "next")
        return introductions

    def _introduction(self, node: LearningNode, graph: Graph, now: Agreed, peer: NodeId, t: int) -> Introduction:
        """The introduction to a neighbour in a round."""
        key = None if peer in now.has_key else now.keys.public
        if any(other != node.id and other not in now.known for other in (peer, *graph.senders(peer))):
            return Introduction(key=key, wants=True)
        can_open = self.plan(graph, peer) is not None
        return Introduction(key=key, deposit=self._deposit(node, graph, now, peer, t) if can_open else None)

    def _deposit(self, node: LearningNode, graph: Graph, now: Agreed, receiver: NodeId, t: int) -> bytes:
        plan, holders = self.plan(graph, receiver), graph.senders(receiver)
        assert plan is not None
        publics = [now.keys.public if id == node.id else now.known[id] for id in holders]
        if self.masking:
            return Depositor(now.keys, t, receiver, plan).deposit(publics, holders.index(node.id))
        mark = fingerprint(publics)
        return mark + bytes(plan.deposit_bytes - len(mark))

    def _deposits(
        self, round: Round, now: Agreed, introductions: Mapping[NodeId, Introduction]
    ) -> dict[NodeId, Deposit]:
        """The neighbours' deposits that were made for the keys that this node knows."""
        plan, holders = self.plan(round.graph, round.node.id), round.senders
        if plan is None or any(id not in now.known for id in holders):
            return {}
        right = fingerprint([now.known[id] for id in holders])
        found = {id: Deposit.read(introduction.deposit, plan) for id, introduction in introductions.items()}
        return {id: deposit for id, deposit in found.items() if deposit is not None and deposit.fingerprint == right}

    def _understood(self, node: LearningNode, now: Agreed, messages: Sequence[Message]) -> dict[NodeId, Introduction]:
        """The neighbours' introductions, by sender; wrong messages are rejected."""

        def read(introduction: Introduction) -> None:
            self._take_key(now, introduction.sender, introduction.key)
            shared = introduction.message.shared
            self._described(introduction.sender, now.t, {name: shared.get(name) for name in now.described})

        found = understood(node, node.usable(messages, Introduction), read)
        return {introduction.sender: introduction for introduction, _ in found}

    def _pass_on(self, round: Round, now: Agreed, introductions: Mapping[NodeId, Introduction]) -> None:
        """Send each neighbour the members of this node's sum, their indices, and the keys that are new to it."""
        node, holders = round.node, round.senders
        doubtful = node.keep(Kept, self).doubtful
        members: dict[NodeId, Member] = {}
        for sender, introduction in introductions.items():
            if sender in now.known and sender not in doubtful:
                chosen = self._described(sender, now.t, {name: introduction.others[name] for name in now.described})
                members[sender] = Member(now.known[sender], chosen)
        deposits = self._deposits(round, now, introductions)
        now.deposits = {id: deposits[id] for id in members if id in deposits}
        opens = bool(members) and len(now.deposits) == len(members)
        now.sum = self._agreement(round, node.id, members, opens=opens)
        for peer in round.receivers:
            wants = peer in doubtful or (peer in introductions and introductions[peer].wants)
            # A peer with an introduction from the round before reads no new one.
            key = now.keys.public if wants or peer not in now.has_key else None
            passed = dict(entries_of(Members(members=[int(id) for id in members], opens=opens, key=key), node))
            for index, (id, member) in enumerate(members.items()):
                if id != peer:
                    passed |= {at(index, name): introductions[id].others[name] for name in now.described}
                    if wants or introductions[id].key is not None:
                        passed[at(index, _KEY)] = member.public
                    if opens:
                        passed[at(index, _BOX)] = deposits[id].box(holders.index(id), holders.index(peer))
            round.send([peer], passed, "others")

    def _take(self, round: Round, now: Agreed, inbox: Inbox) -> None:
        """Take in the members of the receivers' sums; receivers that count on this node have its key."""
        node, graph = round.node, round.graph
        for message in inbox:
            receiver = message.sender
            listed = node.usable([message], Members, members=Among(graph.senders(receiver)))
            for said, members in understood(node, listed, partial(self._members, round, now)):
                now.received.add(receiver)
                if node.id in members:
                    now.has_key.add(receiver)
                complete = {id: member for id, member in members.items() if member is not None}
                if receiver in now.known and len(complete) == len(members):
                    opens = said.opens and self.plan(graph, receiver) is not None
                    now.towards[receiver] = self._agreement(round, receiver, complete, opens=opens)
                    now.boxes[receiver] = {id: message.shared.get(at(index, _BOX)) for index, id in enumerate(members)}

    # ------------------------------------------------------------------ what a node keeps

    def _introductions_before(self, node: LearningNode, now: Agreed) -> dict[NodeId, Introduction] | None:
        """The introductions that arrived in the round before; None where the node has none for this round."""
        kept = node.keep(Kept, self)
        t, *ahead = kept.ahead or [-1]
        if t != now.t:
            return None
        found: dict[NodeId, Introduction] = {}
        at = 0
        for peer, wants, has_key, length in zip(ahead[::4], ahead[1::4], ahead[2::4], ahead[3::4], strict=True):
            id = NodeId(peer)
            deposit = kept.deposits[at : at + length] if length else None
            found[id] = Introduction(key=now.known[id] if has_key else None, wants=bool(wants), deposit=deposit)
            at += length
        return found

    def _keep(self, round: Round, now: Agreed) -> None:
        """Keep keys and introductions in a node's state for its next round."""
        kept = round.node.keep(Kept, self)
        kept.key, kept.has_key = now.keys.public, sorted(now.has_key)
        kept.peers, kept.keys = list(now.known), b"".join(now.known.values())
        if self._following(round) is not None:
            ahead, deposits = [now.t + 1], b""
            for peer, introduction in sorted(now.ahead.items()):
                deposit = introduction.deposit or b""
                ahead += [peer, int(introduction.wants), int(introduction.key is not None), len(deposit)]
                deposits += deposit
            kept.ahead = ahead
            if self.recovers(round.graph):
                kept.deposits = deposits

    def _own_keys(self, node: LearningNode, t: int) -> Keys:
        latest, keys = self._keys.get(node.id, (-1, None))
        seeded = self.keys == "seeded" or (self.keys is None and self._setting.clock == "virtual")
        if keys is None and not self.masking:
            keys = PretendedKeys(node.random("pretended mask key").bytes(KEY_BYTES))
        elif keys is None and seeded:
            keys = KeyPair(node.random("mask key").bytes(KEY_BYTES))
        elif keys is None or (latest >= t and not seeded and self.masking):
            # A round that is tried again may have other values, and no stream may hide two.
            keys = KeyPair()
        self._keys[node.id] = t, keys
        return keys

    def _known(self, round: Round) -> dict[NodeId, bytes]:
        """The public keys from earlier rounds of the nodes that are near in this one."""
        node, graph = round.node, round.graph
        near = {other for peer in graph.senders(node.id) for other in (peer, *graph.senders(peer))}
        kept = node.keep(Kept, self)
        peers, keys = kept.peers, kept.keys
        return {
            peer: keys[index * KEY_BYTES : (index + 1) * KEY_BYTES] for index, peer in enumerate(peers) if peer in near
        }

    def _take_key(self, now: Agreed, id: NodeId, key: Any) -> None:
        """Take in the public key that a message holds."""
        if key is None:
            return
        if not isinstance(key, bytes) or now.keys.secret(key) is None:
            raise WireError("bad-field", f"its entry for the key of node {id} is no key")
        now.known[id] = key

    def _described(self, sender: NodeId, t: int, fields: Payload) -> IndexSet:
        """The indices that a sender's entries describe."""
        return self._set_of(self.chosen(Message(sender, "", t, fields, 0)))

    def _members(self, round: Round, now: Agreed, said: Members) -> dict[NodeId, Member | None]:
        """The members of a receiver's sum, as its message describes them.

        Raises:
            WireError: it has a wrong key, or does not describe the indices.
        """
        self._take_key(now, said.sender, said.key)
        ids = map(NodeId, said.members)
        return {id: self._member(round, now, said.message, index, id) for index, id in enumerate(ids)}

    def _member(self, round: Round, now: Agreed, message: Message, index: int, id: NodeId) -> Member | None:
        """A member of a receiver's sum, as its message describes it; None where the key is unknown."""
        if id == round.node.id:
            return now.own
        if id not in round.senders:  # A neighbour sends its key itself.
            self._take_key(now, id, message.shared.get(at(index, _KEY)))
        chosen = self._described(id, now.t, {name: message.shared.get(at(index, name)) for name in now.described})
        return Member(now.known[id], chosen) if id in now.known else None

    def _set_of(self, indices: Tensor) -> IndexSet:
        """The set of a tensor of indices; made once, as all nodes of this process get the same tensor."""
        key = id(indices)
        tensor, found = self._sets.get(key, (None, None))
        if tensor is None or tensor() is not indices or found is None:
            found = IndexSet(indices.cpu().numpy(), self._setting.parameters)
            self._sets[key] = weakref.ref(indices, lambda _: self._sets.pop(key, None)), found
        return found

    def _agreement(self, round: Round, receiver: NodeId, members: Mapping[NodeId, Member], *, opens: bool) -> Agreement:
        """The agreement on a receiver's sum; equal ones are kept once in a process."""
        plan = self.plan(round.graph, receiver) if opens else None
        agreement = Agreement(receiver, round.t, members, self.masks, plan)
        return self._agreements.setdefault(agreement.digest, agreement)


def at(index: int, name: str) -> str:
    """The name of an entry of a member's message where it is passed on."""
    return f"{index} {name}"
