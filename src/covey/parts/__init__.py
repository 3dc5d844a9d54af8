"""The ground: parameters, kinds, errors, random numbers, TOML. It imports no other room."""
