"""covey against others, where they are installed: flwr (with its simulation extra), gossipy-dfl, pfl, decentralizepy;
prv-accountant.

`bench/peers.txt` says how to install them. Each peer has processes of its own, in which covey does the same work as
well: the same model and start, the same parts of the data, learning rate, batch size and passes, and no evaluation.
Figures are for a round in the steady state: the median of a peer's rounds after the first, against the median of three
whole runs of covey. All that comes before is the start-up: a peer's first round as far as it takes longer is in it,
imports are not. flwr and pfl have a process for each core, with one thread of torch; gossipy has only one process, and
one thread, since with two it took seven times longer on two busy cores. covey runs as it does by default. The
server of flwr looks for answers every 0.1 s, which is part of its rounds.

The models of flwr and pfl train on the very batches that covey draws, so they must end equal to rounding. gossipy draws
its own, trains every node once before the first round, and merges plain averages where covey weighs models by their
age: there the detail has both accuracies. (A covey program that does as gossipy does came to 58.6 % on the digits where
gossipy came to 58.7 %.) covey computes together what overlaps in virtual time, and training takes no time in gossipy:
so there is one figure with nodes that are nearly always idle, where little overlaps, and one with nodes that often
train.

decentralizepy has a process for each node, and so has one of covey's rows; its nodes, its data set and its GN-LeNet run
as they are. Both train three batches a round on parts of equal size of CIFAR-10, drawn by each itself, on the same
graph and with the same weights. The first round is counted from the start of the process, with imports and data.

prv-accountant is no simulator: its epsilons of sampled Gaussian noise stand beside those that runs state.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.peers.federated import PROCESSES

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 900
"""Seconds for one peer."""


@dataclass
class Peer:
    """A package that covey is compared with, by the module here of the same name.

    Attributes:
        module: the package, as it is imported.
        needed: the further packages that it needs.
        launcher: the command that starts its processes, if it does not start them itself.
    """

    module: str
    needed: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES))
PEERS = {
    "gossipy-dfl": Peer("gossipy", ("torchvision", "dill", "sklearn")),
    "flwr": Peer("flwr", ("ray",)),
    "pfl": Peer("pfl", (), TORCHRUN),
    "decentralizepy": Peer("decentralizepy", ("torchvision", "zmq", "localconfig")),
    "prv-accountant": Peer("prv_accountant", ("dp_accounting",)),
}
SILENT = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""flwr and ray would otherwise report their use over the network."""


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail; for a peer that cannot be run, why."""
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **SILENT, "PYTHONPATH": os.pathsep.join(paths)}
    for name, peer in PEERS.items():
        title = f"{name}: covey is faster by"
        missing = [module for module in (peer.module, *peer.needed) if find_spec(module) is None]
        if missing:
            yield [title, "", "", f"not installed (no {', '.join(missing)})"]
            continue
        command = [sys.executable, *peer.launcher, "-m", "bench.peers", peer.module]
        try:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            yield [title, "", "", f"not done after {LIMIT} s"]
            continue
        if done.returncode == 0:
            yield from json.loads(done.stdout)
        else:
            errors = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit code {done.returncode}"]
            yield [title, "", "", f"cannot be run: {errors[0 if peer.launcher else -1].strip().replace('|', ' ')}"]
