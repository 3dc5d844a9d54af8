"""Every error that covey raises on purpose.

CoveyError                 anything below; the command line prints its text as one line, without a traceback
├── ConfigurationError     a key, a value or a combination of an experiment that cannot work
├── DataError              a data set whose files are missing or damaged, or a partition that cannot be made
├── RunError               a run folder that cannot be read, written or resumed
├── ModelError             a model that fails, is not finite, or has the wrong shape
├── ProgramError           a program that broke the node contract, or whose nodes all wait for ever
├── BudgetExceeded         a release of protected data for which no privacy budget is left
└── WireError              bytes that are not a valid frame
"""

import difflib
from collections.abc import Iterable
from typing import Any


def described(error: BaseException) -> str:
    """The type, text and origin of an error that another library raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f" ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})" if last else ""
    return f"{type(error).__name__}: {one_line(error)}{where}"


def one_line(text: object) -> str:
    """A text of another library on one line, and not too long."""
    words = " ".join(str(text).split())
    shown = words if words.isprintable() else repr(words)[1:-1]
    return shown if len(shown) <= _LONGEST_TEXT else f"{shown[:_LONGEST_TEXT]}..."


_LONGEST_TEXT = 400
_MOST_SHOWN = 120
_FEW = 4
"""The number of entries of a list of arrays that messages describe."""


def cut(text: str) -> str:
    """A text as messages quote it: the first 120 characters."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def quoted(value: object) -> str:
    """A value as messages quote it."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        sides: Any = value.shape  # type: ignore[attr-defined]
        return f"{type(value).__name__} of {' x '.join(map(str, sides))}"
    if isinstance(value, tuple | list) and any(getattr(entry, "shape", ()) for entry in value[:_FEW]):
        return cut(f"a {type(value).__name__} of {', '.join(map(quoted, value[:_FEW]))}")
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # A number of 5,000 digits, or a list that is too deep for repr.
        return f"{type(value).__name__} of great length"


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """The message for an unknown name, with the nearest known one."""
    names, given = sorted(known), cut(given)
    near = difflib.get_close_matches(given, names, n=_NEAREST, cutoff=0.5)
    near = near or [name for name in names if len(given) >= _PREFIX and name.startswith(given)]
    hint = f"; did you mean '{near[0]}'?" if near else "."
    listing = f" Known: {', '.join(names)}." if names else " It takes none."
    if len(names) > _MOST_LISTED and near:
        listing = f" Near it: {', '.join(near)}." if len(near) > 1 else ""
    return f"Unknown {what}{hint}{listing}"


_NEAREST = 5
_PREFIX = 3
"""The least number of letters by which a name is found that begins so."""
_MOST_LISTED = 25
"""With more names than this, a message lists the nearest only."""


class CoveyError(Exception):
    """The base of covey's own errors. Its text is written for the user who made the mistake."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython and Jupyter show in place of a traceback."""
        from covey.parts.tracebacks import rendered

        return rendered(self)


class ConfigurationError(CoveyError):
    """An experiment that cannot work as it is written."""


class ConfigurationWarning(UserWarning):
    """An experiment that runs, but not as it is written. The command line prints the text as one line."""


class DataError(CoveyError):
    """A data set that is missing, damaged or too small."""


class RunError(CoveyError):
    """A run folder that cannot be read, written or resumed."""


class ModelError(CoveyError):
    """A model that fails, is not finite, or has the wrong shape."""


class ProgramError(CoveyError):
    """A program that broke the node contract, or whose nodes all wait for ever."""


class BudgetExceeded(CoveyError):
    """A release that costs a coordinate of protected data more than is left of its budget for a pair."""

    def __init__(self, pair: int | str, coordinate: int, left: float, cost: float) -> None:
        super().__init__(
            f"The budget of coordinate {coordinate} for the pair {quoted(pair)} does not suffice: {left:.6g} is left, "
            f"and the release costs {cost:.6g}."
        )
        self.pair, self.coordinate = pair, coordinate


class WireError(CoveyError):
    """Bytes that are not a valid frame.

    `reason` is a short word under which a receiver counts the frame; `detail` is a sentence.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
