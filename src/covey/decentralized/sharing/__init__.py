"""The sharing part of gossip: the content of messages. Modules that need more than torch are loaded on demand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from covey.decentralized.sharing.full import Full
from covey.decentralized.sharing.partial import Partial
from covey.decentralized.sharing.random import Random
from covey.decentralized.sharing.round import Round
from covey.decentralized.sharing.sharing import Messages, Sharing

if TYPE_CHECKING:
    from covey.decentralized.sharing.cesar import Cesar
    from covey.decentralized.sharing.choco import Choco
    from covey.decentralized.sharing.fft import FFT
    from covey.decentralized.sharing.jwins import JWINS
    from covey.decentralized.sharing.muffliato import Muffliato
    from covey.decentralized.sharing.power_gossip import PowerGossip
    from covey.decentralized.sharing.quantized import Quantized
    from covey.decentralized.sharing.random_layers import RandomLayers
    from covey.decentralized.sharing.secure_aggregation import SecureAggregation
    from covey.decentralized.sharing.stc import STC
    from covey.decentralized.sharing.top_k import TopK
    from covey.decentralized.sharing.zip_dl import ZipDL

_LATER = {
    "Cesar": "cesar",
    "Choco": "choco",
    "FFT": "fft",
    "JWINS": "jwins",
    "Muffliato": "muffliato",
    "PowerGossip": "power_gossip",
    "Quantized": "quantized",
    "RandomLayers": "random_layers",
    "STC": "stc",
    "SecureAggregation": "secure_aggregation",
    "TopK": "top_k",
    "ZipDL": "zip_dl",
}

__all__ = [
    "FFT",
    "JWINS",
    "STC",
    "Cesar",
    "Choco",
    "Full",
    "Messages",
    "Muffliato",
    "Partial",
    "PowerGossip",
    "Quantized",
    "Random",
    "RandomLayers",
    "Round",
    "SecureAggregation",
    "Sharing",
    "TopK",
    "ZipDL",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
