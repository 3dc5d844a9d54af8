"""The reasons why actors ended, in words."""

import re
from typing import Any

from covey.parts.errors import one_line
from covey.runtime.cluster.session import library

_USED = re.compile(r"([\d.]+)\s*GB\s*/\s*([\d.]+)\s*GB.*?threshold of (\d+(?:\.\d+)?)", re.DOTALL)
"""The memory of a machine in the message of Ray's memory monitor."""
_MODULE = re.compile(r"No module named '([\w.]+)'")
_SPARE = 0.9
"""The part of free memory that advice gives away."""


def reason(error: BaseException) -> str:
    """The reason of an actor's end."""
    ray, text = library(), str(error)
    missing = _MODULE.search(text)
    if is_for_memory(error):
        return "killed by Ray for memory"
    if missing is not None:
        return f"its machine has no module {missing[1]}"
    if isinstance(error, ray.exceptions.RayTaskError):
        return one_line(_cause(error))
    if isinstance(error, ray.exceptions.ObjectStoreFullError | ray.exceptions.OutOfDiskError):
        return "the object store of its machine is full"
    if "killed by `ray.kill`" in text:
        return "killed by the launcher"
    if re.search(r"node (has )?died|node was terminated|its node", text):
        return "its machine has left the cluster"
    if "process has died" in text or "unexpectedly" in text:
        return "its process was killed or crashed"
    return one_line(text)


def _cause(error: Any) -> object:
    """The error that a call of an actor raised."""
    return getattr(error, "cause", None) or error


def is_for_memory(error: BaseException) -> bool:
    """True if Ray's memory monitor ended an actor."""
    known = isinstance(error, library().exceptions.OutOfMemoryError)
    return known or "low on memory" in str(error) or "memory usage threshold" in str(error)


def advice(error: BaseException, *, nodes: int, peak: float, hosts: int) -> str:
    """The peak of a host that was killed for memory, and the number of its nodes that would fit.

    Args:
        error: the error that ended it.
        nodes: the number of its nodes.
        peak: the greatest memory that it reported, in bytes; 0 if it never did.
        hosts: the number of hosts on its machine.
    """
    found = _USED.search(str(error))
    if not peak:
        return ""
    said = f" at {peak / 1e9:.2f} GB with {nodes} nodes"
    if found is None:
        return said
    used, total, threshold = (float(number) for number in found.groups())
    others = max(used * 1e9 - hosts * peak, 0.0)
    room = max(threshold * total * 1e9 - others, 0.0) / hosts
    fitting = min(int(_SPARE * nodes * room / peak), nodes - 1)
    where = f"; its machine has {total:.2f} GB"
    return f"{said}{where}, where about {fitting} would fit" if fitting > 0 else f"{said}{where}, too little for one"
