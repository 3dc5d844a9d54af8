"""Decentralized learning: the programs in which nodes learn from each other without a server."""
