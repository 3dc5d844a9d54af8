"""The heartbeat of a host: memory, processor time, queues, drops, lateness."""

import os
import resource
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from covey.messages.payloads import Payload

if TYPE_CHECKING:
    from covey.runtime.emulation.host.stage import HostStage

_SHOWN = 3
"""The greatest number of nodes whose awaited messages are named."""


def memory_bytes() -> int:
    """The memory of this process, with a proportional share of shared pages if the system provides that."""
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def heartbeat(stage: "HostStage", refused: Counter[str]) -> Payload:
    """The figures that a host reports about itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    peers = stage.peers
    figures = {
        "memory": float(memory_bytes()),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "send_queue": float(peers.backlog if peers is not None else 0),
        "uplink_queue": float(sum(uplink.waiting_bytes for uplink in stage.traffic.uplinks.values())),
        "inboxes": float(sum(node.mail.held for node in stage.nodes.values())),  # type: ignore[attr-defined]
        "payload_bytes_out": float(peers.payload_bytes_out if peers is not None else 0),
        "frames_out": float(peers.frames_out if peers is not None else 0),
        "socket_bytes_out": float(peers.socket_bytes_out if peers is not None else 0),
    }
    for name, late in (
        ("train", stage.training_late),
        ("send", stage.traffic.sending_late),
        ("receive", stage.traffic.receiving_late),
    ):
        if late.count:
            figures[f"{name}_late"] = late.total / late.count
            figures[f"{name}_late_most"] = late.most
    carried = stage.traffic.carried
    if carried.asked_seconds and carried.real_seconds:
        figures["uplink_busy_seconds"] = carried.asked_seconds
        figures["uplink_asked"] = carried.bits / carried.asked_seconds
        figures["uplink_achieved"] = carried.bits / carried.real_seconds
    dropped = stage.refused + refused
    for node in stage.nodes.values():
        dropped.update(node.mail.drops)
    for reason, count in dropped.items():
        figures[f"dropped/{reason}"] = float(count)
    return {"time": stage.now, "figures": msgspec.msgpack.encode(figures), **condition(stage)}


def condition(stage: "HostStage") -> Payload:
    """The number of nodes that may still act, the number of those that only wait, the messages that the first few wait
    for, and whether models are evaluated."""
    acting = [stage.nodes[id] for id in sorted(stage.acting)]
    idle = [node for node in acting if stage.is_idle(node)]
    waits = [
        f"node {node.id} in round {node.round} for {awaited}" for node in idle[:_SHOWN] for awaited in node.mail.waits()
    ]
    evaluates = stage.recorder.is_evaluating
    return {"acting": len(acting), "idle": len(idle), "waits": waits[:_SHOWN], "evaluates": evaluates}
