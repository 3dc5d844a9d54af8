"""The end of a masked round in which senders may be missing: a receiver asks its neighbours to open its sum.

The receiver lists the senders whose numbers have arrived (tag "arrived"). The neighbours answer with a share for each
sender (tag "shares"): of the seed of its own mask if its numbers have arrived, of its root if they have not. See
`deposits`.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from covey.decentralized.sharing.agreeing import Agreed
from covey.decentralized.sharing.agreement import Agreement
from covey.decentralized.sharing.deposits import Depositor, box_key, read_box, sealed
from covey.decentralized.sharing.round import Round
from covey.learning.node import LearningNode
from covey.messages.crypto import KEY_BYTES, SHARE_BYTES, derive, join, lock, unlock
from covey.messages.payloads import Payload
from covey.network.graph import Graph
from covey.parts.nodes import NodeId
from covey.runtime.content import Content
from covey.runtime.entries import Among
from covey.runtime.node import Message


class Arrived(Content):
    """The members of its sender's sum whose numbers have arrived there."""

    arrived: list[int]


class Given(Content):
    """The shares for the sum of its receiver."""

    of: list[int]
    """The owners of the shared secrets."""
    shares: bytes
    """The box with a share of each secret."""


NOTHING: Payload = {}
"""The payload of a node without a claim or shares."""


@dataclass(slots=True)
class Opened:
    """The secrets with which a receiver removes masks from its sum."""

    seeds: dict[NodeId, bytes] = field(default_factory=dict)
    """The seeds of the own masks of the senders whose numbers have arrived."""
    shared: dict[NodeId, dict[NodeId, bytes]] = field(default_factory=dict)
    """The secrets of the masks that each missing sender shares with the others, by missing sender and other one."""

    def with_missing(self, sender: NodeId) -> dict[NodeId, bytes]:
        """The secrets of the masks that a sender shares with missing ones, by missing sender."""
        return {missing: secrets[sender] for missing, secrets in self.shared.items()}


async def opened(round: Round, now: Agreed, arrived: Collection[NodeId], *, masking: bool) -> Opened | None:
    """Ask the neighbours to open a node's sum, and help them with theirs; None where its sum stays closed.

    Args:
        round: the receiver's.
        now: the agreements of the node.
        arrived: the senders whose numbers it has.
        masking: whether there are masks at all.
    """
    node, graph, own = round.node, round.graph, now.sum
    assert own is not None
    lost = len(own.members) - len(arrived)
    asks = own.plan is not None and lost <= own.plan.most_lost and bool((own.spare_P >= lost).any())
    claim = Arrived(arrived=[int(id) for id in own.members if id in arrived]) if asks else NOTHING
    neighbours = round.receivers
    node.send(neighbours, claim, tag="arrived", round=now.t)
    claims = {message.sender: message for message in await round.receive("arrived") if message.shared}
    for peer in neighbours:
        answer = _answer(node, graph, now, claims[peer], masking=masking) if peer in claims else NOTHING
        node.send(peer, answer, tag="shares", round=now.t)
    answers = await round.receive("shares")
    return _joined(node, graph, now, own, arrived, answers, masking=masking) if asks else None


def _answer(node: LearningNode, graph: Graph, now: Agreed, claim: Message, *, masking: bool) -> Payload | Given:
    """The shares that a receiver gets for its list of arrived numbers, once in a round."""
    receiver = claim.sender
    agreement = now.towards.get(receiver)
    if agreement is None or agreement.plan is None:
        return NOTHING  # The receiver's message "others" is missing, or this node lacks a key.
    members = list(agreement.members)
    claims = node.usable([claim], Arrived, arrived=Among(members))
    if not claims:
        return NOTHING
    lost = [id for id in members if id not in claims[0].arrived]
    if len(lost) > agreement.plan.most_lost:
        node.reject(claim, f"{len(lost)} members of its sum are missing, and at most {agreement.plan.most_lost} may be")
        return NOTHING
    lacking = [bytes(SHARE_BYTES)] * (2 + agreement.plan.most_lost)
    given = {id: _shares(node, graph, now, agreement, id) if masking else lacking for id in members}
    found = {id: shares[0 if id in lost else 1 + len(lost)] for id, shares in given.items() if shares is not None}
    key = _answer_key(now, agreement, node.id, now.known[receiver]) if masking else bytes(KEY_BYTES)
    return Given(of=[int(id) for id in found], shares=lock(key, b"".join(found.values())))


def _shares(node: LearningNode, graph: Graph, now: Agreed, agreement: Agreement, owner: NodeId) -> list[bytes] | None:
    """The shares that a holder has of a member's secrets; None if it cannot open their box."""
    assert agreement.plan is not None
    holders = graph.senders(agreement.receiver)
    me = holders.index(node.id)
    if owner == node.id:
        return Depositor(now.keys, now.t, agreement.receiver, agreement.plan).shares()[me]
    secret = now.keys.secret(agreement.members[owner].public)
    assert secret is not None
    key = box_key(secret, now.t, agreement.receiver, holders.index(owner), me)
    return read_box(key, now.boxes[agreement.receiver].get(owner), agreement.plan)


def _answer_key(now: Agreed, agreement: Agreement, holder: NodeId, peer: bytes) -> bytes:
    secret = now.keys.secret(peer)
    assert secret is not None
    return derive(secret, "answer", now.t, holder, agreement.receiver, context=agreement.digest)


def _joined(
    node: LearningNode,
    graph: Graph,
    now: Agreed,
    own: Agreement,
    arrived: Collection[NodeId],
    answers: Iterable[Message],
    *,
    masking: bool,
) -> Opened | None:
    """The secrets that the received shares join to; None if the shares are too few or wrong."""
    assert own.plan is not None
    holders, threshold = graph.senders(node.id), own.plan.threshold
    shares: dict[NodeId, dict[int, bytes]] = {id: {} for id in own.members}
    for answer in answers:
        for owner, share in _read(node, now, own, answer, masking=masking).items():
            if len(shares[owner]) < threshold:
                shares[owner][holders.index(answer.sender)] = share
    if any(len(found) < threshold for found in shares.values()):
        return None
    if not masking:
        return Opened()
    found = Opened()
    for owner, some in shares.items():
        secret, deposit = join(some), now.deposits[owner]
        if owner in arrived:
            found.seeds[owner] = secret
            right = deposit.seals[len(own.members) - len(arrived)] == sealed(secret)
        else:
            others = [id for id in holders if id != owner]
            secrets = deposit.secrets(secret)
            right = secrets is not None
            found.shared[owner] = dict(zip(others, secrets or (), strict=False))
        if not right:
            return None
    return found


def _read(node: LearningNode, now: Agreed, own: Agreement, answer: Message, *, masking: bool) -> dict[NodeId, bytes]:
    """The shares in an answer, by the owner of the secret; a wrong answer is rejected."""
    if not answer.shared:
        return {}  # Its sender lacks this node's message "others" or "arrived".
    for given in node.usable([answer], Given, of=Among(list(own.members))):
        key = _answer_key(now, own, given.sender, now.known[given.sender]) if masking else bytes(KEY_BYTES)
        opened = unlock(key, given.shares)
        if opened is not None and len(opened) == len(given.of) * SHARE_BYTES:
            return {NodeId(id): opened[at * SHARE_BYTES :][:SHARE_BYTES] for at, id in enumerate(given.of)}
        node.reject(given, "its shares are not in a box of its own for this round and receiver")
    return {}
