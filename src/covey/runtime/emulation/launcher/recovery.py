"""Recovery from lost hosts, whether by faults or by themselves."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from covey.messages.payloads import Payload
from covey.network.faults import Strike, strikes
from covey.parts.errors import CoveyError
from covey.runtime.emulation.launcher.makers import HostEnded, HostGone
from covey.runtime.emulation.launcher.remote import Remote
from covey.runtime.emulation.transport.connection import Connection, loop_time
from covey.runtime.runs.schema import NETWORK
from covey.runtime.snapshots import Snapshot

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.launcher import Launcher

_SILENCE = 30.0
"""The seconds of silence after which a host counts as lost. It sends a heartbeat every second."""
_LOOK = 1.0
_QUIET = 30.0
"""Seconds without a completed round after which the user is notified."""


class Recovery:
    """Detects lost hosts, applies faults to hosts, and brings them back.

    Args:
        launcher: the launcher of the hosts.
        later: runs a coroutine in the background, and ends the run after an error.
    """

    def __init__(
        self, launcher: "Launcher", later: Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
    ) -> None:
        self.launcher, self.records, self.settings = launcher, launcher.records, launcher.settings
        self._later = later
        self._rolled_back: deque[float] = deque()
        """The times of roll-backs to a cut."""
        self._from_here: deque[float] = deque()
        """The times of roll-backs to the present cut."""
        self._rolled_back_to: Mapping[int, Snapshot] | None = None

    def begin(self) -> None:
        """Begin to watch hosts, and to apply faults."""
        self._later(self._follow_faults())
        self._later(self._look_after())

    # ------------------------------------------------------------------ present and lost hosts

    def go(self, host: Remote, *, returning: bool) -> None:
        """Start the nodes of a ready host."""
        host.begun, host.away, host.struck = True, False, False
        launcher = self.launcher
        gone = [other.number for other in launcher.hosts if other.away]
        rates = launcher.prepared.callbacks.rates
        since, factors = [since for since, _ in rates], [factor for _, factor in rates]
        posted = self.records.posted() if launcher.prepared.keeps_mail else []
        words: Payload = {"elapsed": launcher.now, "returning": returning, "gone": gone, "posted": posted}
        # Others may have come back elsewhere since the host got its orders.
        places = {"hosts": launcher.addresses(), "marks": launcher.marks()} if launcher.marks() else {}
        host.send("go", {**words, "rates_since": since, "rate_factors": factors, **places})
        self._pause(host)

    def on_lost(self, host: Remote, connection: Connection) -> None:
        """Handle the end of the connection to a host."""
        if host.connection is not connection:
            return
        was_there = host.begun
        host.let_go()
        if self.launcher.over:
            return
        if not was_there:
            error = HostEnded(f"Host {host.number} ended before it was ready{host.ending()}.")
            if host.ready is not None and not host.ready.done():
                host.ready.set_exception(error)
            elif self.launcher.has_begun and self.launcher.prepared.waits_for_all:
                self.roll_back(str(error))
            elif host.coming is None:
                self.launcher.fail(error)
            return
        host.away = True
        self.records.checkpoints.void_cut()
        self.records.event(self.launcher.now, NETWORK, "host lost", f"host {host.number}{host.ending()}")
        if not host.done and not self.launcher.interrupted and self.launcher.prepared.waits_for_all:
            self.roll_back(f"{host.named} is gone{host.ending()}.")
            return
        for node in host.nodes:
            self.records.event(self.launcher.now, node, "left", f"host {host.number} is gone")
        self._send_to_others(host, "gone")
        self.records.checkpoints.lose(host.nodes)
        if host.done:
            return
        self.records.checkpoints.lose_step()
        if self.launcher.interrupted:
            self._end(host)
        elif host.kills:
            if host.for_good:
                self.give_up(host)
        else:
            self._come_back(host)

    def on_broken(self, host: Remote, other: int) -> None:
        """Handle the end of a connection between two hosts, whose messages in transit are lost.

        Nodes of that host may continue without them, because later messages show that they are lost.
        """
        self.records.checkpoints.void_cut()
        if host.begun and not host.done and not self.launcher.rolls_back and self.launcher.prepared.waits_for_all:
            self.records.checkpoints.is_void = True
            self._later(self._miss(host, other))

    async def _miss(self, host: Remote, other: int) -> None:
        # If a lost host is the reason, that is known soon, and is the better message.
        run = self.launcher.run_name
        await asyncio.sleep(_LOOK / 4)
        # Hosts report it also while all are rolled back, and so have new connections.
        if not (self.launcher.interrupted or self.launcher.rolls_back) and run == self.launcher.run_name:
            self.roll_back(f"The connection between hosts {host.number} and {other} has ended.")

    def roll_back(self, reason: str) -> None:
        """Roll all hosts back to the last cut, unless that has failed too often."""
        launcher, cut = self.launcher, self.records.checkpoints.cut
        if launcher.rolls_back:
            return
        if cut is not self._rolled_back_to:
            self._rolled_back_to = cut
            self._from_here.clear()
        self.records.checkpoints.is_void = True
        if self._may_restart(self._rolled_back, reason) and self._may_restart(self._from_here, reason, always=True):
            launcher.rolls_back = True
            launcher.changed.set()
            self.records.notice = f"{reason} All nodes are rolled back to the last checkpoint."
            self.records.show()

    def _may_restart(self, before: deque[float], reason: str, *, always: bool = False) -> bool:
        """True if another restart is allowed after those at some times. If not, the run ends.

        Args:
            before: the times of restarts, to which this one is added.
            reason: the reason of the restart.
            always: count all times, however long ago.
        """
        now, most, within = loop_time(), self.settings.restarts, self.settings.restarts_within
        while before and not always and now - before[0] > within:
            before.popleft()
        if len(before) < most:
            before.append(now)
            return True
        where = "from the same checkpoint" if always else f"within {within:g} seconds"
        tried = f" Hosts were started again {most} times {where}." if most else ""
        self.launcher.fail(HostGone(reason + tried))
        return False

    def _come_back(self, host: Remote) -> None:
        if not host.struck:
            reason = f"{host.named} is gone{host.ending()}."
            if not self._may_restart(host.restarted, reason):
                return
            if not host.maker.starts:
                self.records.notice = f"{host.named} is gone. The launcher calls it for {self.settings.wait:g} seconds."
                self.records.show()
        host.coming = self._later(self._bring_back(host))

    def _send_to_others(self, host: Remote, tag: str) -> None:
        for other in self.launcher.hosts:
            if other is not host and other.begun:
                other.send(tag, {"host": host.number})

    def _say_moved(self, host: Remote) -> None:
        """Tell the others the address and the certificate of a host that came back, if they are new."""
        mark = host.maker.mark(host.number)
        if mark:
            for other in self.launcher.hosts:
                if other is not host and other.begun:
                    other.send("moved", {"host": host.number, "address": str(host.address), "mark": mark})

    def give_up(self, host: Remote) -> None:
        """Handle a host that does not return."""
        self.records.end_nodes(host.number, host.nodes)
        self._end(host)

    def _end(self, host: Remote) -> None:
        host.done = True
        self.launcher.changed.set()

    def call_off(self, host: Remote) -> None:
        """Cancel the return of a host that has not begun."""
        host.kill()
        if host.coming is not None:
            host.coming.cancel()
            host.coming = None
        host.let_go()

    async def _bring_back(self, host: Remote) -> None:
        """Restart or call a host, and start its nodes at their last snapshots."""
        launcher = self.launcher
        try:
            await host.start_again()
            await launcher.prepare(host, loop_time() + self.settings.wait, returning=True)
        except CoveyError as error:
            host.let_go()
            if host.struck and not host.maker.starts:
                # A fault has ended it, and its user has not started it again.
                self.records.event(launcher.now, NETWORK, "gone", str(error))
                self.give_up(host)
            elif not isinstance(error, HostEnded):
                launcher.fail(error)
            elif self._may_restart(host.restarted, str(error)):
                host.coming = self._later(self._bring_back(host))
            return
        finally:
            if host.coming is asyncio.current_task():
                host.coming = None
        self._say_moved(host)
        self.go(host, returning=True)
        self.records.event(launcher.now, NETWORK, "host returned", f"host {host.number}")
        self._send_to_others(host, "here")
        for node in host.nodes:
            self.records.event(launcher.now, node, "returned", f"with host {host.number}")

    # ------------------------------------------------------------------ faults

    async def _follow_faults(self) -> None:
        """Apply the faults of hosts, and record those that hosts apply to nodes."""
        launcher, records = self.launcher, self.records
        experiment = launcher.prepared.experiment
        for strike in strikes(experiment.faults, launcher.prepared.setting):
            if strike.end <= records.elapsed and strike.start <= records.noted_until:
                continue
            await asyncio.sleep(max(strike.start - launcher.now, 0.0))
            fault = strike.fault
            if fault.stops_a_host and fault.host is not None and strike.end > launcher.now:
                host = launcher.hosts[fault.host]
                if not host.done:
                    fault.hit(_StruckHost(self, host, strike))
            if not fault.recorded_by_nodes and strike.start > records.noted_until:
                records.event(strike.start, NETWORK, fault.title(), strike.in_words())

    def pause(self, host: Remote, strike: Strike) -> None:
        """Pause a host until the end of a strike."""
        host.paused_until = max(host.paused_until, loop_time() + strike.end - self.launcher.now)
        self._pause(host)

    def kill(self, host: Remote, strike: Strike) -> None:
        """Kill a host, which returns at the end of the strike."""
        host.kills += 1
        host.struck = True
        host.for_good |= strike.end == float("inf")
        if not host.begun:
            self.call_off(host)
            if host.for_good:
                self.give_up(host)
        else:
            host.send("die", {})
            host.kill()
        if strike.end < float("inf"):
            self._later(self._return(host, strike.end))

    def _pause(self, host: Remote) -> None:
        left = host.paused_until - loop_time()
        if host.begun and left > 0:
            host.send("pause", {"seconds": left})

    async def _return(self, host: Remote, time: float) -> None:
        await asyncio.sleep(max(time - self.launcher.now, 0.0))
        host.kills -= 1
        if not (host.kills or host.done or host.begun or host.coming):
            self._come_back(host)

    # ------------------------------------------------------------------ silence

    async def _look_after(self) -> None:
        """Declare silent hosts lost, and notify the user if no node makes progress."""
        looked = awake = progressed = loop_time()
        commits = 0
        while True:
            await asyncio.sleep(_LOOK)
            now = loop_time()
            if now - looked > 3 * _LOOK:
                # This process itself was stopped, and has not read heartbeats meanwhile.
                awake = now
            looked = now
            for host in self.launcher.hosts:
                received_at = now if host.connection is None or not host.begun else host.connection.received_at
                if now - max(received_at, awake, host.paused_until) > _SILENCE:
                    self._cut_off(host)
            if self.records.commits > commits or self._somebody_is_busy:
                commits, progressed = self.records.commits, now
            elif now - progressed > _QUIET and self.records.notice is None:
                self._say_who_waits()

    @staticmethod
    def _cut_off(host: Remote) -> None:
        host.kill()
        if host.connection is not None:
            host.connection.abort()

    @property
    def _somebody_is_busy(self) -> bool:
        """True if nodes compute, messages are in transit, or a lost host may return."""
        return any(not host.done and (not host.begun or host.condition.is_busy) for host in self.launcher.hosts)

    def _say_who_waits(self) -> None:
        conditions = [host.condition for host in self.launcher.hosts if not host.done]
        waits = [wait for condition in conditions for wait in condition.waits][:3]
        if not waits:
            return
        self.records.notice = (
            f"No node has completed a round for {_QUIET:g} seconds, and {sum(c.idle for c in conditions)} nodes wait: "
            f"{'; '.join(waits)}. If messages are lost, give the program some 'patience'."
        )
        self.records.event(self.launcher.now, NETWORK, "stuck", self.records.notice)
        self.records.show()


@dataclass(slots=True)
class _StruckHost:
    """A host as the target of a fault."""

    recovery: Recovery
    host: Remote
    strike: Strike

    def kill(self) -> None:
        self.recovery.kill(self.host, self.strike)

    def pause(self) -> None:
        self.recovery.pause(self.host, self.strike)
