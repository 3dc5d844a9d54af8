"""What goes wrong on purpose: nodes that die or stand still, links that are cut, slow, or garble what they carry.

When faults strike, and whom, is a function of the seed alone: every process of every engine draws the same strikes.
"""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param
from covey.parts.quantities import Seconds

if TYPE_CHECKING:
    from covey.network.network import Network

Fate = float | str
"""What becomes of a message: how many times longer it takes to leave, or the reason for which it is lost."""

CORRUPT = "corrupt"
"""The reason of messages whose bytes change: where there are bytes, their receiver finds that out and drops them."""


class Target(Protocol):
    """What a fault strikes: a node or, where `Fault.stops_a_host`, the process of a host. The engine undoes what was
    done to it when the strike is over."""

    def kill(self) -> None:
        """Let it be gone at once, with all that it has not committed."""

    def pause(self) -> None:
        """Let it stand still: what it would have done meanwhile it does afterwards."""


@dataclass(frozen=True, slots=True, eq=False)
class Strike:
    """One time that a fault strikes."""

    fault: "Fault"
    start: float
    end: float
    """In seconds of the nodes' clock; inf where it is never over."""
    nodes: frozenset[int]
    """Whom it strikes; empty where it strikes single links."""

    def in_words(self) -> str:
        """What happens to whom."""
        fault = self.fault
        whom = fault.whom() if fault.fraction is None else f"nodes {_listed(sorted(self.nodes))}"
        return fault.effect().format(whom=whom)


class Fault(Part):
    """What goes wrong, whom it strikes, when, and for how long.

    A class of faults acts in one or several ways: `hit` strikes nodes, `slowdown` what they compute, `fate` what they
    send. It also says for how long (`seconds`), and in words what happens (`effect`).
    """

    family: ClassVar[str] = "fault"
    has_links: ClassVar[bool] = False
    """Whether it can strike single links."""
    loses: ClassVar[bool] = True
    """Whether it may keep messages from ever coming."""
    thins: ClassVar[bool] = False
    """Whether it loses messages one by one, each by chance, while their senders go on."""
    told_by_nodes: ClassVar[bool] = False
    """Whether the nodes that it strikes record an event of their own, as those do that are killed or paused."""
    nodes: list[int] | None = param("The nodes that it strikes.", default=None, ge=0)
    host: int | None = param("The host whose nodes it strikes; needs `of`.", default=None, ge=0)
    of: int | None = param(
        "How many hosts there are, where `host` is given; host h has the nodes n with floor(n * of / nodes) = h.",
        default=None,
        ge=1,
        le="nodes",
    )
    fraction: float | None = param(
        "The share of the nodes that it strikes, drawn anew each time.", default=None, gt=0, le=1
    )
    at: Seconds | None = param("When it strikes, on the nodes' clock.", default=None, ge=0, lt=math.inf)
    rate: float | None = param(
        "How often it strikes in a second, on average, with exponential pauses.", default=None, gt=0, lt=math.inf
    )

    @property
    def seconds(self) -> float:
        """For how long it strikes; inf where it is never over."""
        return math.inf

    @property
    def stops_a_host(self) -> bool:
        """Whether it strikes the process of a host, where there is one, and not the nodes one by one."""
        return False

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._one_of(("nodes", "host", "fraction", *(("links",) if self.has_links else ())), "whom it strikes")
        self._one_of(("at", "rate"), "when it strikes")
        if self.nodes is not None and not _are_different_nodes(self.nodes, setting.nodes):
            raise ConfigurationError(
                f"The 'nodes' of {self.named()} must be a list of different ints in [0, nodes). "
                f"Got {self.nodes!r} instead (nodes is {setting.nodes})."
            )
        if (self.host is None) != (self.of is None):
            given, missing = ("host", "of") if self.of is None else ("of", "host")
            raise ConfigurationError(f"The '{missing}' of {self.named()} is missing: it must be there with '{given}'.")
        if self.host is not None and self.of is not None and self.host >= self.of:
            raise ConfigurationError(
                f"The 'host' of {self.named()} must be an int in [0, of). Got {self.host} instead (of is {self.of})."
            )

    def check_with(self, network: "Network") -> None:
        """Raise ConfigurationError where it makes no sense in a network."""

    def _one_of(self, names: Iterable[str], what: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            known = ", ".join(f"'{name}'" for name in names)
            got = ", ".join(f"'{name}'" for name in given) or "none of them"
            raise ConfigurationError(f"One of {known} of {self.named()} must say {what}. Got {got} instead.")

    def strikes(self, setting: Setting, index: int) -> Iterator[Strike]:
        """When it strikes whom, the earliest first; at a rate there is no end to it.

        Args:
            setting: the experiment.
            index: of the fault among the experiment's, so that two of a kind strike at different times.
        """
        generator = setting.generator("faults", index)
        start = 0.0 if self.at is None else self.at
        while True:
            if self.rate is not None:
                start += generator.exponential(1.0 / self.rate)
            yield Strike(self, start, start + self.seconds, self._whom(setting.nodes, generator))
            if self.rate is None:
                return

    def _whom(self, count: int, generator: np.random.Generator) -> frozenset[int]:
        if self.fraction is not None:
            struck = generator.choice(count, max(1, round(self.fraction * count)), replace=False)
            return frozenset(struck.tolist())
        if self.of is not None:
            return frozenset(node for node in range(count) if node * self.of // count == self.host)
        return frozenset(self.nodes or ())

    def hit(self, target: Target) -> None:
        """What it does to each node, or host, when it strikes."""

    def slowdown(self, node: int) -> float:
        """How many times longer what a node computes takes, of those that it strikes."""
        return 1.0

    @property
    def strikes_messages(self) -> bool:
        """Whether it has a say in the fate of messages."""
        return type(self).fate is not Fault.fate

    def concerns(self, strike: Strike, sender: int, receiver: int) -> bool:
        """Whether it decides, during a strike, on messages from one node to another."""
        return sender in strike.nodes

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        """What becomes of a message that it concerns.

        Args:
            sender: the id of the node that sends it.
            receiver: the id of the node that it is for.
            chance: drawn for this message and this fault, uniformly from [0, 1).
        """
        return 1.0

    def effect(self) -> str:
        """What it does, with {whom} for whom it strikes."""
        return f"{{whom}} struck by {self.named()}"

    def in_words(self) -> str:
        """What will happen, in one line."""
        if self.rate is not None:
            when = f"every {_seconds(1.0 / self.rate)} on average"
        else:
            when = f"at {_seconds(self.at or 0.0)}"
        return f"{when}: {self.effect().format(whom=self.whom())}"

    def whom(self) -> str:
        """Whom it strikes, in words."""
        if self.nodes is not None:
            return f"node{'s' if len(self.nodes) > 1 else ''} {_listed(self.nodes)}"
        if self.host is not None:
            return f"the nodes of host {self.host} of {self.of}"
        return "all nodes" if self.fraction == 1 else f"{100 * (self.fraction or 0):g}% of the nodes at random"


class Kill(Fault):
    """Nodes, or the process of a host, are gone at once, with all that they have not committed."""

    kind = "kill"
    told_by_nodes: ClassVar[bool] = True
    back: Seconds | None = param(
        "How long afterwards they come back from their last checkpoint; never by default.",
        default=None,
        gt=0,
        lt=math.inf,
    )

    @property
    def seconds(self) -> float:
        return math.inf if self.back is None else self.back

    @property
    def stops_a_host(self) -> bool:
        return self.host is not None

    def hit(self, target: Target) -> None:
        target.kill()

    def effect(self) -> str:
        return "{whom} killed, " + ("for good" if self.back is None else f"back after {_seconds(self.back)}")


class Pause(Fault):
    """Nodes, or the process of a host, stand still; what they would have done meanwhile they do afterwards."""

    kind = "pause"
    loses: ClassVar[bool] = False
    told_by_nodes: ClassVar[bool] = True
    lasts: Seconds = param("For how long.", gt=0, lt=math.inf)

    @property
    def seconds(self) -> float:
        return self.lasts

    @property
    def stops_a_host(self) -> bool:
        return self.host is not None

    def hit(self, target: Target) -> None:
        target.pause()

    def effect(self) -> str:
        return "{whom} paused for " + _seconds(self.lasts)


class LinkFault(Fault):
    """A fault of what nodes send."""

    kind: ClassVar[str] = ""
    has_links: ClassVar[bool] = True
    links: list[list[int]] | None = param(
        "The pairs of nodes between which it strikes, in both directions.", default=None
    )
    lasts: Seconds | None = param("For how long; to the end by default.", default=None, gt=0, lt=math.inf)

    @property
    def seconds(self) -> float:
        return math.inf if self.lasts is None else self.lasts

    def check(self, setting: Setting) -> None:
        super().check(setting)
        pairs = self.links or []
        wrong = [pair for pair in pairs if len(pair) != 2 or not _are_different_nodes(pair, setting.nodes)]
        if wrong or self.links == []:
            raise ConfigurationError(
                f"The 'links' of {self.named()} must be pairs of different ints in [0, nodes), such as [[0, 1]]. "
                f"Got {wrong[0] if wrong else self.links!r} instead (nodes is {setting.nodes})."
            )
        self._pairs = {*map(tuple, pairs), *((b, a) for a, b in pairs)}

    def concerns(self, strike: Strike, sender: int, receiver: int) -> bool:
        return (sender, receiver) in self._pairs if self._pairs else sender in strike.nodes

    def whom(self) -> str:
        if self.links is None:
            return super().whom()
        return f"the links {_listed(f'{a}-{b}' for a, b in self.links)}"

    @property
    def _while(self) -> str:
        return "" if self.lasts is None else f" for {_seconds(self.lasts)}"


class Cut(LinkFault):
    """Messages between the nodes that it strikes and all others are lost, in both directions."""

    kind = "cut"

    def concerns(self, strike: Strike, sender: int, receiver: int) -> bool:
        if self._pairs:
            return (sender, receiver) in self._pairs
        return (sender in strike.nodes) != (receiver in strike.nodes)

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        return "cut"

    def effect(self) -> str:
        return ("{whom} cut" if self.links is not None else "{whom} cut off from the others") + self._while


class Slow(LinkFault):
    """Nodes train more slowly, or what they send takes longer to leave; what has begun goes on as it was."""

    kind = "slow"
    loses: ClassVar[bool] = False
    compute: float = param("How many times longer a training takes.", default=1.0, ge=1, lt=math.inf)
    uplink: float = param(
        "How many times longer a message takes to leave; the network must have a bandwidth.",
        default=1.0,
        ge=1,
        lt=math.inf,
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if self.compute == self.uplink == 1.0:
            raise ConfigurationError(
                f"The 'compute' or the 'uplink' of {self.named()} must be more than 1. Got 1 and 1 instead."
            )
        if self.links is not None and self.compute != 1.0:
            raise ConfigurationError(
                f"The 'compute' of {self.named()} must be 1 where 'links' are given. Got {self.compute:g} instead."
            )

    def check_with(self, network: "Network") -> None:
        if self.uplink > 1 and network.uplink_rates() is None:
            raise ConfigurationError(
                f"The 'uplink' of {self.named()} must be 1 in a network without 'bandwidth' or 'uplink'. "
                f"Got {self.uplink:g} instead."
            )

    def slowdown(self, node: int) -> float:
        return self.compute

    @property
    def strikes_messages(self) -> bool:
        return self.uplink > 1 or type(self).fate is not Slow.fate

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        return self.uplink

    def effect(self) -> str:
        what = [
            ("training at {whom} takes", self.compute),
            (f"sending {'over' if self.links is not None else 'by'} {{whom}} takes", self.uplink),
        ]
        return " and ".join(f"{which} {factor:g} times longer" for which, factor in what if factor > 1) + self._while


class Corrupt(LinkFault):
    """Bytes of messages change on their way; whoever receives such a message finds that out and drops it."""

    kind = "corrupt"
    thins: ClassVar[bool] = True
    probability: float = param("The probability that a message is struck.", gt=0, le=1)

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        return CORRUPT if chance < self.probability else 1.0

    def effect(self) -> str:
        sent = "over" if self.links is not None else "sent by"
        return f"each message {sent} {{whom}} corrupted with probability {self.probability:g}{self._while}"


def strikes(faults: Iterable[Fault], setting: Setting) -> Iterator[Strike]:
    """All strikes of prepared faults, the earliest first; there may be no end to them."""
    each = [fault.strikes(setting, index) for index, fault in enumerate(faults)]
    return heapq.merge(*each, key=lambda strike: strike.start)


def _are_different_nodes(ids: list[int], nodes: int) -> bool:
    return 0 < len(set(ids)) == len(ids) and all(0 <= id < nodes for id in ids)


def _listed(names: Iterable[object], most: int = 8) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _seconds(value: float) -> str:
    return f"{value:g} s"
