"""FederatedAveraging of pfl on torch; clients count equally, as they do there by default."""

import os
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor

from bench.peers.cases import BATCH, CASES, Case, Run, by_covey, row
from bench.peers.federated import CLIENTS, Clients, equality, fedavg
from covey.runtime.prepared import Prepared


class Clock(TrainingProcessCallback):
    """When rounds end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        self.ends.append(perf_counter())
        return False, Metrics()


class Wrapped(torch.nn.Module):
    """covey's module with its loss."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self.module(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {}


def by_pfl(case: Case, setup: Prepared) -> Run:
    """One run, from the first model of covey."""
    clients = Clients.of(case.name)
    began = perf_counter()
    wrapped = Wrapped(setup.task.learner._make(0))
    model = PyTorchModel(wrapped, torch.optim.SGD, torch.optim.SGD(wrapped.parameters(), lr=1.0))
    clock = Clock()

    def data_of(client: int) -> Dataset:
        return Dataset(clients.data[len(clock.ends)][client], user_id=str(client))

    def no_data(client: int) -> Dataset:
        raise NotImplementedError

    sampler = get_user_sampler("minimize_reuse", list(range(CLIENTS)))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=case.rounds,
            # The first round is always evaluated, so it goes to the start-up.
            evaluation_frequency=case.rounds,
            train_cohort_size=CLIENTS,
            val_cohort_size=None,
        ),
        SimulatedBackend(FederatedDataset(data_of, sampler), FederatedDataset(no_data, sampler)),
        model,
        NNTrainHyperParams(local_batch_size=BATCH, local_num_epochs=1, local_learning_rate=case.lr),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    return Run.between(began, clock.ends, setup.task.learner.layout.flatten(wrapped.module).unsqueeze(0))


def rows() -> Iterator[list[str]]:
    """The rows of pfl."""
    setups = [fedavg(case, "mean") for case in CASES]
    peers = [by_pfl(case, setup) for case, setup in zip(CASES, setups, strict=True)]
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if os.environ.get("RANK", "0") != "0":
        return
    for case, setup, peer in zip(CASES, setups, peers, strict=True):
        ours = by_covey(lambda case=case: fedavg(case, "mean"))
        yield row("pfl", case, peer, ours, f"{equality(setup, ours.models[0], peer.models[0])}")
