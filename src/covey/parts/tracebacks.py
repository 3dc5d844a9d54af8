"""Short tracebacks: a mistake is shown where the user made it, without the frames of covey."""

import sysconfig
import traceback
from contextlib import ContextDecorator
from pathlib import Path
from types import TracebackType

from covey.parts.errors import CoveyError

_COVEY = str(Path(__file__).resolve().parents[1])
_LIBRARIES = tuple({path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "purelib", "platlib")})


class short_traceback(ContextDecorator):
    """Lets a CoveyError pass without the frames that it has gathered so far.

    An error of the user's own code that caused it keeps the frames outside of covey.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, CoveyError):
            error.__cause__ = of_user(error.__cause__)
            error.__traceback__ = None


def of_user(error: BaseException | None) -> BaseException | None:
    """An error with the frames from the user's own code on, without those of covey; None where it comes from none."""
    if error is None or isinstance(error, CoveyError):
        return None
    frames, begun = [], False
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        begun = begun or not file.startswith((_COVEY, "<frozen", *_LIBRARIES))
        if begun and not file.startswith(_COVEY):
            frames.append(trace)
        trace = trace.tb_next
    if not frames:
        return None
    error.__traceback__ = None
    for trace in reversed(frames):
        error.__traceback__ = TracebackType(error.__traceback__, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
    return error


def rendered(error: CoveyError) -> list[str]:
    """The lines that a notebook shows of an error: its own, and the traceback of the user's code that caused it."""
    cause = of_user(error.__cause__)
    lines = [f"{type(error).__name__}: {error}"]
    return lines if cause is None else [*lines, *"".join(traceback.format_exception(cause)).splitlines()]
