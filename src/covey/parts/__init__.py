"""Parameters, kinds, errors, random numbers, TOML. This room imports no other."""
