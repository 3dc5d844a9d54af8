"""The versions of what all machines of a run must have alike."""

import platform
from importlib.metadata import PackageNotFoundError, version

SAME = ("covey", "torch", "python")


def versions() -> dict[str, str]:
    """The versions of covey, torch and Python on this machine; "none" for what is not installed."""
    return {"covey": _version("covey"), "torch": _version("torch"), "python": platform.python_version()}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def difference(machine: str, there: dict[str, str], here: dict[str, str]) -> str | None:
    """The first difference of two machines, as a sentence; None if they fit. Patch releases of Python may differ."""
    for name in SAME:
        if _compared(name, there[name]) != _compared(name, here[name]):
            return f"The machine {machine} has {name} {there[name]}, and this one {here[name]}: install the same."
    return None


def _compared(name: str, found: str) -> str:
    return ".".join(found.split(".")[:2]) if name == "python" else found
