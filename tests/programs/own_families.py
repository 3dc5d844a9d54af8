"""A part of a user's own of every family; most have the kind of a built-in part."""

import math

import numpy as np
import torch
from torch import nn

from covey.aggregation.aggregation import Aggregation
from covey.decentralized.gossip import Gossip
from covey.decentralized.schedule import Schedule
from covey.decentralized.sharing import Full
from covey.decentralized.topology import Topology
from covey.federated.aggregators import Aggregator
from covey.federated.client_selection import ClientSelection
from covey.federated.client_work import ClientWork
from covey.federated.iprof import Prediction
from covey.federated.profilers import Profiling
from covey.federated.robust_inference.attacks import BlackBoxAttack
from covey.federated.robust_inference.rule import Decision, Rule
from covey.federated.server_optimizers import ServerOptimizer
from covey.federated.staleness import Staleness
from covey.learning.augmentation import Augmentation
from covey.learning.dataset import Data, Dataset, Split
from covey.learning.metrics import Metric
from covey.learning.models import Model
from covey.learning.objectives import Objective
from covey.learning.optimizers import LearningRate, Optimizer
from covey.learning.partition import Partition
from covey.learning.task import LearningTask
from covey.messages.compression import Compressor, Decompressed, Guarantee
from covey.network.bandwidth import Bandwidth
from covey.network.churn import Churn
from covey.network.compute import Compute
from covey.network.devices import Devices
from covey.network.energy import Energy
from covey.network.faults import Fault
from covey.network.graph import Graph
from covey.network.latency import Latency
from covey.parts.parameters import param
from covey.runtime.callbacks import Callback, Evaluated
from covey.runtime.node import Program
from covey.runtime.running_node import RunningNode
from covey.runtime.simulation import Simulation
from covey.runtime.task import Nothing, Task


class Twice(Gossip):
    """Gossip that makes each round's training count double."""

    kind = "gossip"

    async def learn(self, node, t, hearing):
        start = node.model
        node.model = torch.add(start, (await node.train()).delta, alpha=2.0)
        return start


class Ones(LearningTask):
    """The task with batches of one sample."""

    kind = "learning"

    def load(self, request):
        self.batch_size = 1
        return super().load(request)


class Line(Topology):
    """A ring that is cut."""

    kind = "ring"

    def draw(self, setting, t):
        ids = np.arange(setting.nodes - 1)
        return Graph(setting.nodes, np.concatenate([ids, ids + 1]), np.concatenate([ids + 1, ids]))


class Negative(Full):
    """Models with the other sign."""

    kind = "full"

    def outgoing(self, round):
        return [(round.receivers, {"model": -round.node.model})]


class Halves(Compressor):
    """Every value in float32, and half of it."""

    kind = "sign"

    def compress(self, vector, draw):
        return {"half": vector / 2}, Decompressed(vector / 2)

    def decompress(self, payload, size, draw):
        return Decompressed(payload["half"])

    def guarantee(self, size):
        return Guarantee(False, 0.25)


class Odd(Schedule):
    """Odd nodes train in odd rounds, and even ones in even rounds."""

    kind = "every-round"

    def trains(self, node, t):
        return node.id % 2 == t % 2


class Largest(Aggregation):
    """The largest of every number, softened; no weights say what that is."""

    kind = "metropolis-hastings"

    def merge(self, node, graph, own, contributions):
        return torch.stack([own, *[came.values for came in contributions]]).logsumexp(0) - math.log(3)


class Even(ClientSelection):
    """The clients with even numbers."""

    kind = "uniform"

    def chosen(self, t):
        return range(2, self._setting.nodes, 2)


class Backwards(ClientWork):
    """Training, and then as far in the other direction."""

    kind = "local"

    async def train(self, node, model, t):
        update = await node.train(model)
        update.model = update.start - update.delta
        return update


class Signed(ServerOptimizer):
    """A hundredth in the direction of each number's change."""

    kind = "sgd"

    def step(self, change, node):
        return change.sign() / 100


class Rows(Dataset):
    """Sixty-four numbers, and which of ten rows they are nearest to."""

    kind = "digits"

    def load(self, folder, *, quiet=True):
        draw = torch.Generator().manual_seed(5)
        rows, inputs = torch.randn(10, 64, generator=draw), torch.randn(480, 64, generator=draw)
        targets = torch.cdist(inputs, rows).argmin(1)
        return Data(Split(inputs[:400], targets[:400]), Split(inputs[400:], targets[400:]), "classes", 10)


class Dealt(Partition):
    """The samples one by one, as cards."""

    kind = "iid"

    def deal(self, data, holders, generator):
        return np.arange(len(data.train)) % holders


class Unbiased(Model):
    """A linear map without a bias."""

    kind = "logistic"

    def build(self, data):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, data.classes, bias=False))


class Signs(Optimizer):
    """A step of one size for every number."""

    kind = "sgd"

    def step(self, models, gradients, slots, lr):
        models.sub_(gradients.sign() * lr / 10)


class Hinge(Objective):
    """The shortfalls of the right score from one more than each other score."""

    kind = "own"

    def losses(self, outputs, targets):
        return (outputs - outputs.gather(1, targets.unsqueeze(1)) + 1).relu().sum(1)


class Margin(Metric):
    """The excess of the right score over the mean of all."""

    kind = "macro-f1"

    def kept(self, outputs, targets):
        return outputs.gather(1, targets.unsqueeze(1)).squeeze(1) - outputs.mean(1)

    def figure(self, kept):
        return float(torch.cat(kept).mean())


class Louder(Augmentation):
    """Inputs times a random factor."""

    kind = "noise"

    def augmented(self, inputs, generator):
        return inputs * torch.rand(len(inputs), 1, generator=generator)


class Halved(LearningRate):
    """Half as much in each round."""

    kind = "constant"

    def factor(self, t):
        return 0.5**t


class Uphill(Latency):
    """The longer, the larger the difference of the two numbers."""

    kind = "constant"

    def between(self, sender, receiver):
        return 0.03 + 0.01 * abs(sender - receiver)


class Thin(Bandwidth):
    """Links that carry less at later nodes."""

    kind = "constant"

    def rates(self, setting):
        return 1e6 / (1 + np.arange(setting.nodes))


class Tired(Compute):
    """Later nodes compute more slowly."""

    kind = "constant"

    def speeds(self, setting):
        return 400.0 / (1 + np.arange(setting.nodes))


class Halving(Profiling):
    """Smaller mini-batches for later measurements."""

    kind = "halving"

    def begin(self, state):
        return Lessening(state)


class Lessening:
    """A count of measurements."""

    def __init__(self, state):
        self.count = len(state)

    def predict(self, features, objective):
        return Prediction(max(8 >> self.count, 1))

    def observe(self, features, samples, seconds, joules):
        self.count += 1

    def dump(self):
        return bytes(self.count)

    def load(self, state):
        self.count = len(state)


class Boldest(Aggregator):
    """The greatest logit of any model, for each class."""

    def combined(self, logits_BMC, labels_MC, counts):
        return logits_BMC.amax(1)


class First(Rule):
    """The answer of the first client alone."""

    def fitted(self, to):
        return Alone()


class Alone(Decision):
    """The decision for the answers of the first client."""

    def __call__(self, answers, valid=None):
        return answers[:, 0]


class Last(BlackBoxAttack):
    """Certainty of the last class."""

    def alone(self, own):
        lies = torch.zeros_like(own)
        lies[..., -1] = 1.0
        return lies


class Never(Staleness):
    """Stale gradients do not count."""

    kind = "never"

    def weight(self, staleness):
        return float(staleness == 0)


class Sleepy(Devices):
    """Devices that think before each training, the later ones longer."""

    def models(self):
        return ["sleepy"] * self._nodes

    def check(self, setting):
        super().check(setting)
        self._nodes = setting.nodes

    def numbers(self):
        return {"sleep": 0.01 * np.arange(self._nodes)}

    def features(self, node, now):
        return {"model": "sleepy", "sleep": 0.01 * node}

    def speeds(self):
        return np.full(self._nodes, 400.0)

    def seconds(self, node, usual, now, training):
        return usual + (0.0 if training is None else 0.01 * node)


class Metered(Energy):
    """A joule a sample, and nothing for messages."""

    kind = "none"

    def per_sample(self, node, speed):
        return 1.0

    def of_messages(self, bytes_out, bytes_in):
        return 0.0


class Gone(Churn):
    """Node 1 leaves for good."""

    kind = "none"

    def absences(self, node, setting):
        return iter([(0.05, math.inf)] if node == 1 else [])


class Deaf(Fault):
    """Messages from some nodes are lost."""

    kind = "slow"

    def fate(self, sender, receiver, chance):
        return "lost in thought"


class Counted(Simulation):
    """The simulation, which counts its runs."""

    kind = "simulation"
    runs = 0

    def execute(self, prepared, writer=None, **options):
        type(self).runs += 1
        return super().execute(prepared, writer, **options)


class Counter(RunningNode):
    """A node that has a number, and neither data nor a model."""

    __slots__ = ("count",)


class Numbered(Nothing):
    """The states of nodes that count."""

    def __init__(self, first):
        self.first = first

    def description(self):
        return {"first_number": self.first}

    def node(self, stage, id):
        node = Counter(stage, id)
        node.count = self.first
        return node


class Counting(Task):
    """A task of which nothing is learned."""

    kind = "learning"
    first: int = param("The number from which nodes count.")

    def load(self, request):
        return Numbered(self.first)


class Counts(Program):
    """Counts rounds."""

    needs = Counter

    async def run(self, node):
        async for _ in node.rounds():
            node.count += 1
            node.log(count=node.count)


class Slower(Callback):
    """Halves the learning rate after every evaluation."""

    def evaluated(self, at: Evaluated) -> None:
        at.scale_learning_rate(0.5)
