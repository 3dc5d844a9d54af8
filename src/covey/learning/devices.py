"""The devices that compute, and their mathematics."""

import torch

from covey.parts.errors import ConfigurationError


def device_named(name: str) -> torch.device:
    """A device that is here.

    Raises:
        ConfigurationError: it is not.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigurationError(f"The 'device' of the engine must be cpu, cuda or mps. Got {name!r} instead.")
    where, missing = f"The 'device' of the engine is {name}, but torch finds", ""
    if device.type == "mps" and not torch.backends.mps.is_available():
        missing = "no MPS device here, which Macs have alone"
    elif device.type == "cuda" and not torch.cuda.is_available():
        missing = "no CUDA device here"
    elif device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        missing = f"{torch.cuda.device_count()} CUDA devices here, counted from 0"
    if missing:
        raise ConfigurationError(f"{where} {missing}. Use 'cpu'.")
    return device


def set_up_mathematics() -> None:
    """Let MKL choose its elementary functions for this processor before any thread computes.

    MKL chooses at their first call in a process, once for all of them, and without a lock: for some nanoseconds a
    second thread reads a number of another meaning, and computes that batch with functions of a lower accuracy. 32 x 7
    x 10 exponentials were then off by up to 7e-5. Its matrix products choose under a lock, and torch's own functions
    when it is loaded.
    """
    torch.exp(torch.zeros(1))
