"""Compares a simulated and an emulated run of one experiment: `python compare.py SIMULATED EMULATED`."""

import sys

from covey.runtime.runs import Run


def main() -> None:
    """Print how far the two are apart."""
    simulated, emulated = (Run(folder) for folder in sys.argv[1:3])
    both = simulated.commits.merge(emulated.commits, on=["node", "round"], suffixes=("", "_real"))
    behind = both["time_real"] - both["time"]
    share = behind / both["time"]
    last = both[both["round"] == both["round"].max()]
    same = bool((both["bytes_out"] == both["bytes_out_real"]).all())
    print(f"rounds of nodes: {len(both):,}; bytes sent equal in all: {same}")
    print(
        f"real time behind virtual time: {behind.mean() * 1e3:.1f} ms on average, {behind.max() * 1e3:.1f} ms at most"
    )
    print(f"as a share of the virtual time: {share.mean():.2%} on average, {share.max():.2%} at most")
    print(f"last round: {last['time'].mean():.2f} s virtual, {last['time_real'].mean():.2f} s real")
    models, real = simulated.models, emulated.models
    assert models is not None
    assert real is not None
    apart = float((models - real).abs().max() / models.abs().max())
    print(f"largest difference of final models, relative: {apart:.1e}")


if __name__ == "__main__":
    main()
