"""What curious nodes see: an experiment names them, and the run keeps every message that came to them."""

from typing import ClassVar

from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Part, Setting, param


class Observer(Part):
    """Some nodes whose messages are kept, as somebody would see them who has these nodes.

    What really happened, such as which samples each node holds, stands in a file apart, for who scores an attack.
    """

    kind: ClassVar[str] = "observer"
    nodes: list[int] = param("Which nodes.", ge=0)
    tags: list[str] = param("Messages of which tags; of all by default.", factory=list)
    megabytes: int = param("How much is kept at most; what comes later is counted.", default=256, ge=1)

    def check(self, setting: Setting) -> None:
        super().check(setting)
        wrong = [node for node in self.nodes if node >= setting.nodes]
        if wrong or not self.nodes:
            raise ConfigurationError(
                f"The 'nodes' of the observer must be ids in [0, {setting.nodes}), one at least. "
                f"Got {self.nodes} instead."
            )

    def wants(self, tag: str) -> bool:
        """Whether messages of a tag are kept."""
        return not self.tags or tag in self.tags
