"""Federated learning: the programs in which nodes learn with a server."""
