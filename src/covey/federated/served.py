"""Programs with a server."""

from collections.abc import Mapping, Sequence

from covey.federated.ends import SERVER
from covey.learning.node import LearningProgram
from covey.parts.errors import ConfigurationError
from covey.parts.parameters import Setting


class Served(LearningProgram):
    """The base of programs in which node 0 is a server without data, and the others are its clients."""

    without_data = frozenset({"server"})
    evaluated_roles = frozenset({"server"})

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        return {"server": [SERVER], "client": range(1, nodes)}

    def check_classes(self, setting: Setting) -> None:
        """Refuse data whose samples do not have one class each."""
        several = bool(setting.training_samples) and setting.label_counts is None
        if not setting.classes or several:
            raise ConfigurationError(
                f"The data of {self.named()} must have classes, one for each sample. Got others instead."
            )
