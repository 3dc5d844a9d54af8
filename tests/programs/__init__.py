"""Protocols written to prove that the node contract carries them; the library's own are in `covey.learning`."""
