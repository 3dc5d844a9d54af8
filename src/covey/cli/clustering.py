"""`covey cluster`."""

import argparse
import sys
from dataclasses import asdict

from covey.cli.tables import print_json, print_table, say
from covey.parts.machine import default_workers
from covey.runtime.cluster.checking import Machine, machines
from covey.runtime.cluster.session import connected

_SKEW = 1.0
"""The seconds from which on a difference of clocks is reported. Certificates allow for an hour."""


def cluster(arguments: argparse.Namespace) -> int:
    """Check the machines of a cluster: 1 if one of them cannot take part."""
    with connected(arguments.address, cores=default_workers()):
        found = machines(arguments.wait)
    if arguments.json:
        print_json([asdict(machine) for machine in found])
    else:
        cores, gpus = sum(machine.cores for machine in found), sum(machine.gpus for machine in found)
        print_table(
            f"{len(found)} machines with {cores:g} cores and {gpus:g} GPUs",
            ["machine", "cores", "GPUs", "covey", "torch", "python", "call", "bandwidth", "clock"],
            [_row(machine) for machine in found],
            *(_remark(machine) for machine in found),
        )
    for machine in found:
        if machine.problem is not None:
            say(f"covey: {machine.problem}", file=sys.stderr)
    return int(any(machine.problem is not None for machine in found))


def _row(machine: Machine) -> list[str]:
    named = [f"{machine.name} {machine.address}", f"{machine.cores:g}", f"{machine.gpus:g}"]
    if machine.versions is None:
        return [*named, *["-"] * 6]
    figures = f"{machine.call * 1e3:.1f} ms", f"{machine.bandwidth / 1e9:.2f} Gbit/s", f"{machine.skew * 1e3:+.1f} ms"
    return [*named, *(machine.versions[name] for name in ("covey", "torch", "python")), *figures]


def _remark(machine: Machine) -> str:
    if abs(machine.skew) < _SKEW:
        return ""
    return f"The clock of {machine.name} differs from this one's by {machine.skew:+.1f} seconds."
