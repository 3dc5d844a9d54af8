"""Attacks of curious nodes: what the messages that they received tell of the data of others.

    from covey.privacy.attacks import attack

    for result in attack("runs/digits-s1-001", ["linkability", "membership-loss"]):
        print(result.meaning)

`covey.learning.views` says how a program shows its models to attacks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covey.privacy.attacks.attacking import attack as attack
    from covey.privacy.attacks.contract import Attack as Attack
    from covey.privacy.attacks.contract import Result as Result
    from covey.privacy.attacks.knowledge import read_knowledge as read_knowledge

_HOMES = {"Attack": "contract", "Result": "contract", "attack": "attacking", "read_knowledge": "knowledge"}
__all__ = ["Attack", "Result", "attack", "read_knowledge"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
