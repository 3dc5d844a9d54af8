"""Write a decentralized-learning protocol once; run it in simulation, in real processes, or on a cluster."""

__version__ = "0.1.0"
