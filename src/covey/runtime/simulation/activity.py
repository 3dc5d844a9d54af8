"""The coroutines of simulated nodes."""

from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any

from covey.parts.errors import ProgramError
from covey.runtime.running_node import RunningNode

if TYPE_CHECKING:
    from covey.runtime.simulation.world import World

_WAITING = object()


@coroutine
def suspended() -> Generator[object, Any, Any]:
    """Return control to the world until this activity is resumed."""
    return (yield _WAITING)


class SimulatedActivity:
    """A coroutine of a simulated node."""

    __slots__ = ("begun", "coroutine", "done", "node", "watchers", "world")

    def __init__(self, node: RunningNode, world: "World", coroutine: Coroutine[Any, Any, None]) -> None:
        self.node = node
        self.world = world
        self.coroutine = coroutine
        self.begun = False
        self.done = False
        self.watchers: list[SimulatedActivity] = []

    def resume(self, value: Any = None) -> None:
        """Run the coroutine until it waits again."""
        if self.done:
            return
        self.begun = True
        node = self.node
        if node.held is not None:
            node.held.append(partial(self.resume, value))
            return
        world = self.world
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
                    f"The program {world.program.title()} awaits an object at node {self.node.id} "
                    f"that is not one of the node's."
                )
        finally:
            world.current = before

    def _end(self) -> None:
        self.done = True
        if self is self.node.main:
            self.world.finish(self.node)
        for watcher in self.watchers:
            watcher.resume()

    def cancel(self) -> None:
        """End the coroutine where it is."""
        if not self.done:
            self.done = True
            if self is not self.world.current:  # An activity that ends itself waits for ever instead.
                self.coroutine.close()

    async def wait(self) -> None:
        if not self.done:
            current = self.world.current
            assert current is not None
            self.watchers.append(current)
            await suspended()
