"""CPFL (Dhasade et al., 2025): cohorts run federated averaging side by side until each has converged; then one model."""

from collections.abc import Mapping, Sequence
from math import inf

from covey import LearningNode, LearningProgram, Message, Mixture, NodeId, Setting, param
from covey.parts.errors import ConfigurationError

SERVER = NodeId(0)


def averaged(messages: Sequence[Message]) -> Mixture:
    """The average of the models of some messages, by samples."""
    total = sum(message["samples"] for message in messages)
    return Mixture([message["model"] for message in messages], [message["samples"] / total for message in messages])


class CPFL(LearningProgram):
    """Every cohort stops by its own validation loss; the server, with data of its own, makes one model of all.

    The paper distils the cohorts' models into a new one by their outputs on public data, as `cpfl_distilled.py` does. Here
    there are none: the server begins with the average of the cohorts' models or the best of them,
    whichever has the lowest loss on its validation data, and trains that on its own data, a pass a round.
    """

    evaluated_roles = frozenset({"server"})
    without_data = frozenset({"leader"})
    cohorts: int = param("The number of cohorts.", ge=1, lt="nodes")
    window: int = param("The number of rounds over which the loss is averaged.", default=2, ge=1)
    patience: int = param("The number of rounds without a new lowest average that end a cohort.", default=2, ge=1)
    least: float = param("The least decrease of the lowest average.", default=0.0, ge=0)

    def roles(self, nodes: int) -> Mapping[str, Sequence[int]]:
        first = 1 + self.cohorts
        if nodes < first + self.cohorts:
            raise ConfigurationError(f"The 'cohorts' of cpfl must leave each a client. Got {self.cohorts} instead.")
        return {"server": [SERVER], "leader": range(1, first), "client": range(first, nodes)}

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        clients = setting.generator("cohorts").permutation(self.roles(setting.nodes)["client"]).tolist()
        self.members = {NodeId(k): sorted(clients[k - 1 :: self.cohorts]) for k in range(1, 1 + self.cohorts)}
        self.leader_of = {client: leader for leader, members in self.members.items() for client in members}

    async def run(self, node: LearningNode) -> None:
        await {"server": self.fuse, "leader": self.lead, "client": self.take_part}[node.role](node)

    async def lead(self, node: LearningNode) -> None:
        """Federated averaging until the moving average of the loss has not fallen for some rounds; then the best model."""
        losses, lowest, best, since, clients = list[float](), inf, node.model, 0, self.members[node.id]
        async for t in node.rounds():
            if since >= self.patience:
                node.send(clients, {}, tag="model", round=t)
                break
            node.send(clients, {"model": node.model}, tag="model", round=t)
            answers = await node.receive(tag="update", round=t, senders=clients)
            losses.append(sum(answer["loss"] for answer in answers) / len(answers))
            average, since = sum(losses[-self.window :]) / min(self.window, len(losses)), since + 1
            if average < lowest - self.least:
                lowest, best, since = average, node.model, 0
            node.log(validation=average)
            node.model = averaged(answers)
        node.send(SERVER, {"model": best, "loss": lowest, "samples": sum(a["samples"] for a in answers)}, tag="cohort")

    async def take_part(self, node: LearningNode) -> None:
        """A client: say how good the cohort's model is on what it was not trained on, and train it."""
        leader = self.leader_of[node.id]
        async for t in node.rounds():
            (message,) = await node.receive(tag="model", round=t, senders=[leader])
            if "model" not in message.payload:
                break
            loss = (await node.evaluate(message["model"]))["loss"]
            node.model = (await node.train(message["model"])).model
            node.send(leader, {"model": node.model, "loss": loss, "samples": node.data.samples}, tag="update", round=t)

    async def fuse(self, node: LearningNode) -> None:
        """The server: wait for all cohorts, and learn from what they bring."""
        done = await node.receive(tag="cohort", senders=list(self.members))
        models = [averaged(done).tensor(), *(message["model"] for message in done)]
        losses = [(await node.evaluate(model))["loss"] for model in models]
        node.log(fused=min(losses))
        node.model = models[losses.index(min(losses))]
        async for _ in node.rounds():
            node.model = (await node.train(epochs=1)).model
