"""CPFL (Dhasade et al., 2025): cohorts run federated averaging side by side until each has converged; then one model."""

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf

from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, LearningProgram
from covey.messages.payloads import Payload
from covey.parts.errors import ConfigurationError
from covey.parts.nodes import NodeId
from covey.parts.parameters import Setting, param

SERVER = NodeId(0)


class CPFL(LearningProgram):
    """Every cohort stops by its own validation loss; the server, with data of its own, makes one model of all.

    The paper distils the cohorts' models into a new one by their outputs on public data, as `cpfl_distilled.py` does. Here
    there are none: the server begins with the average of the cohorts' models or the best of them,
    whichever has the lowest loss on its validation data, and trains that on its own data, a pass a round.
    """

    evaluated_roles = frozenset({"server"})
    without_data = frozenset({"leader"})
    cohorts: int = param("How many cohorts there are.", ge=1, lt="nodes")
    window: int = param("Over how many rounds the loss is averaged.", default=2, ge=1)
    patience: int = param("How many rounds without a new lowest average end a cohort.", default=2, ge=1)

    least: float = param("How far an average must be below the lowest to count as lower.", default=0.0, ge=0)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        first = 1 + self.cohorts
        if nodes < first + self.cohorts:
            raise ConfigurationError(f"The 'cohorts' of cpfl must leave each a client. Got {self.cohorts} instead.")
        return {"server": [SERVER], "leader": range(1, first), "client": range(first, nodes)}

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        clients = [NodeId(id) for id in self.roles(setting.nodes)["client"]]
        shuffled = [clients[index] for index in setting.generator("cohorts").permutation(len(clients))]
        self.members = {NodeId(k): sorted(shuffled[k - 1 :: self.cohorts]) for k in range(1, 1 + self.cohorts)}
        self.leader_of = {client: leader for leader, members in self.members.items() for client in members}

    async def run(self, node: LearningNode) -> None:
        await {"server": self.fuse, "leader": self.lead, "client": self.take_part}[node.role](node)

    async def lead(self, node: LearningNode) -> None:
        """Federated averaging until the moving average of the loss has not fallen for some rounds; then the best model."""
        losses: deque[float] = deque(maxlen=self.window)
        lowest, best, since, clients = inf, node.model, 0, self.members[node.id]
        async for t in node.rounds():
            if since >= self.patience:
                node.send(clients, {}, tag="model", round=t)
                break
            node.send(clients, {"model": node.model}, tag="model", round=t)
            answers = await node.receive(tag="update", round=t, senders=clients)
            losses.append(sum(answer["loss"] for answer in answers) / len(answers))
            average = sum(losses) / len(losses)
            lowest, best, since = (
                (average, node.model, 0) if average < lowest - self.least else (lowest, best, since + 1)
            )
            node.log(validation=average)
            total = sum(answer["samples"] for answer in answers)
            shares = [answer["samples"] / total for answer in answers]
            node.model = Mixture([answer["model"] for answer in answers], shares)
        node.send(SERVER, {"model": best, "loss": lowest, "samples": total}, tag="cohort")

    async def take_part(self, node: LearningNode) -> None:
        """A client: say how good the cohort's model is on what it was not trained on, and train it."""
        leader = self.leader_of[node.id]
        async for t in node.rounds():
            (message,) = await node.receive(tag="model", round=t, senders=[leader])
            if "model" not in message.payload:
                break
            loss = (await node.evaluate(message["model"]))["loss"]
            node.model = (await node.train(message["model"])).model
            answer: Payload = {"model": node.model, "loss": loss, "samples": node.data.samples}
            node.send(leader, answer, tag="update", round=t)

    async def fuse(self, node: LearningNode) -> None:
        """The server: wait for all cohorts, and learn from what they bring."""
        done = await node.receive(tag="cohort", senders=list(self.members))
        total = sum(message["samples"] for message in done)
        models = [message["model"] for message in done]
        average = Mixture(models, [message["samples"] / total for message in done]).tensor()
        losses = [((await node.evaluate(model))["loss"], index) for index, model in enumerate([average, *models])]
        node.log(fused=min(losses)[0])
        node.model = [average, *models][min(losses)[1]]
        async for _ in node.rounds():
            node.model = (await node.train(epochs=1)).model
