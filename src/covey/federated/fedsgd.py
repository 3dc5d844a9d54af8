"""FedSGD (McMahan et al., 2017): in every round each client makes one step, with the gradient on all of its data."""

from covey.federated.client_work import ClientWork, LocalTraining
from covey.federated.fedavg import FedAvg
from covey.parts.parameters import param


def _one_step() -> LocalTraining:
    return LocalTraining(steps=1, batch_size="all")


class FedSGD(FedAvg):
    """Federated averaging after one step of each client on all of its data: gradient descent on the data of all."""

    kind = "fedsgd"
    work: ClientWork = param("The work of a client; by default, one step on all of its data.", factory=_one_step)
