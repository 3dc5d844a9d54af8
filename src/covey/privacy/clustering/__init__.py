"""Semantic clustering under heterogeneous differential privacy."""
