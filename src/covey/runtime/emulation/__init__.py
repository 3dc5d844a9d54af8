"""The emulation: real processes that exchange real bytes over sockets, in real time."""

from covey.runtime.emulation.emulation import Emulation

__all__ = ["Emulation"]
