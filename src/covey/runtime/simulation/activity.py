"""The coroutines of simulated nodes."""

from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

from covey.parts.errors import ProgramError

if TYPE_CHECKING:
    from covey.runtime.simulation.node import SimulatedNode

_WAITING = object()


@coroutine
def suspended() -> Generator[object, Any, Any]:
    """Hand control back to the world until somebody resumes this activity."""
    return (yield _WAITING)


class SimulatedActivity:
    """A coroutine of a node."""

    __slots__ = ("begun", "coroutine", "done", "node", "watchers")

    def __init__(self, node: "SimulatedNode", coroutine: Coroutine[Any, Any, None]) -> None:
        self.node = node
        self.coroutine = coroutine
        self.begun = False
        self.done = False
        self.watchers: list[SimulatedActivity] = []

    def resume(self, value: Any = None) -> None:
        """Let it run until it waits again."""
        if self.done:
            return
        self.begun = True
        node = self.node
        if node.held is not None:
            node.held.append(partial(self.resume, value))
            return
        world = node.world
        before, world.current = world.current, self
        try:
            asked = self.coroutine.send(value)
        except StopIteration:
            self._end()
        except Exception as error:
            self.done = True
            raise self.node.failure(world.program, error) from error
        else:
            if asked is not _WAITING:
                raise ProgramError(
                    f"The program {world.program.title()} awaits something at node {self.node.id} "
                    f"that the node does not offer."
                )
        finally:
            world.current = before

    def _end(self) -> None:
        self.done = True
        if self is self.node.main:
            self.node.finish()
        for watcher in self.watchers:
            watcher.resume()

    def cancel(self) -> None:
        """End it where it is."""
        if not self.done:
            self.done = True
            self.coroutine.close()

    async def wait(self) -> None:
        if not self.done:
            current = self.node.world.current
            assert current is not None
            self.watchers.append(current)
            await suspended()
