"""Privacy: the accounting of noise, and attacks on what nodes send."""
