"""The network: nodes, links, speeds, absences, energy and injected faults."""

from covey.network.bandwidth import Bandwidth
from covey.network.churn import Churn
from covey.network.compute import Compute
from covey.network.devices import Devices
from covey.network.energy import Energy
from covey.network.fair import FairShare
from covey.network.faults import Fault
from covey.network.latency import Latency
from covey.network.network import Network

__all__ = ["Bandwidth", "Churn", "Compute", "Devices", "Energy", "FairShare", "Fault", "Latency", "Network"]

KINDS = {
    "latency": {
        "constant": "covey.network.latency:ConstantLatency",
        "uniform": "covey.network.latency:UniformLatency",
        "log-normal": "covey.network.latency:LogNormalLatency",
        "plane": "covey.network.latency:PlaneLatency",
        "matrix": "covey.network.latency:MatrixLatency",
        "per-node": "covey.network.latency:NodeLatency",
    },
    "bandwidth": {
        "constant": "covey.network.bandwidth:ConstantBandwidth",
        "log-normal": "covey.network.bandwidth:LogNormalBandwidth",
        "stragglers": "covey.network.bandwidth:Stragglers",
        "trace": "covey.network.bandwidth:TraceBandwidth",
    },
    "compute": {
        "constant": "covey.network.compute:ConstantCompute",
        "log-normal": "covey.network.compute:LogNormalCompute",
        "stragglers": "covey.network.compute:Stragglers",
        "trace": "covey.network.compute:TraceCompute",
        "devices": "covey.network.compute:DeviceCompute",
    },
    "devices": {
        "trace": "covey.network.devices:TraceDevices",
        "phones": "covey.network.devices:Phones",
    },
    "energy": {
        "none": "covey.network.energy:NoEnergy",
        "constant": "covey.network.energy:ConstantEnergy",
        "devices": "covey.network.energy:DeviceEnergy",
        "device-power": "covey.network.energy:DevicePower",
    },
    "churn": {
        "none": "covey.network.churn:NoChurn",
        "rate": "covey.network.churn:RateChurn",
        "trace": "covey.network.churn:TraceChurn",
        "availability": "covey.network.churn:AvailabilityChurn",
    },
    "fault": {
        "kill": "covey.network.faults:Kill",
        "pause": "covey.network.faults:Pause",
        "cut": "covey.network.faults:Cut",
        "slow": "covey.network.faults:Slow",
        "corrupt": "covey.network.faults:Corrupt",
    },
}
"""The kinds of parts in this room: family -> kind -> "module:Class"."""
