"""The nodes and their links.

Shapes: N nodes.
"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from covey.network.bandwidth import Bandwidth
from covey.network.churn import Churn
from covey.network.compute import Compute
from covey.network.devices import Devices
from covey.network.energy import Energy
from covey.network.latency import Latency
from covey.network.presets import PRESETS
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param


class Network(Part):
    """The nodes, their links, speeds, absences and energy.

    The preset fills values that are not given, at construction. So the record of a run is complete, and does not change
    with later presets. A given `bandwidth` replaces both links of the preset.
    """

    kind: ClassVar[str] = "network"
    nodes: int = param("The number of nodes.", ge=1, le=10_000_000)
    preset: Literal["none", "lan", "wan", "mobile"] = param("The source of values that are not given.", default="none")
    latency: Latency = param(
        "The delay of a message, in addition to the time of its bytes. 0 without a preset.", default=None
    )
    bandwidth: Bandwidth | None = param("The rate of every node's link, in each direction.", default=None)
    uplink: Bandwidth | None = param("The rate at which a node sends, if it is not `bandwidth`.", default=None)
    downlink: Bandwidth | None = param("The rate at which a node receives, if it is not `bandwidth`.", default=None)
    queue: Literal["fifo", "fair"] = param(
        "The order of messages on a link: one after the other, or all at once with max-min fair shares.",
        default="fifo",
    )
    compute: Compute = param(
        "The training speed of nodes, by default that of `devices`. 1000 samples per second without these or a preset. "
        "With neither latency nor bandwidth, a round takes its training time.",
        default=None,
    )
    devices: Devices | None = param(
        "The devices of nodes: their features, and the variation of their speeds. By default, none.", default=None
    )
    loss: float = param("The probability that a message is lost. 0 without a preset.", default=None, ge=0, lt=1)
    churn: Churn = param("The absences of nodes. None without a preset.", default=None)
    energy: Energy = param("The energy of computing and of messages. By default, it is not measured.", default=None)

    def __post_init__(self) -> None:
        # An unknown preset fails in the check of the fields below.
        preset = PRESETS.get(self.preset, {}) if isinstance(self.preset, str) else {}
        if self.devices is not None:
            preset = {**preset, "compute": "devices"}
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
        self._speeds = self.compute.speeds_of(self.devices, setting)
        self.energy.meet(self.devices)

    @property
    def is_ordered(self) -> bool:
        """True if messages keep their order over a link."""
        return self.queue != "fair"

    def losses(self) -> list[str]:
        """The reasons why messages may not arrive, in words."""
        churn = f"the churn {self.churn.title()}"
        return [*([f"a 'loss' of {self.loss:g}"] if self.loss else []), *([churn] if self.churn.has_churn else [])]

    def uplink_rates(self) -> NDArray[np.float64] | None:
        """The bits per second at which each node sends, N; None if no node has a limit. Valid after `check`."""
        return self._uplinks

    def downlink_rates(self) -> NDArray[np.float64] | None:
        """The bits per second at which each node receives, N; None if no node has a limit. Valid after `check`."""
        return self._downlinks

    def compute_speeds(self) -> NDArray[np.float64]:
        """The samples per second of each node, N. Valid after `check`."""
        return self._speeds


def _rates(bandwidth: Bandwidth | None, setting: Setting) -> NDArray[np.float64] | None:
    rates = None if bandwidth is None else bandwidth.rates(setting)
    return None if rates is None or np.isinf(rates).all() else rates
