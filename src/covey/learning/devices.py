"""The devices that compute, and the set-up of their mathematics."""

from functools import cache

import torch

from covey.parts.errors import ConfigurationError


def device_named(name: str) -> torch.device:
    """The torch device of a name.

    Raises:
        ConfigurationError: this machine does not have it.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigurationError(f"The 'device' of the engine must be cpu, cuda or mps. Got {name!r} instead.")
    where, missing = f"The 'device' of the engine is {name}, but torch finds", ""
    if device.type == "mps" and not torch.backends.mps.is_available():
        missing = "no MPS device, which only Macs have"
    elif device.type == "cuda" and not torch.cuda.is_available():
        missing = "no CUDA device"
    elif device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        missing = f"only {torch.cuda.device_count()} CUDA devices, counted from 0"
    if missing:
        raise ConfigurationError(f"{where} {missing}. Use 'cpu'.")
    return device


def set_up_mathematics() -> None:
    """Make MKL choose its elementary functions for this processor before any thread computes.

    MKL chooses at the first call in a process, once for all functions, without a lock. For some nanoseconds a second
    thread may read a half-written choice and compute a batch with functions of lower accuracy: 32 x 7 x 10 exponentials
    were off by up to 7e-5. MKL's matrix products choose under a lock, and torch's own functions when torch is loaded.
    """
    torch.exp(torch.zeros(1))


def seed_generators(key: int) -> None:
    """Seed torch's generators of random numbers: that of the CPU, and those of GPUs if there are any.

    Without a GPU, `torch.manual_seed` formats a stack trace for each kind of device that there could be, which takes
    longer than making a small model.
    """
    if _has_gpu():
        torch.manual_seed(key)
    else:
        torch.default_generator.manual_seed(key)


@cache
def _has_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
