"""The names of experiment files and where the parts behind them live; nothing is imported before it is asked for."""

import importlib
import os
import sys
from contextlib import suppress
from functools import cache, reduce
from importlib.machinery import PathFinder
from importlib.metadata import entry_points
from typing import Any, TypeVar

from covey.parts.errors import ConfigurationError, quoted
from covey.parts.native import kernels
from covey.parts.parameters import Part, unknown_kind

P = TypeVar("P", bound=Part)

KINDS: dict[str, dict[str, str]] = {
    "program": {
        "clique-averaging": "covey.decentralized.clique_averaging:CliqueAveraging",
        "gossip": "covey.decentralized.gossip:Gossip",
        "gossip-learning": "covey.decentralized.gossip_learning:GossipLearning",
        "push-sum": "covey.decentralized.push_sum:PushSum",
        "ad-psgd": "covey.decentralized.ad_psgd:ADPSGD",
        "fedavg": "covey.federated.fedavg:FedAvg",
    },
    "task": {"learning": "covey.learning.task:LearningTask"},
    "topology": {
        "d-cliques": "covey.decentralized.topology.d_cliques:DCliques",
        "random-cliques": "covey.decentralized.topology.d_cliques:RandomCliques",
        "diverse-neighbours": "covey.decentralized.topology.diverse_neighbours:DiverseNeighbours",
        "stl-fw": "covey.decentralized.topology.stl_fw:STLFW",
        "ring": "covey.decentralized.topology.static:Ring",
        "torus": "covey.decentralized.topology.static:Torus",
        "grid": "covey.decentralized.topology.static:Grid",
        "star": "covey.decentralized.topology.static:Star",
        "complete": "covey.decentralized.topology.static:Complete",
        "random-regular": "covey.decentralized.topology.static:RandomRegular",
        "erdos-renyi": "covey.decentralized.topology.static:ErdosRenyi",
        "small-world": "covey.decentralized.topology.static:SmallWorld",
        "exponential": "covey.decentralized.topology.static:Exponential",
        "edges": "covey.decentralized.topology.edges:Edges",
        "one-peer-exponential": "covey.decentralized.topology.dynamic:OnePeerExponential",
        "random-matching": "covey.decentralized.topology.dynamic:RandomMatching",
        "epidemic-oracle": "covey.decentralized.topology.dynamic:EpidemicOracle",
        "epidemic-local": "covey.decentralized.topology.dynamic:EpidemicLocal",
        "equitopo-static": "covey.decentralized.topology.equitopo:EquiTopoStatic",
        "equitopo-dynamic": "covey.decentralized.topology.equitopo:EquiTopoDynamic",
        "base-graph": "covey.decentralized.topology.base_graph:BaseGraph",
        "matcha": "covey.decentralized.topology.matcha:Matcha",
        "redrawn": "covey.decentralized.topology.dynamic:Redrawn",
    },
    "sharing": {
        "full": "covey.decentralized.sharing.full:Full",
        "random": "covey.decentralized.sharing.random:Random",
        "random-layers": "covey.decentralized.sharing.random_layers:RandomLayers",
        "top-k": "covey.decentralized.sharing.top_k:TopK",
        "jwins": "covey.decentralized.sharing.jwins:JWINS",
        "fft": "covey.decentralized.sharing.fft:FFT",
        "choco": "covey.decentralized.sharing.choco:Choco",
        "stc": "covey.decentralized.sharing.stc:STC",
        "quantized": "covey.decentralized.sharing.quantized:Quantized",
        "power-gossip": "covey.decentralized.sharing.power_gossip:PowerGossip",
        "cesar": "covey.decentralized.sharing.cesar:Cesar",
        "secure-aggregation": "covey.decentralized.sharing.secure_aggregation:SecureAggregation",
    },
    "compressor": {
        "top-k": "covey.messages.compression.sparse:TopK",
        "random": "covey.messages.compression.sparse:Random",
        "ternary": "covey.messages.compression.sparse:Ternary",
        "fp16": "covey.messages.compression.quantized:FP16",
        "bf16": "covey.messages.compression.quantized:BF16",
        "int8": "covey.messages.compression.quantized:Int8",
        "qsgd": "covey.messages.compression.quantized:QSGD",
        "sign": "covey.messages.compression.quantized:Sign",
    },
    "schedule": {
        "every-round": "covey.decentralized.schedule.rounds:EveryRound",
        "periodic": "covey.decentralized.schedule.rounds:Periodic",
        "skiptrain": "covey.decentralized.schedule.skiptrain:SkipTrain",
        "greedy": "covey.decentralized.schedule.skiptrain:Greedy",
    },
    "aggregation": {
        "mean": "covey.aggregation.linear:Mean",
        "metropolis-hastings": "covey.aggregation.linear:MetropolisHastings",
        "given": "covey.aggregation.linear:Given",
        "median": "covey.aggregation.median:Median",
    },
    "client-selection": {"uniform": "covey.federated.client_selection:Uniform"},
    "client-work": {"local": "covey.federated.client_work:LocalTraining"},
    "server-optimizer": {
        "sgd": "covey.federated.server_optimizers:ServerSGD",
        "momentum": "covey.federated.server_optimizers:ServerMomentum",
        "adagrad": "covey.federated.server_optimizers:ServerAdagrad",
        "adam": "covey.federated.server_optimizers:ServerAdam",
        "yogi": "covey.federated.server_optimizers:ServerYogi",
    },
    "dataset": {
        "digits": "covey.learning.datasets.digits:Digits",
        "mnist": "covey.learning.datasets.images:MNIST",
        "fashion-mnist": "covey.learning.datasets.images:FashionMNIST",
        "cifar10": "covey.learning.datasets.images:CIFAR10",
        "femnist": "covey.learning.datasets.leaf:FEMNIST",
        "celeba": "covey.learning.datasets.leaf:CelebA",
        "shakespeare": "covey.learning.datasets.leaf:Shakespeare",
        "reddit": "covey.learning.datasets.leaf:Reddit",
        "movielens-100k": "covey.learning.datasets.tables:MovieLens100K",
        "movielens-1m": "covey.learning.datasets.tables:MovieLens1M",
        "adult": "covey.learning.datasets.tables:Adult",
        "gaussian-blobs": "covey.learning.datasets.synthetic:GaussianBlobs",
        "synthetic-images": "covey.learning.datasets.synthetic:SyntheticImages",
        "linear-regression": "covey.learning.datasets.synthetic:LinearRegression",
    },
    "partition": {
        "iid": "covey.learning.partition:IID",
        "shards": "covey.learning.partition:Shards",
        "dirichlet": "covey.learning.partition:Dirichlet",
        "quantity": "covey.learning.partition:Quantity",
        "natural": "covey.learning.partition:Natural",
        "file": "covey.learning.partition:FromFile",
    },
    "model": {
        "logistic": "covey.learning.models:Logistic",
        "mlp": "covey.learning.models:MLP",
        "linear": "covey.learning.models:LinearModel",
        "lenet": "covey.learning.models:LeNet",
        "gn-lenet": "covey.learning.models:GNLeNet",
        "femnist-cnn": "covey.learning.models:FemnistCNN",
        "resnet20-gn": "covey.learning.models:ResNet20GN",
        "char-lstm": "covey.learning.models:CharLSTM",
        "matrix-factorization": "covey.learning.models:MatrixFactorization",
    },
    "optimizer": {
        "sgd": "covey.learning.optimizers:SGD",
        "adam": "covey.learning.optimizers:Adam",
    },
    "objective": {
        "own": "covey.learning.objectives:OwnLoss",
        "cross-entropy": "covey.learning.objectives:CrossEntropy",
        "kl": "covey.learning.objectives:KL",
        "mse": "covey.learning.objectives:MSE",
        "l1": "covey.learning.objectives:L1",
    },
    "learning-rate": {
        "constant": "covey.learning.optimizers:ConstantRate",
        "step": "covey.learning.optimizers:StepRate",
        "cosine": "covey.learning.optimizers:CosineRate",
        "inverse-sqrt": "covey.learning.optimizers:InverseSqrtRate",
    },
    "latency": {
        "constant": "covey.network.latency:ConstantLatency",
        "uniform": "covey.network.latency:UniformLatency",
        "log-normal": "covey.network.latency:LogNormalLatency",
        "plane": "covey.network.latency:PlaneLatency",
        "matrix": "covey.network.latency:MatrixLatency",
        "per-node": "covey.network.latency:NodeLatency",
    },
    "bandwidth": {
        "constant": "covey.network.bandwidth:ConstantBandwidth",
        "log-normal": "covey.network.bandwidth:LogNormalBandwidth",
        "stragglers": "covey.network.bandwidth:Stragglers",
        "trace": "covey.network.bandwidth:TraceBandwidth",
    },
    "compute": {
        "constant": "covey.network.compute:ConstantCompute",
        "log-normal": "covey.network.compute:LogNormalCompute",
        "stragglers": "covey.network.compute:Stragglers",
        "trace": "covey.network.compute:TraceCompute",
    },
    "energy": {
        "none": "covey.network.energy:NoEnergy",
        "constant": "covey.network.energy:ConstantEnergy",
        "devices": "covey.network.energy:DeviceEnergy",
    },
    "churn": {
        "none": "covey.network.churn:NoChurn",
        "rate": "covey.network.churn:RateChurn",
        "trace": "covey.network.churn:TraceChurn",
    },
    "fault": {
        "kill": "covey.network.faults:Kill",
        "pause": "covey.network.faults:Pause",
        "cut": "covey.network.faults:Cut",
        "slow": "covey.network.faults:Slow",
        "corrupt": "covey.network.faults:Corrupt",
    },
    "engine": {
        "simulation": "covey.runtime.simulation:Simulation",
        "emulation": "covey.runtime.emulation:Emulation",
    },
}


_folders: list[str] = []
"""Where modules of the user's own are searched for, beside the current folder."""


def search(folder: str) -> None:
    """Search a folder, too, for the modules of the user's own that names ask for."""
    if folder not in _folders:
        _folders.append(folder)


def searched() -> list[str]:
    """Where modules of the user's own may have come from in this process."""
    return [*own_folders(), *filter(None, sys.path)]


def own_folders() -> list[str]:
    """Where modules of the user's own are searched for, after what Python searches."""
    here: list[str] = []
    with suppress(OSError):  # It was removed.
        here.append(os.getcwd())
    return [*_folders, *here]


def _search_folders() -> None:
    kernels()  # Looked for before, or a file of its name beside an experiment would be taken for covey-native.
    # Last, or a file beside an experiment would stand in for the library whose name it has.
    importlib.invalidate_caches()  # A module may be younger than the last look into its folder.
    sys.path += [folder for folder in own_folders() if folder not in sys.path]


ENTRY_POINTS = "covey.kinds"
"""The group in which another distribution names its kinds: "family/kind" = "module:Class"."""


@cache
def _of_others() -> dict[str, dict[str, str]]:
    """The kinds that other distributions bring, by family; none of them has the name of one of covey's own."""
    found: dict[str, dict[str, str]] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        family, _, kind = entry.name.partition("/")
        if family in KINDS and kind and kind not in KINDS[family]:
            found.setdefault(family, {})[kind] = entry.value
    return found


def known(family: str) -> dict[str, str]:
    """The kinds of a family, covey's own and those of other distributions: where each is found."""
    return {**KINDS[family], **_of_others().get(family, {})}


def resolve(family: type[P], name: Any) -> type[P]:
    """The class behind a kind, or behind "module:Class" of the user's own.

    Raises:
        ConfigurationError: no such kind, or a module that cannot be imported.
    """
    kinds = KINDS[family.family]
    if not isinstance(name, str):
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a string. Got {quoted(name)} instead.")
    if len(name) > _LONGEST or not name.isprintable():
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a name. Got {quoted(name)} instead.")
    target = kinds.get(name, name if all(name.partition(":")) else None)
    if target is None:
        kinds = known(family.family)  # Only who asks for more than covey has waits for a look at all distributions.
        target = kinds.get(name)
    if target is None:
        raise ConfigurationError(unknown_kind(family, name, kinds))
    module_name, _, class_name = target.partition(":")
    if name not in kinds:
        _search_folders()
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        where = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"The {family.family} '{name}' cannot be imported: {module_name} fails with {where}."
        ) from error
    cls = _inside(module, class_name)
    if cls is None:
        why = f"{module_name} has no {class_name}"
        own = PathFinder.find_spec(module_name.partition(".")[0], own_folders())
        if own is not None and own.origin not in (None, getattr(module, "__file__", None)):
            why += f". A library has the name of {own.origin}: rename your module"
        if _IN_A_FUNCTION in class_name:
            why = "it was defined inside a function, where nothing finds it again"
        elif module_name == "__main__":
            why = "it was defined in a script or notebook, and this process has not run it"
        raise ConfigurationError(f"The {family.family} '{name}' does not exist: {why}.")
    if not (isinstance(cls, type) and issubclass(cls, family)):
        adopted = family.adopt(name, cls)
        if adopted is not None:
            return adopted
        if name in kinds:
            fitting = sorted(kind for kind in kinds if issubclass(load(family.family, kind), family))
            raise ConfigurationError(
                f"The {family.family} '{name}' cannot stand in this place, which must be one of: {', '.join(fitting)}. "
                f'Your own is written "module:Class".'
            )
        raise ConfigurationError(
            f"The {family.family} '{name}' is no {family.family}: "
            f"{class_name} does not derive from {family.__module__}.{family.__name__}."
        )
    return cls


_LONGEST = 400
"""Characters of a kind, or of a "module:Class"."""
_IN_A_FUNCTION = "<locals>"
"""What the qualified name of a class has in it that was defined inside a function."""


def _inside(module: Any, name: str) -> Any:
    """What a qualified name means in a module; None where it means nothing."""
    return reduce(lambda found, part: getattr(found, part, None), name.split("."), module)


def why_not_importable(cls: type[Part]) -> str | None:
    """Why no other process can import a part by its title, for the middle of a sentence; None where one can."""
    module, colon, name = cls.title().partition(":")
    if not colon:
        return None
    if module == "__main__":
        return "is defined in the script or notebook that was started"
    if _IN_A_FUNCTION in name:
        return "is defined inside a function"
    top = module.partition(".")[0]
    if not any(finder.find_spec(top, None) for finder in sys.meta_path if hasattr(finder, "find_spec")):
        return f"is defined in {module}, which is no module that can be imported"
    if _inside(sys.modules.get(module), name) is not cls.original():
        return f"is another one than that of its module {module}"
    return None


def is_registered(cls: type[Part]) -> bool:
    """Whether the kind of a part names that very class."""
    return cls.kind in KINDS.get(cls.family, {}) and load(cls.family, cls.kind) is cls


def load(family: str, kind: str) -> type[Part]:
    """The class of a known kind.

    Raises:
        ConfigurationError: it is another distribution's, and cannot be imported.
    """
    own = KINDS[family].get(kind)
    module, _, name = (own or known(family)[kind]).partition(":")
    try:
        found: type[Part] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        if own is not None:
            raise
        raise ConfigurationError(
            f"The {family} '{kind}' cannot be imported: {type(error).__name__}: {error}."
        ) from error
    return found
