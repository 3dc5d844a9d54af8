"""Who is there and how well they are connected.

Shapes: N nodes.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.network.bandwidth import Bandwidth
from covey.network.churn import Churn
from covey.network.compute import Compute
from covey.network.energy import Energy
from covey.network.latency import Latency
from covey.network.presets import PRESETS
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param


class Network(Part):
    """The nodes, their links, their speed, their absences and what they spend.

    What is not given is what the preset says, from construction on, so that a run's own record is complete and does
    not change with the presets. A given `bandwidth` stands for both links of the preset.
    """

    kind: ClassVar[str] = "network"
    nodes: int = param("How many nodes there are.", ge=1, le=10_000_000)
    preset: Literal["none", "lan", "wan", "mobile"] = param(
        "Where the values that are not given come from.", default="none"
    )
    latency: Latency = param("How long a message is under way besides its bytes; 0 without a preset.", default=None)
    bandwidth: Bandwidth | None = param("The rate of every node's link, for each of its two directions.", default=None)
    uplink: Bandwidth | None = param("The rate at which a node sends, where it is not `bandwidth`.", default=None)
    downlink: Bandwidth | None = param("The rate at which a node receives, where it is not `bandwidth`.", default=None)
    queue: Literal["fifo", "fair"] = param(
        "Whether the messages of a link go one after the other or share it, max-min fair.", default="fifo"
    )
    compute: Compute = param(
        "How fast a node trains; 1000 samples a second without a preset. With neither latency nor bandwidth, a round "
        "costs its training time and nothing else.",
        default=None,
    )
    loss: float = param("The probability that a message is lost; 0 without a preset.", default=None, ge=0, lt=1)
    churn: Churn = param("When nodes are away; never without a preset.", default=None)
    energy: Energy = param("What computing and messages cost the nodes; not counted by default.", default=None)

    def __post_init__(self) -> None:
        # A preset that does not exist fails in the check of the fields, before those that it would have filled.
        preset = PRESETS.get(self.preset, {}) if isinstance(self.preset, str) else {}
        for name, value in {**PRESETS["none"], **preset}.items():
            replaced = name in ("uplink", "downlink") and self.bandwidth is not None
            if getattr(self, name) is None and not replaced:
                setattr(self, name, value)
        super().__post_init__()

    def check(self, setting: Setting) -> None:
        if setting.nodes != self.nodes:
            raise ConfigurationError(
                f"The 'nodes' of the network must be those of the setting, {setting.nodes}. Got {self.nodes} instead."
            )
        super().check(setting)
        self._uplinks = _rates(self.uplink or self.bandwidth, setting)
        self._downlinks = _rates(self.downlink or self.bandwidth, setting)
        self._speeds = self.compute.speeds(setting)

    @property
    def is_ordered(self) -> bool:
        """Whether messages keep their order over a link."""
        return self.queue != "fair"

    def losses(self) -> list[str]:
        """What keeps messages from coming, in words."""
        churn = f"the churn {self.churn.title()}"
        return [*([f"a 'loss' of {self.loss:g}"] if self.loss else []), *([churn] if self.churn.has_churn else [])]

    def uplink_rates(self) -> NDArray[np.float64] | None:
        """Bits per second at which each node sends, N, after `check`; None where no node has a limit."""
        return self._uplinks

    def downlink_rates(self) -> NDArray[np.float64] | None:
        """Bits per second at which each node receives, N, after `check`; None where no node has a limit."""
        return self._downlinks

    def compute_speeds(self) -> NDArray[np.float64]:
        """Samples per second that each node trains on, N, after `check`."""
        return self._speeds


def _rates(bandwidth: Bandwidth | None, setting: Setting) -> NDArray[np.float64] | None:
    rates = None if bandwidth is None else bandwidth.rates(setting)
    return None if rates is None or np.isinf(rates).all() else rates
