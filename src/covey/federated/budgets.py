"""Unequal budgets: the clients of a round make different numbers of steps, as in the evaluations of GeL and FedNova."""

from torch import Tensor

from covey.federated.client_work import ClientWork, guesses_of, most_guesses
from covey.learning.mixture import Mixture
from covey.learning.node import LearningNode, Update
from covey.parts.parameters import param


class Budgets(ClientWork):
    """Training of 1 to `steps` steps, drawn uniformly for every client and round. The server expects `steps`."""

    kind = "budgets"
    steps: int = param("The largest number of mini-batch steps, which guesses fill up to.", ge=1)
    eta_l: float | None = param("The learning rate; by default, that of the task's optimizer.", default=None, gt=0)
    proximal_mu: float = param(
        "The weight mu of FedProx's term, which keeps clients near the server's model.", default=0.0, ge=0
    )
    most_guesses: int | None = most_guesses()

    async def train(
        self, node: LearningNode, model: Tensor | Mixture, t: int, *, correction: Tensor | None = None
    ) -> Update:
        return await node.train(
            model,
            steps=int(node.random("budget", t).integers(1, self.steps, endpoint=True)),
            expected=self.steps,
            lr=self.eta_l,
            proximal=self.proximal_mu,
            correction=correction,
            guesses=guesses_of(self, node, model, t, self.most_guesses),
        )

    def effective(self, update: Update) -> float:
        return float(update.steps) if self.proximal_mu else update.normaliser
