"""Several machines in one: network namespaces with a host in each, certificates, and a network that takes its time.

`python -m bench machines` needs Linux, root and iproute2. Three machines run a host each, a fourth runs experiments on
them. They are compared with the simulation, and a latency that covey shapes is compared with one that the network has:
by the kernel's netem, or where it has none by a switch of this module that holds frames back.
"""

import fcntl
import os
import selectors
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from covey.runtime.runs import Run

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_PORT = 7000
_PATIENCE = 300.0

EXPERIMENT = """
rounds = 40

[program]
kind = "gossip"
topology = "complete"

[task]
dataset = "digits"
model = "logistic"
batch_size = 16
optimizer = { kind = "sgd", lr = 0.3 }

[network]
nodes = 3
compute = 10000

[evaluation]
every = 0

[engine]
kind = "emulation"
certs = "certs/launcher"
hosts_file = "certs/launcher/hosts"
"""


def why_not() -> str | None:
    """Why this machine cannot be several, or None."""
    probe = f"covey-{os.getpid()}-probe"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "add", "bridge", "type", "bridge")
        _ip("-n", probe, "link", "add", "one", "type", "veth", "peer", "name", "two")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"no network namespaces, bridges or veth pairs: {said.strip().splitlines()[0]}"
    finally:
        if shutil.which("ip"):
            subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return None


def has_tap() -> bool:
    """Whether the switch of this module can be plugged in."""
    return os.access("/dev/net/tun", os.R_OK | os.W_OK)


def has_netem() -> bool:
    """Whether the kernel can delay packets."""
    probe = f"covey-{os.getpid()}-probe"
    _ip("netns", "add", probe)
    try:
        _delay(probe, "lo", 0.001)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        _ip("netns", "del", probe)
    return True


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _delay(namespace: str, device: str, seconds: float) -> None:
    words = ["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "netem", "delay", f"{seconds * 1e3:g}ms"]
    subprocess.run(words, check=True, capture_output=True, text=True)


class _Switch:
    """Passes the frames of some machines to all others, each after the same time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._ports: list[IO[bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def plug(self, device: str) -> None:
        """Make a device of this machine that is at the end of a cable; it may be moved to another."""
        port = open("/dev/net/tun", "r+b", buffering=0)  # noqa: SIM115
        fcntl.ioctl(port, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TAP | _IFF_NO_PI))
        os.set_blocking(port.fileno(), False)
        self._ports.append(port)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        ready = selectors.DefaultSelector()
        for port in self._ports:
            ready.register(port, selectors.EVENT_READ)
        under_way: deque[tuple[float, IO[bytes], bytes]] = deque()
        while not self._stop.is_set():
            due = under_way[0][0] - time.monotonic() if under_way else 0.1
            for key, _ in ready.select(max(due, 0.0)):
                port: IO[bytes] = key.fileobj  # type: ignore[assignment]
                while (frame := port.read(1 << 16)) is not None:
                    under_way.append((time.monotonic() + self.seconds, port, frame))
            while under_way and under_way[0][0] <= time.monotonic():
                _, source, frame = under_way.popleft()
                for port in self._ports:
                    if port is not source:
                        port.write(frame)

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for port in self._ports:
            port.close()


class Machines:
    """Machines that reach each other over a network of their own, and nobody else.

    Args:
        count: the number of machines.
        by_switch: whether this module's switch joins them, rather than a bridge of the kernel.
        network: the first three numbers of their addresses.
    """

    def __init__(self, count: int, *, by_switch: bool = False, network: str = "10.77.0") -> None:
        self._stem = f"covey-{os.getpid()}"
        self.names = [f"{self._stem}-{number}" for number in range(count)]
        self.addresses = [f"{network}.{number + 1}" for number in range(count)]
        self._switch = _Switch() if by_switch else None
        self._bridge = f"{self._stem}-bridge"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join(self) -> None:
        if self._switch is None:
            _ip("netns", "add", self._bridge)
            _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._bridge, "link", "set", "bridge", "up")
        for number, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            _ip("netns", "add", name)
            if self._switch is None:
                port = f"port{number}"
                _ip("-n", self._bridge, "link", "add", port, "type", "veth", "peer", "name", "net", "netns", name)
                _ip("-n", self._bridge, "link", "set", port, "master", "bridge", "up")
            else:
                device = f"cv{os.getpid()}-{number}"
                self._switch.plug(device)
                _ip("link", "set", device, "netns", name, "name", "net")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "net")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "net", "up")
        if self._switch is not None:
            self._switch.start()

    def delay(self, seconds: float) -> None:
        """Let everything that a machine sends to another arrive so much later."""
        if self._switch is not None:
            self._switch.seconds = seconds
            return
        for name in self.names:
            _delay(name, "net", seconds)

    def start(self, number: int, words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
        """Start covey on a machine, in a folder of it; what it says stands in `log` there."""
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.names[number], sys.executable, "-m", "covey", *words],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                    "OMP_NUM_THREADS": "1",
                },
            )
        self._processes.append(process)
        return process

    def run(self, number: int, words: Sequence[str], folder: Path) -> None:
        """Run covey on a machine to its end.

        Raises:
            RuntimeError: it failed; with what it said.
        """
        if self.start(number, words, folder).wait(_PATIENCE) != 0:
            raise RuntimeError(f"covey {' '.join(words)}: {(folder / 'log').read_text(errors='replace')[-2000:]}")

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._switch is not None:
            self._switch.close()
        for name in [*self.names, self._bridge]:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


class Cluster:
    """Machines with a waiting host each, and one more that runs experiments on them.

    Args:
        machines: the last is the one that runs experiments.
        folder: in which each machine has its own.
    """

    def __init__(self, machines: Machines, folder: Path) -> None:
        self._machines, self._home = machines, folder / "launcher"
        self._home.mkdir(parents=True)
        (self._home / "experiment.toml").write_text(EXPERIMENT)
        *where, _ = machines.addresses
        self.hosts = [f"{address}:{_PORT}" for address in where]
        self.launcher = len(where)
        machines.run(self.launcher, ["certs", "certs", "--hosts", *self.hosts], self._home)
        for number, address in enumerate(self.hosts):
            own = folder / f"machine-{number}"
            shutil.copytree(self._home / "certs" / f"host-{number}", own / f"host-{number}")
            machines.start(number, ["host", "--listen", address, "--certs", f"host-{number}"], own)

    def run(self, name: str, *overrides: str) -> Run:
        """Run the experiment with some settings."""
        words = [word for override in overrides for word in ("--set", override)]
        self._machines.run(self.launcher, ["run", "experiment.toml", "--out", name, "--json", *words], self._home)
        return Run(self._home / name)

    def simulate(self, name: str, *overrides: str) -> Run:
        """The same in virtual time."""
        return self.run(name, 'engine={kind="simulation"}', *overrides)


@contextmanager
def cluster(folder: Path, *, by_switch: bool = False) -> Iterator[tuple[Machines, Cluster]]:
    """Three machines with hosts, and a fourth."""
    with Machines(4, by_switch=by_switch) as machines:
        yield machines, Cluster(machines, folder)


def round_seconds(run: Run) -> float:
    """The median time of a round over nodes and rounds, without the first, in which connections are made."""
    commits = run.commits
    times = commits[commits["round"] > 5].pivot_table(index="round", columns="node", values="time")
    return float(statistics.median(times.diff().iloc[1:].to_numpy().ravel()))


def furthest(run: Run, other: Run) -> float:
    """By how much two runs' final models differ at most, relative to the largest number in them."""
    ours, theirs = run.models, other.models
    assert ours is not None
    assert theirs is not None
    return float((ours - theirs).abs().max() / theirs.abs().max())


def rows() -> Iterator[tuple[str, str, str, str]]:
    """The comparisons, as rows of a table."""
    reason = why_not()
    if reason is not None:
        yield "three machines", "not run", "", reason
        return
    by_switch = not has_netem()
    if by_switch and not has_tap():
        yield "three machines", "not run", "", "the kernel has neither netem nor TAP devices"
        return
    by = "a switch that holds frames back" if by_switch else "netem"
    with tempfile.TemporaryDirectory() as folder, cluster(Path(folder), by_switch=by_switch) as (machines, three):
        shaped = three.run("shaped", "network.latency=20ms")
        simulated = three.simulate("simulated", "network.latency=20ms")
        machines.delay(0.02)
        real = three.run("real")
        difference = furthest(shaped, simulated)
        took = {"simulated": simulated, "shaped by covey": shaped, f"by {by}": real}
        took_ms = {name: round_seconds(run) * 1e3 for name, run in took.items()}
    yield "three machines, models against the simulation", f"{difference:.1e}", "< 1e-5", "largest relative difference"
    for name, ms in took_ms.items():
        yield f"round at 20 ms latency, {name}", f"{ms:.1f} ms", "", "median; 3 nodes, over TLS"
