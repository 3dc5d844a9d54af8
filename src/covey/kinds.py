"""The names of experiment files and where the parts behind them live; nothing is imported before it is asked for."""

import importlib
import os
import sys
from contextlib import suppress
from functools import reduce
from importlib.machinery import PathFinder
from typing import Any, TypeVar

from covey.errors import ConfigurationError, quoted
from covey.parameters import Part, unknown_kind

P = TypeVar("P", bound=Part)

KINDS: dict[str, dict[str, str]] = {
    "program": {
        "clique-averaging": "covey.learning.clique_averaging:CliqueAveraging",
        "gossip": "covey.learning.gossip:Gossip",
        "gossip-learning": "covey.learning.gossip_learning:GossipLearning",
        "push-sum": "covey.learning.push_sum:PushSum",
        "ad-psgd": "covey.learning.ad_psgd:ADPSGD",
        "fedavg": "covey.learning.fedavg:FedAvg",
        "compressed-fedavg": "covey.learning.compressed_fedavg:CompressedFedAvg",
    },
    "topology": {
        "d-cliques": "covey.topology.d_cliques:DCliques",
        "random-cliques": "covey.topology.d_cliques:RandomCliques",
        "diverse-neighbours": "covey.topology.diverse_neighbours:DiverseNeighbours",
        "stl-fw": "covey.topology.stl_fw:STLFW",
        "ring": "covey.topology.static:Ring",
        "torus": "covey.topology.static:Torus",
        "grid": "covey.topology.static:Grid",
        "star": "covey.topology.static:Star",
        "complete": "covey.topology.static:Complete",
        "random-regular": "covey.topology.static:RandomRegular",
        "erdos-renyi": "covey.topology.static:ErdosRenyi",
        "small-world": "covey.topology.static:SmallWorld",
        "exponential": "covey.topology.static:Exponential",
        "edges": "covey.topology.edges:Edges",
        "one-peer-exponential": "covey.topology.dynamic:OnePeerExponential",
        "random-matching": "covey.topology.dynamic:RandomMatching",
        "epidemic-oracle": "covey.topology.dynamic:EpidemicOracle",
        "epidemic-local": "covey.topology.dynamic:EpidemicLocal",
        "equitopo-static": "covey.topology.equitopo:EquiTopoStatic",
        "equitopo-dynamic": "covey.topology.equitopo:EquiTopoDynamic",
        "base-graph": "covey.topology.base_graph:BaseGraph",
        "matcha": "covey.topology.matcha:Matcha",
        "redrawn": "covey.topology.dynamic:Redrawn",
    },
    "sharing": {
        "full": "covey.sharing.full:Full",
        "random": "covey.sharing.random:Random",
        "random-layers": "covey.sharing.random_layers:RandomLayers",
        "top-k": "covey.sharing.top_k:TopK",
        "jwins": "covey.sharing.jwins:JWINS",
        "fft": "covey.sharing.fft:FFT",
        "choco": "covey.sharing.choco:Choco",
        "stc": "covey.sharing.stc:STC",
        "quantized": "covey.sharing.quantized:Quantized",
        "power-gossip": "covey.sharing.power_gossip:PowerGossip",
        "cesar": "covey.sharing.cesar:Cesar",
        "secure-aggregation": "covey.sharing.secure_aggregation:SecureAggregation",
    },
    "compressor": {
        "top-k": "covey.compression.sparse:TopK",
        "random": "covey.compression.sparse:Random",
        "ternary": "covey.compression.sparse:Ternary",
        "fp16": "covey.compression.quantized:FP16",
        "bf16": "covey.compression.quantized:BF16",
        "int8": "covey.compression.quantized:Int8",
        "qsgd": "covey.compression.quantized:QSGD",
        "sign": "covey.compression.quantized:Sign",
    },
    "schedule": {
        "every-round": "covey.schedule.rounds:EveryRound",
        "periodic": "covey.schedule.rounds:Periodic",
        "skiptrain": "covey.schedule.skiptrain:SkipTrain",
        "greedy": "covey.schedule.skiptrain:Greedy",
    },
    "aggregation": {
        "mean": "covey.aggregation.linear:Mean",
        "metropolis-hastings": "covey.aggregation.linear:MetropolisHastings",
        "given": "covey.aggregation.linear:Given",
    },
    "dataset": {
        "digits": "covey.task.datasets.digits:Digits",
        "mnist": "covey.task.datasets.images:MNIST",
        "fashion-mnist": "covey.task.datasets.images:FashionMNIST",
        "cifar10": "covey.task.datasets.images:CIFAR10",
        "femnist": "covey.task.datasets.leaf:FEMNIST",
        "celeba": "covey.task.datasets.leaf:CelebA",
        "shakespeare": "covey.task.datasets.leaf:Shakespeare",
        "reddit": "covey.task.datasets.leaf:Reddit",
        "movielens-100k": "covey.task.datasets.tables:MovieLens100K",
        "movielens-1m": "covey.task.datasets.tables:MovieLens1M",
        "adult": "covey.task.datasets.tables:Adult",
        "gaussian-blobs": "covey.task.datasets.synthetic:GaussianBlobs",
        "synthetic-images": "covey.task.datasets.synthetic:SyntheticImages",
        "linear-regression": "covey.task.datasets.synthetic:LinearRegression",
    },
    "partition": {
        "iid": "covey.task.partition:IID",
        "shards": "covey.task.partition:Shards",
        "dirichlet": "covey.task.partition:Dirichlet",
        "quantity": "covey.task.partition:Quantity",
        "natural": "covey.task.partition:Natural",
        "file": "covey.task.partition:FromFile",
    },
    "model": {
        "logistic": "covey.task.models:Logistic",
        "mlp": "covey.task.models:MLP",
        "linear": "covey.task.models:LinearModel",
        "lenet": "covey.task.models:LeNet",
        "gn-lenet": "covey.task.models:GNLeNet",
        "femnist-cnn": "covey.task.models:FemnistCNN",
        "resnet20-gn": "covey.task.models:ResNet20GN",
        "char-lstm": "covey.task.models:CharLSTM",
        "matrix-factorization": "covey.task.models:MatrixFactorization",
    },
    "optimizer": {
        "sgd": "covey.task.optimizers:SGD",
        "adam": "covey.task.optimizers:Adam",
    },
    "learning-rate": {
        "constant": "covey.task.optimizers:ConstantRate",
        "step": "covey.task.optimizers:StepRate",
        "cosine": "covey.task.optimizers:CosineRate",
        "inverse-sqrt": "covey.task.optimizers:InverseSqrtRate",
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
        "simulation": "covey.engines.simulation:Simulation",
        "emulation": "covey.engines.emulation:Emulation",
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
    # Last, or a file beside an experiment would stand in for the library whose name it has.
    importlib.invalidate_caches()  # A module may be younger than the last look into its folder.
    sys.path += [folder for folder in own_folders() if folder not in sys.path]


def resolve(family: type[P], name: Any) -> type[P]:
    """The class behind a kind, or behind "module:Class" of the user's own.

    Raises:
        ConfigurationError: no such kind, or a module that cannot be imported.
    """
    known = KINDS[family.family]
    if not isinstance(name, str):
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a string. Got {quoted(name)} instead.")
    if len(name) > _LONGEST or not name.isprintable():
        raise ConfigurationError(f"The 'kind' of the {family.family} must be a name. Got {quoted(name)} instead.")
    target = known.get(name, name if all(name.partition(":")) else None)
    if target is None:
        raise ConfigurationError(unknown_kind(family, name, known))
    module_name, _, class_name = target.partition(":")
    if name not in known:
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
        if name in known:
            fitting = sorted(kind for kind in known if issubclass(load(family.family, kind), family))
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
    """The class of a known kind."""
    module, _, name = KINDS[family][kind].partition(":")
    found: type[Part] = getattr(importlib.import_module(module), name)
    return found
