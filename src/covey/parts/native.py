"""The optional kernels of covey-native in C++. Each has a reference in NumPy or torch with the same result.

The module of a reference asks `kernels` for the faster form. `docs/native.md` explains how to build them.
"""

import os
from functools import cache
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from covey import __version__
from covey.parts.errors import ConfigurationError, quoted

_PACKAGE = "covey_native"
_ISA = "COVEY_ISA"


class Kernels(Protocol):
    """The interface of covey-native.

    A kernel returns None or False for input that is malformed or too large for it. The reference then computes the
    result or raises the error.
    """

    __version__: str

    def isa(self) -> str:
        """The instruction set in use."""

    def isas(self) -> list[str]:
        """The instruction sets of this processor, the fastest last."""

    def use(self, isa: str) -> bool:
        """Use another instruction set. False if this processor does not have it."""

    def rice_encode(self, gaps: NDArray[np.int64], k: int) -> NDArray[np.uint8] | None:
        """As `covey.messages.codecs.rice.encode`."""

    def rice_decode(self, stream: NDArray[np.uint8], size: int, count: int) -> NDArray[np.int64] | None:
        """As `covey.messages.codecs.rice.decode`."""

    def pull(
        self,
        total: NDArray[np.float32],
        own: NDArray[np.float32],
        indices: NDArray[np.int64],
        values: NDArray[np.float32],
        weight: float,
    ) -> bool:
        """As `covey.learning.mixture.draw`. After False, some of the values may have been added."""


@cache
def kernels() -> Kernels | None:
    """The kernels, or None if covey-native is not installed.

    Raises:
        ConfigurationError: the environment names an instruction set that this processor does not have, or covey-native
            has another version or does not load.
    """
    wanted = os.environ.get(_ISA)
    try:
        found = cast(Kernels, import_module(_PACKAGE))
    except ModuleNotFoundError as error:
        if error.name != _PACKAGE:
            raise ConfigurationError(f"covey-native does not load: {error}. Install it again, or remove it.") from error
        if wanted:
            raise ConfigurationError(
                f"{_ISA} chooses among the kernels of covey-native, which is not installed. Got {quoted(wanted)}: "
                "install it, or unset the variable."
            ) from None
        return None
    except ImportError as error:
        raise ConfigurationError(f"covey-native does not load: {error}. Install it again, or remove it.") from error
    except ValueError as error:  # covey-native's own message about COVEY_ISA.
        raise ConfigurationError(str(error)) from None
    if found.__version__ != __version__:
        raise ConfigurationError(
            f"covey-native must be of covey's version, {__version__}. Got {found.__version__} instead: "
            "install it again, or remove it."
        )
    return found


def in_words() -> str:
    """A sentence on whether covey-native is installed, and the instruction set in use."""
    native = kernels()
    if native is None:
        return "covey-native is not installed: the same is computed without it, more slowly"
    return f"kernels of covey-native for {native.isa()}"
