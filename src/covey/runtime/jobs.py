"""Jobs: work that nodes request one by one, and that is done together."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Protocol

import numpy as np

from covey.messages.payloads import is_tensor
from covey.parts.errors import ProgramError


class Worker(Protocol):
    """A worker, which does jobs of one kind, many at once."""

    @property
    def at_once(self) -> int:
        """The number of jobs that may be done ahead of their time, whose results wait in memory."""

    @property
    def soon(self) -> int:
        """In real time, the number of jobs that are done before the first results are delivered."""

    def do(self, jobs: Sequence[Any]) -> None:
        """Do jobs, and store their results in them."""


class Job(Protocol):
    """Work that a node has requested."""

    @property
    def worker(self) -> Worker:
        """The worker. Jobs of the same worker are done together."""

    @property
    def done(self) -> bool:
        """True if the job has its result."""

    @property
    def waits(self) -> bool:
        """True if its time may pass before it is done, because its result is computed when it is needed."""


@dataclass(frozen=True)
class Function:
    """A worker that calls a function."""

    function: Callable[..., Any]
    at_once: int = 256
    soon: int = 16

    def do(self, jobs: "Sequence[Call]") -> None:
        """Call the function for each job, or its form `together`, if it has one, once for all."""
        if hasattr(self.function, "together") and len(jobs) > 1:
            self._do_together(jobs)
            return
        for job in jobs:
            try:
                job.result = self._called(job)
                if _twice and not same(job.result, self._called(job)):
                    raise ProgramError(f"{self._name} is not pure: a second call returns another result")
            except Exception as error:
                job.error = error
            job.done = True

    def _called(self, job: "Call") -> Any:
        return self.function(*job.arguments, **({} if job.random is None else {"random": job.random()}))

    def _do_together(self, jobs: "Sequence[Call]") -> None:
        together: Any = self.function.together  # type: ignore[attr-defined]
        randoms = [job.random() for job in jobs if job.random is not None]
        try:
            results = list(together([job.arguments for job in jobs], **({"random": randoms} if randoms else {})))
            if len(results) != len(jobs):
                raise ProgramError(f"{self._name}.together returns {len(results)} results for {len(jobs)} nodes")
            if _twice and not same(results, [self._called(job) for job in jobs]):
                raise ProgramError(f"{self._name}.together returns other results than {self._name} for each node")
        except Exception as error:
            for job in jobs:
                job.error, job.done = error, True
            return
        for job, result in zip(jobs, results, strict=True):
            job.result, job.done = result, True

    @property
    def _name(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


@dataclass(slots=True, eq=False)
class Call:
    """A requested call of a function, and its result."""

    worker: Function
    arguments: tuple[Any, ...]
    random: Callable[[], np.random.Generator] | None
    """Makes the generator for the function, if it has a parameter `random`."""
    waits: ClassVar[bool] = False
    result: Any = None
    error: Exception | None = None
    done: bool = field(default=False)


@lru_cache(maxsize=1024)
def asks_for_randomness(function: Callable[..., Any]) -> bool:
    """True if a function has a parameter `random`, for a generator of the node."""
    try:
        return "random" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False  # Some functions in C have no signature.


_twice = False


@contextmanager
def calling_twice() -> Iterator[None]:
    """For tests: call all functions of `node.compute` twice, and raise an error if the results differ."""
    global _twice
    _twice = True
    try:
        yield
    finally:
        _twice = False


def same(left: Any, right: Any) -> bool:
    """True if two results are equal, with arrays compared number by number."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if is_tensor(left) or is_tensor(right):
        return is_tensor(left) and is_tensor(right) and np.array_equal(left.detach().cpu(), right.detach().cpu())
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return np.array_equal(left, right)
    return bool(left == right)
