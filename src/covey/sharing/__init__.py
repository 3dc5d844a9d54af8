"""What is sent: the sharing part of gossip."""

from covey.sharing.choco import Choco
from covey.sharing.fft import FFT
from covey.sharing.full import Full
from covey.sharing.jwins import JWINS
from covey.sharing.partial import Partial
from covey.sharing.quantized import Quantized
from covey.sharing.random import Random
from covey.sharing.sharing import Hear, Sharing
from covey.sharing.stc import STC
from covey.sharing.top_k import TopK

__all__ = ["FFT", "JWINS", "STC", "Choco", "Full", "Hear", "Partial", "Quantized", "Random", "Sharing", "TopK"]
