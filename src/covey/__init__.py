"""Write a decentralized-learning protocol once; run it in simulation, in real processes, or on a cluster."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covey import data as data
    from covey.api.checking import check as check
    from covey.api.comparing import compare as compare
    from covey.api.inferring import infer as infer
    from covey.api.listing import list as list
    from covey.api.reporting import report as report
    from covey.api.running import resume as resume
    from covey.api.running import run as run
    from covey.api.sweeps import Sweep as Sweep
    from covey.api.sweeps import sweep as sweep
    from covey.learning.mixture import Mixture as Mixture
    from covey.learning.node import LearningNode as LearningNode
    from covey.learning.node import LearningProgram as LearningProgram
    from covey.learning.node import Update as Update
    from covey.learning.task import LearningTask as LearningTask
    from covey.network import Network as Network
    from covey.parts.errors import CoveyError as CoveyError
    from covey.parts.nodes import NodeId as NodeId
    from covey.parts.parameters import Part as Part
    from covey.parts.parameters import Setting as Setting
    from covey.parts.parameters import param as param
    from covey.runtime.callbacks import Callback as Callback
    from covey.runtime.callbacks import Evaluated as Evaluated
    from covey.runtime.content import Content as Content
    from covey.runtime.experiment import Checkpoint as Checkpoint
    from covey.runtime.experiment import Evaluation as Evaluation
    from covey.runtime.experiment import Experiment as Experiment
    from covey.runtime.node import Inbox as Inbox
    from covey.runtime.node import Message as Message
    from covey.runtime.node import Node as Node
    from covey.runtime.node import Program as Program
    from covey.runtime.runs import Run as Run
    from covey.runtime.state import State as State

__version__ = "0.1.0"

ROOMS = (
    "decentralized",
    "federated",
    "privacy",
    "enclave",
    "aggregation",
    "learning",
    "messages",
    "network",
    "runtime",
)
"""The rooms that list kinds of parts, in the order in which `covey list` has them."""

_HOMES = {
    "covey.api.checking": ("check",),
    "covey.api.comparing": ("compare",),
    "covey.api.inferring": ("infer",),
    "covey.api.listing": ("list",),
    "covey.api.reporting": ("report",),
    "covey.api.running": ("resume", "run"),
    "covey.api.sweeps": ("Sweep", "sweep"),
    "covey.parts.errors": ("CoveyError",),
    "covey.runtime.callbacks": ("Callback", "Evaluated"),
    "covey.runtime.content": ("Content",),
    "covey.runtime.experiment": ("Checkpoint", "Evaluation", "Experiment"),
    "covey.network": ("Network",),
    "covey.learning.mixture": ("Mixture",),
    "covey.learning.node": ("LearningNode", "LearningProgram", "Update"),
    "covey.runtime.node": ("Inbox", "Message", "Node", "Program"),
    "covey.parts.nodes": ("NodeId",),
    "covey.parts.parameters": ("Part", "Setting", "param"),
    "covey.runtime.runs": ("Run",),
    "covey.runtime.state": ("State",),
    "covey.learning.task": ("LearningTask",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", "data", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing covey alone costs nothing."""
    from importlib import import_module

    if name == "data":
        return import_module("covey.data")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'covey' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> tuple[str, ...]:
    """The public names, for completion: none of them is here before it is first used."""
    return tuple({*__all__, *globals()} - {"Any", "TYPE_CHECKING"})
