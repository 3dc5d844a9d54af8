"""Write a decentralized-learning protocol once; run it in simulation, in real processes, or on a cluster."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covey.api import resume as resume
    from covey.api import run as run
    from covey.errors import CoveyError as CoveyError
    from covey.experiment import Checkpoint as Checkpoint
    from covey.experiment import Evaluation as Evaluation
    from covey.experiment import Experiment as Experiment
    from covey.network import Network as Network
    from covey.node import Inbox as Inbox
    from covey.node import Message as Message
    from covey.node import Mixture as Mixture
    from covey.node import Node as Node
    from covey.node import NodeId as NodeId
    from covey.node import Program as Program
    from covey.node import Update as Update
    from covey.parameters import Part as Part
    from covey.parameters import Setting as Setting
    from covey.parameters import param as param
    from covey.runs import Run as Run
    from covey.task.task import Task as Task

__version__ = "0.1.0"

_HOMES = {
    "covey.api": ("resume", "run"),
    "covey.errors": ("CoveyError",),
    "covey.experiment": ("Checkpoint", "Evaluation", "Experiment"),
    "covey.network": ("Network",),
    "covey.node": ("Inbox", "Message", "Mixture", "Node", "NodeId", "Program", "Update"),
    "covey.parameters": ("Part", "Setting", "param"),
    "covey.runs": ("Run",),
    "covey.task.task": ("Task",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing covey alone costs nothing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'covey' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)
