"""The kinds of parts and where their classes are. A class is imported when it is first asked for."""

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
    """The kinds of covey's own parts: family -> kind -> "module:Class", as the rooms list them."""
    found: dict[str, dict[str, str]] = {}
    for room in ROOMS:
        for family, known in importlib.import_module(f"covey.{room}").KINDS.items():
            found.setdefault(family, {}).update(known)
    return found


def configured(family: str, name: str) -> str | None:
    """The configuration of a method that the literature names and that is no kind, as the rooms list them."""
    for room in ROOMS:
        names: dict[str, dict[str, str]] = getattr(importlib.import_module(f"covey.{room}"), "NAMES", {})
        found = names.get(family, {}).get(name.lower())
        if found is not None:
            return found
    return None


_folders: list[str] = []
"""Folders that are searched for the user's own modules, beside the current folder."""


def search(folder: str) -> None:
    """Add a folder to those that are searched for the user's own modules."""
    if folder not in _folders:
        _folders.append(folder)


def searched() -> list[str]:
    """The folders from which this process may have imported the user's own modules."""
    return [*own_folders(), *filter(None, sys.path)]


def own_folders() -> list[str]:
    """The folders that are searched for the user's own modules after Python's search path."""
    here: list[str] = []
    with suppress(OSError):  # The current folder was removed.
        here.append(os.getcwd())
    return [*_folders, *here]


def _search_folders() -> None:
    kernels()  # Loaded first, so that a file of that name beside an experiment does not hide covey-native.
    importlib.invalidate_caches()  # A module may be newer than the cached listing of its folder.
    # Appended, so that a file beside an experiment does not hide a library of the same name.
    sys.path += [folder for folder in own_folders() if folder not in sys.path]


ENTRY_POINTS = "covey.kinds"
"""The group in which another distribution names its kinds: "family/kind" = "module:Class"."""


@cache
def _of_others() -> dict[str, dict[str, str]]:
    """The kinds of other distributions, by family. A name that covey has itself is left out."""
    found: dict[str, dict[str, str]] = {}
    own = built_in()
    for entry in entry_points(group=ENTRY_POINTS):
        family, _, kind = entry.name.partition("/")
        if family in own and kind and kind not in own[family]:
            found.setdefault(family, {})[kind] = entry.value
    return found


def known(family: str) -> dict[str, str]:
    """The kinds of a family, from covey and other distributions: kind -> "module:Class"."""
    return {**built_in()[family], **_of_others().get(family, {})}


def resolve(family: type[P], name: Any) -> type[P]:
    """The class of a kind, or of the user's own "module:Class".

    Raises:
        ConfigurationError: no such kind, or a module that cannot be imported.
    """
    kinds = built_in()[family.family]
    if not isinstance(name, str):
        given = _of_object(family, name)
        if given is None:
            raise ConfigurationError(f"The 'kind' of the {family.family} must be a string. Got {quoted(name)} instead.")
        return given
    if len(name) > _LONGEST or not name.isprintable():
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a name. Got {quoted(name)} instead.")
    target = kinds.get(name, name if all(name.partition(":")) else None)
    if target is None:
        kinds = known(family.family)  # Slow: it reads the entry points of all distributions.
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
        extra = _EXTRAS.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
        hint = f" pip install 'covey[{extra}]' brings it." if extra else ""
        raise ConfigurationError(
            f"The {family.family} '{name}' cannot be imported: {module_name} fails with {where}.{hint}"
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
                f"The {family.family} '{name}' cannot be used here. Known: {', '.join(fitting)}. Your own is written "
                '"module:Class".'
            )
        raise ConfigurationError(
            f"The {family.family} '{name}' is no {family.family}: "
            f"{class_name} does not derive from {family.__module__}.{family.__name__}."
        )
    return cls


_EXTRAS = {"torchmetrics": "metrics", "peft": "peft"}
"""Libraries that kinds and modules of users need, by the extra that installs each."""
_LONGEST = 400
"""Characters of a kind, or of a "module:Class"."""
_IN_A_FUNCTION = "<locals>"
"""The part of a qualified name by which a class inside a function is known."""


def _inside(module: Any, name: str) -> Any:
    """The object of a qualified name in a module, or None."""
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


def _of_object(family: type[P], found: Any) -> type[P] | None:
    """The class of parts that a class or function stands for; None if it is neither."""
    if isinstance(found, type) and issubclass(found, family):
        return found
    name = getattr(found, "__qualname__", None)
    return family.adopt(f"{found.__module__}:{name}", found) if name else None


def why_not_importable(cls: type[Part]) -> str | None:
    """The reason why another process cannot import a part by its title, as half a sentence, or None."""
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
    """True if the kind of a part names that very class."""
    return cls.kind in built_in().get(cls.family, {}) and load(cls.family, cls.kind) is cls


def load(family: str, kind: str) -> type[Part]:
    """The class of a known kind.

    Raises:
        ConfigurationError: the class of another distribution cannot be imported.
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
