"""A router that sends questions to the sources that know most of them, without learning and without rounds."""

import numpy as np

from covey import Node, Program, param
from covey.runtime.node import Message

WIDTH = 8


def similarity(question: np.ndarray, topics: np.ndarray) -> np.ndarray:
    """The nearness of each topic to a question."""
    return topics @ question


def _together(asked: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    return list(np.einsum("qtw,qw->qt", np.stack([t for _, t in asked]), np.stack([q for q, _ in asked])))


similarity.together = _together  # type: ignore[attr-defined]


class Router(Program):
    """Node 0 asks; all others are sources, each with a topic of its own."""

    questions: int = param("The number of questions.", default=5, ge=1)
    best: int = param("The number of sources for each question.", default=2, ge=1)

    def roles(self, nodes: int) -> dict[str, range]:
        return {"router": range(1), "source": range(1, nodes)}

    async def run(self, node: Node) -> None:
        topics = node.public_random("topics").normal(size=(node.nodes, WIDTH))
        if node.role == "source":

            async def answer(message: Message) -> None:
                score = await node.compute(similarity, message["question"], topics[node.id : node.id + 1], seconds=0.01)
                node.record("answers", question=message["number"], score=float(score[0]))
                node.send(message.sender, {"score": float(score[0])}, tag=f"answer {message['number']}")

            node.serve("question", answer)
            return
        node.state["found"] = 0
        for number in range(self.questions):
            question = node.random("question", number).normal(size=WIDTH)
            scores = await node.compute(similarity, question, topics[1:], seconds=0.001)
            chosen = (np.argsort(-scores)[: self.best] + 1).tolist()
            node.send(chosen, {"question": question, "number": number}, tag="question")
            answers = await node.receive(tag=f"answer {number}", senders=chosen)
            node.state["found"] += len(answers)
            node.log(best=max(message["score"] for message in answers))
