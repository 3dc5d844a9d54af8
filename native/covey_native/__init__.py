"""Kernels of covey in C++. `covey.parts.native` says what each is, and covey alone calls them."""

import os

from covey_native._native import isa, isas, pull, rice_decode, rice_encode, use

__all__ = ["isa", "isas", "pull", "rice_decode", "rice_encode", "use"]

__version__ = "0.1.0"

_wanted = os.environ.get("COVEY_ISA")
if _wanted and not use(_wanted):
    raise ValueError(f"COVEY_ISA must be one of {', '.join(isas())} on this processor. Got {_wanted!r} instead.")
