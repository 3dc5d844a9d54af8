"""The epsilon of sampled Gaussian noise, beside that of a second accountant (Gopi, Lee and Wutschitz, 2021)."""

from collections.abc import Iterator

from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

from covey.privacy.accounting import sampled_gaussian

CASES = ((0.01, 1.1, 1000, 1e-5), (0.1, 1.5, 300, 1e-5))
"""The sampling probability, the noise multiplier, the number of releases and delta."""


def rows() -> Iterator[list[str]]:
    """Name, ratio, target, detail."""
    for sampling, multiplier, releases, delta in CASES:
        ours = sampled_gaussian(sampling, multiplier, releases, delta)
        mechanism = PoissonSubsampledGaussianMechanism(noise_multiplier=multiplier, sampling_probability=sampling)
        accountant = PRVAccountant(
            prvs=[mechanism], max_self_compositions=[releases], eps_error=0.05, delta_error=delta / 1000
        )
        low, middle, high = accountant.compute_epsilon(delta=delta, num_self_compositions=[releases])
        detail = (
            f"pld {ours['pld']:.4f}, rdp {ours['rdp']:.4f}; theirs {middle:.4f} in [{low:.4f}, {high:.4f}]; "
            f"q {sampling:g}, z {multiplier:g}, {releases:,} releases, delta {delta:g}"
        )
        yield ["epsilon of covey over that of prv-accountant", f"{ours['pld'] / middle:.3f}", "0.95 to 1.05", detail]
