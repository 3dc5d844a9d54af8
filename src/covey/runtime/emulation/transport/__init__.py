"""Connections between processes: authentication, encryption and frames."""
