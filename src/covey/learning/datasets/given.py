"""Data sets that Python gives: objects, and functions that make some."""

import copy
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch.utils import data as torch_data

from covey.learning.dataset import Data, Dataset
from covey.learning.datasets.arrays import Wanted, made
from covey.learning.datasets.digests import digest
from covey.learning.datasets.reading import are_read
from covey.parts.errors import ConfigurationError, DataError, quoted
from covey.parts.parameters import param

WHAT = "(x, y), ((x, y), (x_test, y_test)), a Dataset of torch or the result of a function of covey.data"
"""The forms of a data set in Python, for the middle of a sentence."""
SHARE = 0.2
"""The default fraction of the samples that is for testing."""


_stored: list[Path] = []
"""Folders with data of other processes, each in a folder that its digest names."""


def stored_in(folder: Path) -> None:
    """Find data that were given to another process in a folder, where each has a folder that its digest names."""
    if folder not in _stored:
        _stored.append(folder)


class Given(Dataset):
    """Data that were given in Python, as (x, y) or by `covey.data`; a file holds only their digest."""

    kind = "given"
    of_python = True
    digest: str = param("The digest of the data.")
    _data = cast("Data | None", None)

    @classmethod
    def of(cls, data: Data) -> Self:
        """A data set of some data."""
        found = cls(digest=digest(data))
        found._data = data
        return found

    @property
    def data(self) -> Data:
        """The data.

        Raises:
            DataError: they were given to another process, and not stored by it.
        """
        if self._data is None:
            self._data = self._found()
        if self._data is None:
            raise DataError(
                "The data of the dataset given were given in Python, and no file holds them: give them again, as in "
                'covey.resume(folder, dataset=(x, y)), or name a function of your own: dataset = "module:function".'
            )
        return self._data

    def _found(self) -> Data | None:
        from covey.learning.datasets.stored import FACTS, load

        folders = (folder / self.digest for folder in _stored)
        return next((load(folder) for folder in folders if (folder / FACTS).exists()), None)

    def store_given(self, folder: Path) -> None:
        from covey.learning.datasets.stored import store

        if not (folder / self.digest).exists():
            store(self.data, folder / self.digest)

    def portable(self, folder: Path | None) -> Dataset:
        from covey.learning.datasets.stored import NPY, store

        if folder is None:
            raise ConfigurationError(
                "The dataset of the task was given in Python, and hosts on other machines have none of it. Name a "
                'function that they can import: dataset = "module:function".'
            )
        read = [split.inputs for split in (self.data.train, self.data.test) if are_read(split.inputs)]
        if read or self.data.stream is not None:
            raise ConfigurationError(
                "The inputs of the dataset given are read by a function of this process: name a function of your own "
                'that other processes call, dataset = "module:function".'
            )
        store(self.data, folder)
        return NPY(path=folder)

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        return self.data


class Made(Dataset):
    """A function of the user's own that returns a data set; its arguments are parameters."""

    function: ClassVar[Callable[..., Any]]

    @classmethod
    def title(cls) -> str:
        return cls.kind

    @classmethod
    def original(cls) -> Any:
        return cls.function

    def load(self, folder: Path, *, quiet: bool = True) -> Data:
        arguments = {name: getattr(self, name) for name in arguments_of(self.function)}
        found = self.function(**arguments)
        made_of = found if isinstance(found, Dataset) else of_object(found)
        if made_of is None:
            raise DataError(f"The function {self.title()} must return {WHAT}. Got {quoted(found)} instead.")
        return made_of.load(folder, quiet=quiet)


def adopted(name: str, function: Callable[..., Any]) -> type[Dataset]:
    """The class of data sets that a function makes; each of its arguments is a parameter.

    Raises:
        ConfigurationError: an argument has the name of something that all parts have.
    """
    hints = _hints_of(function)
    members: dict[str, Any] = {"kind": name, "function": staticmethod(function), "__doc__": function.__doc__}
    annotations: dict[str, Any] = {}
    for argument, parameter in arguments_of(function).items():
        if hasattr(Made, argument) or argument == "function":
            raise ConfigurationError(f"The function {name} must not have an argument '{argument}': parts have another.")
        annotations[argument] = hints.get(argument, Any)
        declared = f"An argument of {name}."
        if parameter.default is inspect.Parameter.empty:
            members[argument] = param(declared)
        else:
            members[argument] = param(declared, factory=_copies(parameter.default))
    called = getattr(function, "__name__", "made")
    return type(called, (Made,), {**members, "__annotations__": annotations})


def _copies(value: Any) -> Callable[[], Any]:
    return lambda: copy.deepcopy(value)


def arguments_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a function that can be given by name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters
    return {name: parameter for name, parameter in parameters.items() if named.count(parameter.kind)}


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except Exception:  # Its annotations may be arbitrary.
        return {}


def of_object(value: object) -> Dataset | None:
    """The data set that an object of Python is; None where it is none."""
    if isinstance(value, Data):
        return Given.of(value)
    if isinstance(value, torch_data.Dataset | torch_data.DataLoader):
        from covey.learning.datasets.adapters import from_torch

        return from_torch(value)
    if isinstance(value, tuple):
        if len(value) != 2:
            raise DataError(f"The dataset must be {WHAT}. Got {len(value)} entries instead.")
        first, second = value
        if isinstance(first, tuple) and isinstance(second, tuple) and len(first) == 2:
            return Given.of(made(*first, second, Wanted()))
        return Given.of(made(first, second, SHARE, Wanted()))
    return None
