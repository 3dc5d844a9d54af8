"""The epsilon of a run: what the noise of its parts guarantees, and under which assumptions.

Gaussian noise without sampling has a closed form: the trade-off of two Gaussians at a distance m (Balle and Wang,
2018). With sampling, `dp-accounting` computes it, by privacy loss distributions and by Renyi divergences. The epsilons
of releases that need no delta add up.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from covey.parts.errors import ConfigurationError
from covey.parts.mechanisms import Averaging, Mechanism
from covey.privacy.pairwise import Views

_OBSERVERS = 64
"""The most observers whose views are computed; of more, that many are looked at."""
_LARGE = 50.0
"""The epsilon from which on nothing is protected, and the slow, tighter accountant is not asked."""


_OF_ONE_ROUND = "a round's messages tell of the models of that round only, and others' changes do not depend on them"


@dataclass(frozen=True)
class Spent:
    """The epsilon of one mechanism.

    Attributes:
        part: the part that adds the noise.
        protects, against: the protected data and the observer.
        epsilon: for the whole run; infinite if there is no protection, None if there is no bound.
        epsilon_of_one: for one release.
        delta: the probability with which the bound may fail.
        releases: the number of releases.
        accountant: the method; the epsilons of further ones are in `others`.
        assumes: the assumptions.
        why_not: the reason why there is no epsilon, or an infinite one.
    """

    part: str
    protects: str
    against: str
    epsilon: float | None
    epsilon_of_one: float | None
    delta: float
    releases: int
    accountant: str = "gaussian"
    others: dict[str, float] = field(default_factory=dict)
    assumes: Sequence[str] = ()
    why_not: str = ""

    @property
    def table(self) -> dict[str, Any]:
        """The entries in `facts.json`, in which an infinite epsilon is the text "inf"."""
        found = asdict(self)
        for name in ("epsilon", "epsilon_of_one"):
            if found[name] is not None and math.isinf(found[name]):
                found[name] = "inf"
        return {**found, "assumes": list(self.assumes)}


def account(stated: Iterable[Mechanism]) -> list[Spent]:
    """The epsilons of mechanisms, such as those that the parts of an experiment state (`Prepared.mechanisms`)."""
    return [one for mechanism in stated for one in spent(mechanism)]


def spent(mechanism: Mechanism) -> list[Spent]:
    """The epsilon of a mechanism; for averaged noise, one for each kind of observer."""
    if mechanism.why_not:
        return [_spent(mechanism, None, None, why_not=mechanism.why_not)]
    if mechanism.pure is not None:
        no_noise = "" if math.isfinite(mechanism.pure) else "there is no noise"
        total = mechanism.pure * mechanism.releases
        return [_spent(mechanism, total, mechanism.pure, accountant="composition", why_not=no_noise)]
    if mechanism.averaging is not None:
        return [*_of_averaging(mechanism, mechanism.averaging)]
    if mechanism.multiplier <= 0.0:
        return [_spent(mechanism, math.inf, math.inf, why_not="there is no noise")]
    if mechanism.sampling < 1.0:
        return [_sampled(mechanism)]
    one = mechanism.multiplier**-2
    total = gaussian(one * mechanism.together, mechanism.delta)
    return [_spent(mechanism, total, gaussian(one, mechanism.delta))]


def _spent(mechanism: Mechanism, epsilon: float | None, one: float | None, **more: Any) -> Spent:
    fields = {"against": mechanism.against, "assumes": tuple(mechanism.assumes), **more}
    return Spent(
        part=mechanism.part,
        protects=mechanism.protects,
        epsilon=epsilon,
        epsilon_of_one=one,
        delta=mechanism.delta,
        releases=mechanism.releases,
        **fields,
    )


# ------------------------------------------------------------------ Gaussians


def gaussian(information: float, delta: float) -> float:
    """The least epsilon of two Gaussians of variance 1 whose means are sqrt(information) apart.

    delta = P(-e/m + m/2) - exp(e) P(-e/m - m/2), with the normal distribution function P.
    """
    if not math.isfinite(information):
        return math.inf
    if _delta_of(0.0, information) <= delta:
        return 0.0
    high = 1.0
    while _delta_of(high, information) > delta:
        high *= 2.0
    return float(brentq(lambda epsilon: _delta_of(epsilon, information) - delta, 0.0, high, xtol=1e-10, rtol=1e-12))


def _delta_of(epsilon: float, information: float) -> float:
    apart = math.sqrt(information)
    if apart == 0.0:
        return 0.0
    return float(ndtr(apart / 2 - epsilon / apart) - math.exp(epsilon + log_ndtr(-apart / 2 - epsilon / apart)))


# ------------------------------------------------------------------ sampling


def _sampled(mechanism: Mechanism) -> Spent:
    try:
        found = sampled_gaussian(mechanism.sampling, mechanism.multiplier, mechanism.releases, mechanism.delta)
        one = sampled_gaussian(mechanism.sampling, mechanism.multiplier, 1, mechanism.delta)
    except ConfigurationError as error:
        return _spent(mechanism, None, None, why_not=str(error))
    accountant = min(found, key=lambda name: found[name])
    others = {name: epsilon for name, epsilon in found.items() if name != accountant}
    return _spent(mechanism, found[accountant], min(one.values()), accountant=accountant, others=others)


@lru_cache(maxsize=256)
def sampled_gaussian(sampling: float, multiplier: float, releases: int, delta: float) -> dict[str, float]:
    """The epsilon of Gaussian noise under Poisson sampling, by each accountant: "rdp" and, unless it is large, "pld".

    Args:
        sampling: the probability with which a sample takes part in a release.
        multiplier: the standard deviation of the noise, as a multiple of the largest contribution of a sample.
        releases: the number of releases.
        delta: delta.

    Raises:
        ConfigurationError: dp-accounting is not installed.
    """
    try:
        import dp_accounting
        from dp_accounting import pld, rdp
    except ImportError as error:
        raise ConfigurationError(
            "The epsilon of sampled noise needs dp-accounting: pip install 'covey[privacy]' brings it."
        ) from error
    sampled = dp_accounting.PoissonSampledDpEvent(sampling, dp_accounting.GaussianDpEvent(multiplier))
    event = dp_accounting.SelfComposedDpEvent(sampled, releases)
    found: dict[str, float] = {}
    with _quiet():
        for name, make in (("rdp", rdp.RdpAccountant), ("pld", pld.PLDAccountant)):
            if name == "pld" and found["rdp"] > _LARGE:
                break
            accountant = make()
            accountant.compose(event)
            found[name] = float(accountant.get_epsilon(delta))
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's warnings about orders that it leaves out."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# ------------------------------------------------------------------ averaging


def _of_averaging(mechanism: Mechanism, averaging: Averaging) -> Iterator[Spent]:
    """The epsilons against one node, and against all neighbours of a node together."""
    views, n = Views(averaging), averaging.mixing.shape[0]
    looked = np.unique(np.linspace(0, n - 1, min(n, _OBSERVERS)).astype(int)).tolist()
    assumes = (
        *mechanism.assumes,
        *([f"the worst of {len(looked)} of {n} nodes is the worst"] if len(looked) < n else []),
    )
    alone = max(float(views.information([one]).max()) for one in looked)
    mixing = averaging.mixing
    near = [[int(other) for other in mixing.indices[slice(*mixing.indptr[u : u + 2])] if other != u] for u in looked]
    together = max(float(views.information(some)[u]) for u, some in zip(looked, near, strict=True))
    of_rounds = [_OF_ONE_ROUND] if averaging.cancels else []
    for against, information, more in (
        ("any one node", alone, of_rounds),
        ("all neighbours of a node together", together, []),
    ):
        one = gaussian(information, mechanism.delta)
        total = gaussian(information * mechanism.together, mechanism.delta)
        why_not = "" if math.isfinite(one) else "some combination of the messages of a round has no noise"
        yield _spent(mechanism, total, one, against=against, assumes=(*assumes, *more), why_not=why_not)
