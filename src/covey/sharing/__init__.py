"""What is sent: the sharing part of gossip."""

from covey.sharing.fft import FFT
from covey.sharing.full import Full
from covey.sharing.jwins import JWINS
from covey.sharing.partial import Partial
from covey.sharing.random import Random
from covey.sharing.sharing import Hear, Sharing
from covey.sharing.top_k import TopK

__all__ = ["FFT", "JWINS", "Full", "Hear", "Partial", "Random", "Sharing", "TopK"]
