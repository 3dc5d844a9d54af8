"""Networks by name: the figures behind `preset`, each written as in an experiment file.

Latencies are one-way, half of the round trips that the sources give. No preset loses messages or nodes: a program
without a timeout would wait for ever, so both are for the experiment to ask for.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "none": {
        "latency": 0.0,
        # A round choice. Without latency or bandwidth a round costs its training time and nothing else.
        "compute": 1000.0,
        "loss": 0.0,
        "churn": "none",
        "energy": "none",
    },
    "lan": {
        # E. Jones, "Network Latencies in the Data Center", 2021: of round trips between virtual machines of one cloud
        # region, about 80 % take less than 0.5 ms.
        "latency": "0.25ms",
        # A round choice: the slower of the two usual speeds of a data centre's ports, 1 and 10 Gbit/s.
        "uplink": "1Gbit/s",
        "downlink": "1Gbit/s",
    },
    "wan": {
        # Round choices for the span of pings between the regions of public clouds, tens to some hundreds of ms (heat
        # maps of them: S. Agarwal, "Public Cloud Inter-region Network Latency as Heat-maps", 2018): nine in ten round
        # trips of this distribution are between 44 and 228 ms.
        "latency": {"kind": "log-normal", "median": "50ms", "sigma": 0.5},
        # A round choice: a tenth of "lan".
        "uplink": "100Mbit/s",
        "downlink": "100Mbit/s",
    },
    "mobile": {
        # Ookla, Speedtest Global Index, first quarter of 2023: the world's median mobile connection has a latency of
        # 28 ms to a near server, 41.54 Mbit/s down and 10.42 Mbit/s up. A message crosses the access networks of both
        # its ends, each taking half of such a round trip. The spreads are round choices: nine in ten nodes are within
        # a factor of 2.3 (latency) or 5.2 (bandwidth) of the median.
        "latency": {"kind": "per-node", "median": "14ms", "sigma": 0.5},
        "uplink": {"kind": "log-normal", "median": "10.42Mbit/s", "sigma": 1.0},
        "downlink": {"kind": "log-normal", "median": "41.54Mbit/s", "sigma": 1.0},
        # A round choice: phones train several times slower than the machines of the other presets, and differ.
        "compute": {"kind": "log-normal", "median": 200.0, "sigma": 0.5},
    },
}
