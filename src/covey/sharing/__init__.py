"""What is sent: the sharing part of gossip."""

from covey.sharing.full import Full
from covey.sharing.sharing import Contribution, Sharing

__all__ = ["Contribution", "Full", "Sharing"]
