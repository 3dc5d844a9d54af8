"""A program that fails in its second round."""

from covey.learning.node import LearningNode, LearningProgram


class Broken(LearningProgram):
    """Raises."""

    async def run(self, node: LearningNode) -> None:
        async for t in node.rounds():
            if t == 1:
                raise ValueError("oh")
