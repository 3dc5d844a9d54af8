"""The reports of hosts to the launcher, which passes them on to its records and to the recovery of hosts."""

from typing import TYPE_CHECKING, Any

import msgspec

from covey.messages import wire
from covey.parts import errors
from covey.parts.errors import CoveyError, RunError, WireError
from covey.runtime.emulation.launcher.remote import Condition, Remote
from covey.runtime.emulation.transport.connection import Connection, loop_time

if TYPE_CHECKING:
    from covey.runtime.emulation.launcher.launcher import Launcher

_IN_WORDS = {"parameters": "number of parameters", "data": "data set", "partition": "partition", "start": "start"}
"""The facts that must be equal at all hosts."""
_LOG = 10 << 20
"""The greatest length of the log that a host sends."""


class Reports:
    """Takes the reports of hosts.

    Args:
        launcher: the launcher of the hosts.
    """

    def __init__(self, launcher: "Launcher") -> None:
        self._launcher = launcher

    def take(self, host: Remote, connection: Connection, frame: wire.Frame) -> None:
        """Take a report that a host sent over a connection. An error ends the run."""
        if host.connection is not connection:
            return
        try:
            getattr(self, f"_on_{frame.tag}", self._on_other)(host, frame)
        except CoveyError as error:
            self._launcher.fail(error)
        except Exception as error:
            self._launcher.fail(RunError(f"Host {host.number} sent a malformed report: {errors.described(error)}."))

    def _on_other(self, host: Remote, frame: wire.Frame) -> None:
        raise RunError(f"Host {host.number} sent the unknown report {frame.tag!r}.")

    def _on_ready(self, host: Remote, frame: wire.Frame) -> None:
        here, there = self._launcher.prepared.task.signature(), dict(frame.payload)
        for name, value in here.items():
            if there.get(name) != value:
                raise RunError(
                    f"Host {host.number} has another {_IN_WORDS.get(name, name)} than the launcher: "
                    f"{errors.quoted(there.get(name))}, not {value!r}. All must load the same files."
                )
        assert host.ready is not None
        host.ready.set_result(None)

    def _on_failed(self, host: Remote, frame: wire.Frame) -> None:
        kind = getattr(errors, str(frame.payload["kind"]), RunError)
        known = isinstance(kind, type) and issubclass(kind, CoveyError) and kind is not WireError
        text = str(frame.payload["text"])
        if host.maker.same_paths and host.address is not None:
            text = f"{text.removesuffix('.')} (on the machine {host.address.host} of host {host.number})."
        raise (kind if known else RunError)(text)

    def _on_sample(self, host: Remote, frame: wire.Frame) -> None:
        sampling = self._launcher.sampling
        if sampling is None:
            raise RunError(f"Host {host.number} asks for virtual nodes, which the program does not have.")
        sampling.answer(host, msgspec.convert(frame.payload["round"], int))

    def _on_rows(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_rows(host.number, frame.payload["rows"])

    def _on_average(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.averages.add(host.number, frame.payload["round"], frame.payload)

    def _on_moment(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_moment(host.number, frame.payload)

    def _on_observed(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_observed(host.number, frame.payload)

    def _on_passed(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.averages.advance(host.number, frame.payload["round"])

    def _on_snapshots(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_snapshots(host.number, frame.payload)

    def _on_mail(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_mail(host.number, frame.payload)

    def _on_loose(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.checkpoints.has_loose = True

    def _on_part(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.end_part(host.number, frame.payload)

    def _on_missed(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.checkpoints.missed(msgspec.convert(frame.payload["round"], int))

    def _on_heartbeat(self, host: Remote, frame: wire.Frame) -> None:
        said: Any = frame.payload
        figures = self._launcher.records.take_health(host.number, said["time"], said["figures"])
        host.peak = max(host.peak, figures.get("memory", 0.0))
        queued = figures.get("send_queue", 0.0) + figures.get("uplink_queue", 0.0)
        condition = {name: said[name] for name in ("acting", "idle", "waits", "evaluates")}
        host.condition = msgspec.convert({"at": loop_time(), "queued": queued, **condition}, Condition)

    def _on_log(self, host: Remote, frame: wire.Frame) -> None:
        text = msgspec.convert(frame.payload["text"], str)
        host.logged += len(text)
        if host.log is not None and host.logged <= _LOG:
            with open(host.log, "a", encoding="utf-8") as log:
                log.write(f"{text}\n")

    def _on_holds(self, host: Remote, frame: wire.Frame) -> None:
        host.holds = msgspec.convert(frame.payload["round"], int)

    def _on_broken(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.recovery.on_broken(host, msgspec.convert(frame.payload["host"], int))

    def _on_learned(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_learned(host.number, frame.payload["node"], frame.payload)

    def _on_serves(self, host: Remote, frame: wire.Frame) -> None:
        host.serves = True
        self._say_enough()

    def _say_enough(self) -> None:
        """Order hosts to end their message handlers, if all programs have ended."""
        if all(host.done or host.serves for host in self._launcher.hosts):
            for host in self._launcher.hosts:
                if not host.done:
                    host.send("enough", {})

    def _on_done(self, host: Remote, frame: wire.Frame) -> None:
        self._launcher.records.take_end(host.number, host.nodes, frame.payload["time"])
        host.done = True
        self._say_enough()
        self._launcher.changed.set()
