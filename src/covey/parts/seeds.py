"""The source of the keys of noise: the experiment's seed, or the operating system."""

from typing import Any, Literal

from covey.parts.parameters import param


def seeds() -> Any:
    """The parameter of the source of keys."""
    return param(
        "The source of the keys of noise: the experiment's seed, so that a run can be repeated and nothing is secret, "
        "or the operating system. By default, seeded in simulation and fresh in emulation.",
        default=None,
    )


Seeds = Literal["seeded", "fresh"] | None


def is_fresh(seeds: Seeds, clock: str) -> bool:
    """True if keys come from the operating system.

    Args:
        seeds: the value of the parameter.
        clock: the clock of the nodes, "virtual" or "real".
    """
    return seeds == "fresh" or (seeds is None and clock != "virtual")
