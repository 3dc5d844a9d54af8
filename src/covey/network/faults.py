"""Injected faults: killed or paused nodes, and links that are cut, slow, or corrupt messages.

The times and targets of strikes are a function of the seed. Every process of every engine draws the same strikes.
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
"""The fate of a message: the factor by which sending it takes longer, or the reason for its loss."""

CORRUPT = "corrupt"
"""The reason of corrupted messages. In the emulation their bytes are changed, and the receiver drops them."""


class Target(Protocol):
    """The target of a fault: a node or, if `Fault.stops_a_host`, the process of a host. The engine restores the target
    when the strike ends."""

    def kill(self) -> None:
        """End the target at once. Work that is not committed is lost."""

    def pause(self) -> None:
        """Stop the target. It continues where it stopped when the strike ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Strike:
    """One occurrence of a fault."""

    fault: "Fault"
    start: float
    end: float
    """Seconds of the nodes' clock; inf if the strike never ends."""
    nodes: frozenset[int]
    """The nodes that it strikes; empty if it strikes single links."""

    def in_words(self) -> str:
        """The effect and the target, in one line."""
        fault = self.fault
        target = fault.target_in_words() if fault.fraction is None else f"nodes {_listed(sorted(self.nodes))}"
        return fault.effect().format(target=target)


class Fault(Part):
    """A fault: its effect, targets, times and duration.

    A class of faults acts through one or several methods: `hit` on nodes, `slowdown` on their computing, `fate` on
    their messages. `seconds` is the duration, and `effect` describes the fault in words.
    """

    family: ClassVar[str] = "fault"
    has_links: ClassVar[bool] = False
    """True if it can strike single links."""
    loses: ClassVar[bool] = True
    """True if it may keep messages from ever arriving."""
    thins: ClassVar[bool] = False
    """True if it loses single messages at random."""
    recorded_by_nodes: ClassVar[bool] = False
    """True if nodes record the event of a strike themselves, as killed and paused nodes do."""
    nodes: list[int] | None = param("The nodes that the fault strikes.", default=None, ge=0)
    host: int | None = param("The host whose nodes the fault strikes. Needs `of`.", default=None, ge=0)
    of: int | None = param(
        "The number of hosts, if `host` is given. Host h has the nodes n with floor(n * of / nodes) = h.",
        default=None,
        ge=1,
        le="nodes",
    )
    fraction: float | None = param(
        "The fraction of the nodes that the fault strikes, drawn at each strike.", default=None, gt=0, le=1
    )
    at: Seconds | None = param("The time of the strike, on the nodes' clock.", default=None, ge=0, lt=math.inf)
    rate: float | None = param(
        "The mean number of strikes per second, with exponential intervals.", default=None, gt=0, lt=math.inf
    )

    @property
    def seconds(self) -> float:
        """The duration of a strike; inf if it never ends."""
        return math.inf

    @property
    def stops_a_host(self) -> bool:
        """True if it strikes the process of a host, in engines with hosts, instead of single nodes."""
        return False

    def check(self, setting: Setting) -> None:
        super().check(setting)
        self._one_of(("nodes", "host", "fraction", *(("links",) if self.has_links else ())), "as its target")
        self._one_of(("at", "rate"), "as its time")
        if self.nodes is not None and not _are_different_nodes(self.nodes, setting.nodes):
            raise ConfigurationError(
                f"The 'nodes' of {self.named()} must be a list of different ints in [0, nodes). "
                f"Got {self.nodes!r} instead (nodes is {setting.nodes})."
            )
        if (self.host is None) != (self.of is None):
            given, missing = ("host", "of") if self.of is None else ("of", "host")
            raise ConfigurationError(f"The '{missing}' of {self.named()} is missing: '{given}' needs it.")
        if self.host is not None and self.of is not None and self.host >= self.of:
            raise ConfigurationError(
                f"The 'host' of {self.named()} must be an int in [0, of). Got {self.host} instead (of is {self.of})."
            )

    def check_with(self, network: "Network") -> None:
        """Raise ConfigurationError if the fault makes no sense in a network."""

    def _one_of(self, names: Iterable[str], what: str) -> None:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            known = ", ".join(f"'{name}'" for name in names)
            got = ", ".join(f"'{name}'" for name in given) or "none of them"
            raise ConfigurationError(
                f"Exactly one of {known} of {self.named()} must be given, {what}. Got {got} instead."
            )

    def strikes(self, setting: Setting, index: int) -> Iterator[Strike]:
        """The strikes of the fault, the earliest first. With a rate, the iterator is infinite.

        Args:
            setting: the experiment.
            index: the position of the fault in the experiment, so that equal faults strike at different times.
        """
        generator = setting.generator("faults", index)
        start = 0.0 if self.at is None else self.at
        while True:
            if self.rate is not None:
                start += generator.exponential(1.0 / self.rate)
            yield Strike(self, start, start + self.seconds, self._struck(setting.nodes, generator))
            if self.rate is None:
                return

    def _struck(self, count: int, generator: np.random.Generator) -> frozenset[int]:
        if self.fraction is not None:
            struck = generator.choice(count, max(1, round(self.fraction * count)), replace=False)
            return frozenset(struck.tolist())
        if self.of is not None:
            return frozenset(node for node in range(count) if node * self.of // count == self.host)
        return frozenset(self.nodes or ())

    def hit(self, target: Target) -> None:
        """Act on one target, a node or a host, at a strike."""

    def slowdown(self, node: int) -> float:
        """The factor by which computing takes longer at a node that it strikes."""
        return 1.0

    @property
    def strikes_messages(self) -> bool:
        """True if it may change the fate of messages."""
        return type(self).fate is not Fault.fate

    def concerns(self, strike: Strike, sender: int, receiver: int) -> bool:
        """True if a strike affects messages from `sender` to `receiver`."""
        return sender in strike.nodes

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        """The fate of a message that it concerns.

        Args:
            sender: the id of the message's sender.
            receiver: the id of the message's receiver.
            chance: a uniform number in [0, 1), drawn for this message and this fault.
        """
        return 1.0

    def effect(self) -> str:
        """The effect in words, with {target} in the place of the target."""
        return f"{{target}} struck by {self.named()}"

    def in_words(self) -> str:
        """The times, the effect and the target, in one line."""
        if self.rate is not None:
            when = f"every {_seconds(1.0 / self.rate)} on average"
        else:
            when = f"at {_seconds(self.at or 0.0)}"
        return f"{when}: {self.effect().format(target=self.target_in_words())}"

    def target_in_words(self) -> str:
        """The nodes or links that it strikes, in words."""
        if self.nodes is not None:
            return f"node{'s' if len(self.nodes) > 1 else ''} {_listed(self.nodes)}"
        if self.host is not None:
            return f"the nodes of host {self.host} of {self.of}"
        return "all nodes" if self.fraction == 1 else f"{100 * (self.fraction or 0):g}% of the nodes at random"


class Kill(Fault):
    """Nodes, or the process of a host, end at once. Work that is not committed is lost."""

    kind = "kill"
    recorded_by_nodes: ClassVar[bool] = True
    back: Seconds | None = param(
        "The time after which the nodes return from their last checkpoint. By default, they never return.",
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
        return "{target} killed, " + ("for good" if self.back is None else f"back after {_seconds(self.back)}")


class Pause(Fault):
    """Nodes, or the process of a host, stop for a time and then continue where they stopped."""

    kind = "pause"
    loses: ClassVar[bool] = False
    recorded_by_nodes: ClassVar[bool] = True
    lasts: Seconds = param("The duration of the pause.", gt=0, lt=math.inf)

    @property
    def seconds(self) -> float:
        return self.lasts

    @property
    def stops_a_host(self) -> bool:
        return self.host is not None

    def hit(self, target: Target) -> None:
        target.pause()

    def effect(self) -> str:
        return "{target} paused for " + _seconds(self.lasts)


class LinkFault(Fault):
    """A fault of messages."""

    kind: ClassVar[str] = ""
    has_links: ClassVar[bool] = True
    links: list[list[int]] | None = param(
        "The pairs of nodes between which the fault strikes, in both directions.", default=None
    )
    lasts: Seconds | None = param(
        "The duration of a strike. By default, to the end of the run.", default=None, gt=0, lt=math.inf
    )

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

    def target_in_words(self) -> str:
        if self.links is None:
            return super().target_in_words()
        return f"the links {_listed(f'{a}-{b}' for a, b in self.links)}"

    @property
    def _while(self) -> str:
        return "" if self.lasts is None else f" for {_seconds(self.lasts)}"


class Cut(LinkFault):
    """Messages between the struck nodes and all others are lost, in both directions."""

    kind = "cut"

    def concerns(self, strike: Strike, sender: int, receiver: int) -> bool:
        if self._pairs:
            return (sender, receiver) in self._pairs
        return (sender in strike.nodes) != (receiver in strike.nodes)

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        return "cut"

    def effect(self) -> str:
        return ("{target} cut" if self.links is not None else "{target} cut off from the others") + self._while


class Slow(LinkFault):
    """Nodes train more slowly, or their messages take longer to send. Work that has begun keeps its speed."""

    kind = "slow"
    loses: ClassVar[bool] = False
    compute: float = param("The factor by which training takes longer.", default=1.0, ge=1, lt=math.inf)
    uplink: float = param(
        "The factor by which sending a message takes longer. The network must have a bandwidth.",
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
            ("training at {target} takes", self.compute),
            (f"sending {'over' if self.links is not None else 'by'} {{target}} takes", self.uplink),
        ]
        return " and ".join(f"{which} {factor:g} times longer" for which, factor in what if factor > 1) + self._while


class Corrupt(LinkFault):
    """Bytes of messages change in transit. The receiver detects that and drops the message."""

    kind = "corrupt"
    thins: ClassVar[bool] = True
    probability: float = param("The probability that a message is struck.", gt=0, le=1)

    def fate(self, sender: int, receiver: int, chance: float) -> Fate:
        return CORRUPT if chance < self.probability else 1.0

    def effect(self) -> str:
        sent = "over" if self.links is not None else "sent by"
        return f"each message {sent} {{target}} corrupted with probability {self.probability:g}{self._while}"


def strikes(faults: Iterable[Fault], setting: Setting) -> Iterator[Strike]:
    """All strikes of prepared faults, the earliest first. The iterator may be infinite."""
    each = [fault.strikes(setting, index) for index, fault in enumerate(faults)]
    return heapq.merge(*each, key=lambda strike: strike.start)


def _are_different_nodes(ids: list[int], nodes: int) -> bool:
    return 0 < len(set(ids)) == len(ids) and all(0 <= id < nodes for id in ids)


def _listed(names: Iterable[object], most: int = 8) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")


def _seconds(value: float) -> str:
    return f"{value:g} s"
