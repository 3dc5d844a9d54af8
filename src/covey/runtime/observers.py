"""Observed nodes, whose received messages the run keeps, for attacks by curious nodes."""

from typing import ClassVar

from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param

OWN = "own model"
"""The tag under which the model of an observed node is kept, as a message to itself."""


class Observer(Part):
    """Nodes whose received messages are kept, as an attacker in control of these nodes would see them.

    The ground truth, such as the samples of each node, is in a separate file for the scoring of attacks.
    """

    kind: ClassVar[str] = "observer"
    nodes: list[int] = param("The observed nodes.", ge=0)
    tags: list[str] = param("The tags of messages that are kept; by default, all.", factory=list)
    megabytes: int = param("The limit of kept messages. Later ones are only counted.", default=256, ge=1)

    models: bool = param(
        "Whether the observed nodes' own models after each round are kept, too: attackers know them.", default=True
    )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        wrong = [node for node in self.nodes if node >= setting.nodes]
        if wrong or not self.nodes:
            raise ConfigurationError(
                f"The 'nodes' of the observer must be at least one id in [0, {setting.nodes}). "
                f"Got {self.nodes} instead."
            )

    def wants(self, tag: str) -> bool:
        """True if messages of a tag are kept."""
        return not self.tags or tag in self.tags
