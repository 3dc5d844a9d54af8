"""What is sent: the sharing part of gossip."""

from covey.sharing.full import Full
from covey.sharing.partial import Partial
from covey.sharing.random import Random
from covey.sharing.sharing import Hear, Sharing
from covey.sharing.top_k import TopK

__all__ = ["Full", "Hear", "Partial", "Random", "Sharing", "TopK"]
