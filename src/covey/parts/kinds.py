"""The names of experiment files and where the parts behind them live; nothing is imported before it is asked for."""

import importlib
import os
import sys
from contextlib import suppress
from functools import cache, reduce
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from typing import Any, TypeVar

from covey import ROOMS
from covey.parts.errors import ConfigurationError, quoted
from covey.parts.native import kernels
from covey.parts.parameters import Part, unknown_kind

P = TypeVar("P", bound=Part)


@cache
def built_in() -> dict[str, dict[str, str]]:
    """The kinds of covey's own parts, by family: where each is found, as its room lists it."""
    found: dict[str, dict[str, str]] = {}
    for room in ROOMS:
        for family, known in importlib.import_module(f"covey.{room}").KINDS.items():
            found.setdefault(family, {}).update(known)
    return found


_folders: list[str] = []
"""Where modules of the user's own are searched for, beside the current folder."""


def search(folder: str) -> None:
    """Search a folder, too, for the modules of the user's own that names ask for."""
    if folder not in _folders:
        _folders.append(folder)


def searched() -> list[str]:
    """Where modules of the user's own may have come from in this process."""
    return [*own_folders(), *filter(None, sys.path)]


def own_folders() -> list[str]:
    """Where modules of the user's own are searched for, after what Python searches."""
    here: list[str] = []
    with suppress(OSError):  # It was removed.
        here.append(os.getcwd())
    return [*_folders, *here]


def _search_folders() -> None:
    kernels()  # Looked for before, or a file of its name beside an experiment would be taken for covey-native.
    # Last, or a file beside an experiment would stand in for the library whose name it has.
    importlib.invalidate_caches()  # A module may be younger than the last look into its folder.
    sys.path += [folder for folder in own_folders() if folder not in sys.path]


ENTRY_POINTS = "covey.kinds"
"""The group in which another distribution names its kinds: "family/kind" = "module:Class"."""


@cache
def _of_others() -> dict[str, dict[str, str]]:
    """The kinds that other distributions bring, by family; none of them has the name of one of covey's own."""
    found: dict[str, dict[str, str]] = {}
    own = built_in()
    for entry in entry_points(group=ENTRY_POINTS):
        family, _, kind = entry.name.partition("/")
        if family in own and kind and kind not in own[family]:
            found.setdefault(family, {})[kind] = entry.value
    return found


def known(family: str) -> dict[str, str]:
    """The kinds of a family, covey's own and those of other distributions: where each is found."""
    return {**built_in()[family], **_of_others().get(family, {})}


def resolve(family: type[P], name: Any) -> type[P]:
    """The class behind a kind, or behind "module:Class" of the user's own.

    Raises:
        ConfigurationError: no such kind, or a module that cannot be imported.
    """
    kinds = built_in()[family.family]
    if not isinstance(name, str):
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a string. Got {quoted(name)} instead.")
    if len(name) > _LONGEST or not name.isprintable():
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a name. Got {quoted(name)} instead.")
    target = kinds.get(name, name if all(name.partition(":")) else None)
    if target is None:
        kinds = known(family.family)  # Only who asks for more than covey has waits for a look at all distributions.
        target = kinds.get(name)
    if target is None:
        raise ConfigurationError(unknown_kind(family, name, kinds))
    module_name, _, class_name = target.partition(":")
    if name not in kinds:
        _search_folders()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        where = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"The {family.family} '{name}' cannot be imported: {module_name} fails with {where}."
        ) from error
    cls = _inside(module, class_name)
    if cls is None:
        why = f"{module_name} has no {class_name}"
        own = PathFinder.find_spec(module_name.partition(".")[0], own_folders())
        if own is not None and own.origin not in (None, getattr(module, "__file__", None)):
            why += f". A library has the name of {own.origin}: rename your module"
        if _IN_A_FUNCTION in class_name:
            why = "it was defined inside a function, where nothing finds it again"
        elif module_name == "__main__":
            why = "it was defined in a script or notebook, and this process has not run it"
        raise ConfigurationError(f"The {family.family} '{name}' does not exist: {why}.")
    if not (isinstance(cls, type) and issubclass(cls, family)):
        adopted = family.adopt(name, cls)
        if adopted is not None:
            return adopted
        if name in kinds:
            fitting = sorted(kind for kind in kinds if issubclass(load(family.family, kind), family))
            raise ConfigurationError(
                f"The {family.family} '{name}' cannot stand in this place, which must be one of: {', '.join(fitting)}. "
                f'Your own is written "module:Class".'
            )
        raise ConfigurationError(
            f"The {family.family} '{name}' is no {family.family}: "
            f"{class_name} does not derive from {family.__module__}.{family.__name__}."
        )
    return cls


_LONGEST = 400
"""Characters of a kind, or of a "module:Class"."""
_IN_A_FUNCTION = "<locals>"
"""What the qualified name of a class has in it that was defined inside a function."""


def _inside(module: Any, name: str) -> Any:
    """What a qualified name means in a module; None where it means nothing."""
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


def why_not_importable(cls: type[Part]) -> str | None:
    """Why no other process can import a part by its title, for the middle of a sentence; None where one can."""
    module, colon, name = cls.title().partition(":")
    if not colon:
        return None
    if module == "__main__":
        return "is defined in the script or notebook that was started"
    if _IN_A_FUNCTION in name:
        return "is defined inside a function"
    top = module.partition(".")[0]
    if not any(finder.find_spec(top, None) for finder in sys.meta_path if hasattr(finder, "find_spec")):
        return f"is defined in {module}, which is no module that can be imported"
    if _inside(sys.modules.get(module), name) is not cls.original():
        return f"is another one than that of its module {module}"
    return None


def is_registered(cls: type[Part]) -> bool:
    """Whether the kind of a part names that very class."""
    return cls.kind in built_in().get(cls.family, {}) and load(cls.family, cls.kind) is cls


def load(family: str, kind: str) -> type[Part]:
    """The class of a known kind.

    Raises:
        ConfigurationError: it is another distribution's, and cannot be imported.
    """
    own = built_in()[family].get(kind)
    module, _, name = (own or known(family)[kind]).partition(":")
    try:
        found: type[Part] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        if own is not None:
            raise
        raise ConfigurationError(
            f"The {family} '{kind}' cannot be imported: {type(error).__name__}: {error}."
        ) from error
    return found
