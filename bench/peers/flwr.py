"""FedAvg in the simulation of flwr: each core runs one client at a time, in a process that stays."""

from collections.abc import Iterator
from time import perf_counter

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from bench.peers.cases import BATCH, CASES, Case, Run, by_covey, row
from bench.peers.federated import CLIENTS, PROCESSES, Clients, equality, fedavg
from covey.runtime.prepared import Prepared


def client_of(name: str) -> ClientApp:
    """The client of a case: a pass over the batches of covey."""
    client = ClientApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        clients = Clients.of(name)
        module = clients.module
        module.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(module.parameters(), lr=clients.lr)
        t = int(message.content["config"]["server-round"]) - 1
        x, y = clients.data[t][int(context.node_config["partition-id"])]
        for at in range(0, len(x), BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x[at : at + BATCH]), y[at : at + BATCH]).backward()
            optimizer.step()
        content = {
            "arrays": ArrayRecord(module.state_dict()),
            "metrics": MetricRecord({"num-examples": len(x)}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    return client


def by_flwr(case: Case, setup: Prepared) -> Run:
    """One run, from the first model of covey."""
    ends: list[float] = []
    results = []
    server = ServerApp()

    def clock(number: int, arrays: ArrayRecord) -> None:
        if number > 0:
            ends.append(perf_counter())

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
        first = ArrayRecord(setup.task.learner._make(0).state_dict())
        results.append(strategy.start(grid, first, num_rounds=case.rounds, evaluate_fn=clock))

    began = perf_counter()
    run_simulation(
        server,
        client_of(case.name),
        num_supernodes=CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": PROCESSES},
        },
    )
    module = setup.task.learner._make(0)
    module.load_state_dict(results[0].arrays.to_torch_state_dict())
    return Run.between(began, ends, setup.task.learner.layout.flatten(module).unsqueeze(0))


def rows() -> Iterator[list[str]]:
    """The rows of flwr."""
    for case in CASES:
        setup = fedavg(case)
        peer = by_flwr(case, setup)
        ours = by_covey(lambda case=case: fedavg(case))
        yield row("flwr", case, peer, ours, equality(setup, ours.models[0], peer.models[0]))
