"""The values of each `preset`, written as in an experiment file.

Latencies are one-way, half of the round trips in the sources. No preset loses messages or nodes, because a program
without a timeout would wait for ever. The experiment must ask for loss and churn.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "none": {
        "latency": 0.0,
        # Arbitrary. Without latency or bandwidth, a round takes its training time.
        "compute": 1000.0,
        "loss": 0.0,
        "churn": "none",
        "energy": "none",
    },
    "lan": {
        # E. Jones, "Network Latencies in the Data Center", 2021: of round trips between virtual machines of one cloud
        # region, about 80 % take less than 0.5 ms.
        "latency": "0.25ms",
        # The slower of the two usual port speeds of a data centre, 1 and 10 Gbit/s.
        "uplink": "1Gbit/s",
        "downlink": "1Gbit/s",
    },
    "wan": {
        # Rounded to cover pings between the regions of public clouds, tens to some hundreds of ms (S. Agarwal, "Public
        # Cloud Inter-region Network Latency as Heat-maps", 2018): nine in ten round trips of this distribution are
        # between 44 and 228 ms.
        "latency": {"kind": "log-normal", "median": "50ms", "sigma": 0.5},
        # Arbitrary: a tenth of "lan".
        "uplink": "100Mbit/s",
        "downlink": "100Mbit/s",
    },
    "mobile": {
        # Ookla, Speedtest Global Index, first quarter of 2023: the world's median mobile connection has a latency of
        # 28 ms to a near server, 41.54 Mbit/s down and 10.42 Mbit/s up. A message crosses the access networks of both
        # ends, and each takes half of such a round trip. The spreads are arbitrary: nine in ten nodes are within a
        # factor of 2.3 (latency) or 5.2 (bandwidth) of the median.
        "latency": {"kind": "per-node", "median": "14ms", "sigma": 0.5},
        "uplink": {"kind": "log-normal", "median": "10.42Mbit/s", "sigma": 1.0},
        "downlink": {"kind": "log-normal", "median": "41.54Mbit/s", "sigma": 1.0},
        # Arbitrary: phones train several times more slowly than the machines of the other presets, and differ.
        "compute": {"kind": "log-normal", "median": 200.0, "sigma": 0.5},
    },
}
