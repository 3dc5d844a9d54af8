"""Connections between processes: who is at the other end, and what frames come from there."""
